"""The verbs of databases that Sidegate runs itself: db create, db rm."""

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.completing import complete_database
from sidegate.cli.secrets import read_new_password, read_secrets
from sidegate.cli.session import Session, common, confirm, pass_session


@click.command("create")
@click.argument("name", metavar="DB")
@click.option("--engine", required=True, help="mariadb, mysql or postgres.")
@click.option("--image", help="The image that runs it; by default the engine's own, fetched where it is missing.")
@click.option("--user", help="Whom apps log in as; by default named after the database.")
@click.option("--schema", help="The schema (database name) that apps use; by default the same.")
@click.option("--stdin", "stdin", is_flag=True, help="Read the password from standard input; else one is made.")
@click.option("--existing-volume", is_flag=True, help="Take up the volume that an earlier database of this name left.")
@common
@pass_session
def db_create(
    session: Session,
    name: str,
    engine: str,
    image: str | None,
    user: str | None,
    schema: str | None,
    stdin: bool,
    existing_volume: bool,
) -> None:
    """Run a database, with a volume of its own and a login that is made for it. Returns when it takes logins.

    \b
    Examples:
      sidegate db create shop-db --engine mariadb
      sidegate db create shop-db --engine postgres --existing-volume --stdin < password.txt
    """
    given = None
    if stdin:
        given = read_secrets(["user"])["user"] if existing_volume else read_new_password(name)
    body = schemas.CreateDatabaseRequest(
        name=name,
        engine=engine,
        image=image,
        user=user,
        schema=schema,
        password=given,
        existing_volume=existing_volume,
    )
    doing = f"making {name}"
    session.show(session.stream("POST", "/v1/databases", schemas.DatabaseCreated, body=body, doing=doing), _created)


def _created(done: schemas.DatabaseCreated) -> None:
    tables.say(f"{done.database} takes logins, after {done.seconds:.1f} s ({done.container}, {done.image})")
    tables.facts(
        [
            ("user", done.user),
            ("password", done.password),
            ("schema", done.schema),
            ("internal", f"{done.database}.internal:3306, for connected apps"),
            ("volume", done.volume),
        ]
    )
    tables.say(f"connect an app: sidegate connect APP {done.database} --env")


@click.command("rm")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.option("--volume", is_flag=True, help="Its data goes too, for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_session
def db_rm(session: Session, name: str, volume: bool, yes: bool) -> None:
    """Remove a database that Sidegate runs; its data stays unless --volume is given. One that others run goes on
    running, and what Sidegate knows of it is forgotten.

    \b
    Examples:
      sidegate db rm shop-db
      sidegate db rm shop-db --volume --yes
    """
    path = f"/v1/databases/{quote(name)}"
    if not yes:
        confirm(_question(session.call("GET", path, schemas.DatabaseView).value, volume=volume), yes)
    query = {"volume": "true"} if volume else {}
    reply = session.stream("DELETE", path, schemas.DatabaseRemoved, query=query, doing=f"removing {name}")
    session.show(reply, _removed)


def _question(found: schemas.DatabaseView, *, volume: bool) -> str:
    """What will go, in the words of the question."""
    name = found.name
    if found.volume is None:
        what = [f"Forget what is known of {name}? Its container goes on running."]
    else:
        fate = "is removed with all its data" if volume else "stays"
        what = [f"Remove {name}? Its container is removed; its volume {found.volume} {fate}."]
    if found.connections:
        what.append(f"It is disconnected from {', '.join(found.connections)}, with the variables that this added.")
    if found.external.enabled:
        what.append("Its external connection is closed.")
    return " ".join(what)


def _removed(done: schemas.DatabaseRemoved) -> None:
    if done.container:
        tables.say(f"{done.database} is removed ({done.container})")
    else:
        tables.say(f"what was known of {done.database} is forgotten")
    if done.disconnected:
        tables.say(f"disconnected from {', '.join(done.disconnected)}; variables removed: {done.variables_removed}")
    if done.external_port:
        tables.say(f"port {done.external_port} is free again")
    if done.volume:
        tables.say(f"its data is removed ({done.volume})")
    if done.kept_volume:
        again = "take it up again with `sidegate db create --existing-volume`"
        tables.say(f"its data stays in the volume {done.kept_volume}: {again}, or remove it with `docker volume rm`")
    if done.kept_container:
        tables.warn([f"{done.kept_container} goes on running: whoever started it can stop it"])
