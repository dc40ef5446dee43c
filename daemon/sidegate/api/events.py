"""Events: a bounded memory of what has happened, and followers that read it at their own pace.

Nobody's pace costs memory: there is one ring for all. A follower that falls out of it is told so, once, and goes on
with what is kept.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from sidegate.api.schemas import EventView
from sidegate.core.changes import Change
from sidegate.core.kinds import KINDS

KEPT = 1000
TEXT_MOST = 1000  # characters
BEAT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Event:
    """One that has happened. `wire` is it as server-sent events have it, encoded once for all who follow."""

    view: EventView
    wire: bytes

    @property
    def id(self) -> int:
        return self.view.id


@dataclass(frozen=True, slots=True)
class Lost:
    """Events after `since` that a follower asked for, or was about to be given, are not kept any more."""

    since: int


Told = Event | Lost | None
"""What a follower is given; None: nothing has happened for a while."""


class Hub:
    """Where events come together. Ids rise, also over restarts: the first one is the time in microseconds."""

    def __init__(self, *, wall: Callable[[], float] = time.time, kept: int = KEPT, beat: float = BEAT_SECONDS) -> None:
        self._wall = wall
        self._beat = beat
        self._ring: deque[Event] = deque(maxlen=kept)
        self._next = int(wall() * 1e6)
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False
        self.emitted = 0
        """Events so far."""
        self.lost = 0
        """Followers that missed some."""

    def __repr__(self) -> str:
        return f"<Hub kept={len(self._ring)} waiting={len(self._waiting)}{' closed' if self._closed else ''}>"

    def emit(self, kind: str, subject: str, text: str, **details: object) -> None:
        """Something has happened; on the event loop's thread. `kind` is one of KINDS."""
        self._add(kind, subject, text, details)
        self._wake()

    def emit_all(self, changes: Collection[Change]) -> None:
        """Several things have."""
        for change in changes:
            self._add(change.kind, change.subject, change.text, change.details)
        if changes:
            self._wake()

    def last(self, limit: int, *, since: int = 0, kinds: Collection[str] = ()) -> list[EventView]:
        """The last events, the oldest first, at most `limit`; only those after `since`, and of `kinds` if any."""
        found = [e.view for e in self._ring if e.id > since and (not kinds or e.view.kind in kinds)]
        return found[-limit:] if limit else []

    def start_of(self, limit: int, kinds: Collection[str] = ()) -> int:
        """The id to follow from so that the last `limit` events come first."""
        last = self.last(limit, kinds=kinds)
        return last[0].id - 1 if last else self._next - 1

    async def follow(self, since: int, kinds: Collection[str] = ()) -> AsyncGenerator[Sequence[Told], None]:
        """What has happened after the event `since` (0: all that is kept), then what happens, until the hub is
        closed. Several at a time where several are there."""
        while True:
            if self._is_gap(since):
                self.lost += 1
                yield [Lost(since)]
                since = 0  # from what is kept on
            news = [event for event in self._ring if event.id > since]
            since = self._next - 1
            if chosen := [event for event in news if not kinds or event.view.kind in kinds]:
                yield chosen
                continue
            if self._closed:
                return
            if not await self._news():
                yield [None]

    def close(self) -> None:
        """Nothing more will happen: followers end once they have read what is there."""
        self._closed = True
        self._wake()

    def _is_gap(self, since: int) -> bool:
        """Whether something after `since` is missing here; an id that we never gave is another daemon's."""
        first = self._ring[0].id if self._ring else self._next
        return since >= self._next or 0 < since < first - 1

    def _add(self, kind: str, subject: str, text: str, details: Mapping[str, object]) -> None:
        assert kind in KINDS, kind
        view = EventView(
            id=self._next, at=self._wall(), kind=kind, subject=subject, text=text[:TEXT_MOST], details=dict(details)
        )
        self._next += 1
        self.emitted += 1
        self._ring.append(
            Event(view, b"event: %s\nid: %d\ndata: %s\n\n" % (kind.encode(), view.id, msgspec.json.encode(view)))
        )

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _news(self) -> bool:
        """Wait for an event, or for the hub to be closed; False where nothing came for a while."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(self._beat):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True
