"""The verbs of apps: ls, show, set, unset, pause, resume, maintenance."""

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.completing import complete_app, complete_given_option, complete_option
from sidegate.cli.session import Session, common, pass_session


@click.group()
@common
def app() -> None:
    """Web programs: what runs, and where they answer.

    An app is one or more containers under one name, its replicas: started by others with the label sidegate.app=NAME,
    or by Sidegate with `app deploy`. It answers at its domains, and at NAME.BASE_DOMAIN.

    \b
    Example:
      sidegate app deploy shop --image shop:1.4 --domain shop.example.com
    """


@app.command("ls")
@common
@pass_session
def app_ls(session: Session) -> None:
    """Every app: its replicas that take requests of those that there are, its state, its first URL, and what it is
    connected to.

    The state is serving, paused or maintenance, or why no replica takes requests. "out of date": containers run with
    other variables or another image than they would be given now; "rollout": they are being replaced.

    \b
    Example:
      sidegate app ls
    """
    session.show(session.call("GET", "/v1/apps", list[schemas.AppView]), _show_apps)


def _show_apps(found: list[schemas.AppView]) -> None:
    rows = [(a.name, f"{a.serving}/{len(a.replicas)}", _listed_state(a), a.urls[0], a.connections) for a in found]
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
    """One app with its replicas, domains, variables' keys, options and connections.

    Of each replica there is the container, its state and health, where its requests go, and why they do not. What is
    wrong follows, with what to do.

    \b
    Example:
      sidegate app show shop
    """
    session.show(session.call("GET", f"/v1/apps/{quote(name)}", schemas.AppView), show_app)


def show_app(found: schemas.AppView) -> None:
    """One app as facts, a table of its replicas, and what there is to say of it."""
    tables.facts(
        [
            ("app", found.name),
            ("state", _state(found)),
            ("rollout", found.rollout),
            *_deployed(found),
            ("urls", f"\n{' ' * tables.MARGIN}".join(found.urls)),
            ("domains", found.domains),
            ("connected to", found.connections),
            ("variables", found.env),
            ("out of date", [*(f"{s.container} ({', '.join(s.keys)})" for s in found.stale), *found.outdated]),
            ("options", [f"{o.name}={o.value} (by {o.source})" for o in found.options]),
        ]
    )
    rows = [(r.container, r.state, r.health, r.address, r.port, r.fault) for r in found.replicas]
    tables.table(("replica", "state", "health", "address", "port", "takes no requests"), rows, empty="no containers")
    tables.warn([*found.notes, *(problem.text for problem in found.problems)])


def _deployed(found: schemas.AppView) -> list[tuple[str, object]]:
    run = found.deployment
    facts: list[tuple[str, object]] = []
    if run:
        facts = [("image", run.image), ("command", " ".join(run.command)), ("replicas", run.replicas)]
    if found.port:
        facts.append(("PORT", found.port))
    if found.strategy != "rolling":
        facts.append(("strategy", found.strategy))
    return facts


def _listed_state(found: schemas.AppView) -> str:
    marks = [
        word for word, there in (("out of date", found.stale or found.outdated), ("rollout", found.rollout)) if there
    ]
    return ", ".join([_state(found), *marks])


def _state(found: schemas.AppView) -> str:
    """What visitors meet; why nothing could take requests even without a mode."""
    if found.mode == "serving":
        return found.unavailable or "serving"
    return f"{found.mode} ({found.unavailable})" if found.unavailable else found.mode


@app.command("set")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.argument("options", metavar="OPTION=VALUE...", nargs=-1, required=True, shell_complete=complete_option)
@common
@pass_session
def app_set(session: Session, name: str, options: tuple[str, ...]) -> None:
    """Set options of an app, at once and for good. They win over labels (sidegate.OPTION); the rest is as the settings
    have it. Times are 30s, 2m, 1h or plain seconds, sizes 512k, 10m, 1g or plain bytes.

    \b
    https             both, or redirect: plain HTTP is redirected to HTTPS
    www               remove: www.HOST is redirected to HOST; add: the reverse; keep
    hsts              how long browsers shall use HTTPS alone, such as 365d; off
    max-body          the largest body of a request; off for no limit
    connect-timeout   for a replica to accept a connection
    response-timeout  from the end of a request to the head of its response; off
    body-timeout      between two pieces of a request's body; off
    websocket-idle    how long a WebSocket may be silent both ways; off
    access-log        on or off
    health            a path that answers 2xx or 3xx while a replica is well; off
    health-interval   between two checks of a replica's health
    health-timeout    for a replica to answer a check
    health-rise       good answers in a row that make a replica well
    health-fall       bad answers in a row that take it out

    \b
    Examples:
      sidegate app set shop https=redirect www=remove
      sidegate app set shop health=/healthz health-interval=2s max-body=10m
    """
    changes: dict[str, str | None] = {}
    for text in options:
        option, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is not OPTION=VALUE, such as max-body=10m")
        if option in changes:
            raise click.UsageError(f"{option} is given twice")
        changes[option] = value
    _change(session, name, schemas.AppRequest(options=changes))


@app.command("unset")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@click.argument("options", metavar="OPTION...", nargs=-1, required=True, shell_complete=complete_given_option)
@common
@pass_session
def app_unset(session: Session, name: str, options: tuple[str, ...]) -> None:
    """Forget options that were set. Labels count again, and then the settings.

    \b
    Example:
      sidegate app unset shop max-body health
    """
    _change(session, name, schemas.AppRequest(options=dict.fromkeys(options)))


@app.command("pause")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@common
@pass_session
def app_pause(session: Session, name: str) -> None:
    """Have requests wait until `app resume`. They wait for as long as pause_seconds and as many as pause_requests
    allow; what is under way goes on. Kept across restarts. An app in maintenance leaves it.

    \b
    Example:
      sidegate app pause shop
    """
    _change(session, name, schemas.AppRequest(mode="paused"))


@app.command("resume")
@click.argument("name", metavar="APP", shell_complete=complete_app)
@common
@pass_session
def app_resume(session: Session, name: str) -> None:
    """Serve again after a pause or maintenance. Requests that wait are let go on.

    \b
    Example:
      sidegate app resume shop
    """
    _change(session, name, schemas.AppRequest(mode="serving"))


@app.command("maintenance")
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"]))
@click.argument("name", metavar="APP", shell_complete=complete_app)
@common
@pass_session
def app_maintenance(session: Session, switch: str, name: str) -> None:
    """Answer requests with a 503 (on), or serve again (off). The 503 says when to come again. Kept across restarts. A
    paused app is paused no more: requests that waited get the 503.

    \b
    Example:
      sidegate app maintenance on shop
    """
    _change(session, name, schemas.AppRequest(mode="maintenance" if switch == "on" else "serving"))


def _change(session: Session, name: str, asked: schemas.AppRequest) -> None:
    reply = session.call("PATCH", f"/v1/apps/{quote(name)}", schemas.AppView, body=asked, doing=f"changing {name}")
    session.show(reply, show_app)


COMMANDS = (app,)
