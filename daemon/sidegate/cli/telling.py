"""How a verb that takes long shows how it gets on: on standard error, so that a result can be piped on."""

import contextlib
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator

import click

from sidegate.cli.tables import ago, printable

TICK_SECONDS = 1.0
COLUMNS = 80  # where a terminal does not say
CLEAR = "\r\x1b[K"


class Telling:
    """Lines of progress. On a terminal the last line is rewritten in place, with the time that has passed; lines that
    are kept scroll above it. Elsewhere each line is printed once."""

    def __init__(self, doing: str, *, silent: bool, keep: bool) -> None:
        self._status, self._silent, self._keep = doing, silent, keep
        self._rewrites = not silent and sys.stderr.isatty()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="telling", daemon=True)
        if self._rewrites:
            self._ticker.start()

    def say(self, text: str) -> None:
        """The next line."""
        if self._silent:
            return
        text = printable(text)
        if self._rewrites and not self._keep:
            self.status(text)
            return
        with self._lock:
            self._write(f"{CLEAR}{text}\n" if self._rewrites else f"{text}\n")
            self._draw()

    def status(self, text: str) -> None:
        """What the last line of a terminal says from now on; nothing elsewhere."""
        with self._lock:
            self._status = printable(text)
            self._draw()

    def close(self) -> None:
        """Take the last line of a terminal away."""
        self._done.set()
        if self._rewrites:
            self._ticker.join()
            self._write(CLEAR)

    def _tick(self) -> None:
        while not self._done.wait(TICK_SECONDS):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if not self._rewrites:
            return
        passed = f"  {ago(time.monotonic() - self._began)}"
        room = max(_columns() - len(passed) - 1, 10)
        self._write(f"{CLEAR}{_fitted(self._status.splitlines()[0], room) if self._status else ''}{passed}")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads standard error any more: what was asked for still counts
            click.echo(text, nl=False, err=True)


def _fitted(text: str, room: int) -> str:
    """As much of `text` as has `room` columns; some characters take two (Unicode's annex 11)."""
    for place, character in enumerate(text):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return text[:place]
    return text


def _columns() -> int:
    """How wide the terminal is that shows standard error."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


@contextlib.contextmanager
def telling(doing: str, *, silent: bool = False, keep: bool = False) -> Iterator[Telling]:
    """A Telling for as long as the block lasts."""
    shown = Telling(doing, silent=silent, keep=keep)
    try:
        yield shown
    finally:
        shown.close()
