"""MariaDB and MySQL servers: trying a login, ending sessions, whether TLS is spoken. The only importer of aiomysql.

aiomysql rather than PyMySQL in threads: it is kept up by aio-libs (0.3.2), silent under Python 3.11 with warnings as
errors, and a coroutine ends at its deadline, where a thread that waits for a slow server goes on. A server is a
customer's: what it says is cut short and stripped of control characters, and it gets no local files (LOCAL INFILE
stays off). Never keeps a connection or a password.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

import aiomysql
from pymysql.constants import CLIENT, CR, ER
from pymysql.err import MySQLError

from sidegate.adapters.databases.said import NobodyListensError, shown
from sidegate.errors import LoginFailedError

T = TypeVar("T")

_REFUSED = frozenset({ER.ACCESS_DENIED_ERROR, 1698})  # 1698: MariaDB, for an account that has no password
_FOREIGN_SESSION = ER.KILL_DENIED_ERROR
_SESSION_GONE = ER.NO_SUCH_THREAD


class _Cursor(aiomysql.Cursor):  # type: ignore[misc]  # aiomysql has no types
    """Without the Python warning for each warning of the server: MySQL 8 calls SHOW PROCESSLIST deprecated."""

    async def _show_warnings(self, conn: aiomysql.Connection) -> None:
        pass


async def check_login(address: str, port: int, user: str, password: str, schema: str, timeout: float) -> str:
    """One real login within `timeout` seconds; returns the server's version. An empty `schema` selects none.

    Raises LoginFailedError with a sentence: unreachable, refused credentials, or an unknown or forbidden schema.
    """

    async def version(connection: aiomysql.Connection) -> str:
        ((text,),) = await _query(connection, "SELECT VERSION()")
        return shown(text)

    return await _logged_in(address, port, user, password, schema, timeout, version)


async def kill_sessions(
    address: str,
    port: int,
    user: str,
    password: str,
    peers: IPv4Network,
    timeout: float,
    schema: str = "",
    names: frozenset[str] = frozenset(),
) -> int:
    """KILL every session, in a query or idle, whose client is in `peers`; returns how many. All in `timeout` seconds.

    A server that resolves names shows Docker's "<container>.<network>" in the place of an address: a client whose name
    is one of `names`, or ends in a dot and one of them, counts as being in `peers`. Any other name is left alone.
    (Official images resolve none. Where one does, the first login from a host that has no name took 10 s.)
    A user without the PROCESS privilege sees sessions of its own account only. `schema` does not matter here.
    Raises LoginFailedError where the login fails, or where sessions were seen that this user may not end;
    NobodyListensError where nothing is there to log in to.
    """

    async def kill(connection: aiomysql.Connection) -> int:
        ((ours,),) = await _query(connection, "SELECT CONNECTION_ID()")
        killed = denied = 0
        for number, _user, client, *_ in await _query(connection, "SHOW PROCESSLIST"):
            if number == ours or not is_peer(client or "", peers, names):
                continue
            try:
                await _query(connection, f"KILL CONNECTION {int(number)}")
                killed += 1
            except MySQLError as error:
                if error.args[0] == _FOREIGN_SESSION:
                    denied += 1
                elif error.args[0] != _SESSION_GONE:
                    raise
        if denied:
            raise LoginFailedError(f"{user} at {address}:{port} may not end {denied} sessions of other users")
        return killed

    return await _logged_in(address, port, user, password, "", timeout, kill)


async def speaks_tls(address: str, port: int, user: str, password: str, timeout: float) -> bool | None:
    """Whether clients may ask this server for TLS, by its greeting; None where there is none within `timeout` seconds.

    A login follows, and may be refused: one that is broken off counts against max_connect_errors.
    """
    connection = aiomysql.Connection(
        host=address, port=port, user=user or "sidegate", password=password.encode().decode("latin-1"), autocommit=None
    )
    try:
        with suppress(Exception):  # a refusal, or whatever else comes after the greeting
            async with asyncio.timeout(timeout):
                await connection._connect()
    finally:
        connection.close()
    capabilities = getattr(connection, "server_capabilities", None)
    return None if capabilities is None else bool(capabilities & CLIENT.SSL)


def is_peer(client: str, peers: IPv4Network, names: frozenset[str]) -> bool:
    """Whether a client is in `peers`, or is named by or below one of `names`.

    `client` is the process list's Host: "address:port", "name:port" or, on the server's own socket, "localhost".
    """
    host = client.rpartition(":")[0] or client
    try:
        return IPv4Address(host.removeprefix("::ffff:")) in peers
    except ValueError:
        return any(host == name or host.endswith("." + name) for name in names)


async def _logged_in(
    address: str,
    port: int,
    user: str,
    password: str,
    schema: str,
    timeout: float,
    act: Callable[[aiomysql.Connection], Awaitable[T]],
) -> T:
    server = f"{address}:{port}"
    try:
        async with asyncio.timeout(timeout), _connection(address, port, user, password, schema) as connection:
            return await act(connection)
    except TimeoutError:
        raise LoginFailedError(f"{server} cannot be reached: no answer within {timeout:g} s") from None
    except MySQLError as error:
        refused = isinstance(error.__cause__, ConnectionRefusedError)
        raise (NobodyListensError if refused else LoginFailedError)(_reason(error, server, user, schema)) from error
    except LoginFailedError:
        raise
    except Exception as error:
        # A server that does not keep to the protocol makes aiomysql raise whatever comes: struct.error, IndexError, ...
        raise LoginFailedError(f"{server} does not answer as a MySQL server: {shown(error)}") from error


@asynccontextmanager
async def _connection(
    address: str, port: int, user: str, password: str, schema: str
) -> AsyncIterator[aiomysql.Connection]:
    connection = await aiomysql.connect(
        host=address,
        port=port,
        user=user,
        # aiomysql encodes it as Latin-1; servers hash what clients send, which is UTF-8 everywhere else.
        password=password.encode().decode("latin-1"),
        db=schema or None,
        charset="utf8mb4",
        autocommit=None,
    )
    try:
        yield connection
    finally:
        connection.close()


async def _query(connection: aiomysql.Connection, statement: str) -> tuple[tuple[Any, ...], ...]:
    async with connection.cursor(_Cursor) as cursor:
        await cursor.execute(statement)
        return tuple(await cursor.fetchall())


def _reason(error: MySQLError, server: str, user: str, schema: str) -> str:
    code = error.args[0] if error.args else 0
    said = shown(error.args[1] if len(error.args) > 1 else error)
    if code in _REFUSED:
        return f"{server} refused the user {user!r} with this password"
    if code == ER.BAD_DB_ERROR:
        return f"{server} has no schema {schema!r}"
    if code == ER.DBACCESS_DENIED_ERROR:
        return f"{server} lets the user {user!r} in, but not into the schema {schema!r}"
    if code == CR.CR_CONN_HOST_ERROR:
        cause = error.__cause__
        why = os.strerror(cause.errno).lower() if isinstance(cause, OSError) and cause.errno else said
        return f"{server} cannot be reached: {why}"
    if code == CR.CR_SERVER_LOST:
        return f"{server} ended the connection during the login"
    return f"{server} refused the login: {said} ({code})"
