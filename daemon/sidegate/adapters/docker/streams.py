"""Answers of the engine that go on for long: read in a thread of their own, consumed on the event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 16
"""Items that a reader may be ahead of its consumer."""


class Abandoned(Exception):  # noqa: N818
    """Raised in the reader by `emit` once nobody consumes any more."""


@dataclass(frozen=True, slots=True)
class End:
    """The reader has ended, by itself or by an error."""

    error: Exception | None = None


class Reading(Generic[T]):
    """`read(emit)` on a thread of its own; `emit` blocks while the consumer is AHEAD items behind.

    `stop` is called, from another thread, to have `read` end where it waits for the engine.
    """

    def __init__(self, name: str, read: Callable[[Callable[[T], None]], None], stop: Callable[[], None]) -> None:
        self._read, self._stop = read, stop
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | End] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        self._abandoned = threading.Event()
        # A daemon thread: a hung engine must not hold up the exit.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def items(self) -> AsyncGenerator[T, None]:
        """What was emitted, then the reader's error if it had one."""
        self._thread.start()
        try:
            while True:
                item = await self._items.get()
                if isinstance(item, End):
                    if item.error:
                        raise item.error
                    return
                self._room.release()
                yield item
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Have the reader end. Safe to call twice."""
        self._abandoned.set()
        self._room.release()
        self._stop()

    # --- on the thread --------------------

    def _run(self) -> None:
        end = End()
        try:
            self._read(self._emit)
        except Abandoned:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, the consumer raises it
            end = End(error)
        if self._abandoned.is_set():
            end = End()  # whatever was cut off was cut off by us
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._items.put_nowait, end)

    def _emit(self, item: T) -> None:
        self._room.acquire()
        if self._abandoned.is_set():
            raise Abandoned
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError as error:
            raise Abandoned from error
