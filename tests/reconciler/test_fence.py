"""The fence through the loop: up before a network is, looked at and mended at each pass, gone with a purge."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from memory_fence import MemoryFence
from reconciler.gated import Gated, running
from sidegate.core.desired import bridge_device
from sidegate.core.fencing import NONE, Fence
from sidegate.core.model import Pair
from sidegate.errors import HostToolError
from sidegate.reconciler.apply import Applier
from sidegate.reconciler.loop import Loop

DATABASE = {"sidegate.database": "shop-db", "sidegate.engine": "mariadb"}
HOME, JOINT = "sidegate-home--shop-db", "sidegate-shop--shop-db"


class Fenced(Gated):
    """A node whose daemon may keep a fence."""

    def start(self) -> None:
        super().start()
        self.fence = MemoryFence()
        applier = Applier(self.engine, self.host, self.data_plane, self.databases, fence=self.fence)
        self.loop = Loop(applier=applier, store=self.store, rules=self.rules, clock=lambda: self.now)

    def connect(self) -> None:
        self.store.intent = replace(self.store.intent, connections=frozenset({Pair.of("shop", "shop-db")}))

    def disconnect(self) -> None:
        self.store.intent = replace(self.store.intent, connections=frozenset())


@pytest.fixture
async def node() -> AsyncIterator[Fenced]:
    node = Fenced()
    node.engine.run("db-1", labels=DATABASE)
    node.engine.run("shop-1", labels={"sidegate.app": "shop"})
    async with running(node):
        await node.settle()
        yield node


def around(*networks: str) -> Fence:
    return Fence(frozenset(map(bridge_device, networks)))


async def test_it_follows_the_networks(node: Fenced) -> None:
    assert node.fence.there == around(HOME)
    node.connect()
    await node.settle()
    assert node.fence.there == around(HOME, JOINT)
    node.disconnect()
    await node.settle()
    assert node.fence.there == around(HOME)
    node.fence.calls.clear()
    assert (await node.settle()).actions == 0
    assert node.fence.calls == []


async def test_a_network_is_made_when_its_fence_is_up_and_nothing_else_waits(node: Fenced) -> None:
    node.fence.held = asyncio.Event()
    node.connect()
    node.engine.run("blog-1", labels={"sidegate.app": "blog"})
    published = node.data_plane.calls.count("publish")
    settled = asyncio.create_task(node.settle())
    async with asyncio.timeout(20):
        while node.data_plane.calls.count("publish") == published:
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert node.engine.network(JOINT) is None
    node.fence.held.set()
    await settled
    assert node.engine.network(JOINT) is not None


async def test_what_was_flushed_or_edited_is_back_after_a_pass(node: Fenced) -> None:
    for blow in (NONE, replace(around(HOME), torn=True), around("other")):
        node.fence.there = blow
        assert (await node.settle()).problems == ()
        assert node.fence.there == around(HOME)


async def test_where_there_can_be_none_networks_are_made_all_the_same_and_it_is_said_once(node: Fenced) -> None:
    node.fence.fault = HostToolError("nft is not installed: apt-get install nftables")
    node.connect()
    passed = await node.settle()
    assert node.engine.network(JOINT) is not None
    assert [str(p) for p in passed.problems] == [
        "host: private networks are open for moments, while Docker rewrites the rules that keep them apart: "
        "nft is not installed: apt-get install nftables"
    ]
    node.fence.fault = None
    assert (await node.settle()).problems == ()
    assert node.fence.there == around(HOME, JOINT)


async def test_one_that_is_refused_is_a_problem_and_networks_are_made(node: Fenced) -> None:
    node.fence.fail_next["put"] = HostToolError("the kernel refuses")
    node.connect()
    await node.settle()
    assert node.engine.network(JOINT) is not None
    assert node.fence.there == around(HOME, JOINT)


async def test_it_outlives_the_daemon_and_not_a_purge(node: Fenced) -> None:
    await node.loop.close()
    assert node.fence.there == around(HOME)
    await node.loop.purge()
    assert node.engine.network(HOME) is None
    assert node.fence.there == NONE


async def test_one_that_is_always_refused_is_said_in_words_that_mean_something_and_stops_no_purge(node: Fenced) -> None:
    async def put(fence: Fence) -> None:
        raise HostToolError("the kernel refuses")

    node.fence.put = put  # type: ignore[method-assign]
    node.connect()
    passed = await node.settle()
    assert node.engine.network(JOINT) is not None
    assert [str(problem) for problem in passed.problems] == [
        "host: private networks are open for moments, while Docker rewrites the rules that keep them apart: "
        "the kernel refuses"
    ]
    purged = await node.loop.purge()
    assert not [failure for failure in purged.failures if failure.action.essential]
    await asyncio.sleep(0.05)
    assert node.engine.network(JOINT) is node.engine.network(HOME) is None
