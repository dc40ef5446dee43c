"""Looking at everything that a pass rests on: the engine, the host, certificates, what the kernel forwards."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from sidegate.core.certificates import CertificateState
from sidegate.core.fencing import Fence
from sidegate.core.model import Container, EngineState, HostState
from sidegate.errors import EngineError, EngineUnavailableError, HostToolError
from sidegate.reconciler.apply import Applier

MEANWHILE = 0.05  # seconds, while an engine that was asked takes its time
UNFENCED = "private networks are open for moments, while Docker rewrites the rules that keep them apart"

log = structlog.get_logger("sidegate.observe")


@dataclass(frozen=True, slots=True)
class Look:
    """What was found. `engine_fault` says why the engine's state is not fresh (empty: it is), `fence_fault` why
    the fence could not be looked at."""

    state: EngineState
    host: HostState
    engine_fault: str
    certificates: CertificateState | None
    fence: Fence | None = None
    fence_fault: str = ""


class Observer:
    """Looks through the adapters. `meanwhile` is called again and again while the engine takes its time."""

    def __init__(self, applier: Applier, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._applier = applier
        self._meanwhile = meanwhile

    async def look(self, last: EngineState, *, engine_up: bool, full: bool) -> Look:
        """Everything, side by side. `last` and `engine_up` are of the look before: while the engine does not answer
        that is what there is, less what has visibly ended."""
        async with asyncio.TaskGroup() as looks:
            engine = looks.create_task(self._engine(last, engine_up=engine_up, full=full), name="observe engine")
            host = looks.create_task(self._applier.host.observe(), name="observe host")
            certificates = looks.create_task(self._certificates(full=full), name="observe certificates")
            if self._applier.kernel is not None:
                looks.create_task(self._applier.kernel.observe(), name="observe kernel")
            fence = looks.create_task(self._fence(), name="observe fence")
        state, fault = engine.result()
        return Look(state, host.result(), fault, certificates.result(), *fence.result())

    async def _engine(self, last: EngineState, *, engine_up: bool, full: bool) -> tuple[EngineState, str]:
        try:
            state = await self._ask(full=full or not engine_up)
        except (EngineUnavailableError, EngineError) as error:
            if engine_up:
                log.warning("engine lost", error=str(error))
            return self._survivors(last), str(error)
        self._applier.host.remember(container.pid for container in state.containers if container.pid)
        return state, ""

    async def _fence(self) -> tuple[Fence | None, str]:
        if self._applier.fence is None:
            return None, ""
        try:
            return await self._applier.fence.observe(), ""
        except HostToolError as error:
            return None, str(error)

    async def _ask(self, *, full: bool) -> EngineState:
        look = asyncio.create_task(self._applier.engine.observe(full=full), name="ask engine")
        try:
            while not look.done():
                await asyncio.wait((look,), timeout=MEANWHILE)
                if not look.done():
                    await self._meanwhile()
            return look.result()
        finally:
            look.cancel()

    async def _certificates(self, *, full: bool) -> CertificateState | None:
        source = self._applier.certificates
        return await source.observe(full=full) if source is not None else None

    def _survivors(self, last: EngineState) -> EngineState:
        """What was there last, with containers whose process has ended shown as exited."""

        def now(container: Container) -> Container:
            if not container.pid or self._applier.host.alive(container.pid) is not False:
                return container
            gone = tuple(replace(endpoint, address="") for endpoint in container.endpoints)
            return replace(container, state="exited", pid=0, endpoints=gone)

        return replace(last, containers=tuple(map(now, last.containers)))
