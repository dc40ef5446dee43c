"""The verb of passwords: db password."""

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.completing import complete_database
from sidegate.cli.secrets import read_new_password
from sidegate.cli.session import Session, common, pass_session


@click.command("password")
@click.argument("name", metavar="DB", shell_complete=complete_database)
@click.option("--generate", is_flag=True, help="Make one, and print it.")
@click.option("--stdin", "stdin", is_flag=True, help="Read it from standard input.")
@click.option("--update-env", is_flag=True, help="Give it to the variables that connections added, and redeploy.")
@click.option("--disconnect", is_flag=True, help="End the sessions that logged in before.")
@common
@pass_session
def db_password(session: Session, name: str, generate: bool, stdin: bool, update_env: bool, disconnect: bool) -> None:
    """Change the password in the database's server, at once, for every way in. Says who still holds the old one.

    \b
    A password has 8 characters at least, among them a lower-case letter, an upper-case letter,
    a digit, and one of  , & * [ ] : ' $ ` "

    \b
    Examples:
      sidegate db password shop-db --generate --update-env
      sidegate db password shop-db --stdin < password.txt
    """
    if generate == stdin:
        raise click.UsageError("give either --generate or --stdin")
    given = read_new_password(name) if stdin else None
    body = schemas.PasswordRequest(password=given, generate=generate, update_env=update_env, disconnect=disconnect)
    path, doing = f"/v1/databases/{quote(name)}/password", f"changing the password of {name}"
    try:
        reply = session.stream("PUT", path, schemas.PasswordSet, body=body, doing=doing)
    except KeyboardInterrupt:
        text = f"not waiting any longer; it goes on: `sidegate db credentials {name}` tells which password counts"
        click.echo(f"sidegate: {text}", err=True)
        raise SystemExit(130) from None
    session.show(reply, _show_password)


def _show_password(done: schemas.PasswordSet) -> None:
    tables.say(f"the password of {done.user} in {done.database} is changed ({', '.join(done.accounts)})")
    if done.password is not None:
        tables.facts([("password", done.password)])
    if done.sessions_ended:
        tables.say(f"sessions ended: {done.sessions_ended}")
    if done.updated:
        tables.say(f"updated: {', '.join(f'{v.key} of {v.app} ({v.scope})' for v in done.updated)}")
    if done.redeployed:
        tables.say(f"redeployed: {', '.join(done.redeployed)}")
    rows = [(f"{v.app} ({v.scope})", v.key) for v in done.variables]
    rows += [(f"{c.container}, running" + (f" ({c.app})" if c.app else ""), ", ".join(c.keys)) for c in done.containers]
    if rows:
        tables.table(("still holds the old one", "in"), rows, empty="")
    else:
        tables.say("nobody else holds the old one")
    tables.warn(done.notes)
