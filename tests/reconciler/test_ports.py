"""The loop keeps every database at 3306, and says why where it cannot."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_daemon import PASSWORD, MemoryDaemon, running
from memory_world import MemoryPorts
from sidegate.core.database_ports import DatabasePort, PortState
from sidegate.core.model import Container, Pair
from sidegate.errors import HostToolError, RefusedError

LABELS = {"sidegate.database": "shop-pg", "sidegate.engine": "postgres"}
IN_PLACE = DatabasePort(PortState.REDIRECTED, 5432)
NO_RIGHT = "the daemon needs root, with CAP_SYS_ADMIN and CAP_SYS_PTRACE"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    async with running(tmp_path) as node:
        node.app("shop")
        node.database("shop-db")
        yield node


def start(node: MemoryDaemon) -> Container:
    return node.engine.run("shop-pg-1", labels=LABELS, env={"POSTGRES_PASSWORD": PASSWORD})


def changes(ports: MemoryPorts) -> list[str]:
    return [call for call in ports.calls if not call.startswith("observe")]


async def test_postgresql_is_redirected_and_mariadb_is_not_even_looked_at(node: MemoryDaemon) -> None:
    container = start(node)
    await node.settled()
    assert node.ports.found == {container.pid: IN_PLACE}
    assert {call.split()[1] for call in node.ports.calls} == {str(container.pid)}


async def test_a_second_pass_looks_once_and_does_nothing(node: MemoryDaemon) -> None:
    container = start(node)
    await node.settled()
    node.ports.calls.clear()
    assert (await node.loop.settle()).actions == 0
    assert node.ports.calls == [f"observe {container.pid}"]


async def test_a_restarted_database_is_redirected_again_by_itself(node: MemoryDaemon) -> None:
    container = start(node)
    await node.settled()
    again = node.engine.restart(container.id)
    async with asyncio.timeout(30):
        while node.ports.found.get(again.pid) != IN_PLACE:
            await asyncio.sleep(0)


async def test_a_redirect_that_somebody_removed_is_back_after_a_pass(node: MemoryDaemon) -> None:
    container = start(node)
    await node.settled()
    node.ports.found.clear()
    await node.settled()
    assert node.ports.found == {container.pid: IN_PLACE}


async def test_a_database_that_listens_at_3306_itself_is_left_alone(node: MemoryDaemon) -> None:
    container = start(node)
    await node.settled()
    node.ports.found[container.pid] = DatabasePort(PortState.OWN, 5432)
    node.ports.calls.clear()
    await node.settled()
    assert changes(node.ports) == [f"remove {container.pid}"]


async def test_without_the_right_it_is_a_problem_of_the_database_and_nothing_else_suffers(node: MemoryDaemon) -> None:
    node.ports.closed = HostToolError(NO_RIGHT)
    start(node)
    await node.settled()
    await node.connect("shop", "shop-db")
    (problem,) = (p for p in node.loop.last.problems if p.subject == "shop-pg")
    assert problem.text.startswith("redirect port 3306 of shop-pg-1 to 5432")
    assert problem.text.endswith(NO_RIGHT)
    node.ports.closed = None
    await node.settled()
    assert not [p for p in node.loop.last.problems if p.subject == "shop-pg"]


async def test_without_the_right_a_connection_is_refused_with_the_reason(node: MemoryDaemon) -> None:
    node.ports.closed = HostToolError(NO_RIGHT)
    start(node)
    await node.settled()
    with pytest.raises(RefusedError, match=f"^shop-pg does not answer at port 3306: {NO_RIGHT}$"):
        await node.connect("shop", "shop-pg")
    assert not node.store.intent.connections
    node.ports.closed = None
    await node.connect("shop", "shop-pg")
    assert node.store.intent.connections == {Pair.of("shop", "shop-pg")}


async def test_a_process_that_has_ended_is_not_entered(node: MemoryDaemon) -> None:
    """Its pid may be another's by now."""
    container = start(node)
    await node.settled()
    node.ports.found.clear()
    node.ports.calls.clear()
    node.host.remember = lambda pids: None  # type: ignore[method-assign]  # the engine has not noticed yet
    node.host.dead.add(container.pid)
    await node.settled()
    assert node.ports.calls == []


async def test_a_purge_leaves_no_redirect_behind(node: MemoryDaemon) -> None:
    start(node)
    await node.settled()
    await node.loop.purge()
    assert node.ports.found == {}
