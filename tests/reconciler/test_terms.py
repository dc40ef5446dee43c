"""For how long external connections stay on: expiry, idleness, restarts, clocks that are set."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from reconciler.gated import PORT, Gated, eventually, running
from sidegate.core.sessions import Session
from sidegate.reconciler.terms import LOOK_SECONDS

HOUR = 3600.0


def started() -> Gated:
    node = Gated()
    node.engine.run("db-1", labels={"sidegate.database": "shop-db", "sidegate.engine": "mariadb"})
    return node


@pytest.fixture
async def node() -> AsyncIterator[Gated]:
    node = started()
    async with running(node):
        await node.settle()
        yield node


def client() -> Session:
    return Session("shop-db", "203.0.113.9:50000", 1.0, 10, 10)


async def test_it_ends_when_its_time_is_over_and_stays_ended(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.let(HOUR - 1)
    await node.settle()
    assert (node.listening, bool(node.kernel.table), node.enabled) == (True, True, True)
    node.kernel.connect(PORT, "203.0.113.9")
    node.let(1)
    await node.settle()
    assert (node.listening, node.kernel.table, node.kernel.clients(PORT), node.enabled) == (False, {}, [], False)
    node.wall -= 5 * HOUR
    await node.settle()
    assert (node.listening, node.enabled) == (False, False)


async def test_it_ends_by_itself_without_anything_that_happens(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.let(HOUR - 0.1)
    node.loop.wake()
    await eventually(lambda: node.loop.last.finished)
    node.let(0.1)
    await eventually(lambda: not node.listening)
    assert not node.enabled


async def test_an_end_is_announced(node: Gated, capsys: pytest.CaptureFixture[str]) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.let(HOUR)
    await node.settle()
    told = [line for line in capsys.readouterr().out.splitlines() if "external connection ends" in line]
    assert len(told) == 1
    assert "its time is over" in told[0]
    assert "shop-db" in told[0]


async def test_setting_the_clock_back_prolongs_nothing(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.wall -= 10 * HOUR
    node.now += HOUR
    await node.settle()
    assert (node.listening, node.enabled) == (False, False)


async def test_setting_the_clock_forward_ends_it(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.wall += 2 * HOUR
    await node.settle()
    assert (node.listening, node.enabled) == (False, False)


async def test_a_later_end_counts(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.on(expires_at=node.wall + 3 * HOUR)
    node.let(2 * HOUR)
    await node.settle()
    assert node.listening
    node.let(HOUR)
    await node.settle()
    assert not node.listening


async def test_what_ended_while_no_daemon_ran_is_closed_before_anything_listens() -> None:
    node = started()
    node.on(expires_at=node.wall + HOUR)
    node.let(2 * HOUR)
    async with running(node):
        await node.settle()
    assert not [call for call in node.data_plane.calls if call.startswith("open_forwarder")]
    assert not node.enabled


async def test_what_ended_while_no_daemon_ran_stays_ended_when_the_clock_is_set_back_then() -> None:
    node = started()
    node.on(expires_at=node.wall + HOUR)
    node.let(2 * HOUR)
    async with running(node):
        await node.settle()
        node.wall -= 5 * HOUR
        await node.settle()
    node.start()
    async with running(node):
        await node.settle()
    assert not [call for call in node.data_plane.calls if call.startswith("open_forwarder")]
    assert (node.kernel.table, node.enabled) == ({}, False)


async def test_a_restart_does_not_begin_the_time_anew() -> None:
    node = started()
    node.on(expires_at=node.wall + HOUR)
    async with running(node):
        await node.settle()
        assert node.listening
    node.wall += HOUR / 2
    node.now = 5.0
    node.start()
    async with running(node):
        await node.settle()
        assert node.listening
        node.let(HOUR / 2)
        await node.settle()
        assert not node.listening


async def test_it_ends_when_nobody_has_used_it_for_long(node: Gated) -> None:
    node.on(idle_off=1800, used_at=node.wall)
    await node.settle()
    node.let(1799)
    node.data_plane.idle["shop-db"] = 1799.0
    await node.settle()
    assert node.listening
    node.let(1)
    node.data_plane.idle["shop-db"] = 1800.0
    await node.settle()
    assert (node.listening, node.enabled) == (False, False)


async def test_sessions_of_workers_keep_it_and_the_last_one_begins_the_wait(node: Gated) -> None:
    node.on(idle_off=1800, used_at=node.wall)
    await node.settle()
    node.data_plane.live["shop-db"] = (client(),)
    node.let(10_000)
    await node.settle()
    assert node.listening
    node.data_plane.live["shop-db"] = ()
    node.let(1000)
    node.data_plane.idle["shop-db"] = 900.0
    await node.settle()
    node.let(850)
    node.data_plane.idle["shop-db"] = 1750.0
    await node.settle()
    assert node.listening
    node.let(50)
    node.data_plane.idle["shop-db"] = 1800.0
    await node.settle()
    assert not node.listening


async def test_sessions_of_the_kernel_keep_it_too(node: Gated) -> None:
    node.on(idle_off=1800, used_at=node.wall)
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    node.data_plane.idle["shop-db"] = 10_000.0
    node.let(10_000)
    await node.settle()
    assert node.listening
    node.kernel.live.clear()
    node.let(1800)
    await node.settle()
    assert not node.listening


async def test_a_session_of_the_kernel_that_came_and_went_between_two_looks_counts(node: Gated) -> None:
    node.on(idle_off=1800, used_at=node.wall)
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    node.kernel.live.clear()
    node.data_plane.idle["shop-db"] = 10_000.0
    node.let(1800)
    await node.settle()
    assert node.listening
    node.let(1799)
    await node.settle()
    assert node.listening
    node.let(1)
    await node.settle()
    assert not node.listening


async def test_use_is_remembered_over_a_restart() -> None:
    node = started()
    node.on(idle_off=1800, used_at=node.wall)
    async with running(node):
        await node.settle()
        node.data_plane.live["shop-db"] = (client(),)
        node.let(3000)
        await node.settle()
        assert node.store.intent.externals["shop-db"].used_at == node.wall
    node.data_plane.live.clear()
    node.let(1700)
    await node.data_plane.close_forwarder("shop-db")
    node.start()
    async with running(node):
        await node.settle()
        assert node.listening
        node.data_plane.idle["shop-db"] = 100.0
        node.let(100)
        await node.settle()
        assert not node.listening


async def test_an_end_that_cannot_be_written_closes_all_the_same(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.store.broken = True
    node.let(HOUR)
    await node.settle()
    assert (node.listening, node.enabled) == (False, True)
    node.wall -= 2 * HOUR
    await node.settle()
    assert not node.listening
    node.store.broken = False
    node.store.set(replace(node.store.intent.externals["shop-db"], expires_at=node.wall + HOUR))
    await node.settle()
    assert node.listening


async def test_an_end_that_could_not_be_written_is_written_later(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()
    node.store.broken = True
    node.let(HOUR)
    passed = await node.settle()
    assert [p.subject for p in passed.problems if "could not be saved" in p.text] == ["shop-db"]
    node.store.broken = False
    node.let(LOOK_SECONDS)
    passed = await node.settle()
    assert (node.listening, node.enabled) == (False, False)
    assert not any("could not be saved" in p.text for p in passed.problems)


async def test_a_hanging_engine_does_not_put_off_the_end(node: Gated) -> None:
    node.on(expires_at=node.wall + HOUR)
    await node.settle()

    async def hang(*, full: bool = False) -> object:
        await eventually(lambda: False)
        return None

    node.engine.observe = hang  # type: ignore[method-assign,assignment]
    node.loop.wake()
    node.let(HOUR)
    node.loop.wake()
    await eventually(lambda: not node.listening)
