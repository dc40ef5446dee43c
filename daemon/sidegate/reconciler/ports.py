"""Looking at how databases answer at 3306."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from sidegate.core.database_ports import DatabasePort, PortState
from sidegate.core.model import Container
from sidegate.errors import SidegateError
from sidegate.reconciler.world import DatabasePorts

log = structlog.get_logger("sidegate.ports")


async def observe_ports(
    ports: DatabasePorts,
    containers: Iterable[Container],
    alive: Callable[[int], bool | None],
    known: Mapping[int, DatabasePort],
) -> dict[int, DatabasePort]:
    """Pid -> what was found in its network namespace. What is `known` is not looked at again; `alive` keeps a pid that
    was given out anew from being taken for the container's."""

    async def look(pid: int) -> DatabasePort:
        if alive(pid) is False:
            return DatabasePort(PortState.GONE)
        try:
            return await ports.observe(pid)
        except SidegateError as error:
            log.debug("port not observed", pid=pid, error=str(error))
            return DatabasePort(PortState.UNKNOWN)

    pids = [container.pid for container in containers if container.pid not in known]
    return {**known, **dict(zip(pids, await asyncio.gather(*map(look, pids)), strict=True))}
