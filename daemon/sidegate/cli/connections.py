"""The verbs of internal connections: connect, disconnect, connections."""

from collections.abc import Sequence

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.completing import complete_any, complete_partner
from sidegate.cli.session import Session, common, confirm, goes_on, nothing_changed, pass_session, require_terminal


@click.command()
@click.argument("app", shell_complete=complete_any)
@click.argument("target", shell_complete=complete_any)
@click.option(
    "--env", is_flag=True, help="Add the target's variables to the app; without it the app's stay as they are."
)
@click.option("--rename", "renames", multiple=True, metavar="OLD=NEW", help="Add one under another name; repeatable.")
@click.option("--scope", default="runtime", show_default=True, help="Where the variables count: build, runtime, both.")
@click.option("--redeploy", is_flag=True, help="Then replace the app's containers, if any lacks its variables.")
@common
@pass_session
def connect(
    session: Session, app: str, target: str, env: bool, renames: Sequence[str], scope: str, redeploy: bool
) -> None:
    """Make an internal connection: join an app and a database, or two apps, on a network of their own. Running
    containers need no restart. The database may come first: the app is what gets the variables.

    With --env a database brings DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD and DB_CONNECTION_URL, whose values are
    its own details; an app NAME brings NAME_HOST, NAME_PORT and NAME_URL. A name that is taken is refused, and nothing
    is added then: use --rename, or `env rename` later. Builds cannot use an internal connection.

    Containers that run have the variables once they are replaced: --redeploy does so at once, as `app redeploy` does.
    Should that fail, the connection and the variables stay.

    \b
    Examples:
      sidegate connect shop shop-db --env --redeploy
      sidegate connect shop shop-db --env --rename DB_HOST=MYSQL_HOST
    """
    body = schemas.ConnectRequest(
        app=app, target=target, env=env, renames=_renames(renames), scope=scope, redeploy=redeploy
    )
    doing = f"connecting {app} and {target}"
    with goes_on():  # which of the two is the app is not known here
        reply = session.stream("POST", "/v1/connections", schemas.Connected, body=body, doing=doing)
    session.show(reply, _show_connected)


def _renames(words: Sequence[str]) -> dict[str, str]:
    renames: dict[str, str] = {}
    for word in words:
        old, equals, new = word.partition("=")
        if not (old and equals and new):
            raise click.UsageError(f"--rename {word}: write OLD=NEW, for example DB_HOST=MYSQL_HOST")
        if old in renames:
            raise click.UsageError(f"--rename: {old} is renamed twice, to {renames[old]} and to {new}")
        renames[old] = new
    return renames


def _show_connected(done: schemas.Connected) -> None:
    tables.say(f"{done.app} and {done.target} are connected ({done.network}, {done.subnet or 'no subnet yet'})")
    if done.attached:
        tables.say(f"attached: {', '.join(done.attached)}")
    if done.variables:
        tables.say(f"added to {done.app}: {', '.join(done.variables)}")
    if done.redeployed:
        tables.say(f"redeployed: {', '.join(done.redeployed)}")
    tables.warn(done.notes)


@click.command()
@click.argument("app", shell_complete=complete_any)
@click.argument("target", shell_complete=complete_partner)
@click.option(
    "--keep-env/--remove-env",
    "keep",
    default=None,
    help="Leave the variables that the connection added, or remove them. By default it asks, and with --yes removes.",
)
@click.option("--redeploy", is_flag=True, help="Then replace the containers of the app that lost variables.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_session
def disconnect(session: Session, app: str, target: str, keep: bool | None, redeploy: bool, yes: bool) -> None:
    """Remove an internal connection at once, open sessions included. Their other connections go on.

    \b
    Examples:
      sidegate disconnect shop shop-db
      sidegate disconnect shop shop-db --remove-env --redeploy
      sidegate disconnect shop shop-db --keep-env --yes
    """
    if not yes:
        keep = _ask(session, app, target, keep)
    path = f"/v1/connections/{quote(app, target)}"
    query = ({"env": "keep"} if keep else {}) | ({"redeploy": "true"} if redeploy else {})
    doing = f"disconnecting {app} and {target}"
    with goes_on():  # which of the two is the app is not known here
        reply = session.stream("DELETE", path, schemas.Disconnected, query=query, doing=doing)
    session.show(reply, _show_disconnected)


def _ask(session: Session, app: str, target: str, keep: bool | None) -> bool:
    """Whether the variables stay; a no to the question itself ends the run with nothing changed."""
    question = f"Disconnect {app} and {target}? Open sessions end"
    require_terminal()
    brought = _brought(session, app, target)
    if not brought:
        confirm(f"{question}.", yes=False)
        return bool(keep)
    listed = "; ".join(f"{name} has {', '.join(keys)}" for name, keys in brought.items())
    if keep is not None:
        confirm(
            f"{question}; variables that the connection added {'stay' if keep else 'are removed'}: {listed}.", False
        )
        return keep
    click.echo(f"{question}. Variables that the connection added: {listed}.", err=True)
    choice = click.prompt(
        "Remove them, keep them, or cancel",
        type=click.Choice(["remove", "keep", "cancel"]),
        default="cancel",
        err=True,
    )
    if choice == "cancel":
        nothing_changed()
    return bool(choice == "keep")


def _brought(session: Session, one: str, other: str) -> dict[str, list[str]]:
    """Variables that the connection added, by app."""
    found = session.call("GET", "/v1/connections", list[schemas.ConnectionView]).value
    return next((c.variables for c in found if {c.a, c.b} == {one, other}), {})


def _show_disconnected(done: schemas.Disconnected) -> None:
    tables.say(f"{done.a} and {done.b} are no longer connected")
    if done.detached:
        tables.say(f"detached: {', '.join(done.detached)}")
    if done.variables_removed:
        tables.say(f"removed variables: {', '.join(done.variables_removed)}")
    if done.redeployed:
        tables.say(f"redeployed: {', '.join(done.redeployed)}")
    if done.variables_kept:
        tables.say(f"kept variables, which no longer lead anywhere: {', '.join(done.variables_kept)}")
    tables.warn(done.notes)


@click.command()
@common
@pass_session
def connections(session: Session) -> None:
    """Every internal connection: its ends, its state, how many containers are on its network, and which that is.

    The state is up, partly (some containers are not attached), or waiting (for containers).

    \b
    Example:
      sidegate connections
    """
    session.show(session.call("GET", "/v1/connections", list[schemas.ConnectionView]), _show_connections)


def _show_connections(found: list[schemas.ConnectionView]) -> None:
    rows = [
        (f"{c.a} ({c.kinds[0]})", f"{c.b} ({c.kinds[1]})", c.state, len(c.members), c.subnet, c.network) for c in found
    ]
    tables.table(
        ("one end", "other end", "state", "containers", "subnet", "network"),
        rows,
        empty="no connections: make one with `sidegate connect APP DB --env`",
    )


COMMANDS = (connect, disconnect, connections)
