"""The verbs that make, replace and remove containers of apps: deploy, redeploy, port, domains, rm, logs."""

import os
import shlex
import sys
from typing import BinaryIO

import click

from sidegate.api import schemas
from sidegate.api.client import Client, find_socket, quote
from sidegate.cli import tables
from sidegate.cli.apps import app, show_app
from sidegate.cli.completing import complete_app, complete_domain
from sidegate.cli.session import Session, common, confirm, goes_on, pass_session


@app.command("deploy")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option("--image", required=True, metavar="IMAGE", help="What to run. Fetched where this node does not have it.")
@click.option(
    "--port", type=int, metavar="N", help="What the app is given as PORT. Default: the image's only one, or 8080."
)
@click.option("--replicas", type=int, metavar="N", help="How many containers. Default: 1.")
@click.option("--domain", "domains", multiple=True, metavar="DOMAIN", help="Where it answers, beside its own name.")
@click.option("--health", metavar="PATH", help="A path that answers 2xx or 3xx while a replica is well; off.")
@click.option("--env", "given", multiple=True, metavar="KEY=VALUE", help="A variable for run time, kept for later.")
@click.option("--env-file", type=click.File("rb"), metavar="FILE", help="More of them; - reads stdin.")
@click.option("--command", metavar="WORDS", help="What to run instead of the image's own; '' for that again.")
@common
@pass_session
def app_deploy(
    session: Session,
    name: str,
    image: str,
    port: int | None,
    replicas: int | None,
    domains: tuple[str, ...],
    health: str | None,
    given: tuple[str, ...],
    env_file: BinaryIO | None,
    command: str | None,
) -> None:
    """Run an app, or run it anew with another image. New replicas start, become healthy and take over; then the old
    ones finish what they have in hand and go. When one of them does not become healthy the old ones go on serving, and
    its last lines are shown. What is left out stays as it was; --domain takes the place of earlier ones.

    Each container is given PORT, the app's variables, and a way out to the world; other apps cannot reach it unless
    they are connected.

    An env file has lines of KEY=VALUE, `export` in front or not, and comments after #. A value without quotes ends at
    the line's end; 'single quotes' are literal; "double quotes" know \\n, \\t, \\", \\\\ and \\$. Nothing is expanded.

    \b
    Examples:
      sidegate app deploy shop --image shop:1.4
      sidegate app deploy shop --image shop:1.5 --replicas 2 --domain shop.example.com
      sidegate app deploy worker --image shop:1.4 --env QUEUE=mail --command "python worker.py"
    """
    try:
        words = None if command is None else shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--command: {error}") from None
    body = schemas.DeployRequest(
        image=image,
        port=port,
        replicas=replicas,
        domains=list(domains) if domains else None,
        health=health,
        command=words,
        variables=_variables(given),
        dotenv=env_file.read().decode() if env_file else None,
    )
    path = f"/v1/apps/{quote(name)}/deployment"
    with goes_on(name):
        reply = session.stream("PUT", path, schemas.AppView, body=body, doing=f"deploying {name}")
    session.show(reply, show_app)


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals:
            raise click.UsageError(f"--env {key}: write KEY=VALUE")
        if key in found:
            raise click.UsageError(f"--env {key} is given twice")
        found[key] = value
    return found


@app.command("redeploy")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@common
@pass_session
def app_redeploy(session: Session, name: str) -> None:
    """Replace an app's containers with new ones that have its variables as they are now. Nothing else about them
    changes, whoever runs them: networks, volumes, labels, limits and the rest are carried over. Where two of them
    cannot run side by side (a published port, a fixed address, the label sidegate.strategy=recreate) the old one stops
    first, and that is said.

    \b
    Example:
      sidegate app redeploy shop
    """
    path = f"/v1/apps/{quote(name)}/rollouts"
    with goes_on(name):
        reply = session.stream("POST", path, schemas.AppView, doing=f"redeploying {name}")
    session.show(reply, show_app)


@app.command("port")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.argument("port", metavar="PORT", type=int)
@common
@pass_session
def app_port(session: Session, name: str, port: int) -> None:
    """Say which PORT an app's containers are given, and so where requests go. An app that Sidegate runs is replaced at
    once, without losing a request; one that others run gets it with the next `app redeploy`.

    \b
    Example:
      sidegate app port shop 3000
    """
    path, body = f"/v1/apps/{quote(name)}/port", schemas.PortRequest(port=port)
    with goes_on(name):
        reply = session.stream("PUT", path, schemas.AppView, body=body, doing=f"changing the port of {name}")
    session.show(reply, show_app)


@app.command("domains")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option("--add", multiple=True, metavar="DOMAIN", help="One more domain.")
@click.option("--remove", multiple=True, metavar="DOMAIN", help="One less.", shell_complete=complete_domain)
@common
@pass_session
def app_domains(session: Session, name: str, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Show an app's domains, add some, or remove some. Those of the label sidegate.domains are changed there.

    \b
    Examples:
      sidegate app domains shop --add shop.example.com --add example.com/shop
      sidegate app domains shop --remove shop.example.com
    """
    path = f"/v1/apps/{quote(name)}"
    if not add and not remove:
        session.show(session.call("GET", path, schemas.AppView), _show_domains)
        return
    body = schemas.DomainsRequest(add=list(add), remove=list(remove))
    session.show(session.call("PATCH", f"{path}/domains", schemas.AppView, body=body), _show_domains)


def _show_domains(found: schemas.AppView) -> None:
    tables.facts(
        [("app", found.name), ("urls", f"\n{' ' * tables.MARGIN}".join(found.urls)), ("domains", found.domains)]
    )
    tables.warn([*found.notes, *(problem.text for problem in found.problems)])


@app.command("rm")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_session
def app_rm(session: Session, name: str, yes: bool) -> None:
    """Remove an app that Sidegate runs, with its containers and its network, and all that is known of it: variables,
    domains, options, connections. Containers that others run go on running; only what is known of them goes.

    \b
    Example:
      sidegate app rm shop
    """
    confirm(f"Remove {name}, with its variables, domains and connections?", yes)
    path = f"/v1/apps/{quote(name)}"
    with goes_on(name):
        reply = session.stream("DELETE", path, schemas.AppRemoved, doing=f"removing {name}")
    session.show(reply, _show_removed)


def _show_removed(done: schemas.AppRemoved) -> None:
    removed = ", ".join(done.containers)
    tables.say(f"{done.app} is gone" + (f", with {removed}" if removed else ""))
    if done.disconnected:
        tables.say(f"it is no longer connected to {', '.join(done.disconnected)}")
    if done.kept_containers:
        tables.warn([f"{', '.join(done.kept_containers)} goes on running: others started it"])


@app.command("logs")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@click.option("--tail", type=int, default=100, show_default=True, metavar="N", help="Lines of each container at first.")
@common
@pass_session
def app_logs(session: Session, name: str, follow: bool, tail: int) -> None:
    """What an app's containers write, each line with its container's name where there are several. Followed, it goes
    on with the containers that take their place.

    \b
    Examples:
      sidegate app logs shop --tail 20
      sidegate app logs shop -f
    """
    path, query = f"/v1/apps/{quote(name)}/logs", {"tail": str(tail)}
    if not follow:
        reply = session.call("GET", path, schemas.Logs, query=query, doing=f"reading the logs of {name}")
        if session.as_json:
            session.show(reply, lambda found: None)
        for line in () if session.as_json else reply.value.lines:
            click.echo(line)
        return
    client = Client(find_socket(session.socket, os.environ))
    try:
        client.stream("GET", path, schemas.Logs, _write, query=query | {"follow": "true"})
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _write(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


COMMANDS = (app,)
"""What is here are verbs of it."""
