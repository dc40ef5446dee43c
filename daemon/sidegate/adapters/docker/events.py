"""The engine's event stream, read in a thread of its own that never gives up.

Owns one subscription at a time. Events carry no truth here: each says only "look again, this container is
concerned", or which signal it was sent.
Calls back on the event loop's thread.
"""

import asyncio
import threading
import time
from collections.abc import Callable

import structlog

from sidegate.adapters.docker.client import EngineClient, EventFeed
from sidegate.adapters.docker.documents import Event
from sidegate.errors import EngineError, EngineUnavailableError

FIRST_DELAY, LAST_DELAY = 0.05, 1.0
STEADY_SECONDS = 1.0
JOIN_SECONDS = 1.0

log = structlog.get_logger("sidegate.docker")


class EventStream:
    """Calls `changed(event)` per event that matters, and `resumed()` after each (re)subscription and each loss.

    Where nothing is heard (the engine is away, `interrupt`),
    it tries again after 0.05 s doubling to 1 s, for ever; one log line for a loss, one for the recovery.
    """

    def __init__(
        self,
        client: EngineClient,
        changed: Callable[[Event], None],
        resumed: Callable[[], None],
    ) -> None:
        self._client = client
        self._changed, self._resumed = changed, resumed
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._allowed = threading.Event()
        self._allowed.set()
        self._feed: EventFeed | None = None
        # A daemon thread: it may be waiting for a hung engine's first byte, and must not hold up the exit.
        self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def interrupt(self, *, lost: bool) -> None:
        """Drop the stream and stay deaf while `lost`; for showing that a resync alone puts everything right."""
        if lost:
            self._allowed.clear()
            self._cancel()
        else:
            self._allowed.set()

    def end(self) -> None:
        """End the stream at once. Safe to call twice."""
        self._closed.set()
        self._allowed.set()
        self._cancel()

    def join(self) -> None:
        """Wait for the thread, for JOIN_SECONDS at most (blocking)."""
        self._thread.join(JOIN_SECONDS)

    def _cancel(self) -> None:
        with self._lock:
            if self._feed is not None:
                self._feed.cancel()

    # --- on the thread --------------------

    def _run(self) -> None:
        since, delay, lost = "", FIRST_DELAY, False
        while not self._closed.is_set():
            self._allowed.wait()
            began = time.monotonic()
            try:
                feed = self._client.events(since)
                if lost:
                    log.info("docker events are back")
                lost = False
                since = self._listen(feed) or feed.since
            except (EngineUnavailableError, EngineError) as error:
                if not lost:
                    log.warning("docker events lost", reason=str(error))
                lost = True
            else:
                self._tell(self._resumed)
            if time.monotonic() - began > STEADY_SECONDS:
                delay = FIRST_DELAY
            self._closed.wait(delay)
            delay = min(delay * 2, LAST_DELAY)

    def _listen(self, feed: EventFeed) -> str:
        """Read until the stream ends; returns the time of the last event as `since` wants it."""
        with self._lock:
            self._feed = feed
        since = ""
        try:
            if self._closed.is_set() or not self._allowed.is_set():
                return since
            self._tell(self._resumed)
            for event in feed:
                since = f"{event.time_nano // 10**9}.{event.time_nano % 10**9:09d}"
                self._tell(self._changed, event)
        finally:
            with self._lock:
                self._feed = None
            feed.close()
        return since

    def _tell(self, callback: Callable[..., None], *arguments: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._closed.set()
