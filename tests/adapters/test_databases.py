import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

import aiomysql
import pytest
from pymysql.err import OperationalError

from ports import free_port
from sidegate.adapters.databases.mysql import check_login, kill_clients, kill_sessions, speaks_tls
from sidegate.adapters.databases.process_list import find_clients, is_peer
from sidegate.adapters.databases.servers import DatabaseServers, Location
from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.model import DatabaseDetails
from sidegate.core.sessions import Client
from sidegate.errors import LoginFailedError

NAME = f"sgt-sql-{os.getpid()}"
PASSWORD = "Ünïcode “quotes” ' \\ 1"
ROOT_PASSWORD = "Root*Password1"
DEADLINE = 5.0
READY = 20.0


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Server:
    """A MariaDB container on two networks; the host's clients come from the gateway of whichever they dial over."""

    near: str
    far: str
    near_network: IPv4Network


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Server]:
    networks = [f"{NAME}-near", f"{NAME}-far"]
    try:
        subnets = [
            docker("network", "create", "--internal", name) and
            docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", name)
            for name in networks
        ]  # fmt: skip
        variables = {
            "MARIADB_ROOT_PASSWORD": ROOT_PASSWORD,
            "MARIADB_USER": "shop",
            "MARIADB_PASSWORD": PASSWORD,
            "MARIADB_DATABASE": "shop",
        }
        environment = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        docker("create", "--name", NAME, "--network", networks[0], *environment, "sidegate-mariadb")
        docker("network", "connect", networks[1], NAME)
        docker("start", NAME)
        addresses = [
            docker("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{name}").IPAddress}}}}', NAME)
            for name in networks
        ]
        yield Server(addresses[0], addresses[1], IPv4Network(subnets[0]))
    finally:
        subprocess.run(["docker", "rm", "-fv", NAME], capture_output=True)
        subprocess.run(["docker", "network", "rm", *networks], capture_output=True)


@pytest.fixture
async def server(mariadb: Server) -> Server:
    async with asyncio.timeout(READY):
        while True:
            try:
                await check_login(mariadb.near, 3306, "root", ROOT_PASSWORD, "", DEADLINE)
            except LoginFailedError:
                await asyncio.sleep(0.05)  # there is no event: the server's own log is not on a stream of ours
            else:
                break
    # The server may have that login, and those of the test before, for a moment after they have gone.
    await until(lambda: nobody_near(mariadb))
    return mariadb


async def nobody_near(server: Server) -> bool:
    async with session(server.far, "root", ROOT_PASSWORD) as connection:
        rows = await execute(connection, "SELECT HOST FROM information_schema.PROCESSLIST")
    return not any(str(host).startswith(f"{gateway(server.near_network)}:") for (host,) in rows)


@asynccontextmanager
async def session(address: str, user: str = "shop", password: str = PASSWORD) -> AsyncIterator[aiomysql.Connection]:
    connection = await aiomysql.connect(
        host=address, user=user, password=password.encode().decode("latin-1"), autocommit=None
    )
    try:
        yield connection
    finally:
        connection.close()


async def execute(connection: aiomysql.Connection, statement: str) -> tuple[tuple[object, ...], ...]:
    async with connection.cursor() as cursor:
        await cursor.execute(statement)
        return tuple(await cursor.fetchall())


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(READY):
        while not await holds():
            await asyncio.sleep(0.01)


async def clients(server: Server, command: str = "") -> list[str]:
    """Hosts, without ports, of the sessions that the server has, ours aside."""
    async with session(server.far, "root", ROOT_PASSWORD) as connection:
        condition = "ID <> CONNECTION_ID() AND USER IN ('shop', 'root')"
        where = condition + (f" AND COMMAND = '{command}'" if command else "")
        rows = await execute(connection, f"SELECT HOST FROM information_schema.PROCESSLIST WHERE {where}")
    return sorted(str(host).partition(":")[0] for (host,) in rows)


def gateway(network: IPv4Network) -> str:
    return str(IPv4Address(network.network_address + 1))


# --- logins


@pytest.mark.engine
async def test_a_login_that_works_returns_the_version(server: Server) -> None:
    assert "MariaDB" in await check_login(server.near, 3306, "shop", PASSWORD, "shop", DEADLINE)
    assert "MariaDB" in await check_login(server.near, 3306, "shop", PASSWORD, "", DEADLINE)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("user", "password", "schema", "reason"),
    [
        ("shop", "wrong", "shop", "refused the user 'shop' with this password"),
        ("shop", "", "shop", "refused the user 'shop' with this password"),
        ("nobody", "x", "", "refused the user 'nobody' with this password"),
        ("root", ROOT_PASSWORD, "blog", "has no schema 'blog'"),
        ("shop", PASSWORD, "mysql", "lets the user 'shop' in, but not into the schema 'mysql'"),
    ],
)
async def test_a_login_that_fails_says_what_is_wrong(
    server: Server, user: str, password: str, schema: str, reason: str
) -> None:
    with pytest.raises(LoginFailedError) as caught:
        await check_login(server.near, 3306, user, password, schema, DEADLINE)
    assert str(caught.value) == f"{server.near}:3306 {reason}"


@asynccontextmanager
async def impostor(greeting: bytes | None) -> AsyncIterator[int]:
    """A port of 127.0.0.1 with no MySQL server behind it: it says `greeting` and closes; None: it keeps silent."""
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greeting is None:
            await released.wait()
        else:
            writer.write(greeting)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]
        released.set()


async def test_a_port_that_nobody_listens_on_is_unreachable() -> None:
    port = free_port()
    with pytest.raises(LoginFailedError, match=f"127.0.0.1:{port} cannot be reached: connection refused"):
        await check_login("127.0.0.1", port, "shop", "x", "", DEADLINE)


async def test_a_silent_server_is_given_up_at_the_deadline() -> None:
    async with impostor(None) as port:
        with pytest.raises(LoginFailedError, match=r"cannot be reached: no answer within 0\.05 s"):
            await check_login("127.0.0.1", port, "shop", "x", "", 0.05)


async def test_a_silent_server_is_not_asked_again_by_another_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody waits for the answer."""
    monkeypatch.setattr("sidegate.adapters.databases.servers.KILL_SECONDS", 0.05)

    async def locate(_: str) -> Location:
        details = DatabaseDetails(user="shop", password="x", root_password="y")
        return Location(replace(DATABASE_ENGINES["mariadb"], port=port), "127.0.0.1", details, {})

    async with impostor(None) as port:
        with pytest.raises(LoginFailedError) as refused:
            await DatabaseServers(locate).kill_clients("shop-db", {("10.213.0.1", 1)})
    assert str(refused.value) == f"127.0.0.1:{port} cannot be reached: no answer within 0.05 s"


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x0a",
        b"\x05\x00\x00\x00\x0a5.5\x00",
        b"\x0b\x00\x00\x00\xff\x15\x04#28000\x1b[2J",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" * 3,
        bytes(range(256)) * 40,
    ],
)
async def test_whatever_an_impostor_says_ends_as_a_failed_login(greeting: bytes) -> None:
    async with impostor(greeting) as port:
        with pytest.raises(LoginFailedError) as caught:
            await check_login("127.0.0.1", port, "shop", "x", "", DEADLINE)
    assert f"127.0.0.1:{port} " in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.engine
@pytest.mark.parametrize(("user", "password"), [("shop", PASSWORD), ("shop", "wrong"), ("", "")])
async def test_whether_tls_is_spoken_is_told_before_a_login(server: Server, user: str, password: str) -> None:
    assert await speaks_tls(server.near, 3306, user, password, DEADLINE) is False


@pytest.mark.parametrize(("capabilities", "expected"), [(0xF7FE, False), (0xFFFE, True)])
async def test_a_greeting_says_whether_tls_is_spoken(capabilities: int, expected: bool) -> None:
    """CLIENT_SSL, 0x800 of the capabilities in the handshake of protocol 10."""
    greeting = b"\x0a10.11.6\0" + bytes(4) + b"12345678\0" + capabilities.to_bytes(2, "little")
    async with impostor(len(greeting).to_bytes(3, "little") + b"\0" + greeting) as port:
        assert await speaks_tls("127.0.0.1", port, "", "", DEADLINE) is expected


# --- sessions


@pytest.mark.engine
@pytest.mark.parametrize(("user", "password"), [("root", ROOT_PASSWORD), ("shop", PASSWORD)])
async def test_sessions_of_the_peers_end_and_no_others(server: Server, user: str, password: str) -> None:
    async with (
        session(server.near) as idle,
        session(server.near) as busy,
        session(server.near) as locked,
        session(server.far) as other,
    ):
        await execute(locked, "CREATE OR REPLACE TABLE shop.t (a INT)")
        await execute(locked, "BEGIN")
        await execute(locked, "INSERT INTO shop.t VALUES (1)")
        query = asyncio.create_task(execute(busy, "SELECT BENCHMARK(2000000000, SHA2('x', 512))"), name="busy")
        await until(lambda: has(clients(server, "Query"), gateway(server.near_network)))
        assert await kill_sessions(server.near, 3306, user, password, server.near_network, DEADLINE) == 3
        with pytest.raises(OperationalError):
            await query
        for ended in (idle, locked):
            with pytest.raises(OperationalError):
                await execute(ended, "SELECT 1")
        assert await execute(other, "SELECT count(*) FROM shop.t") == ((0,),)
        await until(lambda: lacks(clients(server), gateway(server.near_network)))
        assert await kill_sessions(server.near, 3306, user, password, server.near_network, DEADLINE) == 0


@pytest.mark.engine
async def test_exactly_these_clients_end_unless_somebody_else_has_their_place(server: Server) -> None:
    asked = 0

    async with session(server.near) as gone, session(server.near) as spared, session(server.near) as other:
        query = asyncio.create_task(execute(gone, "SELECT SLEEP(600)"), name="gone")
        there = await place(spared)
        await until(lambda: has(clients(server, "Query"), gateway(server.near_network)))
        (here,) = {*await places(server)} - {there, await place(other)}

        async def connected() -> set[Client]:
            nonlocal asked
            asked += 1
            return {there}

        login = (server.near, 3306, "root", ROOT_PASSWORD)
        assert await kill_clients(*login, {here, there, (here[0], 1)}, connected, DEADLINE) == 1
        with pytest.raises(OperationalError):
            await query
        assert [await execute(one, "SELECT 1") for one in (spared, other)] == [((1,),)] * 2
        assert await kill_clients(*login, {here}, connected, DEADLINE) == 0
        assert asked == 1  # nobody was found the second time


async def places(server: Server) -> list[Client]:
    """Address and port of the clients that the user shop has near."""
    async with session(server.far, "root", ROOT_PASSWORD) as connection:
        rows = await execute(connection, "SELECT HOST FROM information_schema.PROCESSLIST WHERE USER = 'shop'")
    near = [str(host).partition(":") for (host,) in rows if str(host).startswith(gateway(server.near_network) + ":")]
    return [(address, int(port)) for address, _, port in near]


async def place(connection: aiomysql.Connection) -> Client:
    statement = "SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()"
    address, _, port = str((await execute(connection, statement))[0][0]).partition(":")
    return address, int(port)


def test_a_clients_session_is_the_newest_of_its_address_and_port_however_it_is_shown() -> None:
    sessions = {
        3: "10.213.0.1:41000",
        7: "10.213.0.1:41000",
        5: "10.213.0.1:41000",
        8: "10.213.0.1:41001",
        9: "10.213.0.9:41000",
        10: "gateway.example:41002",
        11: "other.example:41000",
        12: "::ffff:10.213.0.1:41003",
        13: "localhost",
        14: "",
    }
    wanted = {("10.213.0.1", port) for port in (41000, 41002, 41003, 41004)}
    found = find_clients(sessions, wanted, "gateway.example", "10.213.0.1")
    assert found == {("10.213.0.1", 41000): 7, ("10.213.0.1", 41002): 10, ("10.213.0.1", 41003): 12}
    shown_by_address = find_clients(sessions, wanted, "10.213.0.1", "10.213.0.1")
    assert shown_by_address == {("10.213.0.1", 41000): 7, ("10.213.0.1", 41003): 12}


@pytest.mark.parametrize(
    ("client", "is_one"),
    [
        ("10.213.0.2:41234", True),
        ("10.213.0.31:1", True),
        ("10.213.0.32:1", False),
        ("::ffff:10.213.0.2:41234", True),
        ("fd00::2:41234", False),
        ("shop-1.sidegate-shop--shop-db:41234", True),
        ("sidegate-shop--shop-db:41234", True),
        ("shop-1.another-sidegate-shop--shop-db:41234", False),
        ("sidegate-shop--shop-db.example.com:41234", False),
        ("shop-1:41234", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_a_client_is_told_by_its_address_or_by_the_name_of_its_network(client: str, is_one: bool) -> None:
    assert is_peer(client, IPv4Network("10.213.0.0/27"), frozenset({"sidegate-shop--shop-db"})) is is_one


@pytest.mark.engine
async def test_sessions_that_may_not_be_ended_are_counted(server: Server) -> None:
    async with session(server.near, "root", ROOT_PASSWORD) as root:
        await execute(root, "GRANT PROCESS ON *.* TO shop@'%'")
        try:
            with pytest.raises(LoginFailedError, match=r"shop at .* may not end 1 sessions of other users"):
                await kill_sessions(server.near, 3306, "shop", PASSWORD, server.near_network, DEADLINE)
        finally:
            await execute(root, "REVOKE PROCESS ON *.* FROM shop@'%'")


async def has(hosts: Awaitable[list[str]], host: str) -> bool:
    return host in await hosts


async def lacks(hosts: Awaitable[list[str]], host: str) -> bool:
    return host not in await hosts
