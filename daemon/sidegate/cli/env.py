"""The verbs of variables: env ls, set, unset, rename, export."""

import sys
from pathlib import Path

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.completing import complete_app, complete_assignment, complete_key
from sidegate.cli.session import Session, common, pass_session

SCOPE = click.Choice(["build", "runtime", "both"])


@click.group()
@common
def env() -> None:
    """Variables of apps, for builds, for running containers, or both.

    They are kept by Sidegate. Containers have them from their next start on: `app redeploy` replaces those that run.

    \b
    Example:
      sidegate env set shop LOG_LEVEL=debug && sidegate app redeploy shop
    """


@env.command("ls")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option("--scope", help="Only those of build or runtime.")
@click.option("--reveal", is_flag=True, help="Show secret values too; this is written to the audit trail.")
@common
@pass_session
def env_ls(session: Session, name: str, scope: str | None, reveal: bool) -> None:
    """An app's variables, secret values hidden, and which running containers have others.

    \b
    Example:
      sidegate env ls shop
    """
    query = {"reveal": "true"} if reveal else {}
    if scope is not None:
        query["scope"] = scope
    session.show(session.call("GET", f"/v1/apps/{quote(name)}/env", schemas.EnvView, query=query), _show_env)


def _show_env(found: schemas.EnvView) -> None:
    rows = [
        (v.key, "(hidden: --reveal)" if v.value is None else v.value, v.scope, v.source, _outdated(found, v))
        for v in found.variables
    ]
    tables.table(("key", "value", "scope", "from", "out of date in"), rows, empty="no variables")
    tables.warn(found.notes)


def _outdated(found: schemas.EnvView, variable: schemas.VariableView) -> list[str]:
    """Running containers that have another value, or none."""
    return [s.container for s in found.stale if variable.scope != "build" and variable.key in s.keys]


@env.command("set")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.argument("variables", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=complete_assignment)
@click.option(
    "--scope",
    type=SCOPE,
    help="Where they count. By default runtime, or both where the key is there for both.",
)
@click.option("--secret/--no-secret", default=None, help="Hide the values in lists. By default as it was.")
@click.option("--file", "file", metavar="FILE", help="Read a dotenv file; - is standard input.")
@click.option("--stdin", "key", metavar="KEY", help="Read the value of KEY from standard input, less one line end.")
@common
@pass_session
def env_set(
    session: Session,
    name: str,
    variables: tuple[str, ...],
    scope: str | None,
    secret: bool | None,
    file: str | None,
    key: str | None,
) -> None:
    """Set variables, all or none. Values are literal: nothing in them is expanded, in files neither.

    Everybody on this machine may read the words of a command while it runs: give secrets with --stdin or --file.

    \b
    Examples:
      sidegate env set shop LOG_LEVEL=debug
      sidegate env set shop API_URL=https://api.example --scope build
      sidegate env set shop --stdin API_KEY --secret < key.txt
      sidegate env set shop --file .env
    """
    if file == "-" and key is not None:
        raise click.UsageError("--file - and --stdin both read standard input: use one")
    values: dict[str, str | None] = {}
    for word in variables:
        named, equals, value = word.partition("=")
        if not equals:
            raise click.UsageError("a word is not KEY=VALUE, such as LOG_LEVEL=debug")  # it may be a secret
        if named in values:
            raise click.UsageError(f"{named} is given twice")
        values[named] = value
    if key is not None:
        if key in values:
            raise click.UsageError(f"{key} is given twice")
        values[key] = _read_value(key)
    if not values and file is None:
        raise click.UsageError("nothing to set: give KEY=VALUE, --file or --stdin")
    if secret and variables:
        click.echo("! what stands on a command line is in process lists: --stdin or --file keeps it out", err=True)
    body = schemas.EnvRequest(
        variables=values, dotenv=None if file is None else _read_file(file), scope=scope, secret=secret
    )
    _change(session, name, body)


def _read_value(key: str) -> str:
    """Asked for on a terminal; else all of standard input, as bytes, since text mode would turn CR into LF."""
    if sys.stdin.isatty():
        return str(click.prompt(f"Value of {key}", hide_input=True, default="", show_default=False, err=True))
    return sys.stdin.buffer.read().decode().removesuffix("\n")


def _read_file(file: str) -> str:
    if file == "-":
        return sys.stdin.buffer.read().decode()
    try:
        return Path(file).read_bytes().decode()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from None


@env.command("unset")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, shell_complete=complete_key)
@click.option("--scope", type=SCOPE, help="Only that of this scope; by default every one.")
@common
@pass_session
def env_unset(session: Session, name: str, keys: tuple[str, ...], scope: str | None) -> None:
    """Remove variables, all or none. Containers that run keep theirs until they are redeployed.

    \b
    Example:
      sidegate env unset shop LOG_LEVEL API_URL
    """
    _change(session, name, schemas.EnvRequest(variables=dict.fromkeys(keys), scope=scope))


@env.command("rename")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.argument("key", metavar="KEY", shell_complete=complete_key)
@click.argument("new", metavar="[NEW]", required=False)
@click.option("--scope", type=SCOPE, help="Only that of this scope; by default every one.")
@click.option("--new-scope", type=SCOPE, help="Move it to another scope too, or only that.")
@common
@pass_session
def env_rename(
    session: Session, name: str, key: str, new: str | None, scope: str | None, new_scope: str | None
) -> None:
    """Give a variable another name, another scope, or both. Its value and where it came from stay, so that those of a
    connection still go with it.

    \b
    Examples:
      sidegate env rename shop DB_HOST MYSQL_HOST
      sidegate env rename shop API_URL --new-scope both
    """
    body = schemas.VariableEdit(key=new, scope=new_scope)
    path, query = f"/v1/apps/{quote(name, 'env', key)}", {} if scope is None else {"scope": scope}
    session.show(session.call("PATCH", path, schemas.EnvChanged, query=query, body=body), _show_changed)


def _change(session: Session, name: str, body: schemas.EnvRequest) -> None:
    reply = session.call("PATCH", f"/v1/apps/{quote(name)}/env", schemas.EnvChanged, body=body)
    session.show(reply, _show_changed)


def _show_changed(done: schemas.EnvChanged) -> None:
    for what, changed in (("set", done.set), ("removed", done.unset)):
        if changed:
            tables.say(f"{what} for {done.app}: {', '.join(f'{v.key} ({v.scope})' for v in changed)}")
    tables.warn(done.notes)


@env.command("export")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option(
    "--format", "form", default="dotenv", show_default=True, help="dotenv, shell, json, docker or build-args."
)
@click.option("--scope", help="build or runtime; by default runtime, and build for build-args.")
@common
@pass_session
def env_export(session: Session, name: str, form: str, scope: str | None) -> None:
    """The environment of an app's containers, PORT included, or of its builds; secret values too, which is written to
    the audit trail. `docker` is an env file of docker run, `build-args` are options of docker build for a shell.

    \b
    Examples:
      sidegate env export shop > .env
      docker run --label sidegate.app=shop --env-file <(sidegate env export shop --format docker) IMG
      eval "docker build $(sidegate env export shop --format build-args) -t shop ."
    """
    path, query = f"/v1/apps/{quote(name)}/env", {"format": form}
    if scope is not None:
        query["scope"] = scope
    sys.stdout.buffer.write(session.call("GET", path, bytes, query=query).body)
    sys.stdout.buffer.flush()


COMMANDS = (env,)
