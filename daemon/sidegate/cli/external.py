"""The verbs of external connections: external on, off, show, ls, sessions."""

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.session import Session, common, complete_database, pass_session


@click.group()
@common
def external() -> None:
    """Public access to databases: off until you turn it on."""


@external.command("on")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.option("--port", type=int, help="A port of external_ports; by default the one it always had, or a free one.")
@common
@pass_session
def external_on(session: Session, name: str, port: int | None) -> None:
    """Open a database to clients elsewhere; returns once the port listens.

    \b
    Example:
      sidegate external on shop-db
    """
    _switch(session, name, schemas.ExternalRequest(enabled=True, port=port), f"opening {name}")


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
    """Whether a database is open to clients elsewhere, and where.

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
    )
    tables.warn(([found.advice] if found.advice else []) + found.warnings)


@external.command("ls")
@common
@pass_session
def external_ls(session: Session) -> None:
    """Every database's external connection.

    \b
    Example:
      sidegate external ls
    """
    session.show(session.call("GET", "/v1/external", list[schemas.ExternalView]), _show_externals)


def _show_externals(found: list[schemas.ExternalView]) -> None:
    rows = [(e.database, "on" if e.enabled else "off", e.host if e.enabled else "", e.port, e.sessions) for e in found]
    tables.table(("database", "external", "host", "port", "sessions"), rows, empty="no databases")


@external.command("sessions")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@common
@pass_session
def external_sessions(session: Session, name: str) -> None:
    """Who is connected to a database from elsewhere, the oldest first.

    \b
    Example:
      sidegate external sessions shop-db
    """
    path = f"/v1/databases/{quote(name)}/sessions"
    session.show(session.call("GET", path, list[schemas.SessionView]), _show_sessions)


def _show_sessions(found: list[schemas.SessionView]) -> None:
    rows = [(s.client, tables.when(s.since), s.bytes_sent, s.bytes_received) for s in found]
    tables.table(("client", "since", "bytes sent", "bytes received"), rows, empty="nobody is connected")


COMMANDS = (external,)
