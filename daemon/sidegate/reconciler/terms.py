"""For how long: external connections end when their time has come, or when nobody has used them for long.

An end is written to the store, so that no later reading of a clock undoes it. Expiry goes by the wall clock, and while
the daemon runs by the steady one too: setting the clock back prolongs nothing.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import structlog

from sidegate.core.model import External, Intent, Problem
from sidegate.errors import SidegateError, StoreError
from sidegate.reconciler.kernel import KernelPorts
from sidegate.reconciler.world import DataPlane, IntentStore

LOOK_SECONDS = 5.0
"""How often sessions are looked for where an end depends on them."""

log = structlog.get_logger("sidegate.terms")


@dataclass(frozen=True, slots=True)
class _Watched:
    """What is known of one connection as the store has it. By the steady clock: `expires` 0 for never, `used`."""

    external: External
    expires: float
    used: float


class Terms:
    """`clock` is steady, `wall` gives Unix time; both in seconds."""

    def __init__(
        self,
        store: IntentStore,
        data_plane: DataPlane,
        kernel: KernelPorts | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._data_plane = data_plane
        self._kernel = kernel
        self._clock = clock
        self._wall = wall
        self._watched: dict[str, _Watched] = {}
        self._ended: dict[str, External] = {}  # ends that could not be written
        self.causes: dict[str, str] = {}
        """Database -> why its connection ended by itself, until somebody switches it."""
        self._looked = float("-inf")
        self._tried = float("-inf")  # to write `_ended`
        self._seen_open: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()

    def intent(self) -> Intent:
        """What people asked for, less what has ended and could not be written down."""
        intent = self._store.intent
        ended = {name for name, external in self._ended.items() if intent.externals.get(name) == external}
        if not ended:
            return intent
        return replace(intent, externals={n: _off(e) if n in ended else e for n, e in intent.externals.items()})

    def hold(self, name: str, *, closed: bool) -> None:
        """A connection is off although that could not be written, or again as it is written."""
        external = self._store.intent.externals.get(name)
        if not closed:
            self._ended.pop(name, None)
        elif external and external.enabled:
            self._ended[name], self._tried = external, self._clock()

    def problems(self) -> list[Problem]:
        """Connections that are off, and would be on again after a restart."""
        externals = self._store.intent.externals
        text = "its external connection is off, but that could not be saved: a restart now may open it again"
        return [Problem(name, text) for name, ended in self._ended.items() if externals.get(name) == ended]

    def changed(self) -> None:
        """Somebody may have set other terms."""
        self._changed.set()

    def switched(self, name: str) -> None:
        """Somebody has switched a connection on or off: however it ended before is of no interest any more."""
        self.causes.pop(name, None)

    async def run(self, wake: Callable[[], None]) -> None:
        """End what is due, and `wake` then; until cancelled."""
        while True:
            self._changed.clear()
            if await self.enforce():
                wake()
            try:
                async with asyncio.timeout(self._until_next()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def enforce(self) -> list[str]:
        """End what is due now; returns the databases whose external connection has ended."""
        async with self._turn:
            return await self._enforce()

    async def _enforce(self) -> list[str]:
        await self._save_ended()
        externals = {
            n: e for n, e in self._store.intent.externals.items() if e.enabled and (e.expires_at or e.idle_off)
        }
        self._watched = {name: self._watch(name, external) for name, external in externals.items()}
        look = any(e.idle_off for e in externals.values()) and self._clock() - self._looked >= LOOK_SECONDS
        if look:
            self._looked = self._clock()
        due = {n: e.port for n, e in externals.items() if e.idle_off and (look or self._idle(n) >= e.idle_off)}
        carried = await self._carried(due.values()) if due else frozenset()
        ended = []
        for name, external in externals.items():
            if self._ended.get(name) == external:
                continue
            if external.idle_off:
                await self._note_use(name, carried=name in due and external.port in carried)
            if cause := self._due(name):
                await self._end(name, external, cause)
                ended.append(name)
        return ended

    def _watch(self, name: str, external: External) -> _Watched:
        known = self._watched.get(name)
        if known and known.external == external:
            return known
        now, wall = self._clock(), self._wall()
        used = now - max(0.0, wall - external.used_at)
        if known and known.external.enabled and external.used_at <= known.external.used_at:
            used = max(used, known.used)
        expires = now + external.expires_at - wall if external.expires_at else 0.0
        if known and external.expires_at == known.external.expires_at:
            expires = known.expires
        return _Watched(external, expires, used)

    def _due(self, name: str) -> str:
        """Why a connection has to end now; empty: it has not."""
        watched = self._watched[name]
        external = watched.external
        if external.expires_at and (self._wall() >= external.expires_at or self._clock() >= watched.expires):
            return "its time is over"
        if external.idle_off and self._idle(name) >= external.idle_off:
            return f"nobody has used it for {external.idle_off} s"
        return ""

    def _idle(self, name: str) -> float:
        return self._clock() - self._watched[name].used

    async def _note_use(self, name: str, *, carried: bool) -> None:
        """Sessions of the workers count to the second; those of the kernel at a look, those that have ended too."""
        watched, now = self._watched[name], self._clock()
        external, used = watched.external, watched.used
        if name not in self._data_plane.listeners():
            self._seen_open.pop(name, None)
        else:
            usage, since = self._data_plane.usage(name), self._seen_open.setdefault(name, now)
            if usage.sessions or now - usage.idle > since:  # else it has been idle ever since it was opened
                used = max(used, now - usage.idle)
        if carried:
            used = now
        self._watched[name] = replace(watched, used=used)
        at = self._wall() - (now - used)
        if at - external.used_at < max(LOOK_SECONDS, external.idle_off / 10):
            return
        noted = replace(external, used_at=at)
        try:
            await self._store.replace_external(name, external, noted)
        except StoreError as error:
            log.warning("use not saved", database=name, error=str(error))
        else:
            self._watched[name] = replace(self._watched[name], external=noted)

    async def _carried(self, ports: Collection[int]) -> frozenset[int]:
        if self._kernel is None or self._kernel.fault:
            return frozenset()
        try:
            return await self._kernel.used(ports)
        except SidegateError as error:
            log.warning("sessions of the kernel not known", ports=sorted(ports), error=str(error))
            return frozenset(ports)  # better open for a while longer than closed under somebody's hands

    async def _end(self, name: str, external: External, cause: str) -> None:
        current = self._watched[name].external
        log.info("external connection ends", database=name, port=external.port, cause=cause)
        self.causes[name] = cause
        try:
            await self._store.replace_external(name, current, _off(current))
        except StoreError as error:
            log.error("its end is not saved, so it is kept closed", database=name, error=str(error))  # noqa: TRY400 (expected)
            self._ended[name], self._tried = current, self._clock()

    async def _save_ended(self) -> None:
        """Try again to write down what has ended."""
        if not self._ended or self._clock() - self._tried < LOOK_SECONDS:
            return
        self._tried = self._clock()
        for name, ended in [*self._ended.items()]:
            try:
                await self._store.replace_external(name, ended, _off(ended))
            except StoreError:
                return
            self._ended.pop(name, None)

    def _until_next(self) -> float | None:
        """Seconds until something may be due; None: nothing will be."""
        if not self._watched:
            return None
        now, wall = self._clock(), self._wall()
        waits = [w.external.expires_at - wall for w in self._watched.values() if w.external.expires_at]
        waits += [w.used + w.external.idle_off - now for w in self._watched.values() if w.external.idle_off]
        return max(0.05, min(LOOK_SECONDS, *waits))


def _off(external: External) -> External:
    return replace(external, enabled=False, expires_at=0.0, used_at=0.0)
