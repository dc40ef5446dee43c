"""Database servers by name: where each is and how to log in is asked of the composition root, the driver does the rest.

Never keeps a password: a login is looked up each time.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Protocol

from sidegate.adapters.databases import mysql, postgres
from sidegate.adapters.databases.said import NobodyListensError
from sidegate.core.database_engines import DATABASE_ENGINES, DatabaseEngine, administrators
from sidegate.core.model import DATABASE_PORT, DatabaseDetails
from sidegate.errors import LoginFailedError

LOGIN_SECONDS = 3.0
KILL_SECONDS = 2.0
TLS_SECONDS = 1.0


class Driver(Protocol):
    """A wire protocol, as each module beside this one speaks it. Raises only LoginFailedError."""

    async def check_login(
        self, address: str, port: int, user: str, password: str, schema: str, timeout: float
    ) -> str: ...

    async def kill_sessions(
        self,
        address: str,
        port: int,
        user: str,
        password: str,
        peers: IPv4Network,
        timeout: float,
        schema: str = "",
        names: frozenset[str] = frozenset(),
    ) -> int: ...

    async def speaks_tls(self, address: str, port: int, user: str, password: str, timeout: float) -> bool | None: ...


DRIVERS: Mapping[str, Driver] = {"mysql": mysql, "postgres": postgres}
"""By `DatabaseEngine.protocol`."""


@dataclass(frozen=True, slots=True)
class Location:
    """A running database: its engine, its address on its home network, its login as far as it is known, its networks'
    subnets."""

    engine: DatabaseEngine
    address: str
    details: DatabaseDetails
    networks: Mapping[str, tuple[IPv4Network, ...]]


Locate = Callable[[str], Awaitable[Location]]
"""Raises LoginFailedError for a database that does not run or has no known login."""


class DatabaseServers:
    """Implements `reconciler.world.Databases` and `api.world.Logins`."""

    def __init__(self, locate: Locate) -> None:
        self._locate = locate

    async def check(self, engine: str, host: str, port: int, details: DatabaseDetails) -> None:
        """One real login. Raises LoginFailedError with the server's reason."""
        driver = DRIVERS[DATABASE_ENGINES[engine].protocol]
        await driver.check_login(host, port, details.user, details.password, details.schema, LOGIN_SECONDS)

    async def speaks_tls(self, database: str) -> bool | None:
        """Whether clients of this database can have TLS; None where it cannot be asked, within 1 s."""
        try:
            where = await self._locate(database)
        except LoginFailedError:
            return None
        user, password = where.details.user, where.details.password
        driver = DRIVERS[where.engine.protocol]
        return await driver.speaks_tls(where.address, DATABASE_PORT, user, password, TLS_SECONDS)

    async def kill_sessions(self, database: str, peers: IPv4Network) -> int:
        """KILL every session of clients in `peers`, as the administrator where that login is known and works, else as
        the user, who may see only sessions of its own. A server that does not listen has none. Raises LoginFailedError
        when no known login works."""
        where = await self._locate(database)
        logins = administrators(where.engine, where.details)
        if not logins:
            raise LoginFailedError(f"no login for {database} is known: `sidegate db set {database}`")
        # Its own port first: the redirect from 3306 may be what is missing.
        for port in dict.fromkeys((where.engine.port, DATABASE_PORT)):
            try:
                return await self._kill(where, port, logins, peers)
            except NobodyListensError:
                continue
        return 0

    async def _kill(self, where: Location, port: int, logins: tuple[tuple[str, str], ...], peers: IPv4Network) -> int:
        # A server that resolves names shows a client as <container>.<network>: only networks of these peers count.
        names = frozenset(name for name, subnets in where.networks.items() if any(map(peers.overlaps, subnets)))
        driver, reasons = DRIVERS[where.engine.protocol], []
        for user, password in logins:
            try:
                return await driver.kill_sessions(
                    where.address, port, user, password, peers, KILL_SECONDS, where.details.schema, names
                )
            except NobodyListensError:
                raise
            except LoginFailedError as error:
                reasons.append(str(error))
        raise LoginFailedError("; ".join(reasons))
