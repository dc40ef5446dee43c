"""What all HTTP connections of a worker share: the routing table, limits, a coarse clock, counters, who is connected.

Owns the one sweep a second and the tasks that dial. Reads no bytes.
"""

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Protocol

from sidegate.core.routes import Routes
from sidegate.proxy.limits import Limits
from sidegate.proxy.relay import RelayEnd, join
from sidegate.proxy.sockets import tune
from sidegate.proxy.upstream import App, Backend, BackendConnection, Table


class Client(Protocol):
    def sweep(self, tick: int) -> None: ...
    def drain(self) -> None: ...

    transport: asyncio.Transport


class UnreachableError(Exception):
    """No replica took the connection; `status` and `detail` are what the client is told."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Gateway:
    """One per worker. `tick` counts seconds; it is what every deadline is measured in."""

    def __init__(self, limits: Limits, tasks: asyncio.TaskGroup, report: Callable[[BaseException], None]) -> None:
        self.limits = limits
        self.table = Table(Routes())
        self.tick = 0
        self.requests = 0
        self.clients: set[Client] = set()
        self.tunnels: set[RelayEnd] = set()
        self._tasks = tasks
        self._quiet = asyncio.Event()
        self._report = report
        self._loop = asyncio.get_running_loop()

    def publish(self, routes: Routes) -> None:
        """Swap the snapshot; requests in flight and tunnels go on."""
        self.table = Table(routes, self.table)

    def sweep(self) -> None:
        """One second has gone by."""
        self.tick = tick = self.tick + 1
        for client in list(self.clients):
            client.sweep(tick)
        for backend in self.table.backends.values():
            if backend.spare:
                backend.sweep(tick, self.limits.backend_idle)

    def drain(self) -> None:
        """Close idle clients; the others close after the request in hand."""
        for client in list(self.clients):
            client.drain()

    async def quiet(self) -> None:
        """Return when no client and no tunnel is left."""
        while self.clients or self.tunnels:
            self._quiet.clear()
            await self._quiet.wait()

    def forget(self, client: Client) -> None:
        self.clients.discard(client)
        self._quiet.set()

    def abort(self) -> None:
        """Cut everything."""
        for client in list(self.clients):
            client.transport.abort()
        for end in list(self.tunnels):
            end.abort()
        self.table = Table(Routes(), self.table)

    def spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run something for one client: its failure is reported and ends nothing else."""
        task = self._tasks.create_task(self._guard(work), name=name)
        task.add_done_callback(lambda _: work.close())  # one that is cancelled before its first step never ran
        return task

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  # one bad client never ends the worker; it is reported
            self._report(error)

    async def dial(self, backend: Backend) -> BackendConnection:
        """A fresh connection; raises OSError or TimeoutError."""
        async with asyncio.timeout(self.limits.connect):
            transport, connection = await self._loop.create_connection(
                lambda: BackendConnection(backend), backend.address, backend.port
            )
        tune(transport.get_extra_info("socket"))
        return connection

    async def dial_first(self, app: App, choices: list[Backend]) -> BackendConnection:
        """A fresh connection to the first of these that takes one. Raises UnreachableError."""
        status, detail = HTTPStatus.BAD_GATEWAY, f"{app.name} has no replica."
        for backend in choices:
            try:
                return await self.dial(backend)
            except TimeoutError:
                status, detail = HTTPStatus.GATEWAY_TIMEOUT, f"{app.name} did not accept the connection in time."
            except OSError:
                status, detail = HTTPStatus.BAD_GATEWAY, f"{app.name} refused the connection."
            backend.failed_at = self.tick
        if not self.table.routes.engine_up:
            status, detail = HTTPStatus.SERVICE_UNAVAILABLE, f"{app.name} cannot be reached right now."
        raise UnreachableError(status, detail)

    def tunnel(
        self, client: asyncio.Transport, backend: asyncio.Transport, sent: bytes, received: bytes, *, ended: bool
    ) -> None:
        """Join two transports from now on. `sent` came from the client already and `received` from the backend; if
        `ended` nothing more comes from the client."""
        client_end, backend_end = RelayEnd(self._tunnel_ended), RelayEnd(self._tunnel_ended)
        for end, transport in ((client_end, client), (backend_end, backend)):
            self.tunnels.add(end)
            transport.set_protocol(end)
            end.connection_made(transport)
        client_end.data_received(sent)
        backend_end.data_received(received)
        if ended:
            client_end.eof_received()
        join(client_end, backend_end)

    def _tunnel_ended(self, end: RelayEnd) -> None:
        self.tunnels.discard(end)
        self._quiet.set()
