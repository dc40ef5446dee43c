"""A whole control plane in memory: the real loop, commands, control server and client; engine, host and workers are
the small honest ones of memory_engine and memory_world."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memory_engine import MemoryEngine
from memory_kernel import MemoryKernel
from memory_workloads import MemoryWorkloads
from memory_world import MemoryDatabases, MemoryDataPlane, MemoryHost, MemoryPorts, MemoryVolumes
from sidegate.adapters.certificates import Certificates
from sidegate.adapters.store import Store
from sidegate.api import schemas
from sidegate.api.announcing import Announcer
from sidegate.api.client import Client
from sidegate.api.commands import Commands
from sidegate.api.events import Hub
from sidegate.api.http import serve
from sidegate.api.world import World
from sidegate.core.model import Container, DatabaseDetails, Rules
from sidegate.errors import LoginFailedError
from sidegate.reconciler.apply import Applier
from sidegate.reconciler.kernel import KernelPorts
from sidegate.reconciler.loop import Loop
from sidegate.reconciler.passwords import Passwords
from sidegate.reconciler.replacing import Tools
from sidegate.reconciler.rollouts import Rollouts

PASSWORD = "pa'$s\"w`ord, é\n"
LOGIN = {"MARIADB_USER": "shop", "MARIADB_PASSWORD": PASSWORD, "MARIADB_DATABASE": "shop"}


@dataclass
class MemoryLogins:
    """Logs in where the password is right; `asked` are the addresses that were tried. `stuck`: nobody answers.
    `tls`: database -> whether it speaks TLS; one that is not there does not say. `most`: database -> after how many
    clients that leave half-way it locks an address out."""

    password: str = PASSWORD
    stuck: bool = False
    asked: list[str] = field(default_factory=list)
    tls: dict[str, bool] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)

    async def check(self, engine: str, host: str, port: int, details: DatabaseDetails) -> None:
        self.asked.append(f"{engine}://{details.user}@{host}:{port}")
        if self.stuck:
            await asyncio.Event().wait()
        if details.password != self.password:
            raise LoginFailedError(f"Access denied for user '{details.user}'")

    async def speaks_tls(self, database: str) -> bool | None:
        return self.tls.get(database)

    async def locks_out_after(self, database: str) -> int | None:
        return self.most.get(database)

    def take(self, password: str) -> None:
        """The server has a new password."""
        self.password = password


class MemoryDaemon:
    """A daemon under test. `calls` of a client and of the command line run beside it, as other processes would."""

    def __init__(
        self,
        directory: Path,
        store: Store,
        rules: Rules,
        certificates: Certificates | None = None,
        engine: MemoryEngine | None = None,
    ) -> None:
        self.path = directory / "run" / "control.sock"
        self.engine, self.host, self.data_plane = engine or MemoryEngine(), MemoryHost(), MemoryDataPlane()
        self.databases, self.logins, self.store = MemoryDatabases(), MemoryLogins(), store
        self.databases.taken = self.logins.take
        self.stopped = asyncio.Event()
        self.ports = MemoryPorts()
        self.kernel = MemoryKernel()
        kernel = KernelPorts(self.kernel, self.databases)
        applier = Applier(self.engine, self.host, self.data_plane, self.databases, certificates, self.ports, kernel)
        passwords = Passwords(store, self.databases)
        applier = replace(applier, passwords=passwords)
        self.loop = Loop(applier=applier, store=self.store, rules=rules)
        self.workloads = MemoryWorkloads(self.engine)
        self.volumes = MemoryVolumes()
        self.deaf: set[str] = set()
        self.unknown_paths: set[str] = set()
        self.connections: dict[str, int] = {}
        self.ahead = 0.0
        """Seconds by which the clock of rollouts goes before the steady one."""
        self.tools = Tools(
            loop=self.loop,
            store=store,
            workloads=self.workloads,
            health=self.data_plane.health,
            listens=self._listens,
            ask=self._ask,
            connections=lambda address, port: self.connections.get(f"{address}:{port}", 0),
            clock=lambda: time.monotonic() + self.ahead,
            healthy=20.0,
        )
        self.events = Hub()
        self.rollouts = Rollouts(self.tools, tell=self.events.emit)
        self.commands = Commands(
            World(
                store=self.store,
                loop=self.loop,
                engine=self.engine,
                logins=self.logins,
                data_plane=self.data_plane,
                port_holder=lambda port: self.data_plane.held.get(port, ""),
                external_host=lambda: "203.0.113.7",
                stop=self.stopped.set,
                clock=time.monotonic,
                version="0.0.0-test",
                external_ports=range(30000, 30004),
                http_port=8080,
                certificates=certificates,
                kernel=kernel,
                passwords=passwords,
                volumes=self.volumes,
                workloads=self.workloads,
                rollouts=self.rollouts,
                events=self.events,
            )
        )
        self.announcer = Announcer(self.commands.world)
        self.loop.standing.watch(self.announcer.look)
        self.loop.standing.listen(self.announcer.look)
        self.client = Client(self.path, seconds=60)

    async def _listens(self, address: str, port: int) -> bool:
        """Every program does, but for those at the addresses or ports of `deaf`."""
        return not {address, str(port), f"{address}:{port}"} & self.deaf

    async def _ask(self, address: str, port: int, path: str, host: str) -> str:
        """Every program answers every path, but those of `unknown_paths`."""
        return f"{path} answered 404" if path in self.unknown_paths else ""

    # --- containers

    def app(self, name: str, number: int = 1, **options: Any) -> Container:
        labels = {"sidegate.app": name, **options.pop("labels", {})}
        return self.engine.run(f"{name}-{number}", labels=labels, **options)

    def database(self, name: str, env: Mapping[str, str] = LOGIN, **options: Any) -> Container:
        labels = {"sidegate.database": name, "sidegate.engine": "mariadb"}
        return self.engine.run(f"{name}-1", labels=labels, env=env, **options)

    def engine_containers(self) -> list[Container]:
        """All that the engine has now."""
        return list(self.engine._containers.values())

    async def run_out_of_time(self, app: str, healthy: str) -> None:
        """Once so many new containers of an app are healthy, as "1 of 2", the rest has had all its time."""
        async with asyncio.timeout(30):
            while healthy not in self.rollouts.under_way(app):
                await asyncio.sleep(0.005)
            while self.rollouts.under_way(app):
                self.ahead += self.tools.healthy
                await asyncio.sleep(0.005)

    # --- people

    async def call(self, method: str, path: str, result: Any, **options: Any) -> Any:
        """A call through the socket; gives the decoded value."""
        reply = await asyncio.to_thread(lambda: self.client.call(method, path, result, **options))
        return reply.value

    async def raw(self, request: bytes, until: bytes = b"") -> bytes:
        """Bytes as they are to the socket, and all that comes back (`until`: as far as that)."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(request)
            async with asyncio.timeout(30):
                return await reader.readuntil(until) if until else await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def settled(self) -> "MemoryDaemon":
        """Everything that containers ask for is done."""
        await self.loop.settle()
        return self

    async def connect(self, app: str, target: str, **options: Any) -> schemas.Connected:
        return await self.commands.connections.connect(schemas.ConnectRequest(app=app, target=target, **options))

    async def sidegate(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """The command line in a process of its own, with pipes for standard streams."""
        return await asyncio.to_thread(_run, [*words], text, {"SIDEGATE_RUNTIME_DIR": str(self.path.parent)})


def _run(words: Sequence[str], text: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidegate", *words]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SIDEGATE_")}
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=120, env=inherited | dict(environ)
    )


@contextlib.asynccontextmanager
async def running(
    directory: Path,
    rules: Rules | None = None,
    certificates: Certificates | None = None,
    engine: MemoryEngine | None = None,
) -> AsyncIterator[MemoryDaemon]:
    """A daemon that serves, until the block ends; without `certificates` it has no TLS. `engine`: one that is there
    already."""
    store = await Store.open(directory / "state")
    try:
        daemon = MemoryDaemon(directory, store, rules or Rules(), certificates, engine)
        passes = asyncio.create_task(daemon.loop.run(), name="loop")
        rollouts = asyncio.create_task(daemon.rollouts.run(), name="rollouts")
        daemon.engine.watch(daemon.loop.wake)
        try:
            async with serve(daemon.commands, daemon.path):
                yield daemon
        finally:
            for task in (rollouts, passes):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    finally:
        await store.close()
