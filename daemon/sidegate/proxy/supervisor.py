"""The parent side of the data plane: binds the public ports, hands every worker the same state.

Lives in the control plane's process. Never reads a byte of a client's; offers what the reconciler's `DataPlane` asks.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
from structlog.typing import FilteringBoundLogger

from sidegate.core.certificates import CertificateSet
from sidegate.core.gates import Gate
from sidegate.core.routes import Routes
from sidegate.core.sessions import Cut, Listening, Session, Usage, WorkerStatus
from sidegate.core.tally import Ledger, Tally
from sidegate.errors import DataPlaneError, PortInUseError
from sidegate.proxy import messages
from sidegate.proxy.child import Slot
from sidegate.proxy.crew import Crew
from sidegate.proxy.forwarders import Forwarders
from sidegate.proxy.limits import Limits
from sidegate.proxy.log_file import LogFile
from sidegate.proxy.ports import bind_group
from sidegate.proxy.verdicts import Verdicts

_PREDECESSOR = 2.0  # how long the workers of a daemon that was just killed may hold a port
_JUST_CLOSED = 0.2  # the same for our own
_LONGEST_DETAIL = 4000
_REPORT = 1.0  # seconds that a worker has to tell what it has counted


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
        """`limits` are the node's: each worker gets its share. `address`: see bind_group. Port 0: any, None: none.

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
        self._crew = Crew(self._slots, log, self._limits.drain, self._state, self._worker_lost)
        self._forwarders = Forwarders(self._crew, lambda port: self._bind(port, _JUST_CLOSED), log)
        self._routes: Routes | None = None
        self._encoded = msgspec.Raw(msgspec.json.encode(Routes()))
        self._version = 0
        self._certificates: CertificateSet | None = None
        self._sealed: msgspec.Raw | None = None  # the certificates, encoded
        self._verdicts = Verdicts()
        self._ledger = Ledger()

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
        try:
            await self._crew.start()
        except DataPlaneError:
            await self.stop()
            raise

    async def run(self) -> None:
        """Replace workers that die or hang, until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._crew.run(), name="workers")
            if self._log_file is not None:
                follow = self._log_file.follow(self._crew.stopping, self._hand_over_log, self._log_stays)
                tasks.create_task(follow, name="access log")

    async def stop(self) -> None:
        """Stop listening, let requests in flight end, end all workers. Safe to call twice."""
        self._crew.hang_up()
        self._release()
        self._forwarders.clear()
        await self._crew.ended()

    # --- what the reconciler asks ------------------------------------------------------------------------------------

    def listeners(self) -> Mapping[str, Listening]:
        return self._forwarders.listeners()

    def published(self) -> Routes | None:
        return self._routes

    def workers(self) -> tuple[WorkerStatus, ...]:
        return tuple(
            WorkerStatus(
                slot.index,
                slot.pid,
                "draining" if self._crew.stopping.is_set() else "serving" if slot.serving.is_set() else "starting",
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
        self._ledger.publish((*routes.apps, *routes.databases, *self.listeners()), asyncio.get_running_loop().time())
        version, encoded = self._version, self._encoded

        def told(slot: Slot) -> None:
            slot.version = max(slot.version, version)

        await self._crew.bring(lambda number: messages.Publish(number, version, encoded), told)
        return version

    async def publish_certificates(self, certificates: CertificateSet) -> None:
        """Hand new certificates to every worker; returns when all present them. Raises DataPlaneError."""
        if certificates == self._certificates:
            return
        self._certificates, self._sealed = certificates, msgspec.Raw(msgspec.json.encode(certificates))
        sealed = self._sealed
        await self._crew.bring(lambda number: messages.Certify(number, sealed))

    def certified(self) -> CertificateSet | None:
        return self._certificates

    def health(self) -> Mapping[str, str]:
        return self._verdicts.present

    async def open_forwarder(self, database: str, gate: Gate, kernel: bool = False) -> Cut:
        """Listen for a database's clients on every worker; returns when all accept on these terms. Port 0: any.

        Open on that port already: the terms are swapped, sessions that they do not admit are cut and returned, the rest
        go on. Raises PortInUseError or DataPlaneError; then nothing is open.
        """
        return await self._forwarders.open(database, gate, kernel)

    async def close_forwarder(self, database: str) -> int:
        """Refuse at once, cut every session, release the port; returns sessions cut. Not open is success."""
        return await self._forwarders.close(database)

    async def sessions(self, database: str) -> tuple[Session, ...]:
        """Live sessions over all workers, oldest first. A worker that was just lost has none."""
        return await self._forwarders.sessions(database)

    async def kick(self, database: str, client: str) -> Cut:
        """Cut the sessions of an address, or the one of an address and port; returns which there were."""
        return await self._forwarders.kick(database, client)

    def refusals(self, database: str) -> Mapping[str, int]:
        """Clients refused since it was opened: reason -> count."""
        return self._forwarders.refusals(database)

    def usage(self, database: str) -> Usage:
        return self._forwarders.usage(database)

    async def tally(self) -> Tally:
        """What all workers have counted, dead ones included, as of now. Of a worker that does not tell within 1 s it is
        what it told last, 10 s ago at the most while it was well."""
        serving = [slot for slot in self._slots if slot.serving.is_set()]
        await asyncio.gather(*(slot.ask(messages.Report, _REPORT) for slot in serving))
        return self._ledger.total(asyncio.get_running_loop().time())

    # --- what workers are told, and tell -----------------------------------------------------------------------------

    def _state(self, slot: Slot) -> tuple[int, list[Callable[[int], messages.Request]]]:
        """All that a new worker must know, and which version of the routes that is."""
        version, encoded, sealed = self._version, self._encoded, self._sealed
        state: list[Callable[[int], messages.Request]] = [
            lambda number: messages.Start(number, self._share(), slot.index == 0, dict(self._verdicts.present)),
            lambda number: messages.Publish(number, version, encoded),
        ]
        if sealed is not None:
            state.append(lambda number: messages.Certify(number, sealed))
        if slot.log is not None:
            state.append(_write_log)
        return version, state + [self._listen(name) for name in slot.sockets]

    def _listen(self, listener: str) -> Callable[[int], messages.Request]:
        if listener in self._public:
            return lambda number: messages.Listen(number, listener)
        return self._forwarders.listen(listener)

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
            await self._crew.bring(_write_log)

    def _log_stays(self, fault: str) -> None:
        self._log.warning("access log cannot be opened; the former file is written", error=fault)

    def _worker_lost(self, worker: int) -> None:
        self._forwarders.lost(worker)
        self._ledger.lost(worker)

    def _told(self, worker: int, message: messages.Told) -> None:
        match message:
            case messages.Note(event, level, detail):
                log = self._log.error if level == "error" else self._log.warning
                log(event, worker=worker, detail=detail[:_LONGEST_DETAIL])
            case messages.Refused():
                self._forwarders.refused(worker, message)
            case messages.Counted(counters, gauges):
                self._ledger.take(worker, counters, gauges)
            case messages.Used(database, sessions):
                self._forwarders.used(worker, database, sessions)
            case messages.Health(replica_id, fault):
                if self._verdicts.take(replica_id, fault):
                    self._on_health()


def _write_log(number: int) -> messages.Request:
    return messages.WriteLog(number, on=True)
