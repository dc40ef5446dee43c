"""The loop against the in-memory engine: level-triggered, the only writer, right after any fault."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

import pytest
from structlog.testing import capture_logs

from memory_engine import MemoryEngine
from memory_world import MemoryDatabases, MemoryDataPlane, MemoryHost
from sidegate.core.gates import Gate
from sidegate.core.model import EngineState, External, HostState, Intent, Pair, Problem, Rules
from sidegate.core.sessions import Listening
from sidegate.errors import (
    AlreadyRunningError,
    DataPlaneError,
    EngineError,
    HostToolError,
    LoginFailedError,
    SubnetTakenError,
)
from sidegate.reconciler.apply import Applier
from sidegate.reconciler.loop import Loop, Pass

SHOP = Pair.of("shop", "shop-db")
HOME, JOINT = "sidegate-home--shop-db", "sidegate-shop--shop-db"
DATABASE = {"sidegate.database": "shop-db", "sidegate.engine": "mariadb"}


class MemoryIntent:
    """A store that holds one intent."""

    def __init__(self) -> None:
        self.intent = Intent()

    async def replace_claims(self, claims: Mapping[str, str]) -> Intent:
        self.intent = replace(self.intent, claims=dict(claims))
        return self.intent

    async def replace_external(self, database: str, seen: External, external: External) -> Intent:
        if self.intent.externals.get(database) == seen:
            self.intent = replace(self.intent, externals={**self.intent.externals, database: external})
        return self.intent


@dataclass
class Node:
    engine: MemoryEngine = field(default_factory=MemoryEngine)
    host: MemoryHost = field(default_factory=MemoryHost)
    data_plane: MemoryDataPlane = field(default_factory=MemoryDataPlane)
    databases: MemoryDatabases = field(default_factory=MemoryDatabases)
    store: MemoryIntent = field(default_factory=MemoryIntent)
    now: float = 0.0
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        applier = Applier(self.engine, self.host, self.data_plane, self.databases)
        self.loop = Loop(applier=applier, store=self.store, rules=self.rules, clock=lambda: self.now)

    async def settle(self) -> Pass:
        return await self.loop.settle()

    def ask(self, *pairs: Pair, **externals: External) -> None:
        named = {name.replace("_", "-"): external for name, external in externals.items()}
        self.store.intent = replace(self.store.intent, connections=frozenset(pairs), externals=named)

    def on(self, container: str) -> set[str]:
        return {e.network for e in self.engine.container(container).endpoints}

    def upstreams(self, app: str = "shop") -> list[str]:
        published = self.data_plane.published()
        return [upstream.replica for upstream in published.apps[app].upstreams] if published else []

    def unavailable(self) -> str:
        published = self.data_plane.published()
        return published.apps["shop"].unavailable if published else ""

    @property
    def ours(self) -> list[str]:
        return [n for n in (HOME, JOINT) if self.engine.network(n)]


@contextlib.asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    node.engine.watch(node.loop.wake)
    task = asyncio.create_task(node.loop.run(), name="loop")
    try:
        yield node
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node with an app and a database that run, and a loop that has looked at them."""
    node = Node()
    node.engine.run("shop-1", labels={"sidegate.app": "shop"})
    node.engine.run("db-1", labels=DATABASE)
    async with running(node):
        await node.settle()
        yield node


async def eventually(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not probe():
            await asyncio.sleep(0)


async def test_a_database_goes_home_and_leaves_the_bridge(node: Node) -> None:
    assert node.on("db-1") == {HOME}
    assert node.on("shop-1") == {"bridge"}


async def test_a_second_pass_does_nothing(node: Node) -> None:
    node.engine.calls.clear()
    assert (await node.settle()).actions == 0
    assert node.engine.calls == []


async def test_connect_and_disconnect_leave_nothing_behind(node: Node) -> None:
    node.ask(SHOP)
    await node.settle()
    assert node.on("shop-1") == {"bridge", JOINT}
    assert node.on("db-1") == {HOME, JOINT}
    node.ask()
    await node.settle()
    assert node.ours == [HOME]
    assert node.on("db-1") == {HOME}
    assert [c for c in node.host.calls if c.startswith("destroy_sockets")]
    assert (await node.settle()).actions == 0


async def test_a_replica_that_is_told_to_stop_is_let_go_of_while_the_engine_is_being_asked(node: Node) -> None:
    """At once, not when the engine answers; and it is back when it runs on all the same."""
    other = node.engine.run("shop-2", labels={"sidegate.app": "shop"})
    await node.settle()
    gate, observe = asyncio.Event(), node.engine.observe

    async def slow(*, full: bool = False) -> EngineState:
        await gate.wait()
        return await observe(full=full)

    node.engine.observe = slow  # type: ignore[method-assign]
    node.engine.kill(other.id, "SIGHUP")
    node.engine.kill(other.id, "SIGTERM")
    await eventually(lambda: node.upstreams() == ["shop-1"])
    node.engine.kill(node.engine.container("shop-1").id, "SIGTERM")
    await eventually(lambda: node.unavailable() == "stopping")
    gate.set()
    await node.settle()
    assert node.unavailable() == "stopping"
    node.engine.update(other.id, stopping=False)
    await eventually(lambda: node.upstreams() == ["shop-2"])
    node.engine.restart(node.engine.container("shop-1").id)
    await eventually(lambda: node.upstreams() == ["shop-1", "shop-2"])


async def test_the_log_names_replicas_alone_of_what_stops(node: Node) -> None:
    theirs = {"sidegate.app": "shop", "sidegate.instance": "another"}
    for name, labels in (("shop-2", {"sidegate.app": "shop"}), ("strange", {}), ("theirs", theirs)):
        node.engine.run(name, labels=labels)
    await node.settle()
    with capture_logs() as logs:
        for name in ("strange", "theirs", "shop-2"):
            node.engine.kill(node.engine.container(name).id, "SIGTERM")
        await eventually(lambda: any(entry["event"] == "replicas let go of" for entry in logs))
    assert [entry["stopping"] for entry in logs if "stopping" in entry] == [["shop-2"]]


async def test_letting_go_that_fails_is_made_up_for_by_the_pass(node: Node) -> None:
    node.engine.run("shop-2", labels={"sidegate.app": "shop"})
    await node.settle()
    node.data_plane.fail_next["publish"] = DataPlaneError("worker 0 does not answer")
    node.engine.kill(node.engine.container("shop-2").id, "SIGKILL")
    await eventually(lambda: node.upstreams() == ["shop-1"])


async def test_what_the_data_planes_checks_find_flows_into_the_routes(node: Node) -> None:
    health = {"sidegate.app": "shop", "sidegate.health": "/healthz"}
    one, two = (node.engine.run(f"web-{n}", labels={**health, "sidegate.app": "web"}) for n in (1, 2))
    await node.settle()
    assert node.upstreams("web") == ["web-1", "web-2"]
    node.data_plane.verdicts = {one.id: "", two.id: "answered 503"}
    node.loop.wake()
    await eventually(lambda: node.upstreams("web") == ["web-1"])
    passed = await node.settle()
    assert passed.actions == 0
    assert [str(p) for p in passed.problems] == ["web: web-2 takes no requests: unhealthy: answered 503"]
    node.data_plane.verdicts[two.id] = ""
    node.loop.wake()
    await eventually(lambda: node.upstreams("web") == ["web-1", "web-2"])


async def test_modes_and_options_reach_the_workers(node: Node) -> None:
    node.store.intent = replace(node.store.intent, modes={"shop": "paused"}, options={"shop": {"hsts": "1d"}})
    await node.settle()
    published = node.data_plane.published()
    assert published is not None
    route = published.apps["shop"]
    assert (route.mode, published.policies[route.policy].hsts) == ("paused", 86400)


async def test_an_event_is_enough_for_a_new_replica(node: Node) -> None:
    node.ask(SHOP)
    await node.settle()
    node.engine.create("shop-2", labels={"sidegate.app": "shop"})
    await eventually(lambda: JOINT in node.on("shop-2"))


async def test_lost_events_cost_one_resync(node: Node) -> None:
    node.ask(SHOP)
    await node.settle()
    node.engine.deaf = True
    node.engine.create("shop-2", labels={"sidegate.app": "shop"})
    assert JOINT not in node.on("shop-2")
    node.engine.deaf = False
    await node.settle()  # what the resync timer does
    assert JOINT in node.on("shop-2")


async def test_the_resync_timer_wakes_the_loop_by_itself() -> None:
    node = Node()
    node.loop = Loop(
        applier=Applier(node.engine, node.host, node.data_plane, node.databases),
        store=node.store,
        rules=node.rules,
        resync_seconds=0.01,
    )
    async with running(node):
        node.engine.deaf = True
        node.engine.run("db-1", labels=DATABASE)
        await eventually(lambda: node.on("db-1") == {HOME})


async def test_a_failed_step_is_reported_and_tried_again(node: Node) -> None:
    node.ask(SHOP)
    node.engine.fail_next["connect"] = EngineError("no buffer space")
    passed = await node.settle()
    # Within the pass the loop looked again, saw what was missing and did it.
    assert node.on("shop-1") == {"bridge", JOINT}
    assert node.on("db-1") == {HOME, JOINT}
    assert passed.engine_up


async def test_a_step_that_keeps_failing_ends_the_pass_and_stands_in_the_problems(node: Node) -> None:
    node.data_plane.held[30000] = "nginx (pid 812)"
    node.ask(shop_db=External(Gate(30000), enabled=True))
    passed = await node.settle()
    assert [str(p) for p in passed.problems] == [
        "sidegate: open shop-db on port 30000: cannot open shop-db: port 30000 is held by nginx (pid 812)"
    ]
    node.data_plane.held.clear()
    assert (await node.settle()).problems == ()
    assert node.data_plane.listeners() == {"shop-db": Listening(Gate(30000))}


async def test_a_refused_subnet_is_not_asked_for_again(node: Node) -> None:
    node.ask(SHOP)
    node.engine.fail_next["create_network"] = SubnetTakenError("overlaps")
    await node.settle()
    network = node.engine.network(JOINT)
    assert network is not None
    assert network.subnets == ("10.213.0.64/27",)


async def test_while_the_engine_is_away_routes_stay_less_what_has_visibly_ended(node: Node) -> None:
    routes = node.data_plane.published()
    assert routes is not None
    assert routes.apps["shop"].upstreams
    node.engine.unavailable = "connection refused"
    passed = await node.settle()
    assert not passed.engine_up
    assert "does not answer" in passed.engine_fault
    stale = node.data_plane.published()
    assert stale is not None
    assert stale.apps == routes.apps
    assert stale.engine_up is False
    node.host.dead.add(node.engine.container("shop-1").pid)
    await node.settle()
    after = node.data_plane.published()
    assert after is not None
    assert after.apps["shop"].unavailable == "stopped"
    node.engine.unavailable = ""
    assert (await node.settle()).engine_up


async def test_an_external_connection_is_switched_off_while_the_engine_is_away(node: Node) -> None:
    node.ask(shop_db=External(Gate(30000), enabled=True))
    await node.settle()
    node.engine.unavailable = "gone"
    node.ask(shop_db=External(Gate(30000), enabled=False))
    await node.settle()
    assert node.data_plane.listeners() == {}


async def test_an_engine_that_was_never_there_is_awaited() -> None:
    node = Node()
    node.engine.unavailable = "no such file"
    async with running(node):
        assert not (await node.settle()).engine_up
        node.engine.unavailable = ""
        node.engine.run("db-1", labels=DATABASE)
        await node.settle()
        assert node.on("db-1") == {HOME}


async def test_an_engine_that_is_another_daemons_ends_the_loop_before_anything_is_done() -> None:
    node = Node()
    node.engine.run("db-1", labels=DATABASE)
    node.engine.calls.clear()
    node.engine.fail_next["observe"] = AlreadyRunningError("another one has it")
    with pytest.raises(ExceptionGroup) as caught:
        await node.loop.run()
    assert caught.group_contains(AlreadyRunningError, match="another one has it")
    assert node.engine.calls == []
    assert node.data_plane.published() is None


async def test_what_runs_beside_the_loop_has_its_problems_among_those_of_a_pass(node: Node) -> None:
    problem = Problem("host", "somebody else may be at work")
    node.loop.standing.include(lambda: [problem])
    assert problem in (await node.settle()).problems


async def test_a_session_that_could_not_be_killed_is_said_and_the_network_still_goes(node: Node) -> None:
    node.ask(SHOP)
    await node.settle()
    node.databases.fail_next["kill_sessions"] = LoginFailedError("access denied")
    node.ask()
    passed = await node.settle()
    assert node.ours == [HOME]
    assert [str(p) for p in passed.problems] == [
        "shop-db: a query that was running when its connection was cut may run on: access denied"
    ]


async def test_the_fast_path_is_kept() -> None:
    node = Node(host=MemoryHost(HostState(fast_path=False)))
    node.engine.run("db-1", labels=DATABASE)
    async with running(node):
        await node.settle()
        assert node.host.calls.count("install_fast_path") == 1


async def test_domains_are_free_again_five_minutes_after_their_app_has_gone() -> None:
    node = Node()
    claim = {"sidegate.domains": "shop.example"}
    first = node.engine.run("old-1", labels={"sidegate.app": "old", **claim})
    async with running(node):
        await node.settle()
        node.engine.run("new-1", labels={"sidegate.app": "new", **claim})
        node.engine.remove(first.id)
        await node.settle()
        assert node.store.intent.claims == {"shop.example": "old"}
        node.now += 301
        await node.settle()
        assert node.store.intent.claims == {"shop.example": "new"}


async def test_purge_removes_everything_of_ours_and_leaves_no_container_stranded(node: Node) -> None:
    node.engine.add_network("theirs", "172.20.0.0/16")
    node.ask(SHOP, shop_db=External(Gate(30000), enabled=True))
    await node.settle()
    await node.loop.purge()
    assert node.ours == []
    assert node.on("db-1") == {"bridge"}
    assert node.engine.network("theirs")
    assert node.data_plane.listeners() == {}
    assert "remove_fast_path" in node.host.calls


async def test_two_hundred_connections_settle_in_one_pass_each_way() -> None:
    node = Node(rules=Rules(pool=IPv4Network("10.213.0.0/16")))
    node.engine.run("db-1", labels=DATABASE)
    pairs = [Pair.of(f"app{n}", "shop-db") for n in range(200)]
    async with running(node):
        await node.settle()
        node.ask(*pairs)
        passed = await node.settle()
        assert passed.failures == ()
        assert len(node.on("db-1")) == 201
        node.ask()
        await node.settle()
        assert node.on("db-1") == {HOME}


async def test_a_pass_that_does_not_get_on_is_told_from_one_that_waits(node: Node) -> None:
    node.now += 1000
    await eventually(lambda: node.loop.stalled() == 0)  # between passes there is nothing to get on with
    create, connect, begun = node.engine.create_network, node.engine.connect, asyncio.Event()
    turns = {"create": asyncio.Event(), "connect": asyncio.Event()}

    async def slow_create(*arguments: object, **options: object) -> None:
        begun.set()
        await turns["create"].wait()
        await create(*arguments, **options)  # type: ignore[arg-type]

    async def slow_connect(*arguments: object) -> None:
        await turns["connect"].wait()
        await connect(*arguments)  # type: ignore[arg-type]

    node.engine.create_network = slow_create  # type: ignore[method-assign]
    node.engine.connect = slow_connect  # type: ignore[method-assign,assignment]
    node.ask(SHOP)
    node.loop.wake()
    await begun.wait()
    node.now += 50
    assert node.loop.stalled() == 50
    turns["create"].set()
    await eventually(lambda: node.loop.stalled() == 0)
    node.now += 20
    assert node.loop.stalled() == 20
    turns["connect"].set()
    await node.settle()
    node.now += 1000
    await eventually(lambda: node.loop.stalled() == 0)


async def test_a_hanging_engine_does_not_keep_a_database_open(node: Node) -> None:
    """Whether it was asked before the switch or after."""
    node.ask(shop_db=External(Gate(30000), enabled=True))
    await node.settle()
    hung = asyncio.Event()

    async def hang(*, full: bool = False) -> object:
        hung.set()
        return await asyncio.Event().wait()

    node.engine.observe = hang  # type: ignore[method-assign,assignment]
    node.loop.wake()
    await hung.wait()
    assert node.data_plane.listeners() == {"shop-db": Listening(Gate(30000))}
    node.ask(shop_db=External(Gate(30000), enabled=False))
    node.loop.wake()
    await eventually(lambda: not node.data_plane.listeners())


async def test_sockets_that_could_not_be_destroyed_are_said(node: Node) -> None:
    node.ask(SHOP)
    await node.settle()
    node.host.fail_next["destroy_sockets"] = HostToolError("ss is not installed")
    node.ask()
    passed = await node.settle()
    assert node.ours == [HOME]
    assert [type(failure.action).__name__ for failure in passed.failures] == ["DestroySockets"]
    assert "sessions may hang at one end" in str(passed.problems[0])


async def test_what_the_daemon_has_no_right_to_is_said_once_and_not_tried(node: Node) -> None:
    node.ask(SHOP)
    await node.settle()
    node.host.state = replace(node.host.state, cut_fault="it takes root")
    before = len(node.host.calls)
    node.ask()
    passed = await node.settle()
    assert node.ours == [HOME]
    assert (passed.failures, passed.cut_fault) == ((), "it takes root")
    assert node.host.calls[before:] == []
    assert [problem.text for problem in passed.problems] == ["it takes root"]


async def test_a_purge_that_could_not_finish_goes_back_to_work(node: Node) -> None:
    node.ask(SHOP)
    await node.settle()
    node.engine.unavailable = "gone"
    assert not (await node.loop.purge()).engine_up
    node.engine.unavailable = ""
    assert (await node.settle()).desired.networks


async def test_settle_waits_for_a_pass_that_began_after_the_call(node: Node) -> None:
    gate = asyncio.Event()
    observe: Callable[..., Awaitable[object]] = node.engine.observe
    looks = 0

    async def slow(*, full: bool = False) -> object:
        nonlocal looks
        looks += 1
        await gate.wait()
        return await observe(full=full)

    node.engine.observe = slow  # type: ignore[method-assign,assignment]
    node.loop.wake()
    await eventually(lambda: looks == 1)
    waiting = asyncio.create_task(node.settle(), name="settle")
    await asyncio.sleep(0)
    gate.set()
    await waiting
    assert looks >= 2
