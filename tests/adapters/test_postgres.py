"""PostgreSQL logins and KILL against a real server in a container, and against ports with no such server behind."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pairs import pair
from ports import free_port
from sidegate.adapters.databases import mysql
from sidegate.adapters.databases.postgres import check_login, kill_clients, kill_sessions, speaks_tls
from sidegate.adapters.databases.said import NobodyListensError
from sidegate.adapters.databases.servers import DatabaseServers, Location
from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.model import DatabaseDetails
from sidegate.errors import LoginFailedError

NAME = f"sgt-pg-{os.getpid()}"
SUBNETS = [
    str(subnet) for subnet in list(IPv4Network("10.249.0.0/16").subnets(new_prefix=27))[os.getpid() % 2000 :][:2]
]
PASSWORD = "Ünïcode “quotes” ' \\ 1"
DEADLINE = 5.0
READY = 30.0


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Server:
    """A PostgreSQL on two networks; the host's clients come from the gateway of whichever they dial over."""

    near: str
    far: str
    near_network: IPv4Network


@pytest.fixture(scope="module")
def container() -> Iterator[Server]:
    networks = [f"{NAME}-near", f"{NAME}-far"]
    try:
        for name, subnet in zip(networks, SUBNETS, strict=True):
            docker("network", "create", "--internal", "--subnet", subnet, name)
        variables = {"POSTGRES_USER": "boss", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "shop"}
        environment = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        label = ("--label", f"sidegate.instance={NAME}")
        docker("create", "--name", NAME, *label, "--network", networks[0], *environment, "sidegate-postgres")
        docker("network", "connect", networks[1], NAME)
        docker("start", NAME)
        addresses = [
            docker("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{name}").IPAddress}}}}', NAME)
            for name in networks
        ]
        yield Server(addresses[0], addresses[1], IPv4Network(SUBNETS[0]))
    finally:
        subprocess.run(["docker", "rm", "-fv", NAME], capture_output=True)
        subprocess.run(["docker", "network", "rm", *networks], capture_output=True)


@pytest.fixture
async def server(container: Server) -> Server:
    """Once it takes logins: with an account that owns nothing, and one that may not see others' sessions."""
    async with asyncio.timeout(READY):
        while True:
            try:
                await check_login(container.near, 5432, "boss", PASSWORD, "shop", DEADLINE)
            except LoginFailedError:
                await asyncio.sleep(0.05)  # there is no event: the server's own log is not on a stream of ours
            else:
                break
    async with session(container.far) as boss:
        if not await boss.fetchval("SELECT 1 FROM pg_roles WHERE rolname = 'shop'"):
            await boss.execute("CREATE ROLE shop LOGIN PASSWORD 'shop'")
            await boss.execute("CREATE DATABASE hidden")
            await boss.execute("REVOKE CONNECT ON DATABASE hidden FROM PUBLIC")
        # The server may have that login, and those of the test before, for a moment after they have gone.
        near = "SELECT count(*) FROM pg_stat_activity WHERE client_addr <<= $1"
        async with asyncio.timeout(READY):
            while await boss.fetchval(near, container.near_network):
                await asyncio.sleep(0.01)
    return container


@asynccontextmanager
async def session(address: str, user: str = "boss", password: str = PASSWORD) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(host=address, user=user, password=password, database="shop", ssl=False)
    try:
        yield connection
    finally:
        connection.terminate()


# --- logins


@pytest.mark.engine
async def test_a_login_that_works_returns_the_version(server: Server) -> None:
    assert (await check_login(server.near, 5432, "boss", PASSWORD, "shop", DEADLINE)).startswith("PostgreSQL")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("user", "password", "schema", "reason"),
    [
        ("boss", "wrong", "shop", "refused the user 'boss' with this password"),
        ("boss", "", "shop", "refused the user 'boss' with this password"),
        ("nobody", "x", "shop", "refused the user 'nobody' with this password"),
        ("boss", PASSWORD, "blog", "has no schema 'blog'"),
        ("boss", PASSWORD, "", "has no schema 'boss'"),
        ("shop", "shop", "hidden", "lets the user 'shop' in, but not into the schema 'hidden'"),
    ],
)
async def test_a_login_that_fails_says_what_is_wrong(
    server: Server, user: str, password: str, schema: str, reason: str
) -> None:
    with pytest.raises(LoginFailedError) as caught:
        await check_login(server.near, 5432, user, password, schema, DEADLINE)
    assert str(caught.value) == f"{server.near}:5432 {reason}"


@pytest.mark.engine
async def test_the_daemons_own_environment_does_not_matter(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGDATABASE": "blog", "PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert await check_login(server.near, 5432, "boss", PASSWORD, "shop", DEADLINE)
    with pytest.raises(LoginFailedError, match="with this password"):
        await check_login(server.near, 5432, "boss", "", "shop", DEADLINE)


@pytest.mark.engine
async def test_tls_is_asked_for_and_used_where_nobody_is_let_in_without(server: Server, tmp_path: Path) -> None:
    """The server learns TLS while it runs; from then on it takes nobody without."""
    assert await speaks_tls(server.near, 5432, "", "", DEADLINE) is False
    for name, text in zip(("cert.pem", "key.pem"), pair("shop-db"), strict=True):
        (tmp_path / name).write_text(text)
        docker("cp", str(tmp_path / name), f"{NAME}:/tmp/{name}")
    docker("exec", NAME, "chown", "postgres:", "/tmp/key.pem", "/tmp/cert.pem")
    docker("exec", NAME, "chmod", "600", "/tmp/key.pem")
    rules = "/var/lib/postgresql/data/pg_hba.conf"
    docker("exec", NAME, "sed", "-i", "s/^host .*/hostssl all all all scram-sha-256/", rules)
    async with session(server.far) as boss:
        for setting in ("ssl_cert_file = '/tmp/cert.pem'", "ssl_key_file = '/tmp/key.pem'", "ssl = on"):
            await boss.execute(f"ALTER SYSTEM SET {setting}")
        await boss.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(READY):
            while not await speaks_tls(server.near, 5432, "", "", DEADLINE):
                await asyncio.sleep(0.05)
        assert await check_login(server.near, 5432, "boss", PASSWORD, "shop", DEADLINE)
        with pytest.raises(LoginFailedError, match="with this password"):
            await check_login(server.near, 5432, "boss", "wrong", "shop", DEADLINE)
        await boss.execute("ALTER SYSTEM RESET ssl")
        await boss.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(READY):
            while await speaks_tls(server.near, 5432, "", "", DEADLINE):
                await asyncio.sleep(0.05)
        with pytest.raises(LoginFailedError, match=r"refused the login: no pg_hba.conf entry .* \(28000\)"):
            await check_login(server.near, 5432, "boss", PASSWORD, "shop", DEADLINE)
        docker("exec", NAME, "sed", "-i", "s/^hostssl .*/host all all all scram-sha-256/", rules)
        await boss.execute("SELECT pg_reload_conf()")


@asynccontextmanager
async def impostor(greeting: bytes | None) -> AsyncIterator[int]:
    """A port of 127.0.0.1 with no PostgreSQL behind it: it says `greeting` and closes; None: it keeps silent."""
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greeting is None:
            await released.wait()
        else:
            await reader.read(1)
            writer.write(greeting)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]
        released.set()


async def test_a_port_that_nobody_listens_on_is_unreachable() -> None:
    port = free_port()
    for driver_login in (check_login, mysql.check_login):
        with pytest.raises(NobodyListensError, match=f"127.0.0.1:{port} cannot be reached: connection refused"):
            await driver_login("127.0.0.1", port, "shop", "x", "", DEADLINE)
    assert await speaks_tls("127.0.0.1", port, "", "", DEADLINE) is None
    assert await mysql.speaks_tls("127.0.0.1", port, "", "", DEADLINE) is None


async def test_a_silent_server_is_given_up_at_the_deadline() -> None:
    async with impostor(None) as port:
        with pytest.raises(LoginFailedError, match=r"cannot be reached: no answer within 0\.05 s"):
            await check_login("127.0.0.1", port, "shop", "x", "", 0.05)
        assert await speaks_tls("127.0.0.1", port, "", "", 0.05) is None
        assert await mysql.speaks_tls("127.0.0.1", port, "", "", 0.05) is None


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\x00\x00\x00\x08\x00\x00\x00\x05",
        b"R\x00\x00\x00\x08\x00\x00\x00\x63",
        b"R\x00\x00\x00\x04",
        b"E\x00\x00\x00\x1dSFATAL\x00C28P01\x00M\x1b[2Jno\x00\x00\x00\x00\x00",
        b"E\x00\x00\x00\x04",
        bytes(range(256)) * 40,
    ],
)
async def test_whatever_an_impostor_says_ends_as_a_failed_login(greeting: bytes) -> None:
    async with impostor(greeting) as port:
        with pytest.raises(LoginFailedError) as caught:
            await check_login("127.0.0.1", port, "shop", "x", "", 1.0)
        assert f"127.0.0.1:{port} " in str(caught.value)
        assert str(caught.value).isprintable()
        assert await speaks_tls("127.0.0.1", port, "", "", DEADLINE) is None


# --- sessions


@pytest.mark.engine
async def test_sessions_of_the_peers_end_and_no_others(server: Server) -> None:
    async with (
        session(server.near) as idle,
        session(server.near, "shop", "shop") as busy,
        session(server.near) as locked,
        session(server.far) as other,
    ):
        await locked.execute("CREATE TABLE IF NOT EXISTS t (a INT)")
        await locked.execute("BEGIN; INSERT INTO t VALUES (1)")
        pid = busy.get_server_pid()
        query = asyncio.create_task(busy.execute("SELECT pg_sleep(600)"), name="busy")
        async with asyncio.timeout(READY):
            while not await other.fetchval("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1", pid):
                await asyncio.sleep(0.01)
        assert await kill_sessions(server.near, 5432, "boss", PASSWORD, server.near_network, DEADLINE, "shop") == 3
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
            await query
        async with asyncio.timeout(READY):
            while not (idle.is_closed() and locked.is_closed()):
                await asyncio.sleep(0.01)
        assert await other.fetchval("SELECT count(*) FROM t") == 0
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE client_addr <<= $1"
        async with asyncio.timeout(READY):
            while not await other.fetchval(gone, server.near_network):
                await asyncio.sleep(0.01)
        assert await kill_sessions(server.near, 5432, "boss", PASSWORD, server.near_network, DEADLINE, "shop") == 0


@pytest.mark.engine
async def test_a_user_ends_its_own_sessions_and_says_which_it_may_not(server: Server) -> None:
    near, shop = server.near_network, ("shop", "shop")
    async with session(server.near), session(server.near, *shop), session(server.far) as boss:
        assert await kill_sessions(server.near, 5432, *shop, near, DEADLINE, "shop") == 1
        await boss.execute("GRANT pg_read_all_stats TO shop")
        try:
            with pytest.raises(LoginFailedError, match=r"shop at .* may not end 1 sessions of other users"):
                await kill_sessions(server.near, 5432, *shop, near, DEADLINE, "shop")
        finally:
            await boss.execute("REVOKE pg_read_all_stats FROM shop")


@pytest.mark.engine
async def test_exactly_these_clients_end_unless_somebody_else_has_their_place(server: Server) -> None:
    async with session(server.near) as gone, session(server.near) as spared, session(server.near) as other:
        statement = "SELECT host(inet_client_addr()), inet_client_port()"
        here, there = [tuple(await one.fetchrow(statement)) for one in (gone, spared)]
        query = asyncio.create_task(gone.execute("SELECT pg_sleep(600)"), name="gone")
        async with asyncio.timeout(READY):
            while not await other.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
                await asyncio.sleep(0.01)

        async def connected() -> set[tuple[str, int]]:
            return {there}

        login = (server.near, 5432, "boss", PASSWORD)
        assert await kill_clients(*login, {here, there, (here[0], 1)}, connected, DEADLINE, "shop") == 1
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
            await query
        assert [await one.fetchval("SELECT 1") for one in (spared, other)] == [1, 1]
        assert await kill_clients(*login, {(here[0], 1)}, connected, DEADLINE, "shop") == 0
        with pytest.raises(LoginFailedError, match="may not end 1 sessions of other users"):
            await other.execute("GRANT pg_read_all_stats TO shop")
            try:
                await kill_clients(server.near, 5432, "shop", "shop", {there}, nobody, DEADLINE, "shop")
            finally:
                await other.execute("REVOKE pg_read_all_stats FROM shop")


async def nobody() -> tuple[()]:
    return ()


# --- by name


def servers(address: str, details: DatabaseDetails, engine: str = "postgres") -> DatabaseServers:
    async def locate(name: str) -> Location:
        if not address:
            raise LoginFailedError(f"{name} is away")
        return Location(DATABASE_ENGINES[engine], address, details, {})

    return DatabaseServers(locate)


@pytest.mark.engine
async def test_a_database_is_found_at_its_own_port_and_the_next_login_is_tried(server: Server) -> None:
    """Nothing redirects 3306 here."""
    async with session(server.near):
        known = servers(server.near, DatabaseDetails("boss", PASSWORD, "shop", root_password="wrong"))
        assert await known.kill_sessions("shop-pg", server.near_network) == 1
    unknown = servers(server.near, DatabaseDetails("boss", "wrong", "shop"))
    with pytest.raises(LoginFailedError, match="refused the user 'boss'"):
        await unknown.kill_sessions("shop-pg", server.near_network)
    await known.check("postgres", server.near, 5432, DatabaseDetails("boss", PASSWORD, "shop"))


@pytest.mark.parametrize("engine", DATABASE_ENGINES)
async def test_a_server_that_does_not_listen_has_no_sessions(engine: str) -> None:
    nobody = servers("127.0.0.9", DatabaseDetails("shop", "x", "shop"), engine)
    assert await nobody.kill_sessions("shop-pg", IPv4Network("10.0.0.0/8")) == 0
    assert await nobody.speaks_tls("shop-pg") is None
    assert await servers("", DatabaseDetails(), engine).speaks_tls("shop-pg") is None
    with pytest.raises(LoginFailedError, match="no login for shop-pg is known: `sidegate db set shop-pg`"):
        await servers("127.0.0.9", DatabaseDetails("shop"), engine).kill_sessions("shop-pg", IPv4Network("10.0.0.0/8"))
