"""Changing passwords in real servers: every account, every character, back again, and what others notice of it."""

import asyncio
import base64
import hashlib
import hmac
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiomysql
import asyncpg
import pytest
from pymysql.err import MySQLError, OperationalError, ProgrammingError

from sidegate.adapters.databases import mysql, postgres
from sidegate.adapters.databases.changing import Change
from sidegate.adapters.databases.scram import prepared, scram_verifier
from sidegate.adapters.databases.servers import DatabaseServers, Location
from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.model import DatabaseDetails
from sidegate.core.passwords import SPECIALS, TYPOGRAPHIC_QUOTES, generate
from sidegate.errors import LoginFailedError, PasswordRefusedError, PasswordUncertainError

NAME = f"sgt-password-{os.getpid()}"
ROOT = "Root-password1,"
OLD = "Old-password1,"
NEW = "New-password1,"
DEADLINE = 5.0
READY = 30.0
EVERY_CHARACTER = [
    f"Aa1{SPECIALS}{TYPOGRAPHIC_QUOTES}",
    "Aa1'\\",
    "Aa1\\'",
    'Aa1"\\"%s%%20 ',
    "Aa1,\\n\\0\\%\\_",
    "Aa1:/?#[]@!$&'()*+,;=",
    "Aa1`$(id)`${HOME}",
    "ünïcödé ßtraßE 1*",
    "Aa1, ' OR '1'='1",
    "Aa1,-- x /* y */ ;",
    "Aa1,ﬁ\u00a0Å\u2126",  # SASLprep makes others of these
    "Aa1,\U0001f511",
]


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Server:
    """A database's container; `engine` is a key of DATABASE_ENGINES."""

    engine: str
    name: str
    address: str

    @property
    def port(self) -> int:
        return DATABASE_ENGINES[self.engine].port

    def driver(self) -> Any:
        return mysql if self.engine == "mariadb" else postgres

    async def admits(self, user: str, password: str) -> bool:
        """Whether a login over the network succeeds."""
        schema = "shop" if self.engine == "postgres" else ""
        try:
            await self.driver().check_login(self.address, self.port, user, password, schema, DEADLINE)
        except LoginFailedError:
            return False
        return True

    def servers(self, details: DatabaseDetails, given: DatabaseDetails | None = None) -> DatabaseServers:
        async def locate(_: str) -> Location:
            engine = DATABASE_ENGINES[self.engine]
            return Location(engine, self.address, details, {}, given or DatabaseDetails())

        return DatabaseServers(locate)


@pytest.fixture(scope="module", params=["mariadb", "postgres"])
def container(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Without an administrator that others know of in PostgreSQL: its user `boss` is one."""
    engine, name = request.param, f"{NAME}-{request.param}"
    variables = {
        "mariadb": {"MARIADB_ROOT_PASSWORD": ROOT},
        "postgres": {"POSTGRES_USER": "boss", "POSTGRES_PASSWORD": ROOT, "POSTGRES_DB": "shop"},
    }[engine]
    environment = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
    try:
        docker("run", "-d", "--name", name, "--label", f"sidegate.instance={NAME}", *environment, f"sidegate-{engine}")
        yield Server(engine, name, docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name))
    finally:
        subprocess.run(["docker", "rm", "-fv", name], capture_output=True)


@pytest.fixture
async def server(container: Server) -> Server:
    """Taking logins, with one user `shop` whose password is OLD."""
    boss = "root" if container.engine == "mariadb" else "boss"
    async with asyncio.timeout(READY):
        while not await container.admits(boss, ROOT):
            await asyncio.sleep(0.05)  # there is no event: the server's own log is not on a stream of ours
    if container.engine == "mariadb":
        async with session(container, "root", ROOT) as root:
            for host in ("%", "localhost", "10.%"):
                await execute(root, f"CREATE OR REPLACE USER shop@'{host}' IDENTIFIED BY '{OLD}'")
            await execute(root, "CREATE OR REPLACE USER local@localhost IDENTIFIED BY 'x'")
    else:
        async with session(container, "boss", ROOT) as root:
            if not await root.fetchval("SELECT 1 FROM pg_roles WHERE rolname = 'shop'"):
                await root.execute("CREATE ROLE shop LOGIN")
            await root.execute(f"ALTER ROLE shop PASSWORD '{OLD}'")
    return container


@asynccontextmanager
async def session(server: Server, user: str = "shop", password: str = OLD) -> AsyncIterator[Any]:
    """A client's own connection, with nothing of ours."""
    if server.engine == "postgres":
        connection = await asyncpg.connect(
            host=server.address, user=user, password=password, database="shop", ssl=False
        )
        try:
            yield connection
        finally:
            connection.terminate()
        return
    connection = await aiomysql.connect(
        host=server.address, user=user, password=password.encode().decode("latin-1"), autocommit=None
    )
    try:
        yield connection
    finally:
        connection.close()


async def execute(connection: Any, statement: str) -> Any:
    if isinstance(connection, asyncpg.Connection):
        return await connection.execute(statement)
    async with connection.cursor() as cursor:
        await cursor.execute(statement)
        return await cursor.fetchall()


def details(password: str = OLD, root: str = "") -> DatabaseDetails:
    return DatabaseDetails("shop", password, "shop", root)


of_mariadb = pytest.mark.parametrize("container", ["mariadb"], indirect=True)


@pytest.mark.engine
async def test_the_old_one_fails_and_the_new_one_works(server: Server) -> None:
    """R45."""
    changed = await server.servers(details()).change_password("shop-db", NEW)
    assert (changed.old.password, changed.details.password, changed.details.user) == (OLD, NEW, "shop")
    assert await server.admits("shop", NEW)
    assert not await server.admits("shop", OLD)


@pytest.mark.engine
async def test_a_user_without_the_right_changes_its_own_account_and_says_so(server: Server) -> None:
    changed = await server.servers(details()).change_password("shop-db", NEW)
    if server.engine == "mariadb":
        assert changed.accounts == ("shop@%",)
        (note,) = changed.notes
        assert note.startswith("whether shop has accounts beside shop@% cannot be seen")
    else:
        assert (changed.accounts, changed.notes) == (("shop",), ())


@pytest.mark.engine
@of_mariadb
async def test_the_administrator_changes_every_account(server: Server) -> None:
    """R41: one password, from wherever the user comes."""
    changed = await server.servers(details(root=ROOT)).change_password("shop-db", NEW)
    assert sorted(changed.accounts) == ["shop@%", "shop@10.%", "shop@localhost"]
    assert changed.notes == ()
    assert changed.details.root_password == ""
    said = docker("exec", server.name, "mariadb", "-ushop", f"-p{NEW}", "-N", "-e", "SELECT CURRENT_USER()")
    assert said == "shop@localhost"


@pytest.mark.engine
@of_mariadb
async def test_other_ways_in_stay_and_accounts_without_a_password_are_named(server: Server) -> None:
    async with session(server, "root", ROOT) as root:
        ways = "IDENTIFIED VIA mysql_native_password USING PASSWORD('x') OR unix_socket"
        await execute(root, f"CREATE OR REPLACE USER shop@localhost {ways}")
        await execute(root, "CREATE OR REPLACE USER shop@'10.%' IDENTIFIED VIA unix_socket")
        changed = await server.servers(details(root=ROOT)).change_password("shop-db", NEW)
        assert sorted(changed.accounts) == ["shop@%", "shop@localhost"]
        (note,) = changed.notes
        assert note.startswith("shop@10.%: takes no password")
        ((created,),) = await execute(root, "SHOW CREATE USER shop@localhost")
    assert created.endswith("OR unix_socket")


@pytest.mark.engine
@of_mariadb
async def test_an_account_of_another_kind_keeps_its_kind(server: Server) -> None:
    async with session(server, "root", ROOT) as root:
        await execute(root, "INSTALL SONAME 'auth_ed25519'")
        try:
            await execute(root, "CREATE OR REPLACE USER shop@localhost IDENTIFIED VIA ed25519 USING PASSWORD('x')")
            changed = await server.servers(details(root=ROOT)).change_password("shop-db", NEW)
            assert "shop@localhost" in changed.accounts
            ((plugin,),) = await execute(
                root, "SELECT plugin FROM mysql.user WHERE User = 'shop' AND Host = 'localhost'"
            )
        finally:
            await execute(root, "DROP USER shop@localhost")
            await execute(root, "UNINSTALL SONAME 'auth_ed25519'")
    assert plugin == "ed25519"


@pytest.mark.engine
async def test_every_character_arrives_as_it_is(server: Server) -> None:
    """The server's own client proves it, which gets the password by its environment."""
    password = OLD
    for new in EVERY_CHARACTER:
        await server.servers(details(password, ROOT)).change_password("shop-db", new)
        assert not await server.admits("shop", password)
        words = {
            "mariadb": ("-e", f"MYSQL_PWD={new}", server.name, "mariadb", "-ushop", "-N", "-e", "SELECT 'in'"),
            "postgres": (
                *("-e", f"PGPASSWORD={new}", server.name, "psql", "-h", server.address),
                *("-U", "shop", "-d", "shop", "-Atc", "SELECT 'in'"),
            ),
        }[server.engine]
        assert docker("exec", *words) == "in"
        password = new


@pytest.mark.engine
@of_mariadb
@pytest.mark.parametrize("mode", ["NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "ANSI,TRADITIONAL,NO_BACKSLASH_ESCAPES"])
@pytest.mark.parametrize("hashed", [True, False])
async def test_the_servers_sql_mode_does_not_matter(
    server: Server, mode: str, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for a hash nor for a password that stands in the statement."""
    if not hashed:
        monkeypatch.setattr(mysql, "_set_in_mariadb", lambda account, secret: _set_in_mariadb(account, secret)[1:])
    password = OLD
    async with session(server, "root", ROOT) as root:
        await execute(root, f"SET GLOBAL sql_mode = '{mode}'")
        try:
            for new in EVERY_CHARACTER[: None if hashed else -1]:  # in a statement nothing beyond U+FFFF arrives
                await server.servers(details(password, ROOT)).change_password("shop-db", new)
                assert await server.admits("shop", new)
                password = new
        finally:
            await execute(root, "SET GLOBAL sql_mode = DEFAULT")


@pytest.mark.engine
async def test_a_quoted_user_is_a_name_and_nothing_else(server: Server) -> None:
    user = 'o\'hara "x" \\ `y`'
    boss = "root" if server.engine == "mariadb" else "boss"
    async with session(server, boss, ROOT) as root:
        if server.engine == "mariadb":
            name = "'o\\'hara \"x\" \\\\ `y`'"
            await execute(root, f"CREATE OR REPLACE USER {name}@'%' IDENTIFIED BY '{OLD}'")
        else:
            name = '"o\'hara ""x"" \\ `y`"'
            await execute(root, f"DROP ROLE IF EXISTS {name}")
            await execute(root, f"CREATE ROLE {name} LOGIN PASSWORD '{OLD}'")
    servers = server.servers(DatabaseDetails(user, OLD, "shop", ROOT))
    await servers.change_password("shop-db", NEW)
    assert await server.admits(user, NEW)


@pytest.mark.engine
async def test_the_administrators_own_password(server: Server) -> None:
    boss = "root" if server.engine == "mariadb" else "boss"
    root = ROOT if server.engine == "mariadb" else ""
    changed = await server.servers(DatabaseDetails(boss, ROOT, "shop", root)).change_password("shop-db", NEW)
    after = changed.details
    try:
        assert await server.admits(boss, NEW)
        assert after.root_password == (NEW if server.engine == "mariadb" else "")
    finally:
        login = DatabaseDetails(boss, NEW, "shop", NEW if server.engine == "mariadb" else "")
        await server.servers(login).change_password("shop-db", ROOT)
    assert await server.admits(boss, ROOT)


@pytest.mark.engine
async def test_a_change_that_was_made_already_is_made_again_for_every_account(server: Server) -> None:
    """What a crash right after the statement leaves: the store still has the old one."""
    servers = server.servers(details(root=ROOT if server.engine == "mariadb" else ""))
    await servers.change_password("shop-db", NEW)
    changed = await servers.change_password("shop-db", NEW)
    assert changed.details.password == NEW
    await server.servers(details()).change_password("shop-db", NEW)
    assert await server.admits("shop", NEW)


@pytest.mark.engine
@of_mariadb
async def test_the_administrator_replaces_a_password_that_nobody_knows(server: Server) -> None:
    changed = await server.servers(details("forgotten", ROOT)).change_password("shop-db", NEW)
    assert changed.details.password == NEW
    assert await server.admits("shop", NEW)


@pytest.mark.engine
async def test_without_a_login_that_works_nothing_changes(server: Server) -> None:
    with pytest.raises(LoginFailedError, match="refused the user 'shop' with this password") as caught:
        await server.servers(details("wrong")).change_password("shop-db", NEW)
    assert not isinstance(caught.value, PasswordUncertainError)
    assert await server.admits("shop", OLD)


@pytest.mark.engine
@of_mariadb
async def test_what_the_server_does_not_take_changes_nothing_and_is_not_repeated(server: Server) -> None:
    """A server's own rules come on top of ours."""
    async with session(server, "root", ROOT) as root:
        await execute(root, "INSTALL SONAME 'simple_password_check'")
        try:
            await execute(root, "SET GLOBAL simple_password_check_minimal_length = 30")
            with pytest.raises(PasswordRefusedError) as caught:
                await server.servers(details(root=ROOT)).change_password("shop-db", NEW)
        finally:
            await execute(root, "UNINSTALL SONAME 'simple_password_check'")
    assert "refused the new password of shop" in str(caught.value)
    assert NEW not in str(caught.value)
    assert await server.admits("shop", OLD)


@pytest.mark.engine
async def test_the_old_one_is_set_back_where_the_new_one_lets_nobody_in(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is told another password than the one that is tried."""
    if server.engine == "mariadb":
        monkeypatch.setattr(mysql, "_set_in_mariadb", lambda account, secret: _garbled(account, secret))
    else:
        garbled = "scram_verifier", lambda secret: scram_verifier("x" if secret == NEW else secret)
        monkeypatch.setattr(postgres, *garbled)
    with pytest.raises(PasswordRefusedError, match="so the old one was set back"):
        await server.servers(details()).change_password("shop-db", NEW)
    assert await server.admits("shop", OLD)


_set_in_mariadb = mysql._set_in_mariadb


def _garbled(account: Any, secret: str) -> tuple[str, ...]:
    return _set_in_mariadb(account, "x" if secret == NEW else secret)


@pytest.mark.engine
async def test_sessions_from_before_end_on_demand_and_no_others(server: Server) -> None:
    """B7."""
    boss = "root" if server.engine == "mariadb" else "boss"
    async with session(server) as before, session(server, boss, ROOT) as other:
        kept = await server.servers(details()).change_password("shop-db", NEW)
        assert kept.ended == 0
        await execute(before, "SELECT 1")
        changed = await server.servers(details(NEW)).change_password("shop-db", OLD, disconnect=True)
        assert changed.ended == 1
        # The last is asyncpg's word where it is asked while it reads that the server has ended the session.
        ends = OperationalError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
        with pytest.raises(ends):
            await execute(before, "SELECT 1")
        await execute(other, "SELECT 1")


@pytest.mark.engine
async def test_logins_of_our_own_are_no_sessions_that_were_ended(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server lists them for a while after they have ended: here for as long as the change takes."""
    kept: list[Any] = []

    async def close(connection: Any) -> None:
        kept.append(connection)

    with monkeypatch.context() as patched:
        patched.setattr(aiomysql.Connection, "close", lambda ended: kept.append(ended))  # bound, as append is not
        patched.setattr(asyncpg.Connection, "close", close)
        patched.setattr(asyncpg.Connection, "terminate", lambda _: None)
        changed = await server.servers(details(root=ROOT)).change_password("shop-db", NEW, disconnect=True)
    for connection in kept:
        connection.close() if server.engine == "mariadb" else connection.terminate()
    await asyncio.sleep(0)  # transports close at the loop's next turn
    assert len(kept) > 1
    assert changed.ended == 0


@pytest.mark.engine
async def test_no_statement_holds_a_password(server: Server) -> None:
    """The general log of MariaDB, and PostgreSQL's of all statements."""
    boss = "root" if server.engine == "mariadb" else "boss"
    async with session(server, boss, ROOT) as root:
        if server.engine == "mariadb":
            await execute(root, "SET GLOBAL log_output = 'TABLE'")
            await execute(root, "SET GLOBAL general_log = 1")
            await server.servers(details(root=ROOT)).change_password("shop-db", NEW)
            await execute(root, "SET GLOBAL general_log = 0")
            logged = str(await execute(root, "SELECT argument FROM mysql.general_log"))
        else:
            await execute(root, "ALTER SYSTEM SET log_statement = 'all'")
            await execute(root, "SELECT pg_reload_conf()")
            await server.servers(details()).change_password("shop-db", NEW)
            await execute(root, "ALTER SYSTEM RESET log_statement")
            done = subprocess.run(["docker", "logs", server.name], capture_output=True, text=True, check=True)
            logged = done.stdout + done.stderr
    assert "SET PASSWORD" in logged or "ALTER ROLE" in logged
    assert NEW not in logged
    assert OLD not in logged


@pytest.mark.engine
async def test_two_hundred_generated_passwords_log_in(server: Server) -> None:
    """R44, on one connection that changes and one login each."""
    boss = "root" if server.engine == "mariadb" else "boss"
    driver = server.driver()
    password = OLD
    for _ in range(200):
        new = generate()
        change = Change("shop", password, new, "shop")
        await driver.change_password(server.address, server.port, ("shop", password), change, DEADLINE)
        password = new
    assert await server.admits("shop", password)
    assert await server.admits(boss, ROOT)


@pytest.mark.engine
async def test_who_can_no_longer_be_asked_may_have_changed_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost with the statement on its way."""
    driver = server.driver()

    async def lost(*_: Any, **__: Any) -> str:
        raise ConnectionResetError

    if server.engine == "mariadb":
        monkeypatch.setattr(mysql, "_done", lost)
    else:
        monkeypatch.setattr(asyncpg.Connection, "execute", lost)
    with pytest.raises(PasswordUncertainError, match="is not known yet"):
        change = Change("shop", OLD, NEW, "shop")
        await driver.change_password(server.address, server.port, ("shop", OLD), change, DEADLINE)


def test_mysql_is_told_in_one_statement_for_each_account_and_keeps_its_plugin() -> None:
    """MySQL's manual, "ALTER USER Statement": without WITH the account would get the default plugin."""
    account = mysql._Account("o'hara", "%", "caching_sha2_password")
    (statement,) = mysql._set_in_mysql(account, "Aa1'\\\"")
    assert statement == ("ALTER USER 'o\\'hara'@'%' IDENTIFIED WITH 'caching_sha2_password' BY 'Aa1\\'\\\\\"'")
    assert mysql._set_in_mysql(mysql._Account("root", "localhost", "auth_socket"), NEW) == ()
    assert mysql._set_in_mysql(mysql._Account("shop", "%", ""), NEW) == (f"ALTER USER USER() IDENTIFIED BY '{NEW}'",)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProgrammingError(1064, "an error near 'BY 'Aa1\\'\\\"xyz"), "is not changed by any statement that this"),
        (OperationalError(1819, "weak: 'Aa1\\'\"\xa0' " + "x" * 300), "weak: *** xxx"),
        (OperationalError(1819, "x" * 190 + "Aa1'\"\xa0"), "x" * 190 + "***"),
        (OperationalError(1819, "no secret, and no old one"), "no secret, and no old one"),
    ],
)
async def test_a_refusal_shows_no_part_of_a_password(
    error: MySQLError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(mysql, "_query", refuse)
    shown = await mysql._done(None, ("SET PASSWORD",), Change("shop", "", "Aa1'\"\xa0"))
    assert shown.startswith(said)
    assert "Aa1" not in shown


def test_a_verifier_is_that_of_the_rfc() -> None:
    """RFC 7677 section 3: user "user", password "pencil"."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    found = scram_verifier("pencil", salt, 4096)
    assert found.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    stored_key, server_key = (base64.b64decode(key) for key in found.rpartition("$")[2].split(":"))
    first = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    first += "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored_key, first.encode(), "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key
    said = base64.b64encode(hmac.digest(server_key, first.encode(), "sha256")).decode()
    assert said == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    ("password", "becomes"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0031", "\u0627\u0031"),
    ],
)
def test_a_password_is_prepared_as_rfc_4013_says(password: str, becomes: str) -> None:
    """Section 3 of it; what is prohibited is used as it is, as PostgreSQL does."""
    assert prepared(password) == becomes
