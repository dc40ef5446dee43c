"""The kernel's part in external connections, through the loop: put up, repaired, followed, taken away."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from reconciler.gated import OPEN, PORT, Gated, eventually, running
from sidegate.core.gates import Entry, Gate, KernelForward
from sidegate.core.model import Rules
from sidegate.core.sessions import Session
from sidegate.errors import HostToolError, LoginFailedError

HOME = "sidegate-home--shop-db"


@pytest.fixture
async def node() -> AsyncIterator[Gated]:
    node = Gated()
    node.engine.run("db-1", labels={"sidegate.database": "shop-db", "sidegate.engine": "mariadb"})
    async with running(node):
        await node.settle()
        yield node


def home(node: Gated) -> str:
    endpoint = node.container.endpoint(HOME)
    assert endpoint is not None
    return endpoint.address


async def test_on_forwards_and_off_takes_it_away_with_every_session(node: Gated) -> None:
    node.on()
    await node.settle()
    assert (node.listening, node.address) == (True, home(node))
    node.kernel.connect(PORT, "203.0.113.9")
    node.off()
    await node.settle()
    assert (node.listening, node.kernel.table, node.kernel.clients(PORT)) == (False, {}, [])
    assert f"cut {PORT} {node.container.pid} all" in node.kernel.calls
    assert (await node.settle()).actions == 0


async def test_a_pass_without_news_changes_nothing(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.calls.clear()
    assert (await node.settle()).actions == 0
    assert node.kernel.calls == []


async def test_a_flushed_table_is_put_back_in_one_pass_and_sessions_go_on(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    node.kernel.flush()
    await node.settle()
    assert node.address == home(node)
    assert node.kernel.clients(PORT) == ["203.0.113.9"]


async def test_the_lease_is_renewed_while_something_is_forwarded_and_a_flush_is_repaired_at_once() -> None:
    """Nobody wakes the loop but the renewal that fails."""
    node = Gated(renewal=0.01)
    node.engine.run("db-1", labels={"sidegate.database": "shop-db", "sidegate.engine": "mariadb"})
    async with running(node):
        await node.settle()
        node.on()
        await node.settle()
        await eventually(lambda: node.kernel.renewals > 2)
        node.kernel.connect(PORT, "203.0.113.9")
        node.kernel.flush()
        await eventually(lambda: node.address == home(node))
        assert node.kernel.clients(PORT) == ["203.0.113.9"]
        node.off()
        await node.settle()
        node.kernel.renewals = 0
        await asyncio.sleep(0.1)
        assert node.kernel.renewals == 0


async def test_a_table_that_is_flushed_while_off_stays_away(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.flush()
    node.off()
    await node.settle()
    assert node.kernel.table == {}
    assert f"cut {PORT} {node.container.pid} all" in node.kernel.calls


async def test_a_restarted_database_is_followed_to_its_new_address(node: Gated) -> None:
    node.on()
    await node.settle()
    before = home(node)
    node.kernel.connect(PORT, "203.0.113.9")
    node.engine.stop(node.container.id)
    await node.settle()
    assert (node.address, node.kernel.clients(PORT), node.listening) == ("", [], True)
    node.engine.restart(node.container.id)
    moved = tuple(replace(e, address="10.213.0.20") for e in node.container.endpoints)
    node.engine.update(node.container.id, endpoints=moved)
    await node.settle()
    assert before != home(node) == "10.213.0.20" == node.address


async def test_a_narrower_list_cuts_only_whom_it_keeps_out(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    node.kernel.connect(PORT, "198.51.100.9")
    node.on(Gate(PORT, allow=(Entry("203.0.113.0/24"),)))
    await node.settle()
    assert node.kernel.clients(PORT) == ["203.0.113.9"]
    node.kernel.calls.clear()
    node.on(Gate(PORT, allow=(Entry("203.0.113.0/24"), Entry("192.0.2.0/24"))))
    await node.settle()
    assert not [call for call in node.kernel.calls if call.startswith("cut")]


MASKED = "10.213.0.1"


def worker_session(client: str, masked_port: int) -> Session:
    return Session("shop-db", client, 0.0, 0, 0, MASKED, masked_port)


async def test_whom_a_narrower_list_keeps_out_the_database_ends_too_and_nobody_else(node: Gated) -> None:
    """Wherever he was, and unless somebody else has his port by now."""
    node.on()
    await node.settle()
    office, stranger = "203.0.113.9", "198.51.100.9"
    node.kernel.connect(PORT, office, 50001)
    for port in (50002, 50003):
        node.kernel.connect(PORT, stranger, port)
    node.kernel.connect(PORT, office, 50003)  # a new session, where the one that is cut had been
    node.data_plane.live["shop-db"] = (
        worker_session("[2001:db8::1]:1", 40001),
        worker_session(f"{office}:1", 40002),
        Session("shop-db", f"{stranger}:1", 0.0, 0, 0),  # it has not reached the database
    )
    node.databases.calls.clear()
    node.databases.busy = {(MASKED, port) for port in (40001, 40002, 50001, 50002, 50003)}
    node.on(Gate(PORT, allow=(Entry("203.0.113.0/24"),)))
    await node.settle()
    assert node.databases.calls == [f"kill_clients shop-db {MASKED}:40001 {MASKED}:50002 {MASKED}:50003"]
    assert node.databases.busy == {(MASKED, port) for port in (40002, 50001, 50003)}
    node.databases.calls.clear()
    node.on(Gate(PORT, allow=(Entry("203.0.113.0/25"),)))
    await node.settle()
    assert node.databases.calls == []  # nobody was cut


async def test_a_database_that_takes_no_login_is_a_problem_until_it_does(node: Gated) -> None:
    node.on()
    await node.settle()
    for address in ("203.0.113.9", "198.51.100.9"):
        node.kernel.connect(PORT, address)
    node.databases.fail_next["kill_clients"] = LoginFailedError("refused the user 'root'")
    node.on(Gate(PORT, deny=(Entry("203.0.113.9/32"),)))
    passed = await node.settle()
    assert node.kernel.clients(PORT) == ["198.51.100.9"]
    assert [str(problem) for problem in passed.problems] == [
        "shop-db: a query that was running when its connection was cut may run on: refused the user 'root'"
    ]
    node.on(Gate(PORT, deny=(Entry("198.51.100.0/24"),)))
    assert (await node.settle()).problems == ()
    assert node.kernel.clients(PORT) == []


async def test_where_the_namespace_cannot_be_entered_the_database_ends_exactly_those(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9", 50001)
    node.kernel.connect(PORT, "198.51.100.9", 50002)
    node.databases.calls.clear()
    node.databases.busy = {(MASKED, 50001), (MASKED, 50002)}
    node.kernel.fail_next["cut"] = HostToolError("cannot enter the network namespace")
    node.on(Gate(PORT, allow=(Entry("203.0.113.0/24"),)))
    passed = await node.settle()
    assert node.databases.calls == [f"kill_clients shop-db {MASKED}:50002"]
    assert node.databases.busy == {(MASKED, 50001)}
    assert node.kernel.clients(PORT) == ["203.0.113.9"]
    assert passed.problems == ()


async def test_where_the_namespace_cannot_be_entered_the_database_ends_them(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    node.kernel.fail_next["cut"] = HostToolError("cannot enter the network namespace")
    node.off()
    passed = await node.settle()
    assert node.kernel.clients(PORT) == []
    assert f"forget {PORT}" in node.kernel.calls
    assert [str(problem) for problem in passed.problems] == []


async def test_a_cut_that_failed_is_said_and_tried_again(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    node.off()
    real, kill = node.kernel.cut, node.databases.kill_sessions

    async def failing(port: int, pid: int, addresses: object = None) -> tuple[()]:
        raise HostToolError("cannot enter")

    async def denied(database: str, peers: object) -> int:
        raise LoginFailedError("access denied")

    node.kernel.cut = failing  # type: ignore[method-assign]
    node.databases.kill_sessions = denied  # type: ignore[method-assign]
    passed = await node.settle()
    assert any("cut all sessions" in str(problem) for problem in passed.problems)
    assert (node.listening, node.kernel.table) == (False, {})
    node.kernel.cut = real  # type: ignore[method-assign]
    node.databases.kill_sessions = kill  # type: ignore[method-assign]
    passed = await node.settle()
    assert node.kernel.clients(PORT) == []
    assert not any("cut all sessions" in str(problem) for problem in passed.problems)


async def test_auto_falls_back_when_the_firewall_comes_and_returns_when_it_goes(
    node: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidegate.reconciler.kernel.DOUBT_SECONDS", 0)
    node.on()
    await node.settle()
    node.kernel.fault = "iptables' INPUT chain does more than accept"
    await node.settle()
    await eventually(lambda: not node.kernel.table)
    passed = await node.settle()
    assert node.listening
    assert passed.problems == ()
    assert passed.desired.forwarders["shop-db"].why == node.kernel.fault
    node.kernel.fault = ""
    await node.settle()
    await eventually(lambda: node.address)


async def test_a_kernel_that_refuses_leaves_the_port_to_the_workers_and_is_a_problem(node: Gated) -> None:
    real = node.kernel.apply

    async def refusing(wanted: object) -> None:
        raise HostToolError("nft: no such device")

    node.kernel.apply = refusing  # type: ignore[method-assign]
    node.on(Gate(PORT, max_sessions=1))
    passed = await node.settle()
    assert [str(p) for p in passed.problems] == [
        f"sidegate: forward port {PORT} to shop-db at {home(node)} in the kernel: nft: no such device"
    ]
    assert not node.data_plane.listeners()["shop-db"].kernel
    node.kernel.apply = real  # type: ignore[method-assign]
    await node.settle()
    assert node.address
    assert node.data_plane.listeners()["shop-db"].kernel


async def test_many_at_once_all_end_up_in_the_kernel() -> None:
    """Each is a chain of its own, and the table is one."""
    node = Gated()
    forwards = {30000 + n: KernelForward(30000 + n, f"10.213.0.{n}") for n in range(1, 40)}
    await asyncio.gather(*(node.ports.forward(port, forward) for port, forward in forwards.items()))
    assert node.kernel.table == forwards
    await asyncio.gather(*(node.ports.stop(port) for port in list(forwards)[:20]))
    assert set(node.kernel.table) == set(list(forwards)[20:])
    assert len([call for call in node.kernel.calls if call.startswith("apply")]) < 10


async def test_what_an_earlier_daemon_left_is_gone_before_anything_listens() -> None:
    node = Gated()
    node.engine.run("db-1", labels={"sidegate.database": "shop-db", "sidegate.engine": "mariadb"})
    node.kernel.table = {PORT: KernelForward(PORT, "10.213.0.2")}
    node.kernel.connect(PORT, "203.0.113.9")
    node.on()
    node.off()
    async with running(node):
        await node.settle()
        assert (node.kernel.table, node.kernel.clients(PORT)) == ({}, [])


async def test_when_the_daemon_ends_so_does_what_the_kernel_forwards(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    await node.loop.close()
    assert (node.kernel.table, node.kernel.clients(PORT), node.listening) == ({}, [], False)


async def test_a_purge_removes_it(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    await node.loop.purge()
    assert (node.kernel.table, node.kernel.clients(PORT), node.listening) == ({}, [], False)
    assert f"cut {PORT} {node.container.pid} all" in node.kernel.calls
    assert "remove" in node.kernel.calls


async def test_a_hanging_engine_does_not_keep_the_kernel_open(node: Gated) -> None:
    node.on()
    await node.settle()
    node.kernel.connect(PORT, "203.0.113.9")
    hung = asyncio.Event()

    async def hang(*, full: bool = False) -> object:
        hung.set()
        return await asyncio.Event().wait()

    node.engine.observe = hang  # type: ignore[method-assign,assignment]
    node.loop.wake()
    await hung.wait()
    node.off()
    node.loop.wake()
    await eventually(lambda: not node.listening and not node.kernel.table and not node.kernel.clients(PORT))


async def test_userspace_asks_the_kernel_for_nothing() -> None:
    node = Gated(rules=Rules(forwarder="userspace"))
    node.engine.run("db-1", labels={"sidegate.database": "shop-db", "sidegate.engine": "mariadb"})
    node.on()
    async with running(node):
        await node.settle()
        assert node.listening
        assert node.kernel.table == {}
        assert node.data_plane.listeners()["shop-db"].gate == OPEN


@pytest.mark.parametrize("at", ["the start", "a later look"])
async def test_what_lasts_a_moment_is_no_fault(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker rewrites its rules at each change, and changes may come thick. A start does not wait for that; whoever
    asks after it does."""
    node = Gated()
    looks = ["FORWARD does not lead to DOCKER-USER"] * 5

    async def usable() -> str:
        return looks.pop() if looks else ""

    monkeypatch.setattr("sidegate.reconciler.kernel.DOUBT_SECONDS", 0)
    if at == "the start":
        node.kernel.usable = usable  # type: ignore[method-assign]
        await node.ports.begin(())
        assert node.ports.fault
    else:
        await node.ports.begin(())
        node.kernel.usable = usable  # type: ignore[method-assign]
    assert await node.ports.look() == node.ports.fault == ""
