"""PostgreSQL servers: logins, ending sessions, changing passwords, whether TLS is spoken. The only importer of asyncpg.

asyncpg: kept up by MagicStack, whose uvloop this runs on, and needs no libpq. Everything that it would otherwise take
from the daemon's own environment (PGDATABASE, ~/.pgpass, ...) is given. A server is a customer's: what it says is cut
short and stripped of control characters. Never keeps a connection or a password.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

import asyncpg

from sidegate.adapters.databases.changing import Attempt, Change, Outcome, change_accounts, works
from sidegate.adapters.databases.said import NoAnswerError, NobodyListensError, shown
from sidegate.adapters.databases.scram import md5_verifier, scram_verifier
from sidegate.core.sessions import Client
from sidegate.errors import LoginFailedError, PasswordRefusedError, SidegateError

T = TypeVar("T")

_TLS_QUESTION = bytes.fromhex("00000008 04d2162f")
"""SSLRequest (PostgreSQL's manual, "Message Formats"): its length, and a code in the place of a version."""


async def check_login(address: str, port: int, user: str, password: str, schema: str, timeout: float) -> str:
    """One real login within `timeout` seconds; returns the server's version. Without a `schema` it is the user's.

    Raises LoginFailedError with a sentence: unreachable, refused credentials, or an unknown or forbidden schema.
    """

    async def version(connection: Any) -> str:
        return shown(await connection.fetchval("SELECT version()"))

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
    """Terminate every session of every database, in a query or idle, whose client is in `peers`; returns how many. All
    in `timeout` seconds. `schema` is the one to log in to; `names` do not matter: the server always knows addresses.

    A user who is neither superuser nor in pg_read_all_stats sees the addresses of its own sessions only.
    Raises LoginFailedError where the login fails, or where sessions were seen that this user may not end;
    NobodyListensError where nothing is there to log in to.
    """

    async def kill(connection: Any) -> int:
        sessions = await connection.fetch(
            "SELECT pid, host(client_addr), backend_start FROM pg_catalog.pg_stat_activity "
            "WHERE client_addr IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()"
        )
        theirs = [(pid, began) for pid, client, began in sessions if _is_peer(client, peers)]
        return await _terminate(connection, theirs, f"{user} at {address}:{port}")

    return await _logged_in(address, port, user, password, schema, timeout, kill)


async def kill_clients(
    address: str,
    port: int,
    user: str,
    password: str,
    clients: Collection[Client],
    connected: Callable[[], Awaitable[Collection[Client]]],
    timeout: float,
    schema: str = "",
) -> int:
    """Terminate the sessions of exactly these clients, whose sockets are gone; returns how many. All in `timeout`
    seconds.

    Whoever has the address and port of one of them by now is spared: `connected` says, after the look, who is there.
    Raises as `kill_sessions`, and what `connected` raises.
    """

    async def kill(connection: Any) -> int:
        sessions = await connection.fetch(
            # The newest of each: an older one of the same address and port has lost its client long ago.
            "SELECT DISTINCT ON (client_addr, client_port) pid, host(client_addr), client_port, backend_start "
            "FROM pg_catalog.pg_stat_activity WHERE client_addr IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() "
            "ORDER BY client_addr, client_port, backend_start DESC"
        )
        ends = (((host.removeprefix("::ffff:"), number), (pid, began)) for pid, host, number, began in sessions)
        found = {client: session for client, session in ends if client in clients}
        spared = await connected() if found else ()
        theirs = [session for client, session in found.items() if client not in spared]
        return await _terminate(connection, theirs, f"{user} at {address}:{port}")

    return await _logged_in(address, port, user, password, schema, timeout, kill)


async def _terminate(connection: Any, sessions: Iterable[tuple[int, datetime]], who: str) -> int:
    """End sessions, each a process and when it began; returns how many there still were. Raises LoginFailedError where
    `who` may not end some."""
    ended = denied = 0
    for pid, began in sessions:
        try:
            ended += bool(
                await connection.fetchval(
                    "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "
                    "WHERE pid = $1 AND backend_start = $2",
                    pid,
                    began,
                )
            )
        except asyncpg.InsufficientPrivilegeError:
            denied += 1
    if denied:
        raise LoginFailedError(f"{who} may not end {denied} sessions of other users")
    return ended


async def change_password(address: str, port: int, login: tuple[str, str], change: Change, timeout: float) -> Outcome:
    """Give a role a new password, within `timeout` seconds. The server gets what it would keep of it anyhow, a verifier
    of the kind that its `password_encryption` says, so the password itself is in no statement and in no log.

    Raises LoginFailedError where nothing was changed, PasswordUncertainError where that is not known,
    NobodyListensError where nothing is there to log in to.
    """
    attempt, (user, password) = Attempt(), login
    checks: list[int] = []

    async def check(secret: str) -> None:
        await _logged_in(address, port, change.user, secret, change.schema, timeout, note)

    async def note(connection: Any) -> None:
        checks.append(await connection.fetchval("SELECT pg_catalog.pg_backend_pid()"))

    async def act(connection: Any) -> Outcome:
        kind = await connection.fetchval("SHOW password_encryption")

        async def alter(role: str, secret: str) -> str:
            verifier = scram_verifier(secret) if kind == "scram-sha-256" else md5_verifier(secret, role)
            name = role.replace('"', '""')
            try:
                await connection.execute(f"ALTER ROLE \"{name}\" PASSWORD '{verifier}'")
            except asyncpg.PostgresConnectionError:
                raise
            except asyncpg.PostgresError as error:
                return shown(error)
            return ""

        old_works = login == (change.user, change.old) or await works(check, change.old)
        roles, notes = await change_accounts(
            change, attempt, (change.user,), alter=alter, check=check, old_works=old_works
        )
        ended = 0
        if change.disconnect:
            ended, denied = await _end_sessions(connection, change.user, checks)
            notes += [f"{denied} sessions of {change.user} could not be ended"] if denied else []
        return Outcome(tuple(roles), ended, tuple(notes))

    try:
        return await _logged_in(address, port, user, password, change.schema, timeout, act)
    except PasswordRefusedError:
        raise
    except LoginFailedError as error:
        raise attempt.failed(error) from error


async def _end_sessions(connection: Any, user: str, checks: Sequence[int]) -> tuple[int, int]:
    """End a role's sessions but this one and `checks`, which have ended and may still be listed; returns how many there
    were, and how many may not be ended."""
    ended = denied = 0
    for (pid,) in await connection.fetch(
        "SELECT pid FROM pg_catalog.pg_stat_activity "
        "WHERE usename = $1 AND pid <> pg_catalog.pg_backend_pid() AND pid <> ALL($2::int[])",
        user,
        checks,
    ):
        try:
            ended += await connection.fetchval("SELECT pg_catalog.pg_terminate_backend($1)", pid)
        except asyncpg.InsufficientPrivilegeError:
            denied += 1
    return ended, denied


async def speaks_tls(address: str, port: int, user: str, password: str, timeout: float) -> bool | None:
    """Whether clients may ask this server for TLS; None where there is no answer within `timeout` seconds. Nobody logs
    in: PostgreSQL is asked before."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(_TLS_QUESTION)
                return {b"S": True, b"N": False}.get(await reader.read(1))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None


async def locks_out_after(_address: str, _port: int, _user: str, _password: str, _timeout: float) -> None:
    """PostgreSQL locks no address out."""


def _is_peer(client: str, peers: IPv4Network) -> bool:
    try:
        return IPv4Address(client.removeprefix("::ffff:")) in peers
    except ValueError:
        return False


async def _logged_in(
    address: str,
    port: int,
    user: str,
    password: str,
    schema: str,
    timeout: float,
    act: Callable[[Any], Awaitable[T]],
) -> T:
    server = f"{address}:{port}"
    try:
        async with asyncio.timeout(timeout), _connection(address, port, user, password, schema) as connection:
            return await act(connection)
    except SidegateError:
        raise
    except TimeoutError:
        raise NoAnswerError(f"{server} cannot be reached: no answer within {timeout:g} s") from None
    except ConnectionRefusedError as error:
        raise NobodyListensError(f"{server} cannot be reached: {_why(error)}") from error
    except (asyncpg.ConnectionDoesNotExistError, ConnectionError) as error:
        raise LoginFailedError(f"{server} ended the connection during the login") from error
    except asyncpg.PostgresError as error:
        raise LoginFailedError(_reason(error, server, user, schema or user)) from error
    except OSError as error:
        raise LoginFailedError(f"{server} cannot be reached: {_why(error)}") from error
    except Exception as error:
        # A server that does not keep to the protocol makes asyncpg raise whatever comes.
        raise LoginFailedError(f"{server} does not answer as a PostgreSQL server: {shown(error)}") from error


@asynccontextmanager
async def _connection(address: str, port: int, user: str, password: str, schema: str) -> AsyncIterator[Any]:
    """Without TLS on the home network, which is the host's own; with it where the server lets nobody in without."""
    try:
        connection = await _connect(address, port, user, password, schema, tls=False)
    except asyncpg.InvalidPasswordError:
        raise
    except asyncpg.InvalidAuthorizationSpecificationError as refusal:
        try:
            connection = await _connect(address, port, user, password, schema, tls=True)
        except OSError:
            raise refusal from None
    try:
        yield connection
        await connection.close()
    finally:
        connection.terminate()


async def _connect(address: str, port: int, user: str, password: str, schema: str, *, tls: bool) -> Any:
    return await asyncpg.connect(
        host=address,
        port=port,
        user=user,
        password=password,
        database=schema or user,
        ssl=_any_certificate() if tls else False,
        timeout=60,  # the caller's deadline comes earlier
        statement_cache_size=0,
        target_session_attrs="any",
        server_settings={"application_name": "sidegate"},
    )


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _reason(error: asyncpg.PostgresError, server: str, user: str, schema: str) -> str:
    said = shown(error)
    match error:
        case asyncpg.InvalidPasswordError():
            return f"{server} refused the user {user!r} with this password"
        case asyncpg.InvalidCatalogNameError():
            return f"{server} has no schema {schema!r}"
        case asyncpg.InsufficientPrivilegeError():
            return f"{server} lets the user {user!r} in, but not into the schema {schema!r}"
        case _:
            return f"{server} refused the login: {said} ({error.sqlstate})"


def _why(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else shown(error)
