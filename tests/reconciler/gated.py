"""A node with one database and a kernel forwarder in memory, clocks that stand still, and a loop that runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from memory_engine import MemoryEngine
from memory_kernel import MemoryKernel
from memory_world import MemoryDatabases, MemoryDataPlane, MemoryHost
from sidegate.core.gates import Gate
from sidegate.core.model import Container, External, Intent, Rules
from sidegate.errors import StoreError
from sidegate.reconciler.apply import Applier
from sidegate.reconciler.kernel import KernelPorts
from sidegate.reconciler.loop import Loop, Pass

PORT = 30000
OPEN = Gate(PORT)


class GatedStore:
    """One intent; `broken`: nothing can be written."""

    def __init__(self) -> None:
        self.intent = Intent()
        self.broken = False

    async def replace_claims(self, claims: object) -> Intent:
        return self.intent

    async def replace_external(self, database: str, seen: External, external: External) -> Intent:
        if self.broken:
            raise StoreError("disk full")
        if self.intent.externals.get(database) == seen:
            self.set(external)
        return self.intent

    def set(self, external: External) -> None:
        self.intent = replace(self.intent, externals={"shop-db": external})


@dataclass
class Gated:
    """`now` is the steady clock, `wall` Unix time; `renewal` is how often the lease on the kernel is renewed."""

    rules: Rules = field(default_factory=lambda: Rules(forwarder="auto"))
    engine: MemoryEngine = field(default_factory=MemoryEngine)
    host: MemoryHost = field(default_factory=MemoryHost)
    data_plane: MemoryDataPlane = field(default_factory=MemoryDataPlane)
    databases: MemoryDatabases = field(default_factory=MemoryDatabases)
    kernel: MemoryKernel = field(default_factory=MemoryKernel)
    store: GatedStore = field(default_factory=GatedStore)
    now: float = 1000.0
    wall: float = 1_800_000_000.0
    renewal: float = 3.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A daemon's control plane, as a start makes it."""
        self.ports = KernelPorts(self.kernel, self.databases, renewal=self.renewal)
        applier = Applier(self.engine, self.host, self.data_plane, self.databases, kernel=self.ports)
        self.loop = Loop(
            applier=applier, store=self.store, rules=self.rules, clock=lambda: self.now, wall=lambda: self.wall
        )

    def on(self, gate: Gate = OPEN, **terms: object) -> None:
        self.store.set(External(gate, enabled=True, **terms))  # type: ignore[arg-type]

    def off(self) -> None:
        self.store.set(External(self.store.intent.externals["shop-db"].gate, enabled=False))

    async def settle(self) -> Pass:
        return await self.loop.settle()

    def let(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds
        self.wall += seconds

    @property
    def container(self) -> Container:
        return self.engine.container("db-1")

    @property
    def enabled(self) -> bool:
        return self.store.intent.externals["shop-db"].enabled

    @property
    def listening(self) -> bool:
        return "shop-db" in self.data_plane.listeners()

    @property
    def address(self) -> str:
        """Where the kernel forwards the port to; empty: nowhere."""
        return self.kernel.table[PORT].address if PORT in self.kernel.table else ""


@contextlib.asynccontextmanager
async def running(node: Gated) -> AsyncIterator[Gated]:
    node.engine.watch(node.loop.wake)
    task = asyncio.create_task(node.loop.run(), name="loop")
    try:
        yield node
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await node.ports.end()


async def eventually(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not probe():
            await asyncio.sleep(0.005)
