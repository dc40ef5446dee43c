"""A kernel forwarder in memory: what it was told, what is in place, who is on it."""

import asyncio
from collections.abc import Collection, Mapping

from memory_world import Recorder
from sidegate.core.gates import KernelForward, KernelSession
from sidegate.errors import HostToolError


class MemoryKernel(Recorder):
    """`fault` is why it cannot be used; `live`: public port -> sessions; `flush` is what `nft flush ruleset` does."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.table: dict[int, KernelForward] = {}
        self.live: dict[int, list[KernelSession]] = {}
        self.taken: dict[int, int] = {}
        self.begun = self.flushed = False
        self.renewals = 0

    def flush(self) -> None:
        self.table, self.flushed = {}, True

    def connect(self, port: int, client: str, masked_port: int = 50000) -> None:
        """A client whom the table lets in comes through `port`."""
        session = KernelSession(port, client, 50000, "10.213.0.2", "10.213.0.1", masked_port, "ESTABLISHED")
        self.live.setdefault(port, []).append(session)
        self.taken[port] = self.taken.get(port, 0) + 1

    def clients(self, port: int) -> list[str]:
        return [session.client for session in self.live.get(port, [])]

    async def usable(self) -> str:
        return self.fault

    async def observe(self) -> Mapping[int, KernelForward]:
        return dict(self.table) if self.begun else {}

    async def apply(self, wanted: Mapping[int, KernelForward]) -> None:
        self.record("apply", *sorted(wanted))
        await asyncio.sleep(0)
        self.table, self.begun, self.flushed = dict(wanted), True, False

    async def renew(self) -> None:
        self.renewals += 1
        if self.flushed:
            raise HostToolError("the table is gone")

    async def sessions(self, port: int) -> tuple[KernelSession, ...]:
        return tuple(self.live.get(port, ()))

    async def carried(self) -> Mapping[int, int]:
        return {port: len(sessions) for port, sessions in self.live.items()}

    async def counts(self) -> Mapping[int, int]:
        return {port: self.taken.get(port, 0) for port in self.table}

    async def cut(self, port: int, pid: int, addresses: Collection[str] | None = None) -> tuple[KernelSession, ...]:
        self.record("cut", port, pid, *(sorted(addresses) if addresses is not None else ["all"]))
        return self._end(port, addresses)

    async def forget(self, port: int, addresses: Collection[str] | None = None) -> None:
        self.record("forget", port)
        self._end(port, addresses)

    async def remove(self) -> None:
        self.record("remove")
        self.table = {}

    def _end(self, port: int, addresses: Collection[str] | None) -> tuple[KernelSession, ...]:
        before = self.live.get(port, [])
        self.live[port] = [
            s
            for s in before
            if addresses is not None and {s.client, f"{s.client}:{s.client_port}"}.isdisjoint(addresses)
        ]
        return tuple(session for session in before if session not in self.live[port])
