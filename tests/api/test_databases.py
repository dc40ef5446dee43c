import pytest

from memory_daemon import LOGIN, PASSWORD, MemoryDaemon
from sidegate.api import logins
from sidegate.api.schemas import DatabaseRequest
from sidegate.core.model import DatabaseDetails
from sidegate.errors import FixedPortError, InvalidInputError, NotFoundError


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    daemon.database("shop-db")
    daemon.app("shop")
    return await daemon.settled()


async def test_credentials_are_the_containers_own_checked_over_its_home_network(node: MemoryDaemon) -> None:
    """R14, R37."""
    found = await node.commands.databases.credentials("shop-db")
    assert (found.user, found.password, found.schema, found.engine) == ("shop", PASSWORD, "shop", "mariadb")
    assert found.checked == "ok"
    assert found.unknown == []
    assert node.logins.asked == ["mariadb://shop@10.213.0.2:3306"]
    assert (found.internal.host, found.internal.port) == ("shop-db.internal", 3306)
    assert found.internal.command == "mariadb -h shop-db.internal -P 3306 -u shop -p shop"
    assert found.internal.url == ("mysql://shop:pa%27%24s%22w%60ord%2C%20%C3%A9%0A@shop-db.internal:3306/shop")


async def test_the_external_part_is_null_until_it_was_on_once(node: MemoryDaemon) -> None:
    never = (await node.commands.databases.credentials("shop-db")).external
    assert (never.enabled, never.port, never.url, never.command) == (False, None, None, None)
    await node.commands.externals.on("shop-db")
    on = (await node.commands.databases.credentials("shop-db")).external
    assert (on.enabled, on.port) == (True, 30000)
    assert on.command == "mariadb -h 203.0.113.7 -P 30000 -u shop -p shop"
    assert on.url is not None
    assert on.url.startswith("mysql://shop:pa%27")


async def test_what_is_unknown_is_said(daemon: MemoryDaemon) -> None:
    daemon.database("bare", env={"MARIADB_USER": "shop"})
    await daemon.settled()
    found = await daemon.commands.databases.credentials("bare")
    assert found.unknown == ["password", "schema"]
    assert (found.password, found.schema, found.internal.url) == (None, None, None)
    assert found.checked == "unknown: give its password and schema with `sidegate db set bare`"
    assert daemon.logins.asked == []


async def test_what_people_gave_wins(node: MemoryDaemon) -> None:
    await node.commands.databases.set("shop-db", DatabaseRequest(password="N3w-password"))
    found = await node.commands.databases.credentials("shop-db")
    assert (found.user, found.password) == ("shop", "N3w-password")
    assert found.checked == "refused: Access denied for user 'shop'"


async def test_parts_that_are_left_out_stay_and_an_empty_one_is_forgotten(node: MemoryDaemon) -> None:
    databases = node.commands.databases
    await databases.set("shop-db", DatabaseRequest(user="a", password="b"))
    await databases.set("shop-db", DatabaseRequest(schema="c", root_password="d"))
    assert node.store.intent.databases["shop-db"] == DatabaseDetails("a", "b", "c", "d")
    await databases.set("shop-db", DatabaseRequest(user="", password="", schema="", root_password=""))
    assert (await databases.credentials("shop-db")).user == "shop"


async def test_secrets_in_files_are_read_in_the_container(daemon: MemoryDaemon) -> None:
    env = {**LOGIN, "MARIADB_PASSWORD": "", "MARIADB_PASSWORD_FILE": "/run/secrets/password"}
    container = daemon.database("shop-db", env=env)
    daemon.engine.files[container.id, "/run/secrets/password"] = b"from-a-file\n"
    await daemon.settled()
    assert (await daemon.commands.databases.credentials("shop-db")).password == "from-a-file"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
async def test_a_file_that_cannot_be_read_leaves_its_part_unknown(daemon: MemoryDaemon, content: bytes | None) -> None:
    container = daemon.database("shop-db", env={"MARIADB_USER": "shop", "MARIADB_PASSWORD_FILE": "/gone"})
    if content:
        daemon.engine.files[container.id, "/gone"] = content
    await daemon.settled()
    assert "password" in (await daemon.commands.databases.credentials("shop-db")).unknown


async def test_another_port_is_refused_with_the_sentence(node: MemoryDaemon) -> None:
    """R28; even for a database that is not there, and 3306 itself changes nothing."""
    for name in ("shop-db", "nothing"):
        with pytest.raises(FixedPortError, match=r"^the internal port is 3306 and cannot be changed$"):
            await node.commands.databases.set(name, DatabaseRequest(port=5432, user="x"))
    await node.commands.databases.set("shop-db", DatabaseRequest(port=3306))
    assert not node.store.intent.databases


async def test_nothing_and_nonsense_are_refused(node: MemoryDaemon) -> None:
    databases = node.commands.databases
    with pytest.raises(InvalidInputError, match="nothing to set"):
        await databases.set("shop-db", DatabaseRequest())
    for request in (DatabaseRequest(user="a\nb"), DatabaseRequest(password="a\0b"), DatabaseRequest(schema="\x1b[2J")):
        with pytest.raises(InvalidInputError, match="no login can have"):
            await databases.set("shop-db", request)
    with pytest.raises(NotFoundError, match=r"did you mean shop-db\? \(known: shop-db\)"):
        await databases.set("shop-bd", DatabaseRequest(user="x"))
    assert not node.store.intent.databases


async def test_a_server_that_does_not_answer_is_given_up_on(
    node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "CHECK_SECONDS", 0.01)
    node.logins.stuck = True
    assert (await node.commands.databases.show("shop-db")).login.startswith("unknown: no answer")


async def test_a_stopped_database_is_not_asked(node: MemoryDaemon) -> None:
    node.engine.stop(node.engine.container("shop-db-1").id)
    await node.settled()
    (found,) = await node.commands.databases.ls()
    assert (found.state, found.login) == ("exited", "unknown: shop-db-1 is exited")
    assert node.logins.asked == []


async def test_show_names_who_reaches_it_without_a_connection(node: MemoryDaemon) -> None:
    """R12: isolation that does not hold is said."""
    node.engine.add_network("legacy", "192.168.50.0/24")
    for name in ("shop-db-1", "shop-1"):
        await node.engine.connect(node.engine.container(name).id, "legacy", frozenset())
    node.engine.update(node.engine.container("shop-db-1").id, published_ports=(3306,))
    await node.settled()
    found = await node.commands.databases.show("shop-db")
    assert [(e.network, e.containers) for e in found.exposures] == [("legacy", ["shop-1"])]
    assert found.published_ports == [3306]
    texts = [p.text for p in found.problems]
    assert any("publishes port 3306" in text for text in texts)
    assert any("through legacy" in text and "shop-1" in text for text in texts)


async def test_a_postgresql_is_reached_at_3306_with_its_own_words(daemon: MemoryDaemon) -> None:
    labels = {"sidegate.database": "shop-pg", "sidegate.engine": "postgres"}
    daemon.engine.run("shop-pg-1", labels=labels, env={"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": PASSWORD})
    await daemon.settled()
    found = await daemon.commands.databases.credentials("shop-pg")
    assert (found.engine, found.user, found.schema, found.checked) == ("postgres", "shop", "shop", "ok")
    assert daemon.logins.asked == ["postgres://shop@10.213.0.2:3306"]
    assert found.internal.url == "postgresql://shop:pa%27%24s%22w%60ord%2C%20%C3%A9%0A@shop-pg.internal:3306/shop"
    assert found.internal.command == "psql -h shop-pg.internal -p 3306 -U shop -d shop"


async def test_connecting_with_env_brings_a_postgresql_url(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    labels = {"sidegate.database": "shop-pg", "sidegate.engine": "postgres"}
    daemon.engine.run("shop-pg-1", labels=labels, env={"POSTGRES_PASSWORD": PASSWORD})
    await daemon.settled()
    await daemon.connect("shop", "shop-pg", env=True)
    stored = {variable.key: variable.value for variable in daemon.store.intent.env["shop"]}
    assert (stored["DB_PORT"], stored["DB_USER"], stored["DB_NAME"]) == ("3306", "postgres", "postgres")
    assert stored["DB_CONNECTION_URL"].startswith("postgresql://postgres:pa%27")


async def test_a_server_that_locks_addresses_out_is_warned_about(node: MemoryDaemon) -> None:
    """All external clients have one address there."""
    node.logins.most["shop-db"] = 100
    found = await node.commands.externals.on("shop-db")
    assert [text for text in found.warnings if "once 100 of them" in text]


@pytest.mark.parametrize(("speaks", "warned"), [(False, True), (True, False), (None, False)])
async def test_a_database_that_speaks_no_tls_is_warned_about_while_it_is_on(
    node: MemoryDaemon, speaks: bool | None, warned: bool
) -> None:
    """One that cannot be asked is not."""
    if speaks is not None:
        node.logins.tls["shop-db"] = speaks
    found = [await node.commands.externals.show("shop-db"), await node.commands.externals.on("shop-db")]
    found.append(await node.commands.externals.show("shop-db"))
    assert [any("speaks no TLS" in text for text in view.warnings) for view in found] == [False, warned, warned]
