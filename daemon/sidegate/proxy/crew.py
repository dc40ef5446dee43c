"""The workers as processes: started, watched, replaced when they die or hang, and told things all at once."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from sidegate.errors import DataPlaneError
from sidegate.proxy import messages
from sidegate.proxy.child import Slot, WorkerLostError

_PING = 2.0
_REPLACED = 5.0  # how long a call waits for a worker to be replaced and know the same
_SHORT_LIFE = 1.0
_BACK_OFF = (0.1, 5.0)

T = TypeVar("T")


class Crew:
    """`start`, then `run` inside a TaskGroup for as long as they shall live, then `stop`.

    `state` gives all that a new process must know, and its routes' version; `lost` is told of a slot whose process is
    gone. `drain`: seconds that a process has for its requests when it is to end.
    """

    def __init__(
        self,
        slots: list[Slot],
        log: FilteringBoundLogger,
        drain: float,
        state: Callable[[Slot], tuple[int, list[Callable[[int], messages.Request]]]],
        lost: Callable[[int], None],
    ) -> None:
        self.slots = slots
        self.stopping = asyncio.Event()
        self._log = log
        self._drain = drain
        self._state = state
        self._lost = lost
        self._started = False

    def __repr__(self) -> str:
        return f"<Crew of {len(self.slots)}{' stopping' if self.stopping.is_set() else ''}>"

    async def start(self) -> None:
        """Start every worker; returns when all serve. Raises DataPlaneError, and then they must be stopped."""
        self._started = True
        try:
            await together(self._launch(slot) for slot in self.slots)
        except (OSError, WorkerLostError) as error:
            raise DataPlaneError("the proxy's workers did not start; their own log lines say why") from error

    async def run(self) -> None:
        """Replace workers that die or hang, until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for slot in self.slots:
                tasks.create_task(self._tend(slot, tasks), name=f"worker {slot.index}")

    def hang_up(self) -> None:
        """Have every worker stop listening and let its requests in flight end."""
        self.stopping.set()
        for slot in self.slots:
            slot.hang_up()

    async def ended(self) -> None:
        """Return when all processes have ended; call it after `hang_up`."""
        await asyncio.gather(*(self._reap(slot.process) for slot in self.slots if slot.process is not None))

    async def bring(
        self, make: Callable[[int], messages.Request], done: Callable[[Slot], None] = lambda _: None
    ) -> list[messages.Reply]:
        """Have every worker do it, or its replacement: what is asked is part of the state that one starts with.
        Returns their replies.

        `done` is told of each that did. Raises DataPlaneError, once nothing is left half-told.
        """
        slots = self.slots if self._started else ()
        return await together(self._bring(slot, make, done) for slot in slots)

    async def _bring(
        self, slot: Slot, make: Callable[[int], messages.Request], done: Callable[[Slot], None]
    ) -> messages.Reply:
        try:
            async with asyncio.timeout(_REPLACED):
                while True:
                    await slot.serving.wait()
                    with contextlib.suppress(WorkerLostError):
                        reply = await slot.call(make)
                        done(slot)
                        return reply
        except TimeoutError:
            raise DataPlaneError(f"worker {slot.index} does not answer and could not be replaced") from None

    async def _tend(self, slot: Slot, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        delay, born = 0.0, loop.time()
        while True:
            await self._watch(slot)
            if self.stopping.is_set():
                return
            if slot.process is not None:
                self._log.warning("worker lost", worker=slot.index, pid=slot.pid)
                self._lost(slot.index)
                tasks.create_task(self._reap(slot.process), name=f"reap {slot.pid}")
            if loop.time() - born > _SHORT_LIFE:
                delay = 0.0
            if delay:
                await asyncio.sleep(delay)
                if self.stopping.is_set():
                    return
            delay = min(max(delay * 2, _BACK_OFF[0]), _BACK_OFF[1])
            born = loop.time()
            try:
                await self._launch(slot)
            except (OSError, WorkerLostError) as error:
                if self.stopping.is_set():
                    return
                self._log.error("worker did not start", worker=slot.index, error=str(error))  # expected

    async def _watch(self, slot: Slot) -> None:
        """Return when the worker's channel is closed; ask it for a sign of life meanwhile."""
        while not slot.gone.is_set():
            try:
                async with asyncio.timeout(_PING):
                    await slot.gone.wait()
            except TimeoutError:
                with contextlib.suppress(WorkerLostError):
                    await slot.call(messages.Ping)

    async def _launch(self, slot: Slot) -> None:
        """A process for this slot, told the present state. Raises OSError, WorkerLostError."""
        await slot.spawn()
        if self.stopping.is_set() and slot.process is not None:  # stopped meanwhile
            slot.hang_up()
            await self._reap(slot.process)
            raise WorkerLostError
        version, state = self._state(slot)
        await slot.introduce(state)
        slot.version = version
        self._log.info("worker serves", worker=slot.index, pid=slot.pid)

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """Wait until a process that was told to end has ended; kill it if it takes longer than it may."""
        try:
            async with asyncio.timeout(self._drain + 2):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def together(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """All results, or the first error once everything has ended: nothing is left half-told."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    results = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
