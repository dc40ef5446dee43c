"""Rollouts with the real loop, store and routes, on the engine in memory: what there is in the end, what visitors meet
meanwhile, and what is left after a daemon that ended half-way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from memory_daemon import MemoryDaemon, running
from sidegate.core.model import Container, Deployment, Intent, Rollout
from sidegate.core.workloads import ImageInfo, Snapshot
from sidegate.errors import EngineError, RolloutFailedError, SidegateError

V1 = Deployment("shop:1", "image:shop:1", 2)
V2 = Deployment("shop:2", "image:shop:2", 2)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    async with running(tmp_path) as daemon:
        for version in (1, 2, 3):
            daemon.workloads.images[f"shop:{version}"] = ImageInfo(f"image:shop:{version}")
        yield daemon


async def deploy(node: MemoryDaemon, deployment: Deployment, *, port: int = 8080) -> list[str]:
    """As `app deploy` does; what was told meanwhile."""
    told: list[str] = []
    intent, discovered = node.store.intent, node.loop.last.desired.discovery.apps.get("shop")
    ids = tuple(replica.container.id for replica in discovered.replicas) if discovered else ()
    rollout = Rollout(1.0, intent.deployments.get("shop"), intent.ports.get("shop", 0), ids)
    await node.store.set_deployment("shop", deployment, port=port, rollout=rollout)
    await node.rollouts.carry_out("shop", told.append)
    return told


async def redeploy(node: MemoryDaemon, *names: str) -> list[str]:
    told: list[str] = []
    ids = tuple(node.engine.container(name).id for name in names)
    await node.store.begin_rollout("shop", Rollout(1.0, None, 0, ids))
    await node.rollouts.carry_out("shop", told.append)
    return told


def containers(node: MemoryDaemon) -> dict[str, Container]:
    return {c.name: c for c in node.loop.last.state.containers}


async def until(what: str, probe: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not probe():
            await asyncio.sleep(0.005)


class Watch:
    """Notes every set of replicas that was published for the app."""

    def __init__(self, node: MemoryDaemon) -> None:
        self.seen: list[list[str]] = []
        publish = node.data_plane.publish

        async def noting(routes):  # type: ignore[no-untyped-def]
            version = await publish(routes)
            if "shop" in routes.apps:
                self.seen.append(sorted(u.id for u in routes.apps["shop"].upstreams))
            return version

        node.data_plane.publish = noting  # type: ignore[method-assign]


async def test_a_first_deployment(node: MemoryDaemon) -> None:
    told = await deploy(node, V1, port=5000)
    found = containers(node)
    assert sorted(found) == ["sidegate-shop-1", "sidegate-shop-2"]
    for container in found.values():
        assert container.running
        assert container.env == {"PORT": "5000"}
        assert [e.network for e in container.endpoints] == ["sidegate--shop"]
    network = node.engine.network("sidegate--shop")
    assert network and not network.internal
    route = node.loop.last.desired.routes.apps["shop"]
    assert [(u.replica, u.port) for u in route.upstreams] == [("sidegate-shop-1", 5000), ("sidegate-shop-2", 5000)]
    assert node.store.intent.rollouts == {}
    assert "shop: making the new containers sidegate-shop-1, sidegate-shop-2" in told


async def test_another_deployment_rolls_and_somebody_serves_at_every_moment(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    before = {c.id for c in containers(node).values()}
    watch = Watch(node)
    await deploy(node, V2, port=9000)
    after = {c.id for c in containers(node).values()}
    assert sorted(containers(node)) == ["sidegate-shop-1", "sidegate-shop-2"]
    assert not before & after
    assert all(watch.seen)
    assert {c.env["PORT"] for c in containers(node).values()} == {"9000"}
    assert set(watch.seen[-1]) == after


async def test_fewer_replicas(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    await deploy(node, Deployment("shop:2", "image:shop:2", 1))
    assert sorted(containers(node)) == ["sidegate-shop-1"]


@pytest.mark.parametrize("how", ["ends", "deaf", "refused", "sick"])
async def test_one_that_does_not_come_up_changes_nothing(node: MemoryDaemon, how: str) -> None:
    node.workloads.images["shop:2"] = ImageInfo("image:shop:2", health_check=how == "sick")
    await deploy(node, V1)
    before = {c.id for c in containers(node).values()}

    def started(container: Container) -> None:
        node.workloads.say(container.id, "Traceback: no such table")
        if container.name == "sidegate-shop-2.sidegate-next":
            if how == "ends":
                node.workloads.end(container.id, 3)
            if how == "sick":
                node.engine.update(container.id, health="unhealthy")
            if how == "deaf":
                node.deaf.update(e.address for e in node.engine.container(container.name).endpoints)
        elif how == "sick":
            node.engine.update(container.id, health="healthy")

    node.workloads.started = started
    if how == "refused":
        node.workloads.fail_next["start"] = EngineError("port is already allocated")
    failing = asyncio.create_task(deploy(node, V2, port=9000))
    if how in ("deaf", "sick"):
        await node.run_out_of_time("shop", "1 of 2")
    with pytest.raises(RolloutFailedError) as failed:
        await failing
    text = str(failed.value)
    assert "the old containers go on serving" in text
    reasons = {"ends": "exited with code 3", "deaf": "nothing listens", "refused": "allocated", "sick": "unhealthy"}
    assert reasons[how] in text
    assert ("no such table" in text) == (how != "refused")
    assert {c.id for c in containers(node).values()} == before
    intent = node.store.intent
    assert (intent.deployments["shop"], intent.ports["shop"], dict(intent.rollouts)) == (V1, 8080, {})


@pytest.mark.parametrize("how", ["ends", "deaf"])
async def test_a_first_deployment_that_fails_leaves_nothing(node: MemoryDaemon, how: str) -> None:
    def started(container: Container) -> None:
        if how == "ends":
            node.workloads.end(container.id, 1)
        elif container.name.startswith("sidegate-shop-2"):
            node.deaf.update(e.address for e in node.engine.container(container.name).endpoints)

    node.workloads.started = started
    failing = asyncio.create_task(deploy(node, V1))
    if how == "deaf":
        await node.run_out_of_time("shop", "1 of 2")
    with pytest.raises(RolloutFailedError, match="nothing of it is left"):
        await failing
    await node.settled()
    assert containers(node) == {}
    assert "shop" not in node.store.intent.deployments
    assert node.engine.network("sidegate--shop") is None


async def test_other_peoples_containers_get_the_stored_variables_and_port(node: MemoryDaemon) -> None:
    node.app("shop", 1, env={"PORT": "3000", "OWN": "kept"})
    await node.settled()
    await node.store.set_port("shop", 4000)
    watch = Watch(node)
    await redeploy(node, "shop-1")
    assert sorted(containers(node)) == ["shop-1"]
    assert dict(node.engine.container("shop-1").env) == {"PORT": "4000", "OWN": "kept"}
    assert all(watch.seen)
    assert node.loop.last.desired.routes.apps["shop"].upstreams[0].port == 4000


async def test_where_two_cannot_run_side_by_side_the_old_one_stops_first(node: MemoryDaemon) -> None:
    node.app("shop", 1, published_ports=(8000,))
    await node.settled()
    told = await redeploy(node, "shop-1")
    assert any("two copies cannot run side by side" in text for text in told)
    order = [call.split()[0] for call in node.workloads.calls]
    assert order.index("stop") < order.index("start")
    assert sorted(containers(node)) == ["shop-1"]


async def test_old_ones_are_given_time_for_what_they_have_in_hand(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    for upstream in node.loop.last.desired.routes.apps["shop"].upstreams:
        node.connections[f"{upstream.address}:{upstream.port}"] = 1
    rollout = asyncio.create_task(deploy(node, V2))
    await until("they leave", lambda: any(name.endswith("-old") for name in containers(node)))
    await node.settled()
    await node.settled()
    assert not any(call.startswith("stop") for call in node.workloads.calls)
    node.connections.clear()
    await rollout
    assert sorted(containers(node)) == ["sidegate-shop-1", "sidegate-shop-2"]


async def test_an_engine_that_is_away_is_waited_for(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    node.workloads.started = lambda container: setattr(node.engine, "unavailable", "it restarts")
    rollout = asyncio.create_task(deploy(node, V2))
    await until("it is away", lambda: node.loop.standing.troubles)
    assert not rollout.done()
    node.workloads.started = lambda container: None
    node.engine.unavailable = ""
    await rollout
    assert {c.image for c in containers(node).values()} == {"shop:2"}


async def test_what_has_to_be_done_some_time_is_tried_again(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    for call in ("rename", "stop", "remove"):
        node.workloads.fail_next[call] = EngineError("no time")
    told = await deploy(node, V2)
    assert any("does not go on: no time" in text for text in told)
    assert sorted(containers(node)) == ["sidegate-shop-1", "sidegate-shop-2"]


async def test_a_container_that_is_missing_is_made_and_a_stopped_one_is_left_alone(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    kept = node.engine.container("sidegate-shop-2")
    node.engine.stop(kept.id)
    node.engine.remove(node.engine.container("sidegate-shop-1").id)
    await until("it is back", lambda: "sidegate-shop-1" in containers(node) and not node.store.intent.rollouts)
    assert node.engine.container("sidegate-shop-2").id == kept.id
    assert not node.engine.container("sidegate-shop-2").running


async def test_what_nobody_asked_for_and_fails_is_a_problem(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    node.workloads.started = lambda container: node.workloads.end(container.id, 1)
    node.engine.remove(node.engine.container("sidegate-shop-1").id)
    said = "shop: the new container sidegate-shop-1 exited with code 1"
    await until("it is said", lambda: any(str(p).startswith(said) for p in node.loop.last.problems))
    assert node.store.intent.deployments["shop"] == V1
    assert node.engine.container("sidegate-shop-2").running


async def test_removing_an_app(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    ids = tuple(c.id for c in containers(node).values())
    gone = Deployment("shop:1", "image:shop:1", 0)
    await node.store.set_deployment("shop", gone, rollout=Rollout(1.0, V1, 0, ids))
    await node.rollouts.carry_out("shop", lambda text: None)
    await node.settled()
    assert containers(node) == {}
    assert node.store.intent.deployments == {}
    assert node.store.intent.ports == {}
    assert node.engine.network("sidegate--shop") is None


async def remove(node: MemoryDaemon, deployment: Deployment) -> None:
    """As `app rm` does."""
    ids = tuple(c.id for c in containers(node).values())
    gone = replace(deployment, replicas=0)
    await node.store.set_deployment("shop", gone, rollout=Rollout(2.0, deployment, 0, ids))
    await node.rollouts.carry_out("shop", lambda text: None)
    await node.settled()


async def remove_meanwhile(node: MemoryDaemon, there: asyncio.Event, go_on: asyncio.Event) -> None:
    """A deployment is asked to go away once it is `there`, and only then let `go_on`."""
    rollout = asyncio.create_task(deploy(node, V2))
    await there.wait()
    removal = asyncio.create_task(remove(node, V2))
    await until("it is asked for", lambda: node.store.intent.deployments["shop"].replicas == 0)
    go_on.set()
    await asyncio.gather(rollout, removal)


async def test_removing_an_app_at_the_moment_when_its_rollout_is_done(node: MemoryDaemon) -> None:
    """What is asked for while the last look is taken counts: nothing stays of an app that nobody knows any more."""
    await deploy(node, V1)
    looking, looked = asyncio.Event(), asyncio.Event()
    snapshots = node.workloads.snapshots

    async def slow(names: Collection[str]) -> Mapping[str, Snapshot]:
        found = await snapshots(names)
        if found.keys() == {"sidegate-shop-1", "sidegate-shop-2"} and {s.image_id for s in found.values()} == {
            "image:shop:2"
        }:
            looking.set()
            await looked.wait()
        return found

    node.workloads.snapshots = slow  # type: ignore[method-assign]
    await remove_meanwhile(node, looking, looked)
    assert containers(node) == {}
    assert node.store.intent.deployments == {}


async def test_removing_an_app_whose_rollout_has_just_failed(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    node.workloads.started = lambda container: node.workloads.end(container.id, 1)
    failed, going_on = asyncio.Event(), asyncio.Event()
    logs = node.workloads.logs

    async def slow(container_id: str, tail: int = 20) -> str:
        failed.set()
        await going_on.wait()
        return await logs(container_id, tail)

    node.workloads.logs = slow  # type: ignore[method-assign]
    await remove_meanwhile(node, failed, going_on)
    assert containers(node) == {}
    assert (node.store.intent.deployments, node.store.intent.rollouts) == ({}, {})


async def test_what_others_have_named_like_copies_of_ours_is_left_alone(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    label = {"sidegate.app": "shop"}
    strangers = {
        name: node.engine.run(name, labels=labels).id
        for name, labels in (
            ("sidegate-shop-1.sidegate-old", label),
            ("sidegate-shop-2.sidegate-next", label),
            ("sidegate-shop-2.sidegate-old", {}),
        )
    }
    await node.settled()
    before = {c.id for c in containers(node).values()}
    calls = len(node.workloads.calls)
    with pytest.raises(RolloutFailedError, match=r"there is a container sidegate-shop-1\.sidegate-old already"):
        await deploy(node, V2)
    await node.settled()
    assert {c.id for c in containers(node).values()} == before
    assert {c.id for c in containers(node).values() if c.name in strangers} == set(strangers.values())
    assert not any(call.startswith(("stop", "remove", "rename")) for call in node.workloads.calls[calls:])
    assert node.rollouts.under_way("shop") == ""


async def test_a_network_that_others_have_named_like_ours(node: MemoryDaemon) -> None:
    node.engine.add_network("sidegate--shop", "192.168.7.0/24")
    await node.settled()
    with pytest.raises(RolloutFailedError, match=r"the network sidegate--shop was not made: .*not Sidegate's"):
        await deploy(node, V1)
    await node.settled()
    assert containers(node) == {}
    assert node.store.intent.deployments == {}


async def test_a_name_that_means_nothing_to_us_keeps_nobody_busy(node: MemoryDaemon) -> None:
    node.app("shop", 1)
    node.engine.update(node.engine.container("shop-1").id, name="shop-1.sidegate-old.sidegate-next")
    for _ in range(3):
        await node.settled()
    asked = 0
    snapshots = node.workloads.snapshots

    async def counted(names: Collection[str]) -> Mapping[str, Snapshot]:
        nonlocal asked
        asked += 1
        return await snapshots(names)

    node.workloads.snapshots = counted  # type: ignore[method-assign]
    for _ in range(5):
        await node.settled()
    assert asked <= 1


async def test_a_label_with_a_space_at_its_end(node: MemoryDaemon) -> None:
    before = node.app("shop", 1, labels={"sidegate.app": "shop "}).id
    await node.settled()
    await redeploy(node, "shop-1")
    assert node.engine.container("shop-1").id != before


async def test_other_peoples_copies_that_are_in_the_way_are_named(node: MemoryDaemon) -> None:
    node.app("shop", 1)
    node.engine.run("shop-1.sidegate-old", labels={})
    await node.settled()
    with pytest.raises(RolloutFailedError, match=r"there is a container shop-1\.sidegate-old already"):
        await redeploy(node, "shop-1")
    assert sorted(containers(node)) == ["shop-1", "shop-1.sidegate-old"]


async def test_a_rollout_of_an_app_that_is_forgotten_is_said_to_have_failed(node: MemoryDaemon) -> None:
    before = node.app("shop", 1).id
    await node.settled()
    node.deaf.add("8080")
    rollout = asyncio.create_task(redeploy(node, "shop-1"))
    await until("it waits", lambda: "0 of 1" in node.rollouts.under_way("shop"))
    await node.store.forget_app("shop")
    with pytest.raises(RolloutFailedError, match="was removed meanwhile"):
        await rollout
    assert [c.id for c in containers(node).values()] == [before]


async def test_a_purge_while_something_begins_by_itself(node: MemoryDaemon) -> None:
    """The daemon goes on: it has the purge to finish."""
    await deploy(node, V1)
    beginning, begun = asyncio.Event(), asyncio.Event()
    begin_rollout = node.store.begin_rollout

    async def slow(app: str, rollout: Rollout, *, asked: bool = True) -> Intent:
        beginning.set()
        await begun.wait()
        return await begin_rollout(app, rollout, asked=asked)

    node.store.begin_rollout = slow  # type: ignore[method-assign]
    node.engine.remove(node.engine.container("sidegate-shop-1").id)
    await beginning.wait()
    await node.rollouts.remove_all()
    begun.set()
    await until("it is in the store", lambda: node.store.intent.rollouts)
    assert sorted(c.name for c in node.engine_containers()) == []
    node.rollouts.resume()
    await until("it goes on", lambda: sorted(containers(node)) == ["sidegate-shop-1", "sidegate-shop-2"])


async def test_watchers_may_leave_and_others_come(node: MemoryDaemon) -> None:
    await deploy(node, V1)
    node.deaf.add("8080")
    await node.store.begin_rollout("shop", Rollout(1.0, V1, 8080, tuple(c.id for c in containers(node).values())))
    first = asyncio.create_task(node.rollouts.carry_out("shop", lambda text: None))
    told: list[str] = []
    second = asyncio.create_task(node.rollouts.carry_out("shop", told.append))
    await until("it waits", lambda: any("0 of 2" in text for text in told))
    first.cancel()
    assert "0 of 2 new replicas are healthy" in node.rollouts.under_way("shop")
    node.deaf.clear()
    await second
    assert node.rollouts.under_way("shop") == ""


@pytest.mark.parametrize("steps", range(1, 24))
async def test_a_daemon_that_ends_after_any_step_goes_on_at_its_next_start(tmp_path: Path, steps: int) -> None:
    async with running(tmp_path) as node:
        for version in (1, 2):
            node.workloads.images[f"shop:{version}"] = ImageInfo(f"image:shop:{version}")
        await deploy(node, V1)
        made = len(node.workloads.calls)
        rollout = asyncio.create_task(deploy(node, V2))
        await until("so many steps", lambda: rollout.done() or len(node.workloads.calls) - made >= steps)
        engine, workloads = node.engine, node.workloads
    with contextlib.suppress(SidegateError, asyncio.CancelledError):
        await rollout
    async with running(tmp_path, engine=engine) as node:
        node.workloads.images |= workloads.images
        await node.settled()
        await until("it is done", lambda: not node.rollouts.under_way("shop"))
        await node.settled()
        found = containers(node)
        assert sorted(found) == ["sidegate-shop-1", "sidegate-shop-2"]
        assert {c.image for c in found.values()} == {"shop:2"}
        assert all(c.running for c in found.values())
