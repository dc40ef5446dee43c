"""The verbs of apps and of their variables: app ls, app show, env ls, env export."""

import sys

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.session import Session, common, complete_app, pass_session


@click.group()
@common
def app() -> None:
    """Web programs: what runs, and where they answer."""


@app.command("ls")
@common
@pass_session
def app_ls(session: Session) -> None:
    """Every app.

    \b
    Example:
      sidegate app ls
    """
    session.show(session.call("GET", "/v1/apps", list[schemas.AppView]), _show_apps)


def _show_apps(found: list[schemas.AppView]) -> None:
    rows = [
        (a.name, f"{a.serving}/{len(a.replicas)}", a.unavailable or "serving", a.urls[0], a.connections) for a in found
    ]
    tables.table(
        ("app", "replicas", "state", "url", "connected to"),
        rows,
        empty="no apps: start a container with --label sidegate.app=NAME",
    )


@app.command("show")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@common
@pass_session
def app_show(session: Session, name: str) -> None:
    """One app with its replicas, domains and connections.

    \b
    Example:
      sidegate app show shop
    """
    session.show(session.call("GET", f"/v1/apps/{quote(name)}", schemas.AppView), _show_app)


def _show_app(found: schemas.AppView) -> None:
    tables.facts(
        [
            ("app", found.name),
            ("state", found.unavailable or "serving"),
            ("urls", found.urls),
            ("domains", found.domains),
            ("connected to", found.connections),
            ("variables", found.env),
        ]
    )
    rows = [(r.container, r.state, r.health, r.address, r.port) for r in found.replicas]
    tables.table(("replica", "state", "health", "address", "port"), rows, empty="no containers")
    tables.warn(problem.text for problem in found.problems)


@click.group()
@common
def env() -> None:
    """Variables of apps."""


@env.command("ls")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option("--scope", help="Only those of build or runtime.")
@click.option("--reveal", is_flag=True, help="Show secret values too; this is written to the audit trail.")
@common
@pass_session
def env_ls(session: Session, name: str, scope: str | None, reveal: bool) -> None:
    """An app's variables, secret values hidden.

    \b
    Example:
      sidegate env ls shop
    """
    query = {"reveal": "true"} if reveal else {}
    if scope is not None:
        query["scope"] = scope
    reply = session.call("GET", f"/v1/apps/{quote(name)}/env", list[schemas.VariableView], query=query)
    session.show(reply, _show_variables)


def _show_variables(found: list[schemas.VariableView]) -> None:
    rows = [(v.key, "(hidden: --reveal)" if v.value is None else v.value, v.scope, v.source) for v in found]
    tables.table(("key", "value", "scope", "from"), rows, empty="no variables")


@env.command("export")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option("--format", "form", default="dotenv", show_default=True, help="dotenv, shell, json or docker.")
@click.option("--scope", default="runtime", show_default=True, help="build or runtime.")
@common
@pass_session
def env_export(session: Session, name: str, form: str, scope: str) -> None:
    """The environment of an app's containers, PORT included, secret values too.

    \b
    Examples:
      sidegate env export shop > .env
      docker run -d --label sidegate.app=shop --env-file <(sidegate env export shop --format docker) IMAGE
    """
    path, query = f"/v1/apps/{quote(name)}/env", {"format": form, "scope": scope}
    sys.stdout.buffer.write(session.call("GET", path, bytes, query=query).body)
    sys.stdout.buffer.flush()


COMMANDS = (app, env)
