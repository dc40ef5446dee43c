"""The loop in a container with a network of its own: it comes to rest where it should, and others can clean up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_engine import MemoryEngine
from memory_world import MemoryDatabases, MemoryDataPlane, MemoryHost
from sidegate.core.model import Intent, Pair, Rules
from sidegate.reconciler.apply import Applier
from sidegate.reconciler.loop import Loop
from sidegate.reconciler.visits import Visits

FRONT = "0front"
COMPOSE = {"blog_default": "172.31.0.0/24", "shop_back": "172.31.1.0/24", "wiki_default": "172.31.2.0/24"}
NETWORKS = ("bridge", *COMPOSE)
DATABASE = {"sidegate.database": "shop-db", "sidegate.engine": "mariadb"}


@dataclass
class MemoryIntent:
    intent: Intent = field(default_factory=Intent)

    async def replace_claims(self, claims: object) -> Intent:
        return self.intent


class Node:
    """An engine, our own container on it, and a loop. `open` are connections that are under way, to anywhere."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()
        for name, subnet in {FRONT: "172.30.0.0/24", **COMPOSE}.items():
            self.engine.add_network(name, subnet)
        self.own = self.engine.run("sidegate", network_mode=FRONT, networks=(FRONT,)).id
        self.store = MemoryIntent()
        self.data_plane = MemoryDataPlane()
        self.open = 0
        applier = Applier(self.engine, MemoryHost(), self.data_plane, MemoryDatabases())
        self.loop = Loop(applier=applier, store=self.store, rules=Rules(self_id=self.own))  # type: ignore[arg-type]
        self.visits = Visits(self.loop, self.engine, self.data_plane, lambda _address, _port: self.open)

    @property
    def on(self) -> set[str]:
        return {endpoint.network for endpoint in self.engine.container("sidegate").endpoints}

    def app(self, name: str, network: str) -> str:
        made = self.engine.run(
            f"{name}-{network}", network_mode=network, networks=(network,), labels={"sidegate.app": name}
        )
        return made.id

    def upstreams(self, name: str) -> int:
        published = self.data_plane.published()
        return len(published.apps[name].upstreams) if published and name in published.apps else 0


@contextlib.asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    node.engine.watch(node.visits.wake)
    tasks = [asyncio.create_task(node.loop.run()), asyncio.create_task(node.visits.run())]
    try:
        yield node
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running(Node()) as node:
        await node.loop.settle()
        yield node


async def eventually(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not probe():
            await asyncio.sleep(0.001)


async def test_an_app_is_served_in_the_pass_that_joins_its_network(node: Node) -> None:
    node.app("blog", "blog_default")
    await node.loop.settle()
    assert (node.on, node.upstreams("blog")) == ({FRONT, "blog_default"}, 1)


async def test_a_network_can_be_removed_as_soon_as_its_last_app_was_told_to_stop(node: Node) -> None:
    blog = node.app("blog", "blog_default")
    await node.loop.settle()
    node.engine.kill(blog, "SIGTERM")
    await eventually(lambda: node.on == {FRONT})
    node.engine.remove(blog)
    node.engine.drop_network("blog_default")


async def test_it_stays_while_another_app_is_there_or_a_request_is_under_way(node: Node) -> None:
    blog, wiki = node.app("blog", "blog_default"), node.app("wiki", "blog_default")
    await node.loop.settle()
    node.open = 1
    node.engine.kill(blog, "SIGTERM")
    await node.loop.settle()
    assert node.on == {FRONT, "blog_default"}
    node.engine.kill(wiki, "SIGTERM")
    await node.loop.settle()
    assert node.on == {FRONT, "blog_default"}
    node.open = 0
    await eventually(lambda: node.on == {FRONT})


async def test_it_comes_back_to_an_app_that_goes_on_although_it_was_told_to_stop(node: Node) -> None:
    blog = node.app("blog", "blog_default")
    await node.loop.settle()
    node.engine.kill(blog, "SIGTERM")
    await eventually(lambda: node.on == {FRONT})
    await node.loop.settle()
    assert node.on == {FRONT}
    node.engine.update(blog, stopping=False)
    await eventually(lambda: node.on == {FRONT, "blog_default"})


async def test_an_app_that_ends_by_itself_is_left_by_the_next_pass(node: Node) -> None:
    blog = node.app("blog", "blog_default")
    await node.loop.settle()
    node.engine.stop(blog)
    await node.loop.settle()
    assert node.on == {FRONT}


async def test_a_daemon_that_stops_leaves_what_is_not_its_own(node: Node) -> None:
    """Its container starts again, whatever becomes of other people's networks meanwhile."""
    blog = node.app("blog", "blog_default")
    node.engine.run("db-1", labels=DATABASE)
    await node.loop.settle()
    await node.visits.close()
    assert node.on == {FRONT, "sidegate-home--shop-db"}
    node.engine.stop(node.own)
    node.engine.remove(blog)
    node.engine.drop_network("blog_default")
    assert node.engine.start(node.own).running


async def test_a_purge_leaves_everything(node: Node) -> None:
    node.app("blog", "blog_default")
    node.engine.run("db-1", labels=DATABASE)
    await node.loop.settle()
    await node.loop.purge()
    assert node.on == {FRONT}
    assert node.engine.network("sidegate-home--shop-db") is None


STEPS = st.lists(
    st.tuples(st.sampled_from(["run", "stop", "start", "remove"]), st.integers(0, 5), st.sampled_from(NETWORKS)),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, connected=st.booleans(), looked=st.sets(st.integers(0, 11)))
def test_whatever_happens_it_ends_up_where_apps_run_and_nowhere_else(
    steps: list[tuple[str, int, str]], connected: bool, looked: set[int]
) -> None:
    """Looks come between any two steps or not; after the last one a second pass plans nothing."""

    async def play() -> None:
        async with running(Node()) as node:
            engine, here = node.engine, dict[int, str]()
            if connected:
                node.store.intent = replace(node.store.intent, connections=frozenset({Pair.of("app-0", "shop-db")}))
            engine.run("db-1", labels=DATABASE)
            for number, (verb, who, network) in enumerate(steps):
                if verb == "run" and who not in here:
                    here[who] = node.app(f"app-{who}", network)
                elif who in here and verb == "remove":
                    engine.remove(here.pop(who))
                elif who in here and verb in ("start", "stop"):
                    getattr(engine, verb)(here[who])
                if number in looked:
                    await node.loop.settle()
            await node.loop.settle()
            running_there = {
                c.network_mode for c in map(engine.find, here.values()) if c and c.running and c.id != node.own
            }
            assert node.on == {FRONT, "sidegate-home--shop-db", *running_there}
            assert (await node.loop.settle()).actions == 0
            for who, container in here.items():
                found = engine.find(container)
                assert node.upstreams(f"app-{who}") == bool(found and found.running)

    asyncio.run(play())
