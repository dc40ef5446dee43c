"""The verbs of external connections: external on, off, allow, deny, extend, kick, show, ls, sessions."""

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.completing import complete_client, complete_database, entries
from sidegate.cli.session import Session, common, pass_session


@click.group()
@common
def external() -> None:
    """External connections: public access to databases, off until you turn it on.

    Each database has a public port of its own, which stays the same while it is off. Lists say who may come in, limits
    how often; an end can be set by time or by idleness.

    \b
    Example:
      sidegate external on shop-db --allow 203.0.113.0/24 --for 2h
    """


FORWARDERS = ("auto", "kernel", "userspace")
_ENTRY = "CIDR[=WORDS]"


@external.command("on")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.option("--port", type=int, help="A port of external_ports; by default the one it always had, or a free one.")
@click.option("--allow", multiple=True, metavar=_ENTRY, help="Let only these in: the whole list. May be repeated.")
@click.option("--deny", multiple=True, metavar=_ENTRY, help="Keep these out, allowed or not: the whole list.")
@click.option("--anybody", is_flag=True, help="Empty the allow list: whoever has the password may come in.")
@click.option("--local/--no-local", default=None, help="Only clients on this machine.")
@click.option("--for", "lasting", metavar="TIME", help="Turn it off after that long: 2h, 1d12h, never.")
@click.option("--idle-off", metavar="TIME", help="Turn it off when nobody has used it for that long: 30m, never.")
@click.option("--max-sessions", type=int, metavar="N", help="Sessions of one address at a time; 0 for any number.")
@click.option("--max-new", type=int, metavar="N", help="New sessions of one address in a second; 0 for any number.")
@click.option("--forwarder", type=click.Choice(FORWARDERS), help="What carries it, where not as the settings say.")
@common
@pass_session
def external_on(
    session: Session,
    name: str,
    port: int | None,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    anybody: bool,
    local: bool | None,
    lasting: str | None,
    idle_off: str | None,
    max_sessions: int | None,
    max_new: int | None,
    forwarder: str | None,
) -> None:
    """Open a database to clients elsewhere; returns once the port listens. What is left out stays as it was.

    Anybody may knock, unless there is an allow list or --local. CIDR is an address or a network of either family, and
    WORDS what you want to remember of it; denied ones stay out even if allowed. TIME is 30m, 2h, 1d12h or never. When
    its time is over, or nobody has used it for as long as --idle-off says, it is off, and stays so over restarts.

    \b
    Examples:
      sidegate external on shop-db
      sidegate external on shop-db --allow "203.0.113.0/24=the office" --for 2h --idle-off 30m
    """
    if anybody and allow:
        raise click.UsageError("--anybody and --allow do not go together")
    body = schemas.ExternalRequest(
        enabled=True,
        port=port,
        allow=list(allow) if allow or anybody else None,
        deny=list(deny) or None,
        local=local,
        expires_in=lasting,
        idle_off=idle_off,
        max_sessions=max_sessions,
        max_new=max_new,
        forwarder=forwarder,
    )
    _switch(session, name, body, f"opening {name}")


@external.command("off")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@common
@pass_session
def external_off(session: Session, name: str) -> None:
    """Close it again: new clients are refused and open sessions cut. The port stays the database's.

    \b
    Example:
      sidegate external off shop-db
    """
    _switch(session, name, schemas.ExternalRequest(enabled=False), f"closing {name}")


def _switch(session: Session, name: str, body: schemas.ExternalRequest, doing: str) -> None:
    path = f"/v1/databases/{quote(name)}/external"
    session.show(session.call("PUT", path, schemas.ExternalView, body=body, doing=doing), _show_external)


@external.command("show")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@common
@pass_session
def external_show(session: Session, name: str) -> None:
    """Whether a database is open to clients elsewhere, where, on which terms, and what carries its sessions.

    The terms are kept while it is off. "refused" counts clients that were turned away since it was turned on, by
    reason.

    \b
    Example:
      sidegate external show shop-db
    """
    path = f"/v1/databases/{quote(name)}/external"
    session.show(session.call("GET", path, schemas.ExternalView), _show_external)


def _show_external(found: schemas.ExternalView) -> None:
    tables.facts(
        [
            ("database", found.database),
            ("external", "on" if found.enabled else "off"),
            ("address", f"{found.host}:{found.port}" if found.port else None),
            ("sessions", found.sessions if found.enabled else None),
            ("sessions cut", found.sessions_cut),
            ("user", found.user),
            ("schema", found.schema),
        ]
        + [
            ("url", found.url),
            ("command", found.command),
            ("password", f"sidegate db credentials {found.database}" if found.command else None),
        ]
        * found.enabled
        + _terms(found)
    )
    tables.warn(([found.advice] if found.advice else []) + found.warnings)


def _terms(found: schemas.ExternalView) -> list[tuple[str, object]]:
    if found.port is None:
        return []
    who = "anybody" if found.anybody else [_entry(entry) for entry in found.allow]
    carried = {"kernel": "the kernel", "userspace": "workers"}.get(found.carrier or "")
    return [
        ("allowed", "this machine only" if found.local and not found.allow else who),
        ("only local", "yes" if found.local and found.allow else None),
        ("denied", [_entry(entry) for entry in found.deny] or None),
        ("per address", _limits(found)),
        ("ends", f"in {tables.ago(found.expires_in)}, {tables.when(found.expires_at)}" if found.expires_in else None),
        ("idle", f"turned off after {tables.ago(found.idle_off)} without a session" if found.idle_off else None),
        ("refused", [f"{count} {reason}" for reason, count in found.refused.items()] or None),
        ("carried by", f"{carried} ({found.carrier_reason})" if found.carrier_reason else carried),
    ]


def _entry(entry: schemas.EntryView) -> str:
    return f"{entry.cidr} ({entry.description})" if entry.description else entry.cidr


def _limits(found: schemas.ExternalView) -> str | None:
    limits = [f"{found.max_sessions} sessions"] * bool(found.max_sessions)
    limits += [f"{found.max_new} new ones in a second"] * bool(found.max_new)
    return ", ".join(limits) or None


def _edit(session: Session, name: str, body: schemas.ExternalEdit, doing: str) -> None:
    path = f"/v1/databases/{quote(name)}/external"
    session.show(session.call("PATCH", path, schemas.ExternalView, body=body, doing=doing), _show_external)


@external.command("allow")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.argument("networks", metavar=f"[{_ENTRY}]...", nargs=-1)
@click.option(
    "--remove",
    multiple=True,
    metavar="CIDR",
    help="Take this line off the list. May be repeated.",
    shell_complete=entries("allow"),
)
@common
@pass_session
def external_allow(session: Session, name: str, networks: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Let these networks in, and no others but those on the list; sessions that are still allowed go on.

    \b
    Example:
      sidegate external allow shop-db "203.0.113.0/24=the office" --remove 198.51.100.7
    """
    _require_lines(networks, remove)
    body = schemas.ExternalEdit(allow=list(networks), remove_allow=list(remove))
    _edit(session, name, body, f"changing who may come in to {name}")


@external.command("deny")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.argument("networks", metavar=f"[{_ENTRY}]...", nargs=-1)
@click.option(
    "--remove",
    multiple=True,
    metavar="CIDR",
    help="Take this line off the list. May be repeated.",
    shell_complete=entries("deny"),
)
@common
@pass_session
def external_deny(session: Session, name: str, networks: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Keep these networks out, allowed or not; their sessions are cut, with the queries that they have running.

    \b
    Example:
      sidegate external deny shop-db 192.0.2.66
    """
    _require_lines(networks, remove)
    body = schemas.ExternalEdit(deny=list(networks), remove_deny=list(remove))
    _edit(session, name, body, f"changing who may come in to {name}")


def _require_lines(networks: tuple[str, ...], remove: tuple[str, ...]) -> None:
    if not networks and not remove:
        raise click.UsageError("give a network, or one to --remove")


@external.command("extend")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.option(
    "--for", "lasting", metavar="TIME", required=True, help="How much longer: 30m, 2h; never takes its end away."
)
@common
@pass_session
def external_extend(session: Session, name: str, lasting: str) -> None:
    """Put off the end of an external connection that was turned on for a while.

    \b
    Example:
      sidegate external extend shop-db --for 1h
    """
    _edit(session, name, schemas.ExternalEdit(expires_in=lasting), f"extending {name}")


@external.command("kick")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.argument("client", metavar="ADDRESS[:PORT]", shell_complete=complete_client)
@common
@pass_session
def external_kick(session: Session, name: str, client: str) -> None:
    """End the sessions of an address, or one of them, with the queries that they have running in the database. The
    client may come again: `external deny` keeps it out.

    \b
    Example:
      sidegate external kick shop-db 203.0.113.9
    """
    path = f"/v1/databases/{quote(name)}/sessions"
    reply = session.call("DELETE", path, schemas.Kicked, query={"client": client}, doing=f"ending sessions of {client}")
    session.show(reply, lambda done: tables.say(f"ended {done.sessions} sessions of {done.client} on {done.database}"))


@external.command("ls")
@common
@pass_session
def external_ls(session: Session) -> None:
    """Every database's external connection: on or off, its address, its sessions, when it ends, and what carries it.

    \b
    Example:
      sidegate external ls
    """
    session.show(session.call("GET", "/v1/external", list[schemas.ExternalView]), _show_externals)


def _show_externals(found: list[schemas.ExternalView]) -> None:
    rows = [
        (
            e.database,
            "on" if e.enabled else "off",
            e.host if e.enabled else "",
            e.port,
            e.sessions,
            tables.ago(e.expires_in) if e.expires_in else "",
            e.carrier,
        )
        for e in found
    ]
    heads = ("database", "external", "host", "port", "sessions", "ends in", "carried by")
    tables.table(heads, rows, empty="no databases")


@external.command("sessions")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@common
@pass_session
def external_sessions(session: Session, name: str) -> None:
    """Who is connected to a database from elsewhere, the oldest first, with bytes as the client counts them.

    \b
    Example:
      sidegate external sessions shop-db
    """
    path = f"/v1/databases/{quote(name)}/sessions"
    session.show(session.call("GET", path, list[schemas.SessionView]), _show_sessions)


def _show_sessions(found: list[schemas.SessionView]) -> None:
    rows = [(s.client, tables.when(s.since), s.bytes_sent, s.bytes_received, s.carrier) for s in found]
    heads = ("client", "since", "bytes sent", "bytes received", "carried by")
    tables.table(heads, rows, empty="nobody is connected")


COMMANDS = (external,)
