"""The verbs of databases: db ls, show, set, credentials."""

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import own_databases, passwords, tables
from sidegate.cli.completing import complete_database
from sidegate.cli.secrets import read_secrets
from sidegate.cli.session import Session, common, pass_session


@click.group()
@common
def db() -> None:
    """Databases: what runs, who reaches it, how to log in.

    A database is a container with the labels sidegate.database=NAME and sidegate.engine=ENGINE, or one that Sidegate
    made with `db create`. Connected apps reach it as NAME.internal:3306, whatever its engine.

    \b
    Example:
      sidegate db create shop-db --engine mariadb
    """


@db.command("ls")
@common
@pass_session
def db_ls(session: Session) -> None:
    """Every database: its engine, its container's state, the way in for connected apps, its public address where its
    external connection is on, what it is connected to, and whether a login works.

    Each login is tried, for three seconds at most: ok, refused with the server's reason, or unknown.

    \b
    Example:
      sidegate db ls
    """
    session.show(session.call("GET", "/v1/databases", list[schemas.DatabaseSummary]), _show_databases)


def _show_databases(found: list[schemas.DatabaseSummary]) -> None:
    rows = [(d.name, d.engine, d.state, d.internal, d.external or "off", d.connections, d.login) for d in found]
    tables.table(
        ("database", "engine", "state", "internal", "external", "connected to", "login"),
        rows,
        empty="no databases: start a container with --label sidegate.database=NAME --label sidegate.engine=mariadb",
    )


@db.command("show")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@common
@pass_session
def db_show(session: Session, name: str) -> None:
    """One database: where it is, and who reaches it how.

    "also on" are networks that are not Sidegate's, and the containers there, which reach it without a connection.

    \b
    Example:
      sidegate db show shop-db
    """
    session.show(session.call("GET", f"/v1/databases/{quote(name)}", schemas.DatabaseView), _show_database)


def _show_database(found: schemas.DatabaseView) -> None:
    external = found.external
    where = f"on, {external.host}:{external.port}, {external.sessions} sessions" if external.enabled else "off"
    tables.facts(
        [
            ("database", found.name),
            ("engine", found.engine),
            ("container", found.container),
            ("state", found.state),
            ("internal", found.internal),
            ("external", where),
            ("connected to", found.connections),
            ("login", found.login),
            ("also on", [f"{e.network} ({', '.join(e.containers) or 'alone'})" for e in found.exposures]),
        ]
    )
    tables.warn(problem.text for problem in found.problems)


@db.command("set")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.option("--user", help="Whom apps log in as.")
@click.option("--schema", help="The schema (database name) that apps use.")
@click.option("--password-stdin", is_flag=True, help="Read the user's password from standard input.")
@click.option(
    "--root-password-stdin",
    is_flag=True,
    help="Read the password of the administrator (root, or postgres) from it: the second line with both.",
)
@click.option("--port", type=int, help="The internal port, which is 3306 and cannot be changed.")
@common
@pass_session
def db_set(
    session: Session,
    name: str,
    user: str | None,
    schema: str | None,
    password_stdin: bool,
    root_password_stdin: bool,
    port: int | None,
) -> None:
    """Say how to log in, where the container's own variables do not. Passwords never stand on the command line.

    \b
    Example:
      sidegate db set shop-db --user shop --schema shop --password-stdin < password.txt
    """
    secrets = read_secrets([w for w, on in (("user", password_stdin), ("root", root_password_stdin)) if on])
    body = schemas.DatabaseRequest(
        user=user, password=secrets.get("user"), schema=schema, root_password=secrets.get("root"), port=port
    )
    reply = session.call("PUT", f"/v1/databases/{quote(name)}", schemas.DatabaseView, body=body)
    session.show(reply, _show_database)


@db.command("credentials")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@common
@pass_session
def db_credentials(session: Session, name: str) -> None:
    """User, password, URLs and command lines; this is written to the audit trail.

    They come from `db set`, else from the container's own variables; what nobody has said is named, and a login is
    tried. The command lines carry no password: they ask for it.

    \b
    Example:
      sidegate db credentials shop-db
    """
    path = f"/v1/databases/{quote(name)}/credentials"
    session.show(session.call("GET", path, schemas.Credentials), _show_credentials)


def _show_credentials(found: schemas.Credentials) -> None:
    external = found.external
    tables.facts(
        [
            ("user", found.user),
            ("password", found.password),
            ("schema", found.schema),
            ("not known", found.unknown),
            ("login", found.checked),
            ("internal", f"{found.internal.host}:{found.internal.port}, for connected apps"),
            ("  url", found.internal.url),
            ("  command", found.internal.command),
            ("external", f"{external.host}:{external.port}" if external.enabled else "off"),
            ("  url", external.url),
            ("  command", external.command),
        ]
    )


for command in (passwords.db_password, own_databases.db_create, own_databases.db_rm):
    db.add_command(command)

COMMANDS = (db,)
