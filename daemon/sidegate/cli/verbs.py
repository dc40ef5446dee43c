"""Which verbs there are, by subject. Their modules are imported when a verb is asked for: `sidegate <TAB>` has none."""

from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from sidegate.cli.related import add_endings
from sidegate.cli.tables import printable
from sidegate.errors import SidegateError


class Verb(NamedTuple):
    """A verb, or a group of verbs: the module whose attribute it is, and what it is for."""

    module: str
    name: str
    purpose: str


SECTIONS = {
    "Run and look": (
        Verb("", "run", "Start the daemon, in the foreground."),
        Verb("node", "status", "How the daemon is; with --watch as a live view."),
        Verb("doctor", "doctor", "What is wrong with this node, and what mends it."),
        Verb("events", "events", "What has happened, and what happens."),
        Verb("node", "metrics", "Everything that is counted, for Prometheus."),
        Verb("node", "audit", "What was changed or revealed, by whom."),
        Verb("node", "purge", "Remove everything of ours, and stop the daemon."),
    ),
    "Apps": (
        Verb("deployments", "app", "Web programs: what runs, and where they answer."),
        Verb("env", "env", "Variables of apps, for builds and for containers."),
        Verb("builds", "build", "Build an app's image from a directory."),
    ),
    "Databases": (Verb("databases", "db", "Databases: what runs, who reaches it, how to log in."),),
    "Connections": (
        Verb("connections", "connect", "Join an app and a database, or two apps."),
        Verb("connections", "disconnect", "Part them again, open sessions included."),
        Verb("connections", "connections", "Every internal connection."),
    ),
    "External connections": (Verb("external", "external", "Public access to databases, off until you turn it on."),),
    "Certificates": (Verb("certificates", "cert", "Your own, and the local authority's for every other name."),),
    "The command line itself": (
        Verb("helping", "help", "What a verb does, as VERB --help says it."),
        Verb("completion", "completion", "A script that completes words in your shell."),
        Verb("helping", "man", "The manual page, sidegate(1)."),
    ),
}
VERBS = {verb.name: verb for verbs in SECTIONS.values() for verb in verbs}


class _Commands(dict[str, click.Command]):
    """The commands by name, each loaded when it is looked at."""

    def __missing__(self, name: str) -> click.Command:
        verb = VERBS[name]  # KeyError: there is none
        found = import_module(f"sidegate.cli.{verb.module}").COMMANDS
        command: click.Command = next(command for command in found if command.name == name)
        self[name] = command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        add_endings(command, name)
        super().__setitem__(name, command)

    def get(self, name: str, default: object = None) -> click.Command | None:  # type: ignore[override]
        return self[name] if name in VERBS else None

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def items(self) -> list[tuple[str, click.Command]]:  # type: ignore[override]
        return [(name, self[name]) for name in VERBS]


class TopGroup(click.Group):
    """The whole command line. Every error of ours becomes one sentence and its exit status."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.commands = _Commands()

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SidegateError as error:
            click.echo(f"sidegate: {printable(str(error))}", err=True)  # it may quote what a stranger's program wrote
            ctx.exit(error.exit_status)
        except UnicodeError:
            raise click.UsageError("what was given is not UTF-8 text") from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                width = max(map(len, VERBS))
                formatter.write_dl([(verb.name.ljust(width), verb.purpose) for verb in verbs])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(v.name, help=v.purpose) for v in VERBS.values() if v.name.startswith(incomplete)]
