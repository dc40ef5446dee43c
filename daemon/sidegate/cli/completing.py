"""What a word may be, as the daemon knows it. Silence where it does not answer, or has nothing of the kind."""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from sidegate.errors import SidegateError

SECONDS = 0.8

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def ask(context: click.Context, path: str, query: dict[str, str] | None = None) -> Any:
    """What a call answers, decoded; None where it does not."""
    import msgspec  # late, as the client: most words need neither

    from sidegate.api.client import Client, find_socket
    from sidegate.cli.session import Session

    session = context.find_object(Session) or Session()
    try:
        reply = Client(find_socket(session.socket, os.environ), SECONDS).call("GET", path, bytes, query=query)
        return msgspec.json.decode(reply.body)
    except (SidegateError, msgspec.MsgspecError, OSError):
        return None


def given(context: click.Context, name: str) -> str:
    """A word that stands on the line already, percent-encoded; empty: there is none."""
    from urllib.parse import quote

    # Where an option waits for its value, click has not come to the arguments yet.
    return quote(str(context.params.get(name) or next(iter(context.args), "")), safe="")


def items(words: Iterable[str | None], incomplete: str) -> list[CompletionItem]:
    """Those that begin as the word does."""
    return [CompletionItem(word) for word in words if word and word.startswith(incomplete)]


def names(path: str, key: str = "name", query: dict[str, str] | None = None) -> Complete:
    """Names from a list that the daemon serves."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return items((found[key] for found in ask(context, path, query) or ()), incomplete)

    return complete


complete_app = names("/v1/apps")
complete_database = names("/v1/databases", query={"login": "false"})
complete_certificate = names("/v1/certificates")


def complete_any(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Databases and apps."""
    return complete_database(context, parameter, incomplete) + complete_app(context, parameter, incomplete)


def complete_partner(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What the first one is connected to."""
    one = context.params.get("app")
    pairs = ask(context, "/v1/connections") or ()
    return items((c["b"] if c["a"] == one else c["a"] for c in pairs if one in (c["a"], c["b"])), incomplete)


def _variables(context: click.Context) -> list[str]:
    found = ask(context, f"/v1/apps/{given(context, 'name')}/env") or {}
    return list(dict.fromkeys(variable["key"] for variable in found.get("variables", ())))


def complete_key(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of an app's variables."""
    return items(_variables(context), incomplete)


def complete_assignment(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of an app's variables, to be given a value."""
    return items((f"{key}=" for key in _variables(context)), incomplete)


def _app(context: click.Context) -> Any:
    return ask(context, f"/v1/apps/{given(context, 'name')}") or {}


def complete_domain(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Domains of an app."""
    return items(_app(context).get("domains", ()), incomplete)


def complete_option(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """OPTION= of an app, and then its values where they are words."""
    from sidegate.api.words import OPTIONS

    name, equals, _value = incomplete.partition("=")
    if not equals:
        return [
            CompletionItem(f"{option.name}=", help=option.purpose)
            for option in OPTIONS.values()
            if option.name.startswith(name)
        ]
    if name not in OPTIONS:
        return []
    values = re.split(r",? or |, ", OPTIONS[name].allowed)
    return items((f"{name}={value}" for value in values if re.fullmatch(r"[a-z]+", value)), incomplete)


def complete_given_option(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Options of an app that were given by command."""
    found = _app(context).get("options", ())
    return items((option["name"] for option in found if option["source"] == "command"), incomplete)


def entries(which: str) -> Complete:
    """Lines of a list of an external connection."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = ask(context, f"/v1/databases/{given(context, 'name')}/external") or {}
        lines = [line for line in found.get(which, ()) if line["cidr"].startswith(incomplete)]
        return [CompletionItem(line["cidr"], help=line["description"] or None) for line in lines]

    return complete


def complete_client(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Addresses, and addresses with ports, of those who are on an external connection."""
    sessions = ask(context, f"/v1/databases/{given(context, 'name')}/sessions") or ()
    clients = [session["client"] for session in sessions]
    addresses = [client.rpartition(":")[0].strip("[]") for client in clients]
    return items(dict.fromkeys([*addresses, *clients]), incomplete)


def complete_audited(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Verbs, the words of a group's too."""
    root = context.find_root().command
    found: list[str] = []
    for name, command in root.commands.items() if isinstance(root, click.Group) else ():
        found.append(name)
        if isinstance(command, click.Group):
            found += [f"{name} {verb}" for verb in command.commands]
    return items(found, incomplete)
