"""The switch: external connections follow the intent at once, beside whatever a pass is busy with."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from reconciler.gated import PORT, Gated, eventually, running
from sidegate.core.gates import Entry, Gate
from sidegate.core.model import EngineState
from sidegate.core.sessions import Session
from sidegate.errors import HostToolError, LoginFailedError, PortInUseError


@pytest.fixture
async def node() -> AsyncIterator[Gated]:
    node = Gated()
    node.engine.run("db-1", labels={"sidegate.database": "shop-db", "sidegate.engine": "mariadb"})
    async with running(node):
        await node.settle()
        yield node


def hang(node: Gated) -> asyncio.Event:
    """From now on the engine gives no answer; set once it was asked."""
    asked = asyncio.Event()

    async def observe(*, full: bool = False) -> EngineState:
        asked.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    node.engine.observe = observe  # type: ignore[method-assign]
    return asked


async def test_on_and_off_wait_for_no_engine(node: Gated) -> None:
    asked = hang(node)
    node.loop.wake()
    await asked.wait()
    node.on()
    assert await node.loop.switch("shop-db") == ()
    assert (node.listening, bool(node.address)) == (True, True)
    node.kernel.connect(PORT, "203.0.113.9")
    node.on(Gate(PORT, deny=(Entry("203.0.113.9"),)))
    assert await node.loop.switch("shop-db") == ()
    assert node.kernel.clients(PORT) == []
    node.kernel.connect(PORT, "198.51.100.9")
    node.off()
    assert await node.loop.switch("shop-db") == ()
    assert (node.listening, node.kernel.table, node.kernel.clients(PORT)) == (False, {}, [])


async def test_a_long_change_of_something_else_holds_up_nobody(node: Gated) -> None:
    begun = asyncio.Event()

    async def connect(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    node.on()
    await node.settle()
    node.engine.connect = connect  # type: ignore[method-assign,assignment]
    node.engine.run("db-2", labels={"sidegate.database": "other-db", "sidegate.engine": "mariadb"})
    await begun.wait()
    node.off()
    assert await node.loop.switch("shop-db") == ()
    assert (node.listening, node.kernel.table) == (False, {})


async def test_a_database_that_hangs_at_a_kill_holds_up_nobody(node: Gated) -> None:
    """Neither a pass nor another switch; who has denied waits for it."""
    killing, answer = asyncio.Event(), asyncio.Event()

    async def kill_clients(*_: object) -> int:
        killing.set()
        await answer.wait()
        raise LoginFailedError("it does not answer")

    node.databases.kill_clients = kill_clients  # type: ignore[method-assign,assignment]
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    node.on(Gate(PORT, deny=(Entry("203.0.113.9"),)))
    denied = asyncio.create_task(node.loop.switch("shop-db"))
    await killing.wait()
    assert (await node.settle()).problems == ()
    assert not denied.done()
    node.off()
    off = asyncio.create_task(node.loop.switch("shop-db"))
    await eventually(lambda: not node.listening)
    answer.set()
    assert [await denied, await off] == [(), ()]
    (problem,) = (await node.settle()).problems
    assert "a query that was running when its connection was cut may run on" in str(problem)


async def test_who_was_cut_ends_in_the_database_also_where_the_rest_of_a_change_fails(node: Gated) -> None:
    node.on()
    await node.settle()
    node.data_plane.live["shop-db"] = (Session("shop-db", "203.0.113.9:1", 0.0, 0, 0, "10.213.0.1", 40001),)
    node.databases.calls.clear()
    node.kernel.fail_next["apply"] = HostToolError("the kernel refuses")
    node.on(Gate(PORT, deny=(Entry("203.0.113.9"),)))
    assert len(await node.loop.switch("shop-db")) == 1
    assert node.databases.calls == ["kill_clients shop-db 10.213.0.1:40001"]


async def test_the_pass_that_follows_comes_to_the_same(node: Gated) -> None:
    node.on()
    await node.loop.switch("shop-db")
    passed = node.loop.last
    await eventually(lambda: node.loop.last is not passed)
    assert node.loop.last.actions == 0
    assert (await node.settle()).actions == 0


async def test_what_has_moved_on_since_the_last_look_is_put_right_by_the_pass_that_follows(node: Gated) -> None:
    node.engine.deaf = True
    node.engine.restart(node.container.id)
    moved = tuple(type(e)(e.network, "10.213.0.20") for e in node.container.endpoints)
    node.engine.update(node.container.id, endpoints=moved)
    node.on()
    await node.loop.switch("shop-db")
    assert node.address != "10.213.0.20"
    await eventually(lambda: node.address == "10.213.0.20")


async def test_what_failed_is_told_to_who_has_switched(node: Gated) -> None:
    node.data_plane.fail_next["open_forwarder"] = PortInUseError("port 30000 is held by nginx (pid 812)")
    node.on()
    (failure,) = await node.loop.switch("shop-db")
    assert isinstance(failure.error, PortInUseError)
    assert not node.listening
    await eventually(lambda: node.listening)  # nobody has taken it back, and the next pass tries again


async def test_many_switches_at_once_are_one(node: Gated) -> None:
    node.on()
    await asyncio.gather(*(node.loop.switch("shop-db") for _ in range(50)))
    assert len([call for call in node.data_plane.calls if call.startswith("open_forwarder")]) == 1


async def test_a_pass_that_only_switches_looks_once(node: Gated) -> None:
    looks, real = 0, node.engine.observe

    async def observe(*, full: bool = False) -> EngineState:
        nonlocal looks
        looks += 1
        return await real(full=full)

    await node.settle()
    node.engine.observe = observe  # type: ignore[method-assign]
    node.on()
    passed = await node.settle()
    assert passed.actions == 2
    assert (looks, node.listening) == (1, True)


async def test_before_the_first_look_it_waits_for_one() -> None:
    node = Gated()
    node.engine.run("db-1", labels={"sidegate.database": "shop-db", "sidegate.engine": "mariadb"})
    node.on()
    async with running(node):
        assert await node.loop.switch("shop-db") == ()
        assert node.address
