"""A fence in memory."""

import asyncio

from memory_world import Recorder
from sidegate.core.fencing import NONE, Fence
from sidegate.errors import HostToolError


class MemoryFence(Recorder):
    """`there` is what stands; `fault` why it cannot be looked at; while `held` is not set none is put up."""

    def __init__(self) -> None:
        super().__init__()
        self.there = NONE
        self.fault: HostToolError | None = None
        self.held: asyncio.Event | None = None

    async def observe(self) -> Fence:
        if self.fault is not None:
            raise self.fault
        return self.there

    async def put(self, fence: Fence) -> None:
        self.record("put", *sorted(fence.devices))
        if self.held is not None:
            await self.held.wait()
        self.there = fence
