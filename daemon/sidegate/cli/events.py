"""The verb events."""

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator

import click
import msgspec

from sidegate.api import schemas
from sidegate.api.words import KINDS
from sidegate.cli import tables
from sidegate.cli.following import LOST, follow
from sidegate.cli.session import ESCAPED, Session, common, pass_session

BAD = ("fault", "failed", "lost", "died", "down", "unavailable", "resting", "appeared", "expiring")
GOOD = ("ok", "done", "back", "serving", "up", "available", "ready", "solved", "started", "on", "made", "seen", "added")
FIRST = 10
KIND_WIDTH, SUBJECT_WIDTH = 20, 16


def complete_kind(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Kinds, and the words before their dots."""
    known = {*KINDS, *(kind.partition(".")[0] for kind in KINDS)}
    return sorted(kind for kind in known if kind.startswith(incomplete))


@click.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only these. May be repeated.", shell_complete=complete_kind
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="How many of the last ones at first: 100, or 10 when followed.",
)
@common
@pass_session
def events(session: Session, following: bool, kinds: tuple[str, ...], limit: int | None) -> None:
    """What has happened on this node, the newest last: apps, replicas, deployments, databases, connections, external
    connections, certificates, problems, the engine, workers.

    The last thousand since the daemon's start are kept. With --follow it waits for more, and for the daemon where that
    is away; where events may be missing in between, it says so. In a pipe each is a line of JSON. They never hold a
    password or a variable's value. `audit` says who asked for what.

    KIND is a kind such as external.on or problem.appeared, or all about something: app, replica, deployment, domain,
    connection, database, login, password, external, certificate, problem, engine, worker, pass, daemon.

    \b
    Examples:
      sidegate events --limit 20
      sidegate events -f --kind app --kind problem
      sidegate events -f | jq -r .text
    """
    query = {"kind": ",".join(kinds)} if kinds else {}
    with quiet_end():
        if following:
            _follow(session, query | {"limit": str(limit or FIRST)})
            return
        reply = session.call(
            "GET", "/v1/events", list[schemas.EventView], query=query | ({"limit": str(limit)} if limit else {})
        )
        if session.json:
            for event in json.loads(reply.body):
                _write_json(event)
        else:
            rows = [(tables.when(e.at), e.kind, e.subject, e.text) for e in reply.value]
            tables.table(("when", "kind", "about", "what"), rows, empty="nothing has happened yet")


@contextlib.contextmanager
def quiet_end() -> Iterator[None]:
    """For what goes on until somebody has seen enough: Ctrl-C and a closed pipe end it with 0, and without a word."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    except BrokenPipeError:
        # What is left in the buffer would fail once more as the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def _follow(session: Session, query: dict[str, str]) -> None:
    away = ""

    def tell(why: str) -> None:
        nonlocal away
        if not away:
            click.echo(f"sidegate: {tables.printable(why)}: waiting for it", err=True)
        away = why

    for sent in follow(session, query, tell):
        if away:
            away = ""
            click.echo("sidegate: the daemon is back", err=True)
        still_read()
        if not sent.kind:
            continue
        if session.json:
            _write_json(json.loads(sent.data) | ({"kind": LOST} if sent.kind == LOST else {}))
        elif sent.kind == LOST:
            click.echo(tables.style("… events may be missing here", "yellow"))
        else:
            click.echo(line(msgspec.json.decode(sent.data, type=schemas.EventView)))
        sys.stdout.flush()


def line(event: schemas.EventView) -> str:
    """An event as a line for a terminal."""
    at = time.strftime("%H:%M:%S", time.localtime(event.at))
    kind, subject = event.kind.ljust(KIND_WIDTH), tables.printable(event.subject).ljust(SUBJECT_WIDTH)
    return f"{at}  {tables.style(kind, colour(event.kind))}  {subject}  {_one_line(event.text)}"


def colour(kind: str) -> str | None:
    """Red for what went wrong, green for what is well."""
    if kind == "app.appeared":
        return "green"
    word = kind.partition(".")[2]
    return "red" if word in BAD else "green" if word in GOOD else None


def _one_line(text: str) -> str:
    return tables.printable(" ".join(text.splitlines()))


def _write_json(event: object) -> None:
    click.echo(json.dumps(event, ensure_ascii=False).translate(ESCAPED))


def still_read() -> None:
    """Raise BrokenPipeError once nobody reads what we write, which else only the next event would tell."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLERR)
    if any(found & select.POLLERR for _, found in poll.poll(0)):
        raise BrokenPipeError


COMMANDS = (events,)
