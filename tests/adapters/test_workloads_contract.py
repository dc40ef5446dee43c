"""What rollouts may rely on when containers are made and made anew: one suite, held against the real engine and the one
in memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from adapters.labs import docker
from adapters.workload_labs import (
    IMAGE,
    MISSING_IMAGE,
    DockerWorkloadLab,
    MemoryWorkloadLab,
    WorkloadLab,
    fresh,
    seen,
)
from sidegate.core.workloads import ContainerSpec, Snapshot
from sidegate.errors import EngineError, EngineUnavailableError, NotFoundError, RefusedError

NOBODY = "f" * 64
LITERAL = {"URL": "mysql://a:b=c@d?e=f", "EMPTY": "", "LINES": "a\nb", "SHELL": "$HOME `id` 'x' \"y\" \\ %s, é"}


@pytest.fixture(params=["memory", pytest.param("docker", marks=pytest.mark.engine)])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[WorkloadLab]:
    lab: WorkloadLab = MemoryWorkloadLab() if request.param == "memory" else DockerWorkloadLab()
    try:
        yield lab
    finally:
        await lab.close()


async def snapshot(lab: WorkloadLab, name: str) -> Snapshot:
    return (await lab.workloads.snapshots([name]))[name]


# --- images and looking --------------------


async def test_an_image_is_found_by_name_and_by_id(lab: WorkloadLab) -> None:
    """One that this node does not have is said, with what to do."""
    image = await lab.workloads.image(IMAGE)
    assert image.id
    assert await lab.workloads.image(image.id) == image
    with pytest.raises(NotFoundError, match=f"no image {MISSING_IMAGE} on this node: `docker pull {MISSING_IMAGE}`"):
        await lab.workloads.image(MISSING_IMAGE)


async def test_snapshots_are_of_those_that_exist(lab: WorkloadLab) -> None:
    """By name and never by id; what the reconciler sees is in it."""
    name = await lab.run(labels={"sidegate.app": "shop"}, env=LITERAL)
    found = await snapshot(lab, name)
    assert (found.name, found.running, found.health, found.strategy_fault) == (name, True, "", "")
    assert found.image_id == (await lab.workloads.image(IMAGE)).id
    assert found.container == await seen(lab, name)
    assert (found.labels["sidegate.app"], {k: found.env[k] for k in LITERAL}) == ("shop", LITERAL)
    assert found.addresses.keys() == {"bridge"}
    assert await lab.workloads.snapshots([found.id, found.id[:12], fresh()]) == {}
    assert "mysql" not in repr(found)


async def test_how_a_program_ended(lab: WorkloadLab) -> None:
    """An exit code and no address; it is there until somebody removes it."""
    name = await lab.run()
    await lab.end(name)
    async with asyncio.timeout(30):
        while (found := await snapshot(lab, name)).running:
            await asyncio.sleep(0.01)
    assert (found.container.state, found.exit_code, found.addresses) == ("exited", 137, {})


# --- copies --------------------


async def test_a_copy_differs_in_name_and_environment(lab: WorkloadLab) -> None:
    """Its networks, aliases and labels are the original's, its variables exactly those given; it does not run yet."""
    front, back = await lab.network(), await lab.network()
    networks = {front: ("web", "www"), back: ("shop",)}
    name = await lab.run(labels={"sidegate.app": "shop"}, env={"OLD": "1", "KEPT": "2"}, networks=networks)
    original = await snapshot(lab, name)
    await lab.workloads.check(original)
    env = {key: value for key, value in original.env.items() if key != "OLD"} | LITERAL | {"KEPT": "3"}
    copied = await lab.workloads.copy(original, f"{name}.sidegate-next", env)
    copy = await snapshot(lab, f"{name}.sidegate-next")
    assert (copy.id, copy.container.state, copy.image_id) == (copied, "created", original.image_id)
    assert (copy.labels, copy.env, copy.container.image) == (original.labels, env, IMAGE)
    assert copy.container == await seen(lab, copy.name)
    assert {e.network: e.aliases for e in copy.container.endpoints} == {k: set(v) for k, v in networks.items()}
    await lab.workloads.start(copied)
    started = await snapshot(lab, copy.name)
    assert started.addresses.keys() == {front, back}
    assert not set(started.addresses.values()) & set(original.addresses.values())
    assert (await snapshot(lab, name)).running


async def test_a_network_that_went_meanwhile_is_left_out(lab: WorkloadLab) -> None:
    """It was taken from the original, and the copy could not start on it."""
    front, gone = await lab.network(), await lab.network()
    name = await lab.run(networks={front: (), gone: ()})
    original = await snapshot(lab, name)
    await lab.drop_network(gone)
    copied = await lab.workloads.copy(original, fresh(), original.env)
    await lab.workloads.start(copied)


async def test_names_are_taken_once(lab: WorkloadLab) -> None:
    """Copying and creating under a name that is there, and renaming to one, fail and change nothing."""
    name, other = await lab.run(), await lab.run()
    original = await snapshot(lab, name)
    with pytest.raises(EngineError, match="already in use"):
        await lab.workloads.copy(original, other, original.env)
    with pytest.raises(EngineError, match="already in use"):
        await lab.workloads.create(ContainerSpec(IMAGE), other)
    with pytest.raises(EngineError, match="already in use"):
        await lab.workloads.rename(original.id, other)
    assert (await lab.workloads.snapshots([name, other])).keys() == {name, other}


async def test_two_that_cannot_run_side_by_side_say_why(lab: WorkloadLab) -> None:
    """A published port, a label; an app without either has no fault."""
    published = await snapshot(lab, await lab.run(publish=24_990))
    assert "24990" in published.strategy_fault
    labelled = await snapshot(lab, await lab.run(labels={"sidegate.strategy": "recreate"}))
    assert labelled.strategy_fault == "its label sidegate.strategy says recreate"


async def test_what_cannot_be_made_anew_is_refused_beforehand(lab: WorkloadLab) -> None:
    """The refusal names the container and the reason."""
    name = await lab.run()
    if isinstance(lab, MemoryWorkloadLab):
        lab.made.refusals[name] = "it was run with --rm"
    else:
        await docker("rm", "-f", name)
        await docker("run", "--detach", "--rm", "--name", name, IMAGE, "sleep", "infinity")
    with pytest.raises(RefusedError, match=f"container {name} cannot be made anew: it was run with --rm"):
        await lab.workloads.check(await snapshot(lab, name))


# --- containers of our own --------------------


async def test_a_container_of_our_own(lab: WorkloadLab) -> None:
    """Its image, variables, labels, network and alias are those asked for."""
    network, name = await lab.network(), fresh()
    spec = ContainerSpec(
        IMAGE,
        env=LITERAL,
        labels={"sidegate.app": "shop"},
        network=network,
        aliases=("shop",),
        command=("sleep", "infinity"),
    )
    made = await lab.workloads.create(spec, name)
    await lab.workloads.start(made)
    found = await snapshot(lab, name)
    assert (found.id, found.running, found.container.image) == (made, True, IMAGE)
    assert LITERAL.items() <= found.env.items()
    assert found.labels["sidegate.app"] == "shop"
    assert found.addresses.keys() == {network}
    endpoint = found.container.endpoint(network)
    assert endpoint is not None
    assert endpoint.aliases == {"shop"}
    assert found.strategy_fault == ""


async def test_what_a_container_of_our_own_needs(lab: WorkloadLab) -> None:
    """An image and a network that are there, or nothing is made."""
    name = fresh()
    with pytest.raises(NotFoundError, match=MISSING_IMAGE):
        await lab.workloads.create(ContainerSpec(MISSING_IMAGE), name)
    with pytest.raises(NotFoundError, match="nowhere"):
        await lab.workloads.create(ContainerSpec(IMAGE, network="nowhere"), name)
    assert await lab.workloads.snapshots([name]) == {}


# --- a container's life --------------------


async def test_every_step_may_be_taken_twice(lab: WorkloadLab) -> None:
    """What is so already is success, and what is gone need not be stopped or removed."""
    name = await lab.run()
    container = (await snapshot(lab, name)).id
    for _ in range(2):
        await lab.workloads.stop(container)
    assert not (await snapshot(lab, name)).running
    for _ in range(2):
        await lab.workloads.start(container)
    assert (await snapshot(lab, name)).running
    for _ in range(2):
        await lab.workloads.rename(container, f"{name}.sidegate-old")
    assert (await lab.workloads.snapshots([name, f"{name}.sidegate-old"])).keys() == {f"{name}.sidegate-old"}
    for _ in range(2):
        await lab.workloads.remove(container, volumes=True)
    assert await lab.workloads.snapshots([f"{name}.sidegate-old"]) == {}
    await lab.workloads.stop(container)


async def test_what_is_gone_cannot_be_started_or_renamed(lab: WorkloadLab) -> None:
    """It says so."""
    for lost in (lab.workloads.start(NOBODY), lab.workloads.rename(NOBODY, fresh()), lab.workloads.logs(NOBODY)):
        with pytest.raises(NotFoundError, match=f"no container {NOBODY[:12]}"):
            await lost
    with pytest.raises(NotFoundError, match=f"no container {NOBODY[:12]}"):
        await anext(lab.workloads.follow(NOBODY))


# --- logs --------------------


async def test_the_last_lines(lab: WorkloadLab) -> None:
    """As many as were asked for, also after the end."""
    name = await lab.run()
    container = (await snapshot(lab, name)).id
    assert await lab.workloads.logs(container) == ""
    for number in range(4):
        await lab.say(name, f"line {number} é")
    assert await lab.workloads.logs(container, 2) == "line 2 é\nline 3 é"
    await lab.end(name)
    assert (await lab.workloads.logs(container)).splitlines()[-1] == "line 3 é"


async def test_following_a_log(lab: WorkloadLab) -> None:
    """The last lines, then each that is written, and an end with the container's."""
    name = await lab.run()
    container = (await snapshot(lab, name)).id
    for number in range(3):
        await lab.say(name, f"line {number}")
    async with asyncio.timeout(20), aclosing(lab.workloads.follow(container, 1)) as lines:
        assert (await anext(lines)).text == "line 2"
        await lab.say(name, "one more")
        assert (await anext(lines)).text == "one more"
        await lab.end(name)
        assert [line async for line in lines] == []


async def test_following_a_log_from_a_moment_on(lab: WorkloadLab) -> None:
    name = await lab.run()
    container = (await snapshot(lab, name)).id
    await lab.say(name, "before")
    async with asyncio.timeout(20):
        async with aclosing(lab.workloads.follow(container)) as lines:
            assert (await anext(lines)).text == "before"
        moment = time.time()
        await lab.say(name, "after")
        async with aclosing(lab.workloads.follow(container, 100, moment)) as lines:
            assert (await anext(lines)).text == "after"


async def test_a_log_is_left_at_any_time(lab: WorkloadLab) -> None:
    """Whoever stops reading holds nothing up, and closing ends the readers that are left."""
    name = await lab.run()
    container = (await snapshot(lab, name)).id
    await lab.say(name, "first")
    async with asyncio.timeout(20):
        async with aclosing(lab.workloads.follow(container)) as lines:
            assert (await anext(lines)).text == "first"
        async with aclosing(lab.workloads.follow(container)) as lines:
            assert (await anext(lines)).text == "first"
            waiting = asyncio.ensure_future(anext(lines, None))
            await asyncio.sleep(0)
            await lab.workloads.close()
            assert await waiting is None


# --- an engine that is away --------------------


async def test_an_engine_that_is_away_says_so(lab: WorkloadLab) -> None:
    """Every call raises EngineUnavailableError, and closing twice is fine."""
    original = await snapshot(lab, await lab.run())
    away = await lab.unreachable()
    for call in (
        away.image(IMAGE),
        away.snapshots(["c"]),
        away.check(original),
        away.copy(original, "n", {}),
        away.create(ContainerSpec(IMAGE), "n"),
        away.pull(IMAGE, lambda _: None),
        away.stop(NOBODY),
        away.remove(NOBODY),
    ):
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            await call
    await away.close()
    await away.close()
