"""Database servers by name: where each is and how to log in is asked of the composition root, the driver does the rest.

Never keeps a password: a login is looked up each time.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network
from typing import Protocol

from sidegate.adapters.databases import mysql, postgres
from sidegate.adapters.databases.changing import Change, Outcome
from sidegate.adapters.databases.said import NoAnswerError, NobodyListensError
from sidegate.core.database_engines import DATABASE_ENGINES, DatabaseEngine, administrators
from sidegate.core.model import DATABASE_PORT, DatabaseDetails
from sidegate.core.passwords import PasswordChanged, with_password
from sidegate.core.sessions import Client
from sidegate.errors import LoginFailedError, PasswordRefusedError, PasswordUncertainError

LOGIN_SECONDS = 3.0
KILL_SECONDS = 2.0
ASK_SECONDS = 1.0
CHANGE_SECONDS = 4.0


Connected = Callable[[], Awaitable[Collection[Client]]]
"""Asks who is connected to a database now, as the database knows them."""


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

    async def kill_clients(
        self,
        address: str,
        port: int,
        user: str,
        password: str,
        clients: Collection[Client],
        connected: Connected,
        timeout: float,
        schema: str = "",
    ) -> int: ...

    async def change_password(
        self, address: str, port: int, login: tuple[str, str], change: Change, timeout: float
    ) -> Outcome: ...

    async def speaks_tls(self, address: str, port: int, user: str, password: str, timeout: float) -> bool | None: ...

    async def locks_out_after(
        self, address: str, port: int, user: str, password: str, timeout: float
    ) -> int | None: ...


DRIVERS: Mapping[str, Driver] = {"mysql": mysql, "postgres": postgres}
"""By `DatabaseEngine.protocol`."""


@dataclass(frozen=True, slots=True)
class Location:
    """A running database: its engine, its address on its home network, its login as far as it is known, its networks'
    subnets; `given` is what people said of its login."""

    engine: DatabaseEngine
    address: str
    details: DatabaseDetails
    networks: Mapping[str, tuple[IPv4Network, ...]]
    given: DatabaseDetails = field(default_factory=DatabaseDetails)


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
        """Whether clients of this database can have TLS; None where it cannot be asked, within 1 s a port."""
        try:
            where = await self._locate(database)
        except LoginFailedError:
            return None
        user, password = where.details.user, where.details.password
        driver = DRIVERS[where.engine.protocol]
        # Its own port first, as below; what listens nowhere is not waited for.
        for port in dict.fromkeys((where.engine.port, DATABASE_PORT)):
            if (found := await driver.speaks_tls(where.address, port, user, password, ASK_SECONDS)) is not None:
                return found
        return None

    async def locks_out_after(self, database: str) -> int | None:
        """After how many clients of one address that come and go without logging in nobody with that address gets in
        any more; None: never, or it cannot be asked, within 1 s."""
        try:
            where = await self._locate(database)
            login = where.details.user, where.details.password
            driver = DRIVERS[where.engine.protocol]
            return await driver.locks_out_after(where.address, DATABASE_PORT, *login, ASK_SECONDS)
        except LoginFailedError:
            return None

    async def kill_sessions(self, database: str, peers: IPv4Network) -> int:
        """KILL every session of clients in `peers`, as the administrator where that login is known and works, else as
        the user, who may see only sessions of its own. A server that does not listen has none. Raises LoginFailedError
        when no known login works."""
        where = await self._locate(database)
        # A server that resolves names shows a client as <container>.<network>: only networks of these peers count.
        names = frozenset(name for name, subnets in where.networks.items() if any(map(peers.overlaps, subnets)))
        driver, schema = DRIVERS[where.engine.protocol], where.details.schema

        def kill(port: int, user: str, password: str) -> Awaitable[int]:
            return driver.kill_sessions(where.address, port, user, password, peers, KILL_SECONDS, schema, names)

        return await self._kill(database, where, kill)

    async def kill_clients(self, database: str, clients: Collection[Client], connected: Connected | None = None) -> int:
        """KILL the sessions of exactly these clients, as the server knows them; returns how many. Their sockets are
        gone: who is one of `connected` after a look at the server has come since, and is spared. Else as
        `kill_sessions`."""
        where = await self._locate(database)
        driver, schema, spared = DRIVERS[where.engine.protocol], where.details.schema, connected or _nobody

        def kill(port: int, user: str, password: str) -> Awaitable[int]:
            return driver.kill_clients(where.address, port, user, password, clients, spared, KILL_SECONDS, schema)

        return await self._kill(database, where, kill)

    async def _kill(self, database: str, where: Location, kill: Callable[[int, str, str], Awaitable[int]]) -> int:
        logins = administrators(where.engine, where.details)
        if not logins:
            raise LoginFailedError(f"no login for {database} is known: `sidegate db set {database}`")
        # Its own port first: the redirect from 3306 may be what is missing.
        for port in dict.fromkeys((where.engine.port, DATABASE_PORT)):
            try:
                return await _with_first(logins, partial(kill, port))
            except NobodyListensError:
                continue
        return 0

    async def change_password(self, database: str, password: str, *, disconnect: bool = False) -> PasswordChanged:
        """Give the user that apps log in as a new password; one that the server has already is given again, so that no
        account is left out. As the administrator where that login is known and works, else as the user.

        Raises PasswordRefusedError where the server goes on with the old one, PasswordUncertainError where it may have
        the new one, LoginFailedError where this has changed nothing.
        """
        where = await self._locate(database)
        details = where.details
        if not details.user:
            raise LoginFailedError(f"the user of {database} is not known: `sidegate db set {database} --user`")
        change = Change(details.user, details.password, password, details.schema, disconnect)
        logins = (*administrators(where.engine, details), (details.user, password))
        reasons: list[str] = []
        for port in dict.fromkeys((where.engine.port, DATABASE_PORT)):
            try:
                outcome = await self._change(where, port, logins, change, reasons)
            except NobodyListensError as error:
                reasons.append(str(error))
                continue
            after = with_password(where.engine, details, where.given, password)
            engine = where.engine.name
            return PasswordChanged(engine, details, after, outcome.accounts, outcome.ended, outcome.notes)
        raise LoginFailedError("; ".join(reasons))

    async def _change(
        self, where: Location, port: int, logins: tuple[tuple[str, str], ...], change: Change, reasons: list[str]
    ) -> Outcome:
        driver = DRIVERS[where.engine.protocol]
        kind: type[LoginFailedError] = LoginFailedError
        for login in dict.fromkeys(logins):
            try:
                return await driver.change_password(where.address, port, login, change, CHANGE_SECONDS)
            except (NobodyListensError, PasswordUncertainError):
                raise
            except LoginFailedError as error:
                reasons.append(str(error))
                kind = PasswordRefusedError if isinstance(error, PasswordRefusedError) else kind
        raise kind("; ".join(dict.fromkeys(reasons)))


async def _with_first(logins: Iterable[tuple[str, str]], kill: Callable[[str, str], Awaitable[int]]) -> int:
    """What comes of the first login that works. Raises NobodyListensError, and LoginFailedError with all reasons."""
    reasons = []
    for user, password in logins:
        try:
            return await kill(user, password)
        except NobodyListensError:
            raise
        except LoginFailedError as error:
            reasons.append(str(error))
            if isinstance(error, NoAnswerError):
                break
    raise LoginFailedError("; ".join(reasons))


async def _nobody() -> Collection[Client]:
    return ()
