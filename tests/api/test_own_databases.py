"""The verbs `db create` and `db rm`, beside an engine in memory."""

import pytest

from memory_daemon import MemoryDaemon
from sidegate.api import schemas
from sidegate.api.schemas import CreateDatabaseRequest
from sidegate.core.model import Container, DatabaseDetails, OwnDatabase
from sidegate.errors import EngineError, InvalidInputError, NotFoundError, RefusedError

CONTAINER = VOLUME = "sidegate-db--shop-db"


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    """Each server that starts takes the password that its container was given."""

    def started(container: Container) -> None:
        if password := container.env.get("MARIADB_PASSWORD"):
            daemon.logins.take(password)
            daemon.databases.logins["shop-db"] = DatabaseDetails(
                container.env["MARIADB_USER"], password, container.env["MARIADB_DATABASE"]
            )

    daemon.workloads.started = started
    daemon.app("shop")
    return await daemon.settled()


def asked(name: str = "shop-db", engine: str = "mariadb", **options: object) -> CreateDatabaseRequest:
    return CreateDatabaseRequest(name, engine, **options)  # type: ignore[arg-type]


async def test_a_database_is_made_on_its_home_network_alone_and_takes_logins(node: MemoryDaemon) -> None:
    told: list[str] = []
    done = await node.commands.own_databases.create(asked(), told.append)
    assert (done.container, done.volume, done.user, done.schema) == (CONTAINER, VOLUME, "shop_db", "shop_db")
    assert (done.engine, done.image) == ("mariadb", "mariadb")
    container = node.engine.container(CONTAINER)
    assert [e.network for e in container.endpoints] == ["sidegate-home--shop-db"]
    found = await node.commands.databases.credentials("shop-db")
    assert (found.password, found.checked) == (done.password, "ok")
    assert node.store.intent.own_databases == {"shop-db": OwnDatabase("mariadb", "mariadb", VOLUME)}
    assert told[0] == "fetching the image mariadb"
    assert not any(done.password in line for line in told if done.password)
    assert (await node.commands.databases.show("shop-db")).volume == VOLUME


async def test_an_app_is_connected_to_it_like_to_any_other(node: MemoryDaemon) -> None:
    done = await node.commands.own_databases.create(asked(user="u", schema="s"))
    await node.connect("shop", "shop-db", env=True)
    stored = {v.key: v.value for v in node.store.intent.env["shop"]}
    assert (stored["DB_USER"], stored["DB_NAME"], stored["DB_PASSWORD"]) == ("u", "s", done.password)


async def test_a_given_password_is_set_after_the_first_login(node: MemoryDaemon) -> None:
    """Whatever the image's own scripts would make of its quotes."""
    password = "Given'\"pa$s`w\\rd1"
    done = await node.commands.own_databases.create(asked(password=password))
    assert done.password is None
    assert password not in node.engine.container(CONTAINER).env.values()
    assert (await node.commands.databases.credentials("shop-db")).password == password


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (asked(engine="oracle"), "not a database engine that is known: mariadb, mysql, postgres"),
        (asked(name="Shop"), "is not a name"),
        (asked(password="weak"), "8 characters"),
        (asked(user="root"), "root is the administrator"),
        (asked(existing_volume=True), "give its password"),
    ],
)
async def test_what_cannot_be_made_is_refused(node: MemoryDaemon, request_: CreateDatabaseRequest, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        await node.commands.own_databases.create(request_)
    assert not node.store.intent.own_databases


async def test_a_name_that_is_taken_is_refused(node: MemoryDaemon) -> None:
    node.database("other-db")
    await node.settled()
    for name, kind in (("shop", "an app"), ("other-db", "a database")):
        with pytest.raises(RefusedError, match=f"there is {kind} {name} already"):
            await node.commands.own_databases.create(asked(name=name))


async def test_a_container_of_that_name_is_left_alone(node: MemoryDaemon) -> None:
    other = node.engine.run(CONTAINER)
    with pytest.raises(RefusedError, match=f"there is a container {CONTAINER} already"):
        await node.commands.own_databases.create(asked())
    assert node.engine.container(CONTAINER) == other
    assert not node.store.intent.own_databases


async def test_a_volume_that_is_there_is_taken_up_only_on_demand(node: MemoryDaemon) -> None:
    node.volumes.names.add(VOLUME)
    with pytest.raises(RefusedError, match=f"the volume {VOLUME} is there already"):
        await node.commands.own_databases.create(asked())
    done = await node.commands.own_databases.create(asked(existing_volume=True, password="as it was"))
    assert done.password is None
    assert (await node.commands.databases.credentials("shop-db")).password == "as it was"
    with pytest.raises(NotFoundError, match="no volume sidegate-db--other"):
        await node.commands.own_databases.create(asked(name="other", existing_volume=True, password="x"))


async def test_one_that_does_not_come_up_is_gone_again_with_its_last_lines(node: MemoryDaemon) -> None:
    def fail(container: Container) -> None:
        node.volumes.names.add(VOLUME)
        node.workloads.say(container.id, f"no space left on {container.env['MARIADB_PASSWORD']}")
        node.workloads.end(container.id, 1)

    node.workloads.started = fail
    with pytest.raises(EngineError, match=r"its container ended; its last lines:\nno space left on \*\*\*"):
        await node.commands.own_databases.create(asked())
    await node.settled()
    assert not any(c.name == CONTAINER for c in (await node.engine.observe()).containers)
    assert node.volumes.names == set()
    assert not node.store.intent.own_databases
    assert "shop-db" not in node.commands.world.databases


async def test_a_failure_never_takes_a_volume_with_data_in_it(node: MemoryDaemon) -> None:
    node.volumes.names.add(VOLUME)
    node.workloads.started = lambda container: node.workloads.end(container.id, 1)
    with pytest.raises(EngineError):
        await node.commands.own_databases.create(asked(existing_volume=True, password="as it was"))
    assert node.volumes.names == {VOLUME}


# --- removing


async def test_it_goes_and_its_volume_stays(node: MemoryDaemon) -> None:
    await node.commands.own_databases.create(asked())
    node.volumes.names.add(VOLUME)
    await node.connect("shop", "shop-db", env=True)
    await node.commands.externals.on("shop-db")
    done = await node.commands.own_databases.rm("shop-db")
    assert (done.container, done.kept_container, done.volume, done.kept_volume) == (CONTAINER, None, None, VOLUME)
    assert (done.disconnected, done.external_port, done.variables_removed) == (["shop"], 30000, 6)
    assert node.volumes.names == {VOLUME}
    assert not node.data_plane.listeners()
    assert not node.store.intent.connections
    assert [n.name for n in (await node.engine.observe()).networks if n.name.startswith("sidegate-")] == []
    with pytest.raises(NotFoundError):
        await node.commands.databases.show("shop-db")


async def test_its_volume_goes_where_that_is_said(node: MemoryDaemon) -> None:
    await node.commands.own_databases.create(asked())
    node.volumes.names.add(VOLUME)
    done = await node.commands.own_databases.rm("shop-db", volume=True)
    assert (done.volume, done.kept_volume) == (VOLUME, None)
    assert node.volumes.names == set()


async def test_one_that_others_run_goes_on_running(node: MemoryDaemon) -> None:
    node.database("other-db")
    await node.settled()
    await node.connect("shop", "other-db", env=True)
    with pytest.raises(RefusedError, match="was not made by Sidegate"):
        await node.commands.own_databases.rm("other-db", volume=True)
    done = await node.commands.own_databases.rm("other-db")
    assert (done.container, done.kept_container, done.disconnected) == (None, "other-db-1", ["shop"])
    assert node.engine.container("other-db-1").running
    assert not node.store.intent.connections
    assert not node.store.intent.env.get("shop")


async def test_one_whose_container_is_gone_already_can_be_removed(node: MemoryDaemon) -> None:
    await node.commands.own_databases.create(asked())
    node.engine.remove(node.engine.container(CONTAINER).id)
    await node.settled()
    assert (await node.commands.own_databases.rm("shop-db")).kept_volume == VOLUME


async def test_a_purge_removes_containers_and_keeps_volumes(node: MemoryDaemon) -> None:
    await node.commands.own_databases.create(asked())
    node.volumes.names.add(VOLUME)
    done = await node.commands.node.purge()
    assert done.kept_volumes == [VOLUME]
    assert node.volumes.names == {VOLUME}
    assert not any(c.name == CONTAINER for c in (await node.engine.observe()).containers)


async def test_the_command_line_makes_asks_and_removes(node: MemoryDaemon) -> None:
    made = await node.sidegate("db", "create", "shop-db", "--engine", "mariadb", "--table")
    assert made.returncode == 0, made.stderr
    password = (await node.commands.databases.credentials("shop-db")).password
    assert password
    assert password in made.stdout
    assert password not in made.stderr
    refused = await node.sidegate("db", "rm", "shop-db")
    assert (refused.returncode, "say --yes" in refused.stderr) == (2, True)
    assert "shop-db" in node.commands.world.databases
    removed = await node.sidegate("db", "rm", "shop-db", "--yes", "--table")
    assert removed.returncode == 0, removed.stderr
    assert f"its data stays in the volume {VOLUME}" in removed.stdout
    entries = await node.call("GET", "/v1/audit", list[schemas.AuditView])
    assert [(e.verb, e.target) for e in entries][:2] == [("db rm", "shop-db"), ("db create", "shop-db mariadb")]
