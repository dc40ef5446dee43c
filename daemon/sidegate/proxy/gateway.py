"""What all HTTP connections of a worker share: the routing table, limits, a coarse clock, counters, who is connected.

Owns the one sweep a second, the requests that wait for a paused app, and the tasks that dial. Reads no bytes.
"""

import asyncio
import errno
import heapq
import secrets
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, ClassVar, Protocol

from sidegate.core.routes import Routes
from sidegate.proxy.limits import Limits
from sidegate.proxy.parking import Parking
from sidegate.proxy.peer import TrustedProxies
from sidegate.proxy.sockets import tune
from sidegate.proxy.table import Table
from sidegate.proxy.tunnel import Tunnel
from sidegate.proxy.upstream import Backend, BackendConnection

if TYPE_CHECKING:
    from sidegate.proxy.access_log import AccessLog

_SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})  # this worker is

_MINUTE = 60


class Client(Protocol):
    def sweep(self, tick: int) -> None: ...
    def drain(self) -> None: ...

    @property
    def idle_since(self) -> int | None: ...

    @property
    def busy_for(self) -> str | None: ...

    @property
    def parked(self) -> bool: ...

    secure: ClassVar[bool]
    transport: asyncio.Transport


class Gateway:
    """One per worker. `tick` counts seconds; it is what every deadline is measured in.

    `id_prefix` and a request's number in `requests` make its id. `log` takes an entry for each finished request.
    """

    def __init__(self, limits: Limits, tasks: asyncio.TaskGroup, report: Callable[[BaseException], None]) -> None:
        self.limits = limits
        self.table = Table(Routes())
        self.tick = 0
        self.requests = 0
        self.id_prefix = secrets.token_hex(8).encode()
        self.log: AccessLog | None = None
        self.clients: set[Client] = set()
        self.tunnels: set[Tunnel] = set()
        self.parted = 0  # idle clients that had to leave their place to others
        self.parking = Parking()
        self._trusted_of, self._trusted = limits, TrustedProxies(limits.trusted_proxies, limits.local_clients)
        self._tasks = tasks
        self._quiet = asyncio.Event()
        self._report = report
        self._loop = asyncio.get_running_loop()

    @property
    def trusted(self) -> TrustedProxies:
        """Made of the limits' CIDRs when they have changed."""
        if self._trusted_of is not self.limits:
            given = self.limits
            self._trusted_of, self._trusted = given, TrustedProxies(given.trusted_proxies, given.local_clients)
        return self._trusted

    def publish(self, routes: Routes) -> None:
        """Swap the snapshot: requests in flight and tunnels go on, those that waited for an app begin."""
        self.table = Table(routes, self.table, self.tick)
        self.parking.resume(self.table)

    def sweep(self) -> None:
        """One second has gone by."""
        self.tick = tick = self.tick + 1
        table, limits = self.table, self.limits
        if tick % _MINUTE == 0:
            table.meters.retain(table.apps.keys(), tick)
        for key, backend in list(table.leaving.items()):
            if not backend.active:
                del table.leaving[key]
            elif backend.retired_at is not None and tick - backend.retired_at > limits.drain:
                backend.cut = True
        for client in list(self.clients):
            client.sweep(tick)
        for tunnel in list(self.tunnels):
            tunnel.sweep(tick)
        for backend in table.backends.values():
            if backend.spare:
                backend.sweep(tick, limits.backend_idle)

    def shed(self, count: int) -> int:
        """Close up to `count` kept-alive clients, the longest idle first; returns how many."""
        idle = [
            (since, id(client), client)
            for client in self.clients
            if (since := client.idle_since) is not None and not client.transport.is_closing()
        ]
        chosen = heapq.nsmallest(count, idle)
        for _, _, client in chosen:
            client.transport.close()
        self.parted += len(chosen)
        return len(chosen)

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

    def forget_tunnel(self, tunnel: Tunnel) -> None:
        self.tunnels.discard(tunnel)
        self._quiet.set()

    def abort(self) -> None:
        """Cut everything."""
        for client in list(self.clients):
            client.transport.abort()
        for tunnel in list(self.tunnels):
            tunnel.abort()
        self.table = Table(Routes(), self.table, self.tick)

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

    async def dial(self, backend: Backend, seconds: float) -> BackendConnection:
        """A fresh connection; raises OSError (TimeoutError is one), and the replica is ejected if it is to blame."""
        backend.active += 1  # so that those who dial at the same time spread out
        try:
            async with asyncio.timeout(seconds or None):
                transport, connection = await self._loop.create_connection(
                    lambda: BackendConnection(backend), backend.address, backend.port
                )
        except OSError as error:
            if error.errno not in _SHORT_OF:
                backend.failed(self.tick)
            raise
        finally:
            backend.active -= 1
        tune(transport.get_extra_info("socket"))
        return connection
