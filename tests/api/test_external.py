import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from memory_daemon import PASSWORD, MemoryDaemon
from sidegate.core.gates import Gate
from sidegate.core.model import External, Intent
from sidegate.core.sessions import Cut, Listening, Session
from sidegate.errors import (
    DataPlaneError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    PortInUseError,
    RefusedError,
    SidegateError,
)


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    """Two databases and an app; external ports are 30000-30003."""
    daemon.database("shop-db")
    daemon.database("other-db")
    daemon.app("shop")
    return await daemon.settled()


@contextlib.contextmanager
def unbindable(node: MemoryDaemon, port: int, error: SidegateError) -> Iterator[None]:
    """Binding `port` fails, although nobody is seen to hold it."""
    real = node.data_plane.open_forwarder

    async def failing(database: str, gate: Gate, kernel: bool = False) -> Cut:
        if gate.port == port:
            raise error
        return await real(database, gate, kernel)

    node.data_plane.open_forwarder = failing  # type: ignore[method-assign]
    yield
    node.data_plane.open_forwarder = real  # type: ignore[method-assign]


async def test_off_until_somebody_turns_it_on(node: MemoryDaemon) -> None:
    """R6."""
    shown = await node.commands.externals.show("shop-db")
    assert (shown.enabled, shown.listening, shown.port, shown.url, shown.command) == (False, False, None, None, None)
    assert node.data_plane.listeners() == {}


async def test_on_returns_once_it_listens_and_says_all_but_the_password(node: MemoryDaemon) -> None:
    """R2, R7, R37."""
    on = await node.commands.externals.on("shop-db")
    assert node.data_plane.listeners() == {"shop-db": Listening(Gate(30000))}
    assert (on.enabled, on.listening, on.host, on.port, on.user, on.schema) == (
        True,
        True,
        "203.0.113.7",
        30000,
        "shop",
        "shop",
    )
    assert on.url == "mysql://shop@203.0.113.7:30000/shop"
    assert on.command == "mariadb -h 203.0.113.7 -P 30000 -u shop -p shop"
    assert on.advice == "turn it off when it is not in use: sidegate external off shop-db"
    assert PASSWORD not in str(on)


async def test_off_cuts_sessions_and_the_port_stays(node: MemoryDaemon) -> None:
    """R40."""
    await node.commands.externals.on("other-db")
    await node.commands.externals.on("shop-db")
    node.data_plane.live["shop-db"] = (Session("shop-db", "198.51.100.2:4000", 1.0, 10, 20),)
    (session,) = await node.commands.externals.sessions("shop-db")
    assert (session.client, session.bytes_sent, session.bytes_received) == ("198.51.100.2:4000", 10, 20)
    off = await node.commands.externals.off("shop-db")
    assert (off.enabled, off.listening, off.port, off.sessions_cut, off.sessions) == (False, False, 30001, 1, 0)
    assert node.data_plane.listeners() == {"other-db": Listening(Gate(30000))}
    await node.commands.externals.off("other-db")
    assert (await node.commands.externals.on("shop-db")).port == 30001


async def test_off_closes_although_it_cannot_be_saved_and_saves_it_once_it_can_be(
    node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> Intent:
        raise DiskFullError("the disk is full: free some space there: nothing was changed")

    await node.commands.externals.on("shop-db")
    with monkeypatch.context() as broken:
        broken.setattr(node.store, "set_external", full)
        for _ in range(2):
            with pytest.raises(DiskFullError, match=r"shop-db is closed .* open it again: the disk is full"):
                await node.commands.externals.off("shop-db")
            assert node.data_plane.listeners() == {}
        await node.settled()
        assert node.data_plane.listeners() == {}
        shown = await node.commands.externals.show("shop-db")
        assert (shown.enabled, shown.listening) == (False, False)
        assert [p.subject for p in node.commands.world.problems() if "not be saved" in p.text] == ["shop-db"]
    again = await node.commands.externals.on("shop-db")
    assert (again.enabled, again.listening) == (True, True)
    await node.commands.externals.off("shop-db")
    assert not node.store.intent.externals["shop-db"].enabled
    await node.settled()
    assert not node.commands.world.problems()


async def test_on_and_off_twice_are_fine(node: MemoryDaemon) -> None:
    assert await node.commands.externals.on("shop-db") == await node.commands.externals.on("shop-db")
    await node.commands.externals.off("shop-db")
    again = await node.commands.externals.off("shop-db")
    assert (again.enabled, again.sessions_cut) == (False, 0)
    assert (await node.commands.externals.off("other-db")).port is None


async def test_many_at_once_get_a_port_each(node: MemoryDaemon) -> None:
    node.database("third-db")
    await node.settled()
    names = ["shop-db", "other-db", "third-db"]
    ports = {view.port for view in await asyncio.gather(*map(node.commands.externals.on, names))}
    assert ports == {30000, 30001, 30002}


async def test_a_port_that_somebody_holds_is_passed_over(node: MemoryDaemon) -> None:
    node.data_plane.held[30000] = "nginx (pid 812)"
    assert (await node.commands.externals.on("shop-db")).port == 30001


async def test_a_port_that_turns_out_to_be_held_is_passed_over_too(node: MemoryDaemon) -> None:
    """Not every holder can be seen: an ordinary user does not see those of root."""
    with unbindable(node, 30000, PortInUseError("port 30000 is held by another process")):
        assert (await node.commands.externals.on("shop-db")).port == 30001
    assert node.data_plane.listeners() == {"shop-db": Listening(Gate(30001))}


async def test_a_chosen_port_is_taken_and_kept(node: MemoryDaemon) -> None:
    assert (await node.commands.externals.on("shop-db", 30003)).port == 30003
    await node.commands.externals.off("shop-db")
    assert (await node.commands.externals.on("shop-db")).port == 30003
    assert (await node.commands.externals.on("shop-db", 30002)).port == 30002
    assert node.data_plane.listeners() == {"shop-db": Listening(Gate(30002))}


@pytest.mark.parametrize("port", [0, 80, 29999, 30004, 70000, -1])
async def test_a_port_out_of_range_names_the_range(node: MemoryDaemon, port: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"port {port} .* 30000-30003"):
        await node.commands.externals.on("shop-db", port)
    assert not node.store.intent.externals


async def test_another_databases_port_is_refused(node: MemoryDaemon) -> None:
    await node.commands.externals.on("other-db", 30002)
    await node.commands.externals.off("other-db")
    with pytest.raises(RefusedError, match="port 30002 is kept for other-db"):
        await node.commands.externals.on("shop-db", 30002)


async def test_a_held_port_is_refused_with_its_holder_and_nothing_changes(node: MemoryDaemon) -> None:
    await node.commands.externals.on("shop-db")
    await node.commands.externals.off("shop-db")
    node.data_plane.held[30000] = "nginx (pid 812)"
    with pytest.raises(PortInUseError, match=r"cannot open shop-db: port 30000 is held by nginx \(pid 812\)"):
        await node.commands.externals.on("shop-db")
    assert node.store.intent.externals["shop-db"] == External(Gate(30000), enabled=False)
    assert node.data_plane.listeners() == {}


async def test_when_opening_fails_what_was_before_is_put_back(node: MemoryDaemon) -> None:
    """Open on one port, asked to move to another that cannot be bound: it stays open where it was."""
    await node.commands.externals.on("shop-db", 30001)
    with (
        unbindable(node, 30002, DataPlaneError("port 30002 cannot be bound")),
        pytest.raises(DataPlaneError, match="port 30002 cannot be bound"),
    ):
        await node.commands.externals.on("shop-db", 30002)
    await node.settled()
    assert node.store.intent.externals["shop-db"] == External(Gate(30001), enabled=True)
    assert node.data_plane.listeners() == {"shop-db": Listening(Gate(30001))}


async def test_when_every_port_is_given_away_it_says_so(node: MemoryDaemon) -> None:
    for number in range(4):
        node.database(f"db-{number}")
    await node.settled()
    for number in range(4):
        await node.commands.externals.on(f"db-{number}")
    with pytest.raises(RefusedError, match="no port of external_ports 30000-30003 is free"):
        await node.commands.externals.on("shop-db")


async def test_without_the_engine_it_still_turns_on_and_off(node: MemoryDaemon) -> None:
    node.engine.unavailable = "gone"
    await node.settled()
    on = await node.commands.externals.on("shop-db")
    assert any("does not answer" in warning for warning in on.warnings)
    off = await node.commands.externals.off("shop-db")
    assert (off.enabled, off.listening) == (False, False)


async def test_a_close_that_fails_is_an_error(node: MemoryDaemon) -> None:
    await node.commands.externals.on("shop-db")

    async def failing(database: str) -> int:
        raise DataPlaneError(f"{database} hangs")

    node.data_plane.close_forwarder = failing  # type: ignore[method-assign]
    with pytest.raises(DataPlaneError, match="shop-db hangs"):
        await node.commands.externals.off("shop-db")
    assert node.store.intent.externals["shop-db"].enabled is False


async def test_a_database_that_does_not_run_or_publishes_its_port_brings_a_warning(node: MemoryDaemon) -> None:
    container = node.engine.container("shop-db-1")
    node.engine.stop(container.id)
    node.engine.update(container.id, published_ports=(3306,))
    await node.settled()
    anybody, stopped, published = (await node.commands.externals.on("shop-db")).warnings
    assert "from anywhere" in anybody
    assert "shop-db-1 is exited" in stopped
    assert "publishes port 3306" in published


async def test_only_databases_can_be_opened(node: MemoryDaemon) -> None:
    with pytest.raises(NotFoundError, match=r"'nothing' \(known: other-db, shop-db\)"):
        await node.commands.externals.on("nothing")
    with pytest.raises(NotFoundError, match="shop is an app"):
        await node.commands.externals.on("shop")


async def test_the_list_has_every_database(node: MemoryDaemon) -> None:
    await node.commands.externals.on("shop-db")
    assert [(e.database, e.enabled) for e in await node.commands.externals.ls()] == [
        ("other-db", False),
        ("shop-db", True),
    ]
