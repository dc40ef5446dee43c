import asyncio
import contextlib
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from memory_daemon import LOGIN, PASSWORD, MemoryDaemon, running
from sidegate.api import connections
from sidegate.api.logins import known_login
from sidegate.api.schemas import ConnectRequest, DatabaseRequest
from sidegate.api.world import World
from sidegate.core.database_engines import DatabaseEngine
from sidegate.core.model import DatabaseDetails, Pair, Rules
from sidegate.errors import (
    DuplicateConnectionError,
    EngineError,
    EngineUnavailableError,
    InvalidInputError,
    KeyClashError,
    NotFoundError,
    PoolExhaustedError,
    RefusedError,
    SidegateError,
)

SHOP = Pair.of("shop", "shop-db")
NETWORK = "sidegate-shop--shop-db"


@pytest.fixture
async def shop(daemon: MemoryDaemon) -> MemoryDaemon:
    """One app and one database, not connected."""
    daemon.app("shop")
    daemon.database("shop-db")
    return await daemon.settled()


async def refused(daemon: MemoryDaemon, error: type[SidegateError], *parts: str, **request: object) -> str:
    """A `connect` that must fail with these words, and change nothing."""
    before, networks = daemon.store.intent, [n.name for n in daemon.loop.last.state.networks]
    with pytest.raises(error) as caught:
        await daemon.commands.connections.connect(ConnectRequest(**request))  # type: ignore[arg-type]
    text = str(caught.value)
    assert all(part in text for part in parts), text
    await daemon.settled()
    assert daemon.store.intent == before
    assert [n.name for n in daemon.loop.last.state.networks] == networks
    return text


async def test_connect_returns_once_both_ends_are_attached(shop: MemoryDaemon) -> None:
    done = await shop.connect("shop", "shop-db")
    assert done.network == NETWORK
    assert done.attached == ["shop-1", "shop-db-1"]
    assert done.variables == []
    endpoint = shop.engine.container("shop-db-1").endpoint(NETWORK)
    assert endpoint is not None
    assert endpoint.aliases == {"shop-db", "shop-db.internal"}


async def test_from_either_end_the_result_is_the_same(shop: MemoryDaemon) -> None:
    """R10."""
    from_app = await shop.connect("shop", "shop-db", env=True)
    await shop.commands.connections.disconnect("shop-db", "shop")
    assert await shop.connect("shop-db", "shop", env=True) == from_app


async def test_env_adds_the_databases_own_values_and_marks_where_they_came_from(shop: MemoryDaemon) -> None:
    done = await shop.connect("shop", "shop-db", env=True, renames={"DB_HOST": "MYSQL_HOST"}, scope="both")
    stored = {v.key: v for v in shop.store.intent.env["shop"]}
    assert list(stored) == done.variables
    assert stored["MYSQL_HOST"].value == "shop-db.internal"
    assert stored["DB_PASSWORD"].value == PASSWORD
    assert stored["DB_PASSWORD"].secret
    assert {v.source for v in stored.values()} == {"connection:shop-db"}
    assert {v.scope for v in stored.values()} == {"both"}
    assert any("a build cannot reach shop-db.internal" in note for note in done.notes)
    assert any("out of date: shop-1 (DB_CONNECTION_URL, " in note for note in done.notes)
    assert any("`sidegate app redeploy shop`" in note for note in done.notes)


async def test_a_password_that_changes_meanwhile_is_the_one_that_is_added(
    shop: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overtaken(world: World, name: str) -> tuple[DatabaseEngine | None, DatabaseDetails]:
        known = await known_login(world, name)
        monkeypatch.undo()
        await shop.store.set_database_details(name, DatabaseDetails(password="New-password1,"))
        return known

    monkeypatch.setattr(connections, "known_login", overtaken)
    await shop.connect("shop", "shop-db", env=True)
    values = {variable.key: variable.value for variable in shop.store.intent.env["shop"]}
    assert values["DB_PASSWORD"] == "New-password1,"


async def test_without_env_nothing_is_added(shop: MemoryDaemon) -> None:
    """R18."""
    await shop.connect("shop", "shop-db")
    assert not shop.store.intent.env


async def test_a_database_is_remembered_when_its_container_is_gone(shop: MemoryDaemon) -> None:
    await shop.connect("shop", "shop-db")
    shop.engine.remove(shop.engine.container("shop-db-1").id)
    await shop.settled()
    (found,) = await shop.commands.databases.ls()
    assert (found.name, found.state, found.engine) == ("shop-db", "absent", None)


async def test_given_details_are_not_forgotten_by_connecting(shop: MemoryDaemon) -> None:
    await shop.sidegate("db", "set", "shop-db", "--user", "other")
    await shop.connect("shop", "shop-db")
    assert shop.store.intent.databases["shop-db"].user == "other"


async def test_two_apps_get_each_others_names(daemon: MemoryDaemon) -> None:
    """B1."""
    daemon.app("web")
    daemon.app("my-api", labels={"sidegate.port": "9000"})
    done = await daemon.connect("web", "my-api", env=True)
    assert done.variables == ["MY_API_HOST", "MY_API_PORT", "MY_API_URL"]
    assert {v.key: v.value for v in daemon.store.intent.env["web"]}["MY_API_URL"] == "http://my-api.internal:9000"


async def test_an_app_may_come_later(shop: MemoryDaemon) -> None:
    done = await shop.connect("later", "shop-db", env=True)
    assert done.attached == ["shop-db-1"]
    assert "docker run -d --label sidegate.app=later --env-file <(sidegate env export later" in done.start_command
    assert any("later has no container yet" in note for note in done.notes)
    (view,) = await shop.commands.connections.ls()
    assert view.state == "waiting"
    shop.app("later")
    await shop.settled()
    (view,) = await shop.commands.connections.ls()
    assert view.state == "up"


async def test_a_likely_slip_in_the_apps_name_is_pointed_out(shop: MemoryDaemon) -> None:
    done = await shop.connect("shopp", "shop-db")
    assert any("did you mean shop?" in note for note in done.notes)


async def test_a_container_that_no_pass_has_seen_yet_is_found(daemon: MemoryDaemon) -> None:
    await daemon.settled()
    daemon.engine.deaf = True
    daemon.app("shop")
    daemon.database("shop-db")
    assert (await daemon.connect("shop", "shop-db")).attached == ["shop-1", "shop-db-1"]


async def test_a_second_connection_of_a_pair_is_refused_in_either_direction(shop: MemoryDaemon) -> None:
    await shop.connect("shop", "shop-db", env=True)
    for app, target in (("shop", "shop-db"), ("shop-db", "shop")):
        await refused(shop, DuplicateConnectionError, "connected already", app=app, target=target, env=True)


async def test_of_many_at_once_one_wins(shop: MemoryDaemon) -> None:
    outcomes = await asyncio.gather(*(shop.connect("shop", "shop-db") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(o, DuplicateConnectionError) for o in outcomes) == 7
    assert shop.store.intent.connections == {SHOP}


async def test_what_cannot_be_connected_is_refused(shop: MemoryDaemon) -> None:
    shop.database("other-db")
    await shop.settled()
    await refused(shop, RefusedError, "itself", app="shop", target="shop")
    await refused(shop, RefusedError, "both databases", app="shop-db", target="other-db")
    await refused(shop, InvalidInputError, "'Shop!'", "a-z", app="Shop!", target="shop-db")
    await refused(shop, InvalidInputError, "reserved", app="shop", target="home")
    await refused(shop, InvalidInputError, "build, runtime or both", app="shop", target="shop-db", scope="never")
    await refused(shop, InvalidInputError, "--env", app="shop", target="shop-db", renames={"DB_HOST": "X"})
    await refused(
        shop, InvalidInputError, "DB_HOTS", "DB_HOST", app="shop", target="shop-db", env=True, renames={"DB_HOTS": "X"}
    )


async def test_an_unknown_target_is_refused_with_what_there_is(shop: MemoryDaemon) -> None:
    await refused(shop, NotFoundError, "'shop-bd'", "did you mean shop-db?", app="shop", target="shop-bd")
    await refused(shop, NotFoundError, "'nothing'", "known: shop, shop-db", app="none", target="nothing")
    await refused(shop, NotFoundError, "'later'", app="later", target="shop")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("host", "host's network"), ("none", "no network"), ("container:x", "shares another container's network")],
)
async def test_a_container_that_cannot_join_is_the_reason(shop: MemoryDaemon, mode: str, reason: str) -> None:
    shop.app("odd", network_mode=mode)
    await shop.settled()
    await refused(shop, RefusedError, "odd-1", reason, app="odd", target="shop-db")


async def test_replicas_that_would_not_fit_twice_are_refused_beforehand(tmp_path: Path) -> None:
    """A /29 has 5 places: the database and twice two replicas just fit, three do not."""
    async with running(tmp_path, Rules(subnet_prefix=29)) as daemon:
        daemon.database("shop-db")
        for number in range(3):
            daemon.app("wide", number)
            daemon.app("fits", number) if number < 2 else None
        await daemon.settled()
        await refused(daemon, RefusedError, "7 containers", "5 places", app="wide", target="shop-db")
        await daemon.connect("fits", "shop-db")


async def test_an_exhausted_pool_is_refused_beforehand(tmp_path: Path) -> None:
    async with running(tmp_path, Rules(pool=IPv4Network("10.213.0.0/26"))) as daemon:
        daemon.database("shop-db")
        await daemon.settled()
        await daemon.connect("one", "shop-db")
        await refused(daemon, PoolExhaustedError, "/27", "10.213.0.0/26", app="two", target="shop-db")


async def test_at_the_pools_end_as_many_succeed_as_there_is_room_for(tmp_path: Path) -> None:
    async with running(tmp_path, Rules(pool=IPv4Network("10.213.0.0/25"))) as daemon:
        daemon.database("shop-db")
        await daemon.settled()
        names = ["one", "two", "three", "four", "five"]
        outcomes = await asyncio.gather(*(daemon.connect(name, "shop-db") for name in names), return_exceptions=True)
        assert sum(isinstance(o, PoolExhaustedError) for o in outcomes) == 2
        assert len(daemon.store.intent.connections) == 3


async def test_a_login_that_is_not_known_is_not_guessed(daemon: MemoryDaemon) -> None:
    daemon.database("bare", env={"MARIADB_ROOT_PASSWORD": "Root-1"})
    await daemon.settled()
    words = ("the schema of bare is not known", "sidegate db set bare --schema")
    await refused(daemon, RefusedError, *words, app="shop", target="bare", env=True)
    daemon.database("empty", env={})
    await daemon.settled()
    words = ("user and the password and the schema", "--password-stdin")
    await refused(daemon, RefusedError, *words, app="shop", target="empty", env=True)
    await daemon.connect("shop", "empty")


async def test_a_login_that_was_refused_is_said_where_its_variables_are_added(shop: MemoryDaemon) -> None:
    await shop.commands.databases.set("shop-db", DatabaseRequest(password="Wrong-1"))
    asked = list(shop.logins.asked)
    done = await shop.connect("shop", "shop-db", env=True)
    assert "DB_PASSWORD" in done.variables
    assert (
        "the last login at shop-db that was tried failed: Access denied for user 'shop'; where it is the login that is "
        "wrong, `sidegate db set shop-db` corrects it" in done.notes
    )
    assert shop.logins.asked == asked, "it is not tried once more"
    shop.app("other")
    assert not [note for note in (await shop.connect("other", "shop-db")).notes if "login" in note]
    await shop.commands.databases.set("shop-db", DatabaseRequest(password=PASSWORD))
    shop.app("third")
    assert not [note for note in (await shop.connect("third", "shop-db", env=True)).notes if "login" in note]


async def test_keys_that_the_app_has_are_listed_and_nothing_is_added(shop: MemoryDaemon) -> None:
    shop.database("other-db")
    await shop.connect("shop", "shop-db", env=True, renames={"DB_HOST": "MYSQL_HOST"})
    words = ("DB_NAME", "DB_PASSWORD", "nothing was changed", "--rename")
    text = await refused(shop, KeyClashError, *words, app="shop", target="other-db", env=True)
    assert "DB_HOST" not in text
    await shop.connect("shop", "other-db", env=True, scope="build")


async def test_an_engine_that_is_away_is_said_before_anything_is_written(shop: MemoryDaemon) -> None:
    shop.engine.unavailable = "gone"
    await shop.settled()
    await refused(shop, EngineUnavailableError, "does not answer", "gone", app="shop", target="shop-db")


@contextlib.contextmanager
def failing(daemon: MemoryDaemon, call: str, *, gone: bool = False) -> Iterator[None]:
    """The engine refuses `call` for the connection's network, each time; `gone`: it goes away at that moment."""
    real = daemon.engine._check

    def check(name: str, change: str = "") -> None:
        if name == call and NETWORK in change:
            if gone:
                daemon.engine.unavailable = "cut off"
                raise EngineUnavailableError("cut off")
            raise EngineError("the disk is full")
        real(name, change)

    daemon.engine._check = check  # type: ignore[assignment]
    yield
    daemon.engine._check = real  # type: ignore[method-assign]
    daemon.engine.unavailable = ""


@pytest.mark.parametrize("call", ["create_network", "connect"])
async def test_a_connection_that_fails_is_taken_back_whole(shop: MemoryDaemon, call: str) -> None:
    """Nothing half done: neither the intent, nor the variables, nor the network stay."""
    with failing(shop, call):
        await refused(shop, EngineError, "the disk is full", app="shop", target="shop-db", env=True)
    assert shop.engine.network(NETWORK) is None
    await shop.connect("shop", "shop-db", env=True)


async def test_an_engine_lost_on_the_way_leaves_nothing(shop: MemoryDaemon) -> None:
    with failing(shop, "connect", gone=True):
        await refused(shop, EngineUnavailableError, "cut off", app="shop", target="shop-db", env=True)
    await shop.settled()
    assert shop.engine.network(NETWORK) is None


async def test_variables_kept_from_before_survive_a_connect_that_fails(shop: MemoryDaemon) -> None:
    await shop.connect("shop", "shop-db", env=True)
    await shop.commands.connections.disconnect("shop", "shop-db", keep_variables=True)
    with failing(shop, "connect"):
        await refused(shop, EngineError, "the disk is full", app="shop", target="shop-db")


async def test_disconnect_says_what_became_of_the_variables(shop: MemoryDaemon) -> None:
    """R33, R36: from either side."""
    await shop.connect("shop", "shop-db", env=True)
    gone = await shop.commands.connections.disconnect("shop", "shop-db")
    assert len(gone.variables_removed) == 6
    assert gone.detached == ["shop-1", "shop-db-1"]
    assert not shop.store.intent.env.get("shop")
    assert shop.engine.network(NETWORK) is None
    await shop.connect("shop", "shop-db", env=True)
    kept = await shop.commands.connections.disconnect("shop-db", "shop", keep_variables=True)
    assert (kept.variables_removed, len(kept.variables_kept)) == ([], 6)
    assert len(shop.store.intent.env["shop"]) == 6


async def test_disconnecting_what_is_not_connected_names_what_is(shop: MemoryDaemon) -> None:
    await shop.connect("shop", "shop-db")
    with pytest.raises(NotFoundError, match=r"shop and other are not connected \(shop is, to shop-db\)"):
        await shop.commands.connections.disconnect("shop", "other")


async def test_a_cut_that_cannot_be_made_now_is_said_and_made_later(shop: MemoryDaemon) -> None:
    await shop.connect("shop", "shop-db")
    shop.engine.unavailable = "gone"
    with pytest.raises(EngineUnavailableError, match="not done yet and goes on: the Docker engine does not answer"):
        await shop.commands.connections.disconnect("shop", "shop-db")
    shop.engine.unavailable = ""
    await shop.settled()
    assert shop.engine.network(NETWORK) is None


async def test_the_list_says_who_is_where(shop: MemoryDaemon) -> None:
    await shop.connect("shop", "shop-db")
    (view,) = await shop.commands.connections.ls()
    assert (view.a, view.b, view.kinds, view.state) == ("shop", "shop-db", ["app", "database"], "up")
    assert view.subnet == "10.213.0.32/27"
    assert [(m.container, m.end, m.attached) for m in view.members] == [
        ("shop-1", "shop", True),
        ("shop-db-1", "shop-db", True),
    ]
    container = shop.engine.container("shop-1")
    shop.engine.stop(container.id)
    await shop.settled()
    (view,) = await shop.commands.connections.ls()
    assert (view.state, view.members[0].address) == ("waiting", None)


async def test_a_member_that_is_missing_makes_it_partly(shop: MemoryDaemon) -> None:
    await shop.connect("shop", "shop-db")
    shop.engine.deaf = True
    await shop.engine.disconnect(shop.engine.container("shop-1").id, NETWORK)
    shop.engine.fail_next["connect"] = EngineError("not now")
    await shop.loop.settle()
    (view,) = await shop.commands.connections.ls()
    assert view.state == "partly"


def test_the_login_of_these_tests_is_nasty_enough() -> None:
    assert {"'", '"', "$", "`", ",", "\n"} <= set(LOGIN["MARIADB_PASSWORD"])
