"""The verbs of the daemon itself: status, audit, metrics, purge."""

from collections.abc import Iterator

import click

from sidegate.api import schemas
from sidegate.api.client import Reply
from sidegate.cli import tables
from sidegate.cli.completing import complete_audited
from sidegate.cli.session import Session, common, confirm, pass_session

PURGE_SECONDS = 330.0
PAGE = 1000


@click.command()
@click.option(
    "--watch",
    type=click.FloatRange(0.2, 3600),
    is_flag=False,
    flag_value=1.0,
    metavar="[SECONDS]",
    help="Go on showing it, with each event and each SECONDS (1), until Ctrl-C.",
)
@common
@pass_session
def status(session: Session, watch: float | None) -> None:
    """How the daemon is: engine, ports, workers, counts, problems, and what it leaves out.

    The state is ok, degraded (there are problems: they follow, each with what to do), or not ready. With --watch it is
    a live view, with the last events and with what has changed highlighted; it goes on while the daemon is away. In a
    pipe --watch prints a JSON document in a line of its own for each change.

    \b
    Examples:
      sidegate status
      sidegate status --watch
      sidegate status --json | jq .problems
    """
    if watch is None:
        session.show(session.call("GET", "/v1/status", schemas.Status), _show_status)
        return
    from sidegate.cli.watch import watch as go_on  # late: most runs of this verb are one look

    go_on(session, watch, status_facts)


def _show_status(found: schemas.Status) -> None:
    left_out = [("" if number else "left out", f"{o.container} {o.reason}") for number, o in enumerate(found.left_out)]
    tables.facts([*status_facts(found), *left_out])
    tables.warn([f"{problem.subject}: {problem.text}" for problem in found.problems])


def status_facts(found: schemas.Status) -> list[tuple[str, object]]:
    """A status as names and values."""
    engine, counts, last = found.engine, found.counts, found.last_pass
    state = "not ready" if not found.ready else "degraded" if found.degraded else "ok"
    return [
        ("state", state),
        ("version", f"{found.version}, up {tables.ago(found.uptime)}"),
        ("engine", f"Docker {engine.version or '(version unknown)'}" if engine.connected else engine.fault),
        ("listening", _listening(found.listening)),
        ("workers", ", ".join(f"{w.slot}: {w.state} (pid {w.pid})" for w in found.workers)),
        ("apps", f"{counts.apps}, {counts.stale} out of date" if counts.stale else counts.apps),
        ("held", [f"{app} ({mode})" for app, mode in found.held.items()]),
        ("databases", counts.databases),
        ("connections", f"{counts.connections} internal, {counts.external_on} external on"),
        ("forwarder", _forwarder(found.forwarder)),
        ("last pass", f"{tables.when(last.finished)}, {last.seconds * 1000:.0f} ms" if last.finished else None),
        ("pool", f"{found.pool.in_use} of {found.pool.total} subnets of {found.pool.cidr} in use"),
    ]


def _listening(found: schemas.ListeningView) -> str:
    certificates = "1 certificate" if found.certificates == 1 else f"{found.certificates} certificates"
    https = f"HTTPS on {found.https_port} ({certificates})" if found.https_port else "no HTTPS"
    return f"HTTP on {found.http_port}, {https}, as *.{found.base_domain}"


def _forwarder(found: schemas.ForwarderView) -> str:
    carrier = "the kernel" if found.carrier == "kernel" else "workers"
    return f"{found.setting}: {carrier}" + (f", since {found.reason}" if found.reason else "")


@click.command()
@click.option("--verb", metavar="VERB", help="Only this verb, or a group's.", shell_complete=complete_audited)
@click.option("--user", metavar="USER", help="Only what this user did: a name or a uid.")
@click.option("--since", metavar="TIME", help="Only what is not older: 30m, 2h, 7d.")
@click.option("--limit", type=int, default=50, show_default=True, metavar="N", help="How many entries at most.")
@common
@pass_session
def audit(session: Session, verb: str | None, user: str | None, since: str | None, limit: int) -> None:
    """What was changed or revealed, by whom, the newest first.

    Each call that changes something or shows a secret is written down, also when it was refused: when, by which user
    and process, the verb, what it was about, and the outcome (done, or an error's code). Passwords and values of
    variables never are. The last 10,000 entries are kept, over restarts and a purge.

    \b
    Examples:
      sidegate audit --limit 10
      sidegate audit --verb external --since 7d
      sidegate audit --verb "db credentials" --user root
    """
    given = {"verb": verb, "user": user, "within": since}
    asked = {name: value for name, value in given.items() if value}
    pages = list(_pages(session, asked, limit))
    body = b"[" + b",".join(page.body.strip()[1:-1] for page in pages if page.value) + b"]"
    session.show(Reply(body, [entry for page in pages for entry in page.value]), _show_audit)


def _pages(session: Session, asked: dict[str, str], limit: int) -> Iterator[Reply[list[schemas.AuditView]]]:
    """As many calls as it takes: each gives a thousand at most."""
    before: dict[str, str] = {}
    while True:
        page_limit = min(limit, PAGE)
        query = asked | before | {"limit": str(page_limit)}
        page = session.call("GET", "/v1/audit", list[schemas.AuditView], query=query)
        yield page
        limit -= len(page.value)
        if limit < 1 or len(page.value) < page_limit:
            return
        before = {"before": str(page.value[-1].id)}


def _show_audit(entries: list[schemas.AuditView]) -> None:
    rows = [(tables.when(e.at), e.user, e.pid, e.verb, e.target, e.outcome) for e in entries]
    tables.table(("when", "user", "pid", "verb", "target", "outcome"), rows, empty="nothing yet")


@click.command()
@common
@pass_session
def metrics(session: Session) -> None:
    """Everything that is counted, in the text format that Prometheus reads.

    \b
    Example:
      sidegate metrics | grep ^sidegate_http_requests_total
    """
    click.echo(session.call("GET", "/metrics", bytes).body, nl=False)


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_session
def purge(session: Session, yes: bool) -> None:
    """Remove every network of ours, the containers that Sidegate made, and all that it remembers, and stop the daemon.
    Containers that others run stay.

    \b
    Example:
      sidegate purge --yes
    """
    confirm("Remove every connection, deployed app, stored variable and login, and stop the daemon?", yes)
    reply = session.call("POST", "/v1/purge", schemas.Purged, doing="removing everything", seconds=PURGE_SECONDS)
    session.show(reply, _show_purged)


def _show_purged(done: schemas.Purged) -> None:
    tables.say(
        f"removed {len(done.networks)} networks, {done.connections} connections, {done.externals} external connections "
        f"and {done.variables} variables; the daemon has stopped"
    )


COMMANDS = (status, metrics, audit, purge)
