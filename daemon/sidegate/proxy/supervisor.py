"""The parent side of the data plane: binds every listening socket, keeps the workers alive and in step.

Lives in the control plane's process. Never reads a byte of a client's; offers what the reconciler's `DataPlane` asks.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from sidegate.core.certificates import CertificateSet
from sidegate.core.routes import Routes
from sidegate.core.sessions import Session, WorkerStatus
from sidegate.errors import DataPlaneError, PortInUseError
from sidegate.proxy import messages
from sidegate.proxy.child import Slot, WorkerLostError
from sidegate.proxy.limits import Limits
from sidegate.proxy.log_file import LogFile
from sidegate.proxy.ports import bind_group, shut
from sidegate.proxy.verdicts import Verdicts

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
        https_port: int | None = None,
        address: str = "",
        uid: int | None = None,
        gid: int | None = None,
        limits: Limits | None = None,
        access_log: str = "",
        on_health: Callable[[], None] = lambda: None,
    ) -> None:
        """`limits` are the node's: each worker gets its share. `address` empty: every address. Port 0: any, None: none.

        `uid` and `gid`: what workers become, None: what we are. `access_log`: an absolute path, "stderr" or empty.
        `on_health` is called when `health` has changed.
        """
        self._log = log
        self._address = address
        self._public = {messages.HTTP: http_port}
        if https_port is not None:
            self._public[messages.HTTPS] = https_port
        self._limits = limits or Limits()
        self._access_log = access_log
        self._log_file: LogFile | None = None
        self._on_health = on_health
        self._slots = [Slot(index, uid, gid, self._told) for index in range(workers)]
        self._routes: Routes | None = None
        self._encoded = msgspec.Raw(msgspec.json.encode(Routes()))
        self._version = 0
        self._certificates: CertificateSet | None = None
        self._sealed: msgspec.Raw | None = None  # the certificates, encoded
        self._verdicts = Verdicts()
        self._ports: dict[str, int] = {}
        self._stopping = asyncio.Event()
        self._started = False

    @property
    def http_port(self) -> int:
        """The HTTP port, the real one once bound."""
        return self._public[messages.HTTP]

    @property
    def https_port(self) -> int:
        """The HTTPS port, the real one once bound; 0: there is none."""
        return self._public.get(messages.HTTPS, 0)

    async def bind(self) -> None:
        """Take the public ports: clients wait in their backlogs until `start`. Opens the access log.

        Raises PortInUseError naming the holder, SettingsError for an access log that cannot be written.
        """
        try:
            for listener, port in self._public.items():
                sockets = await self._bind(port, _PREDECESSOR)
                self._public[listener] = sockets[0].getsockname()[1]
                for slot, sock in zip(self._slots, sockets, strict=True):
                    slot.sockets[listener] = sock
            if self._access_log:
                self._log_file = LogFile(self._access_log)
        except BaseException:
            self._release()
            raise
        for slot in self._slots:
            slot.log = self._log_file

    async def start(self) -> None:
        """Start every worker, with the routes and forwarders that are known by now; returns when all serve.

        Binds first where `bind` was not called, with its errors. Raises DataPlaneError when workers do not come up.
        """
        if not all(messages.HTTP in slot.sockets for slot in self._slots):
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
            if self._log_file is not None:
                follow = self._log_file.follow(self._stopping, self._hand_over_log, self._log_stays)
                tasks.create_task(follow, name="access log")

    async def stop(self) -> None:
        """Stop listening, let requests in flight end, end all workers. Safe to call twice."""
        self._stopping.set()
        for slot in self._slots:
            slot.hang_up()
        self._release()
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
                "draining" if self._stopping.is_set() else "serving" if slot.serving.is_set() else "starting",
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
        self._verdicts.publish(routes)
        version, encoded = self._version, self._encoded

        async def tell(slot: Slot) -> None:
            await self._bring(slot, lambda number: messages.Publish(number, version, encoded))
            slot.version = max(slot.version, version)

        await _all(tell(slot) for slot in self._slots)
        return version

    async def publish_certificates(self, certificates: CertificateSet) -> None:
        """Hand new certificates to every worker; returns when all present them. Raises DataPlaneError."""
        if certificates == self._certificates:
            return
        self._certificates, self._sealed = certificates, msgspec.Raw(msgspec.json.encode(certificates))
        sealed = self._sealed
        await _all(self._bring(slot, lambda number: messages.Certify(number, sealed)) for slot in self._slots)

    def certified(self) -> CertificateSet | None:
        return self._certificates

    def health(self) -> Mapping[str, str]:
        return self._verdicts.present

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
            if self._stopping.is_set():
                return
            if slot.process is not None:
                self._log.warning("worker lost", worker=slot.index, pid=slot.pid)
                tasks.create_task(self._reap(slot.process), name=f"reap {slot.pid}")
            if loop.time() - born > _SHORT_LIFE:
                delay = 0.0
            if delay:
                await asyncio.sleep(delay)
                if self._stopping.is_set():
                    return
            delay = min(max(delay * 2, _BACK_OFF[0]), _BACK_OFF[1])
            born = loop.time()
            try:
                await self._launch(slot)
            except (OSError, WorkerLostError) as error:
                if self._stopping.is_set():
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
        if self._stopping.is_set() and slot.process is not None:  # stopped meanwhile
            slot.hang_up()
            await self._reap(slot.process)
            raise WorkerLostError
        version, encoded, sealed = self._version, self._encoded, self._sealed
        state: list[Callable[[int], messages.Request]] = [
            lambda number: messages.Start(number, self._share(), slot.index == 0, dict(self._verdicts.present)),
            lambda number: messages.Publish(number, version, encoded),
        ]
        if sealed is not None:
            state.append(lambda number: messages.Certify(number, sealed))
        if slot.log is not None:
            state.append(_write_log)
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

    def _release(self) -> None:
        """Let go of the sockets and the access log."""
        for slot in self._slots:
            for sock in slot.sockets.values():
                sock.close()
            slot.sockets.clear()
            slot.log = None
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None

    def _share(self) -> Limits:
        """What one worker may have of the node's limits."""
        limits, workers = self._limits, len(self._slots)
        return replace(
            limits,
            connections=-(-limits.connections // workers),
            connections_per_client=-(-limits.connections_per_client // workers),
            https_port=self.https_port,
        )

    async def _hand_over_log(self) -> None:
        with contextlib.suppress(DataPlaneError):  # its replacement is told as it starts
            await _all(self._bring(slot, _write_log) for slot in self._slots)

    def _log_stays(self, fault: str) -> None:
        self._log.warning("access log cannot be opened; the former file is written", error=fault)

    def _told(self, worker: int, message: messages.Note | messages.Health) -> None:
        if isinstance(message, messages.Note):
            log = self._log.error if message.level == "error" else self._log.warning
            log(message.event, worker=worker, detail=message.detail[:_LONGEST_DETAIL])
        elif self._verdicts.take(message.replica_id, message.fault):
            self._on_health()


def _write_log(number: int) -> messages.Request:
    return messages.WriteLog(number, on=True)


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
