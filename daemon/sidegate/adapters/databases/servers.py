"""Database servers by name: where each is and how to log in is asked of the composition root, the driver does the rest.

Never keeps a password: a login is looked up each time.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from sidegate.adapters.databases import mysql
from sidegate.core.model import DATABASE_PORT, DatabaseDetails
from sidegate.errors import LoginFailedError

KILL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Location:
    """A running database: its address on its home network, its login as far as it is known, its networks' subnets."""

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
        await mysql.check_login(host, port, details.user, details.password, details.schema, timeout=3.0)

    async def kill_sessions(self, database: str, peers: IPv4Network) -> int:
        """KILL every thread of clients in `peers`, as root where that login is known and works, else as the user,
        who sees only threads of its own. Raises LoginFailedError when no known login works."""
        where = await self._locate(database)
        details = where.details
        logins = [("root", details.root_password)] if details.root_password else []
        logins += [(details.user, details.password)] if details.user and details.user != "root" else []
        # A server that resolves names shows a client as <container>.<network>: only networks of these peers count.
        names = frozenset(name for name, subnets in where.networks.items() if any(map(peers.overlaps, subnets)))
        reasons = []
        for user, password in logins:
            try:
                return await mysql.kill_sessions(
                    where.address, DATABASE_PORT, user, password, peers, timeout=KILL_SECONDS, names=names
                )
            except LoginFailedError as error:
                reasons.append(str(error))
        raise LoginFailedError("; ".join(reasons) or f"no login for {database} is known: `sidegate db set {database}`")
