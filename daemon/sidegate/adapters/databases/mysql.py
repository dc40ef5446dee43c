"""MariaDB and MySQL servers: logins, ending sessions, changing passwords, whether TLS is spoken. The only importer of
aiomysql.

aiomysql rather than PyMySQL in threads: it is kept up by aio-libs (0.3.2), silent under Python 3.11 with warnings as
errors, and a coroutine ends at its deadline, where a thread that waits for a slow server goes on. A server is a
customer's: what it says is cut short and stripped of control characters, and it gets no local files (LOCAL INFILE
stays off). Never keeps a connection or a password.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple, TypeVar

import aiomysql
from pymysql.constants import CLIENT, CR, ER
from pymysql.err import MySQLError

from sidegate.adapters.databases.changing import Attempt, Change, Outcome, change_accounts, without, works
from sidegate.adapters.databases.process_list import find_clients, host_of, is_peer, own_address_to
from sidegate.adapters.databases.said import NoAnswerError, NobodyListensError, shown
from sidegate.core.sessions import Client
from sidegate.errors import LoginFailedError, PasswordRefusedError, SidegateError

T = TypeVar("T")

_REFUSED = frozenset({ER.ACCESS_DENIED_ERROR, 1698})  # 1698: MariaDB, for an account that has no password
_FOREIGN_SESSION = ER.KILL_DENIED_ERROR
_SESSION_GONE = ER.NO_SUCH_THREAD
_TAKES_NO_PASSWORD = 1699  # ER_SET_PASSWORD_AUTH_PLUGIN: unix_socket and the like
_OF_THE_SERVER = range(1000, 2000)  # and from 3000 on; between are the client's own, such as a connection that was lost
_ACCOUNTS = "SELECT User, Host, plugin FROM mysql.user WHERE Host <> '' AND User = "
_PASSWORD_PLUGINS = ("mysql_native_password", "caching_sha2_password", "sha256_password")


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
    is one of `names`, or ends in a dot and one of them, counts as being in `peers`, and so does one that has our
    own name, where we are in `peers`. Any other name is left alone.
    (Official images resolve none. Where one does, the first login from a host that has no name took 10 s.)
    A user without the PROCESS privilege sees sessions of its own account only. `schema` does not matter here.
    Raises LoginFailedError where the login fails, or where sessions were seen that this user may not end;
    NobodyListensError where nothing is there to log in to.
    """

    async def kill(connection: aiomysql.Connection) -> int:
        ours, sessions = await _sessions(connection)
        among = IPv4Address(own_address_to(address, port)) in peers
        theirs = [
            number
            for number, client in sessions.items()
            if is_peer(client, peers, names) or (among and ours and host_of(client) == host_of(ours))
        ]
        return await _kill(connection, theirs, f"{user} at {address}:{port}")

    return await _logged_in(address, port, user, password, "", timeout, kill)


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
    """KILL the sessions of exactly these clients, whose sockets are gone; returns how many. All in `timeout` seconds.

    Whoever has the address and port of one of them by now is spared: `connected` says, after the look, who is there.
    A server that resolves names shows clients from our own address by the name that it shows us by.
    Raises as `kill_sessions`, and what `connected` raises.
    """

    async def kill(connection: aiomysql.Connection) -> int:
        ours, sessions = await _sessions(connection)
        found = find_clients(sessions, clients, host_of(ours), own_address_to(address, port))
        spared = await connected() if found else ()
        theirs = [number for client, number in found.items() if client not in spared]
        return await _kill(connection, theirs, f"{user} at {address}:{port}")

    return await _logged_in(address, port, user, password, "", timeout, kill)


async def _sessions(connection: aiomysql.Connection) -> tuple[str, dict[int, str]]:
    """How the server names this session's client, and those of the others by their number."""
    ((ours,),) = await _query(connection, "SELECT CONNECTION_ID()")
    sessions = {int(row[0]): row[2] or "" for row in await _query(connection, "SHOW PROCESSLIST")}
    return sessions.pop(int(ours), ""), sessions


async def _kill(connection: aiomysql.Connection, numbers: Iterable[int], who: str) -> int:
    """KILL sessions, those that have ended meanwhile aside; returns how many. Raises LoginFailedError where `who` may
    not end some."""
    killed = denied = 0
    for number in numbers:
        try:
            await _query(connection, f"KILL CONNECTION {number}")
            killed += 1
        except MySQLError as error:
            if error.args[0] == _FOREIGN_SESSION:
                denied += 1
            elif error.args[0] != _SESSION_GONE:
                raise
    if denied:
        raise LoginFailedError(f"{who} may not end {denied} sessions of other users")
    return killed


async def change_password(address: str, port: int, login: tuple[str, str], change: Change, timeout: float) -> Outcome:
    """Give every account of a user ("shop"@"%", "shop"@"localhost", ...) a new password, within `timeout` seconds.

    Who may not see all accounts changes its own, and `notes` say so; an account that takes no password stays as it is.
    MariaDB is given a hash where an account is content with one, so that the password is in no log of its; MySQL takes
    passwords from the statements that it logs by itself.
    Raises LoginFailedError where nothing was changed, PasswordUncertainError where that is not known,
    NobodyListensError where nothing is there to log in to.
    """
    attempt, (user, password) = Attempt(), login
    checks: set[int] = set()

    async def check(secret: str) -> None:
        await _logged_in(address, port, change.user, secret, "", timeout, note)

    async def note(connection: aiomysql.Connection) -> None:
        ((number,),) = await _query(connection, "SELECT CONNECTION_ID()")
        checks.add(number)

    async def act(connection: aiomysql.Connection) -> Outcome:
        ((version,),) = await _query(connection, "SELECT VERSION()")
        # From here on a literal means the same on every server; a schema's or the server's own mode does not matter.
        await _query(connection, "SET SESSION sql_mode = ''")
        accounts, notes = await _accounts(connection, change.user, own=user == change.user)
        spoken = _set_in_mariadb if "MariaDB" in version else _set_in_mysql

        async def alter(account: _Account, secret: str) -> str:
            return await _done(connection, spoken(account, secret), change)

        old_works = login == (change.user, change.old) or await works(check, change.old)
        changed, refusals = await change_accounts(
            change, attempt, accounts, alter=alter, check=check, old_works=old_works
        )
        ended = 0
        if change.disconnect:
            ended, denied = await _kill_user(connection, change.user, checks)
            notes += [f"{denied} sessions of {change.user} could not be ended"] if denied else []
        return Outcome(tuple(map(str, changed)), ended, (*notes, *refusals))

    try:
        return await _logged_in(address, port, user, password, "", timeout, act)
    except PasswordRefusedError:
        raise
    except LoginFailedError as error:
        raise attempt.failed(error) from error


class _Account(NamedTuple):
    """One of a user's accounts, as statements name it: empty is the one that is logged in."""

    user: str
    host: str
    plugin: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}"

    @property
    def literal(self) -> str:
        return f"{_literal(self.user)}@{_literal(self.host)}"


async def _accounts(connection: aiomysql.Connection, user: str, *, own: bool) -> tuple[list[_Account], list[str]]:
    """All of a user's accounts; only the one that is logged in where it may not see the others, with a note."""
    ((current,),) = await _query(connection, "SELECT CURRENT_USER()")
    own_user, _, own_host = current.rpartition("@")
    mine = _Account(own_user, own_host, plugin="")
    try:
        rows = await _query(connection, _ACCOUNTS + _literal(user))
    except MySQLError as error:
        if not own or not _said_by_server(error):
            raise
        others = f"whether {user} has accounts beside {mine} cannot be seen without the administrator's password"
        return [mine], [f"{others}: they would keep their old one"]
    found = [_Account(*map(_text, row)) for row in rows]
    if not found:
        raise LoginFailedError(f"the server has no user {user!r}")
    # The one that this login goes by comes last: once that one is changed, all are.
    return sorted(found, key=lambda account: (str(account) == str(mine), account.host)), []


def _set_in_mariadb(account: _Account, password: str) -> tuple[str, ...]:
    """Statements to try, the first one that the server takes counts. SET PASSWORD leaves an account's other ways in."""
    inner = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    native = "*" + hashlib.sha1(inner, usedforsecurity=False).hexdigest().upper()
    target = f"SET PASSWORD FOR {account.literal}" if account.plugin else "SET PASSWORD"
    return f"{target} = '{native}'", f"{target} = PASSWORD({_literal(password)})"


def _set_in_mysql(account: _Account, password: str) -> tuple[str, ...]:
    if not account.plugin:
        return (f"ALTER USER USER() IDENTIFIED BY {_literal(password)}",)
    if account.plugin not in _PASSWORD_PLUGINS:
        return ()
    return (f"ALTER USER {account.literal} IDENTIFIED WITH {_literal(account.plugin)} BY {_literal(password)}",)


async def _done(connection: aiomysql.Connection, statements: tuple[str, ...], change: Change) -> str:
    """Have the server carry out the first of `statements` that it takes; returns why it takes none."""
    said = "takes no password"
    for statement in statements:
        try:
            await _query(connection, statement)
        except MySQLError as error:
            if not _said_by_server(error):
                raise
            code, text = error.args[0], str(error.args[-1])
            if code == _TAKES_NO_PASSWORD:
                said = f"takes no password ({shown(text)})"
            elif code == ER.PARSE_ERROR:  # it quotes the statement, and cuts it anywhere
                said = "is not changed by any statement that this server understands"
            else:
                secrets = (change.new, change.old)
                said = shown(without(text, *(_literal(s) for s in secrets if s), *secrets))
        else:
            return ""
    return said


async def _kill_user(connection: aiomysql.Connection, user: str, checks: Collection[int]) -> tuple[int, int]:
    """End a user's sessions but this one and `checks`, which have ended and may still be listed; returns how many there
    were, and how many may not be ended."""
    ((ours,),) = await _query(connection, "SELECT CONNECTION_ID()")
    killed = denied = 0
    for number, owner, *_ in await _query(connection, "SHOW PROCESSLIST"):
        if number != ours and number not in checks and owner == user:
            try:
                await _query(connection, f"KILL CONNECTION {int(number)}")
                killed += 1
            except MySQLError as error:
                if not _said_by_server(error):
                    raise
                denied += error.args[0] == _FOREIGN_SESSION
    return killed, denied


def _said_by_server(error: MySQLError) -> bool:
    code = error.args[0] if error.args else 0
    return code in _OF_THE_SERVER or code >= 3000


def _literal(text: str) -> str:
    """A string in a statement, for a session without NO_BACKSLASH_ESCAPES (MySQL's manual, "String Literals")."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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


async def locks_out_after(address: str, port: int, user: str, password: str, timeout: float) -> int | None:
    """How many clients may come and go without logging in before this server turns everybody away who has their
    address (max_connect_errors); None: however many. A server that looks up no names does not count them.

    Raises LoginFailedError where the login fails within `timeout` seconds.
    """

    async def ask(connection: aiomysql.Connection) -> int | None:
        asked = "SELECT @@skip_name_resolve, @@host_cache_size, @@max_connect_errors"
        ((nameless, remembered, most),) = await _query(connection, asked)
        return None if nameless or not remembered else int(most)

    return await _logged_in(address, port, user, password, "", timeout, ask)


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
        raise NoAnswerError(f"{server} cannot be reached: no answer within {timeout:g} s") from None
    except MySQLError as error:
        refused = isinstance(error.__cause__, ConnectionRefusedError)
        raise (NobodyListensError if refused else LoginFailedError)(_reason(error, server, user, schema)) from error
    except SidegateError:
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
