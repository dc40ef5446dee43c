"""The parent side of the data plane: binds every listening socket, keeps the workers alive and in step.

Lives in the control plane's process. Never reads a byte of a client's; offers what the reconciler's `DataPlane` asks.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from sidegate.core.routes import Routes
from sidegate.core.sessions import Session, WorkerStatus
from sidegate.errors import DataPlaneError, PortInUseError
from sidegate.proxy import messages
from sidegate.proxy.child import Slot, WorkerLostError
from sidegate.proxy.limits import Limits
from sidegate.proxy.ports import bind_group, shut

_HTTP = ""  # the key of the HTTP listener among a slot's sockets; databases have names
_PING = 2.0
_REPLACED = 5.0  # how long a call waits for a worker to be replaced and know the same
_PREDECESSOR = 2.0  # how long the workers of a daemon that was just killed may hold a port
_SHORT_LIFE = 1.0
_LONGEST_DETAIL = 4000
_BACK_OFF = (0.1, 5.0)


T = TypeVar("T")


class Supervisor:
    """The workers. `start`, then `run` inside a TaskGroup for as long as they shall live, then `stop`."""

    def __init__(
        self,
        *,
        workers: int,
        http_port: int,
        log: FilteringBoundLogger,
        address: str = "",
        uid: int | None = None,
        gid: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`address` empty: every address. `uid` and `gid`: what workers become, None: what we are. Port 0: any."""
        self._log = log
        self._address = address
        self._http_port = http_port
        self._limits = limits or Limits()
        self._slots = [Slot(index, uid, gid, self._noted) for index in range(workers)]
        self._routes: Routes | None = None
        self._encoded = msgspec.Raw(msgspec.json.encode(Routes()))
        self._version = 0
        self._ports: dict[str, int] = {}
        self._stopping = False
        self._started = False

    @property
    def http_port(self) -> int:
        """The HTTP port, the real one once started."""
        return self._http_port

    async def bind(self) -> None:
        """Take the HTTP port: clients wait in its backlog until `start`. Raises PortInUseError naming the holder."""
        sockets = await self._bind(self._http_port, _PREDECESSOR)
        self._http_port = sockets[0].getsockname()[1]
        for slot, sock in zip(self._slots, sockets, strict=True):
            slot.sockets[_HTTP] = sock

    async def start(self) -> None:
        """Start every worker, with the routes and forwarders that are known by now; returns when all serve.

        Binds first where `bind` was not called. Raises PortInUseError, DataPlaneError when workers do not come up.
        """
        if not all(_HTTP in slot.sockets for slot in self._slots):
            await self.bind()
        self._started = True
        try:
            await _all(self._launch(slot) for slot in self._slots)
        except (OSError, WorkerLostError) as error:
            await self.stop()
            raise DataPlaneError("the proxy's workers did not start; their own log lines say why") from error

    async def run(self) -> None:
        """Replace workers that die or hang, until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for slot in self._slots:
                tasks.create_task(self._tend(slot, tasks), name=f"worker {slot.index}")

    async def stop(self) -> None:
        """Stop listening, let requests in flight end, end all workers. Safe to call twice."""
        self._stopping = True
        for slot in self._slots:
            slot.hang_up()
            for sock in slot.sockets.values():
                sock.close()
            slot.sockets.clear()
        self._ports.clear()
        await asyncio.gather(*(self._reap(slot.process) for slot in self._slots if slot.process is not None))

    # --- what the reconciler asks ------------------------------------------------------------------------------------

    def listeners(self) -> Mapping[str, int]:
        return MappingProxyType(self._ports)

    def published(self) -> Routes | None:
        return self._routes

    def workers(self) -> tuple[WorkerStatus, ...]:
        return tuple(
            WorkerStatus(
                slot.index,
                slot.pid,
                "draining" if self._stopping else "serving" if slot.serving.is_set() else "starting",
                slot.version,
                max(0, slot.restarts),
            )
            for slot in self._slots
        )

    async def publish(self, routes: Routes) -> int:
        """Hand new routes to every worker; returns their version when all have them. Raises DataPlaneError."""
        if routes == self._routes:
            return self._version
        self._version += 1
        self._routes, self._encoded = routes, msgspec.Raw(msgspec.json.encode(routes))
        version, encoded = self._version, self._encoded

        async def tell(slot: Slot) -> None:
            await self._bring(slot, lambda number: messages.Publish(number, version, encoded))
            slot.version = max(slot.version, version)

        await _all(tell(slot) for slot in self._slots)
        return version

    async def open_forwarder(self, database: str, port: int) -> None:
        """Listen for a database's clients on every worker; returns when all accept. Open there already is success.

        Raises PortInUseError or DataPlaneError; then nothing is open.
        """
        if self._ports.get(database) == port:
            return
        await self.close_forwarder(database)
        sockets = await self._bind(port, 0.2)
        for slot, sock in zip(self._slots, sockets, strict=True):
            slot.sockets[database] = sock
        self._ports[database] = sockets[0].getsockname()[1]
        try:
            await _all(self._bring(slot, lambda number: messages.Listen(number, database)) for slot in self._slots)
        except BaseException:
            await self.close_forwarder(database)
            raise

    async def close_forwarder(self, database: str) -> int:
        """Refuse at once, cut every session, release the port; returns sessions cut. Not open is success."""
        if self._ports.pop(database, None) is None:
            return 0
        shut([slot.sockets.pop(database) for slot in self._slots])

        async def cut(slot: Slot) -> int:
            if slot.gone.is_set():
                return 0
            try:
                reply = await slot.call(lambda number: messages.Close(number, database))
            except WorkerLostError:
                return 0  # its sessions went with it
            return reply.count if isinstance(reply, messages.Done) else 0

        return sum(await _all(cut(slot) for slot in self._slots))

    async def sessions(self, database: str) -> tuple[Session, ...]:
        """Live sessions over all workers, oldest first. A worker that was just lost has none."""

        async def ask(slot: Slot) -> tuple[Session, ...]:
            try:
                reply = await slot.call(lambda number: messages.ListSessions(number, database))
            except WorkerLostError:
                return ()
            return reply.sessions if isinstance(reply, messages.SessionList) else ()

        found = await _all(ask(slot) for slot in self._slots)
        return tuple(sorted((session for part in found for session in part), key=lambda session: session.since))

    # --- keeping workers alive ---------------------------------------------------------------------------------------

    async def _tend(self, slot: Slot, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        delay, born = 0.0, loop.time()
        while True:
            await self._watch(slot)
            if self._is_stopping():
                return
            if slot.process is not None:
                self._log.warning("worker lost", worker=slot.index, pid=slot.pid)
                tasks.create_task(self._reap(slot.process), name=f"reap {slot.pid}")
            if loop.time() - born > _SHORT_LIFE:
                delay = 0.0
            if delay:
                await asyncio.sleep(delay)
                if self._is_stopping():
                    return
            delay = min(max(delay * 2, _BACK_OFF[0]), _BACK_OFF[1])
            born = loop.time()
            try:
                await self._launch(slot)
            except (OSError, WorkerLostError) as error:
                if self._is_stopping():
                    return
                self._log.error("worker did not start", worker=slot.index, error=str(error))  # expected

    def _is_stopping(self) -> bool:
        return self._stopping

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
        if self._stopping and slot.process is not None:  # stopped meanwhile
            slot.hang_up()
            await self._reap(slot.process)
            raise WorkerLostError
        version, encoded = self._version, self._encoded
        state: list[Callable[[int], messages.Request]] = [
            lambda number: messages.Start(number, self._limits),
            lambda number: messages.Publish(number, version, encoded),
        ]
        state += [_listen(name) for name in slot.sockets]
        await slot.introduce(state)
        slot.version = version
        self._log.info("worker serves", worker=slot.index, pid=slot.pid)

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """Wait until a process that was told to end has ended; kill it if it takes longer than it may."""
        try:
            async with asyncio.timeout(self._limits.drain + 2):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _bring(self, slot: Slot, make: Callable[[int], messages.Request]) -> messages.Reply:
        """Have the worker do it, or its replacement: what is asked is part of the state that one starts with."""
        if not self._started:
            return messages.Done(0)
        try:
            async with asyncio.timeout(_REPLACED):
                while True:
                    await slot.serving.wait()
                    with contextlib.suppress(WorkerLostError):
                        return await slot.call(make)
        except TimeoutError:
            raise DataPlaneError(f"worker {slot.index} does not answer and could not be replaced") from None

    async def _bind(self, port: int, patience: float) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while True:
            try:
                return bind_group(port, len(self._slots), self._address)
            except PortInUseError:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.05)

    def _noted(self, worker: int, note: messages.Note) -> None:
        log = self._log.error if note.level == "error" else self._log.warning
        log(note.event, worker=worker, detail=note.detail[:_LONGEST_DETAIL])


def _listen(database: str) -> Callable[[int], messages.Request]:
    return lambda number: messages.Listen(number, database)


async def _all(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """All results, or the first error once everything has ended: nothing is left half-told."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    results = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
