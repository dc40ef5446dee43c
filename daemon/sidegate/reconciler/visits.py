"""Our own container leaves other people's networks in time: before they are removed, and when the daemon stops.

`docker compose down` removes a network some 50 ms after the last container there has gone, and cannot while anybody is
on it. So a visit ends beside the passes: when all that is dialled there was told to stop, and has answered what it had.
"""

import asyncio
from collections.abc import Callable, Collection

import structlog

from sidegate.core.desired import is_ours
from sidegate.core.guest import Guest
from sidegate.core.model import EngineState, Rules
from sidegate.core.routing import Reachability, deserted
from sidegate.errors import SidegateError
from sidegate.reconciler.loop import Loop
from sidegate.reconciler.world import DataPlane, Engine

FIRST_STEP, LAST_STEP = 0.01, 0.25
"""Seconds between two looks at what is still under way: a while later it does not matter that much."""

log = structlog.get_logger("sidegate.visits")


class Visits:
    """`connections` counts those that this host has open to an address and port, blocking."""

    def __init__(
        self, loop: Loop, engine: Engine, data_plane: DataPlane, connections: Callable[[str, int], int]
    ) -> None:
        self._loop = loop
        self._engine = engine
        self._data_plane = data_plane
        self._connections = connections
        self._heard = asyncio.Event()
        self._left: frozenset[str] = frozenset()  # and the last pass has not seen that yet

    def wake(self) -> None:
        """The engine has told of something: for the loop, too."""
        self._loop.wake()
        self._heard.set()

    async def run(self) -> None:
        """Leave networks as the last replicas there end; until cancelled. Whatever is missed a pass sees to, once they
        have ended."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            step = FIRST_STEP
            while ending := self._ending():
                done = [network for network, spots in ending.items() if await self._quiet(spots)]
                self._left |= frozenset(done)
                await self._leave(done)
                await asyncio.sleep(step)
                step = FIRST_STEP if self._heard.is_set() else min(2 * step, LAST_STEP)
                self._heard.clear()

    async def close(self) -> None:
        """Leave them all: a container that is configured on a network that goes meanwhile does not start again."""
        state, rules = self._loop.state, self._loop.rules
        if guest := Guest.of(state, rules):
            await self._leave(guest.visits() - _ours(state, rules))

    def _ending(self) -> dict[str, frozenset[tuple[str, int]]]:
        """The visits that are for nobody else any more."""
        state, rules = self._engine.told_to_stop(self._loop.state), self._loop.rules
        guest = Guest.of(state, rules)
        ending = frozenset(container.id for container in state.containers if container.stopping)
        if guest is None or not ending:
            return {}
        ours, apps = _ours(state, rules), self._loop.desired.discovery.apps.values()
        self._left &= guest.visits()
        found = deserted(apps, Reachability.of(state, ours, guest), ending)
        return {name: spots for name, spots in found.items() if name in guest.visits() - ours - self._left}

    async def _quiet(self, spots: Collection[tuple[str, int]]) -> bool:
        """Whether no request is sent there any more, and none is under way."""
        routes = self._data_plane.published()
        served = {(u.address, u.port) for app in (routes.apps if routes else {}).values() for u in app.upstreams}
        if not served.isdisjoint(spots):
            return False
        return not any([await asyncio.to_thread(self._connections, *spot) for spot in spots])

    async def _leave(self, networks: Collection[str]) -> None:
        leaving = (self._engine.disconnect(self._loop.rules.self_id, network) for network in sorted(networks))
        for result in await asyncio.gather(*leaving, return_exceptions=True):
            if isinstance(result, SidegateError):
                log.warning("a network is not left yet", error=str(result))
            elif isinstance(result, BaseException):
                raise result


def _ours(state: EngineState, rules: Rules) -> frozenset[str]:
    return frozenset(n.name for n in state.networks if is_ours(n, rules))
