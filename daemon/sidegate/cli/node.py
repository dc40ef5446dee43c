"""The verbs of the daemon itself: status, audit, purge."""

import click

from sidegate.api import schemas
from sidegate.cli import tables
from sidegate.cli.session import Session, common, confirm, pass_session

PURGE_SECONDS = 330.0


@click.command()
@common
@pass_session
def status(session: Session) -> None:
    """How the daemon is: engine, workers, counts, problems.

    \b
    Example:
      sidegate status
    """
    session.show(session.call("GET", "/v1/status", schemas.Status), _show_status)


def _show_status(found: schemas.Status) -> None:
    engine, counts, last = found.engine, found.counts, found.last_pass
    state = "not ready" if not found.ready else "degraded" if found.degraded else "ok"
    tables.facts(
        [
            ("state", state),
            ("version", f"{found.version}, up {tables.ago(found.uptime)}"),
            ("engine", f"Docker {engine.version or '(version unknown)'}" if engine.connected else engine.fault),
            ("workers", ", ".join(f"{w.slot}: {w.state} (pid {w.pid})" for w in found.workers)),
            ("apps", f"{counts.apps}, {counts.stale} out of date" if counts.stale else counts.apps),
            ("held", [f"{app} ({mode})" for app, mode in found.held.items()]),
            ("databases", counts.databases),
            ("connections", f"{counts.connections} internal, {counts.external_on} external on"),
            ("forwarder", _forwarder(found.forwarder)),
            ("last pass", f"{tables.when(last.finished)}, {last.seconds * 1000:.0f} ms" if last.finished else None),
            ("pool", f"{found.pool.in_use} of {found.pool.total} subnets of {found.pool.cidr} in use"),
        ]
    )
    tables.warn([f"{problem.subject}: {problem.text}" for problem in found.problems])


def _forwarder(found: schemas.ForwarderView) -> str:
    carrier = "the kernel" if found.carrier == "kernel" else "workers"
    return f"{found.setting}: {carrier}" + (f", since {found.reason}" if found.reason else "")


@click.command()
@click.option("--limit", default=50, show_default=True, help="How many entries.")
@common
@pass_session
def audit(session: Session, limit: int) -> None:
    """What was changed or revealed, by whom, the newest first.

    \b
    Example:
      sidegate audit --limit 10
    """
    reply = session.call("GET", "/v1/audit", list[schemas.AuditView], query={"limit": str(limit)})
    session.show(reply, _show_audit)


def _show_audit(entries: list[schemas.AuditView]) -> None:
    rows = [(tables.when(e.at), e.user, e.pid, e.verb, e.target, e.outcome) for e in entries]
    tables.table(("when", "user", "pid", "verb", "target", "outcome"), rows, empty="nothing yet")


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


COMMANDS = (status, audit, purge)
