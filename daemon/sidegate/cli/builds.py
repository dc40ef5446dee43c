"""The verb build."""

import json
import os
import re
from pathlib import Path

import click

from sidegate.api import schemas
from sidegate.api.client import Upload, quote
from sidegate.cli import tables
from sidegate.cli.apps import show_app
from sidegate.cli.completing import complete_app
from sidegate.cli.context import Context
from sidegate.cli.session import Session, common, pass_session

STEP = re.compile(r"Step (\d+)/(\d+) : ")


@click.command()
@click.argument("app", metavar="APP", shell_complete=complete_app)
@click.argument("context", type=click.Path(path_type=Path))
@click.option("--tag", metavar="NAME[:TAG]", help="The image's name. Default: sidegate/APP:latest.")
@click.option("--file", metavar="FILE", default="", help="The Dockerfile. Default: CONTEXT/Dockerfile.")
@click.option("--build-arg", "given", metavar="KEY[=VALUE]", multiple=True, help="An argument for this build only.")
@click.option("--no-cache", is_flag=True, help="Run every step anew.")
@click.option("--pull", is_flag=True, help="Fetch newer base images.")
@click.option("--deploy", is_flag=True, help="Then run the app with the image, as `app deploy` does.")
@common
@pass_session
def build(
    session: Session,
    app: str,
    context: Path,
    tag: str | None,
    file: str,
    given: tuple[str, ...],
    no_cache: bool,
    pull: bool,
    deploy: bool,
) -> None:
    """Build an app's image from the directory CONTEXT. Arguments of the build are the app's variables of scope build or
    both, and those given here; KEY alone takes its value from the environment. They end up in the image's history:
    `docker history` shows them to whoever has the image. A .dockerignore is obeyed.

    No internal connection is there during a build: a command that needs one belongs in the start command.

    \b
    Examples:
      sidegate build shop . --deploy
      sidegate build shop ./shop --tag team/shop:1.4 --file Dockerfile.prod --build-arg VERSION=1.4
    """
    packed = Context.of(context, file)
    query = {"file": packed.dockerfile, "build_args": json.dumps(_arguments(given))}
    query |= {"tag": tag} if tag else {}
    query |= {name: "true" for name, wanted in (("no_cache", no_cache), ("pull", pull)) if wanted}
    reply = session.stream(
        "POST",
        f"/v1/apps/{quote(app)}/builds",
        schemas.Built,
        query=query,
        upload=Upload("application/x-tar", packed.pieces()),
        doing=f"building {app}",
        keep=True,
        status=lambda line: f"building {app}: step {found[1]} of {found[2]}" if (found := STEP.match(line)) else "",
    )
    if not deploy:
        session.show(reply, _show_built)
        return
    if not session.json:
        _show_built(reply.value)
    body = schemas.DeployRequest(image=reply.value.tag)
    path = f"/v1/apps/{quote(app)}/deployment"
    session.show(session.stream("PUT", path, schemas.AppView, body=body, doing=f"deploying {app}"), show_app)


def _arguments(given: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE words; a KEY that the environment does not have is left out, as `docker build` does."""
    found = {}
    for word in given:
        key, equals, value = word.partition("=")
        if equals:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
    return found


def _show_built(done: schemas.Built) -> None:
    tables.say(f"built {done.tag} ({done.image_id.removeprefix('sha256:')[:12]}) in {tables.ago(done.seconds)}")


COMMANDS = (build,)
