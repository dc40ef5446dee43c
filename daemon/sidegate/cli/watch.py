"""`status --watch`: the daemon as a live view on a terminal, and as a document for each change in a pipe."""

import json
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sidegate.api import schemas
from sidegate.api.client import Client, Reply, find_socket
from sidegate.cli import tables
from sidegate.cli.events import colour, quiet_end, still_read
from sidegate.cli.following import LOST, follow
from sidegate.cli.session import ESCAPED, Session
from sidegate.errors import DaemonUnreachableError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

CALL_SECONDS = 5.0
GATHER_SECONDS = 0.2  # events that come together are drawn together
FRESH_SECONDS = 4.0  # that a change is highlighted
KEPT = 200
ALWAYS_OTHER = ("uptime", "last_pass")
"""What of a status is no change."""

Facts = Callable[[schemas.Status], list[tuple[str, object]]]


@dataclass
class View:
    """What is known, and since when. `away` says why the daemon does not answer; empty: it does."""

    status: schemas.Status
    facts: Facts
    events: deque[schemas.EventView] = field(default_factory=lambda: deque(maxlen=KEPT))
    away: str = ""
    _shown: dict[str, tuple[str, float]] = field(default_factory=dict)

    def fresh(self, name: str, text: str, now: float) -> bool:
        """Whether a fact has changed a moment ago."""
        before, at = self._shown.get(name, (text, float("-inf")))
        if before != text:
            at = now
        self._shown[name] = (text, at)
        return now - at < FRESH_SECONDS


def watch(session: Session, seconds: float, facts: Facts) -> None:
    """Until Ctrl-C, which ends it with 0. Raises DaemonUnreachableError where there is no daemon to begin with."""
    client = Client(find_socket(session.socket, os.environ), CALL_SECONDS)
    first = _status(client)
    news: queue.SimpleQueue[schemas.EventView | str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(session, news), name="events", daemon=True).start()
    with quiet_end():
        if session.json:
            for reply in _changes(client, first, news, seconds):
                click.echo(json.dumps(json.loads(reply.body), ensure_ascii=False).translate(ESCAPED))
                sys.stdout.flush()
        else:
            _draw(client, View(first.value, facts), news, seconds)


def _status(client: Client) -> Reply[schemas.Status]:
    return client.call("GET", "/v1/status", schemas.Status)


def _listen(session: Session, news: "queue.SimpleQueue[schemas.EventView | str]") -> None:
    """Put events into the queue, and a word when there are none: the daemon went away."""
    for sent in follow(session, {"limit": str(KEPT)}, news.put, patient=True):
        if sent.kind and sent.kind != LOST:
            news.put(msgspec.json.decode(sent.data, type=schemas.EventView))


def _wait(news: "queue.SimpleQueue[schemas.EventView | str]", seconds: float) -> list[schemas.EventView | str]:
    """What comes within so many seconds; less, where something does."""
    try:
        found = [news.get(timeout=seconds)]
    except queue.Empty:
        return []
    time.sleep(GATHER_SECONDS)
    while not news.empty():
        found.append(news.get())
    return found


def _changes(
    client: Client,
    first: Reply[schemas.Status],
    news: "queue.SimpleQueue[schemas.EventView | str]",
    seconds: float,
) -> Iterator[Reply[schemas.Status]]:
    before, reply = None, first
    while True:
        now = _lasting(reply)
        if now != before:
            before = now
            yield reply
        _wait(news, seconds)
        still_read()
        try:
            reply = _status(client)
        except DaemonUnreachableError:
            continue


def _lasting(reply: Reply[schemas.Status]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)
    return {name: value for name, value in found.items() if name not in ALWAYS_OTHER}


def _draw(client: Client, view: View, news: "queue.SimpleQueue[schemas.EventView | str]", seconds: float) -> None:
    from rich.console import Console  # late: it takes longer to import than most verbs to run
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_page(view, *console.size), refresh=True)
            view.events.extend(one for one in _wait(news, seconds) if not isinstance(one, str))
            try:
                view.status, view.away = _status(client).value, ""
            except DaemonUnreachableError as error:
                view.away = str(error)


def _page(view: View, width: int, height: int) -> "RenderableType":
    """All of it, in exactly as many lines as there are."""
    from rich.text import Text

    lines = [_title(view, width), Text()]
    lines += _facts(view, width)
    room = height - len(lines)
    problems = [Text(_line(f"! {p.subject}: {p.text}"), style="yellow") for p in view.status.problems]
    most = max(2, room // 3)
    if len(problems) > most:
        left = len(problems) - most + 1
        problems = [*problems[: most - 1], Text(f"! and {left} more: sidegate status", style="yellow")]
    if problems:
        lines += [Text(), *problems]
    lines += [Text(), Text("recent events", style="bold")]
    room = max(0, height - len(lines))
    events = list(view.events)[-room:] if room else []
    lines += [_event(event) for event in events] or [Text("none yet", style="dim")]
    lines = lines[:height]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def _title(view: View, width: int) -> "Text":
    from rich.text import Text

    status = view.status
    if view.away:
        state, style = "no answer, waiting for it", "bold red"
    elif not status.ready:
        state, style = "not ready", "bold red"
    else:
        state, style = ("degraded", "bold yellow") if status.degraded else ("ok", "bold green")
    title = Text.assemble((f"sidegate {status.version}", "bold"), "  ", (f"● {state}", style))
    if view.away:
        title.append(f"  {_line(view.away)}", style="red")
    else:
        title.append(f"  up {tables.ago(status.uptime)}")
    clock = time.strftime("%H:%M:%S")
    title.truncate(max(0, width - len(clock) - 2), overflow="ellipsis")
    title.pad_right(max(0, width - len(clock) - title.cell_len))
    return title.append(clock, style="dim")


def _facts(view: View, width: int) -> "list[Text]":
    """Names and values, side by side where there is room; what has just changed stands out."""
    from rich.text import Text

    cells: list[Text] = []
    now = time.monotonic()
    for name, value in view.facts(view.status):
        words = tables.word(value)
        if not words or name in ("state", "version"):
            continue
        fresh = view.fresh(name, words, now) and name != "last pass"
        style = "dim" if view.away else "bold black on yellow" if fresh else ""
        cells.append(Text.assemble((name.ljust(tables.MARGIN), "bold"), (_line(words), style)))
    if width < 2 * COLUMN:
        return cells
    half = (len(cells) + 1) // 2
    rows = []
    for number, cell in enumerate(cells[:half]):
        cell.truncate(width // 2 - 2, overflow="ellipsis")
        cell.pad_right(width // 2 - cell.cell_len)
        rows.append(cell + cells[half + number] if half + number < len(cells) else cell)
    return rows


COLUMN = 75
"""What a column of facts has at least."""


def _event(event: schemas.EventView) -> "Text":
    from rich.text import Text

    at = time.strftime("%H:%M:%S", time.localtime(event.at))
    fresh = time.time() - event.at < FRESH_SECONDS
    return Text.assemble(
        (f"{at}  ", "dim"),
        (event.kind.ljust(20), colour(event.kind) or ""),
        (f" {_line(event.subject)} ", "bold"),
        (_line(event.text), "bold" if fresh else ""),
    )


def _line(text: str) -> str:
    """In one line, with nothing that a terminal would obey."""
    return tables.printable(" ".join(text.split()))
