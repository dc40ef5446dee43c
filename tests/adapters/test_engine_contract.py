"""What the reconciler may rely on, whatever the engine: one suite, held against the real one and the one in memory."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from adapters.labs import IMAGE, PREFIX, SUBNETS, DockerLab, Lab, MemoryLab, docker, look, network, see
from memory_engine import MemoryEngine
from memory_world import MemoryDatabases, MemoryDataPlane, MemoryHost
from sidegate.adapters.docker import DockerEngine
from sidegate.adapters.host import LinuxHost
from sidegate.core.model import Container
from sidegate.core.newcomers import Newcomers
from sidegate.errors import EngineError, EngineUnavailableError, NotFoundError, SidegateError, SubnetTakenError
from sidegate.reconciler.world import Databases, DataPlane, Engine, Host


@pytest.fixture(params=["memory", pytest.param("docker", marks=pytest.mark.engine)])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    lab: Lab = MemoryLab() if request.param == "memory" else DockerLab()
    try:
        yield lab
    finally:
        await lab.close()


async def test_the_worlds_fit_their_protocols() -> None:
    """Real and in-memory adapters alike are what the reconciler asks for (mypy holds it, too)."""
    engines: list[Engine] = [MemoryEngine(), DockerEngine()]
    hosts: list[Host] = [MemoryHost(), LinuxHost("test")]
    others: tuple[DataPlane, Databases] = (MemoryDataPlane(), MemoryDatabases())
    assert len([*engines, *hosts, *others]) == 6
    for engine in engines:
        await engine.close()
        await engine.close()


# --- containers --------------------


async def test_a_created_container_is_seen_with_its_labels_and_environment(lab: Lab) -> None:
    """What `docker create` was given is seen literally, on the default bridge, with neither address nor process."""
    env = {"URL": "mysql://a:b=c@d?e=f", "EMPTY": "", "LINES": "a\nb"}
    container = await see(lab, await lab.create(labels={"sidegate.app": "shop"}, env=env))
    assert (container.name.startswith(PREFIX), container.image, container.state) == (True, IMAGE, "created")
    assert container.labels["sidegate.app"] == "shop"
    assert env.items() <= container.env.items()
    assert (container.pid, container.health, container.network_mode) == (0, "", "default")
    assert [(e.network, e.address, e.aliases) for e in container.endpoints] == [("bridge", "", frozenset())]
    assert (container.exposed_ports, container.published_ports, container.links) == ((), (), ())


async def test_a_container_through_its_life(lab: Lab) -> None:
    """Running it has an address and a process, stopped neither, started again both; removed it is gone."""
    container = await lab.create()
    name = await network(lab)
    await lab.engine.connect(container, name, frozenset({"shop-db", "shop-db.internal"}))
    await lab.start(container)
    running = await see(lab, container)
    assert running.running
    assert running.pid
    assert all(endpoint.address for endpoint in running.endpoints)
    await lab.stop(container)
    stopped = await see(lab, container)
    assert (stopped.state, stopped.pid) == ("exited", 0)
    endpoint = stopped.endpoint(name)
    assert endpoint is not None
    assert (endpoint.address, endpoint.aliases) == ("", frozenset({"shop-db", "shop-db.internal"}))
    await lab.start(container)
    assert (await see(lab, container)).pid not in (0, running.pid)
    await lab.remove(container)
    assert await look(lab, container) is None


async def test_times_of_creation_sort_as_text(lab: Lab) -> None:
    """Of two containers the one created first has the smaller string."""
    first, second = await lab.create(), await lab.create()
    assert (await see(lab, first)).created < (await see(lab, second)).created
    assert len((await see(lab, first)).created) == len("2026-01-01T00:00:00.000000000Z")


async def test_a_container_that_is_told_to_stop_is_stopping_until_it_has(lab: Lab) -> None:
    """Its stop signal counts at once, before the engine shows anything; other signals do not; another start ends it."""
    woken = asyncio.Event()
    lab.watch(woken.set)
    plain, own = await lab.create(), await lab.create(stop_signal="SIGUSR1")
    for container in (plain, own):
        await lab.start(container)
    assert [(await see(lab, c)).stopping for c in (plain, own)] == [False, False]
    await _until(lab, woken, own, stopping=False)
    await lab.kill(own, "SIGHUP")
    await lab.kill(own, "SIGTERM")
    await lab.kill(plain, "SIGTERM")
    assert (await _until(lab, woken, plain, stopping=True)).running  # sleep, as process 1, takes no notice
    assert not (await see(lab, own)).stopping
    await lab.kill(own, "SIGUSR1")
    assert (await _until(lab, woken, own, stopping=True)).running
    await lab.stop(plain)
    assert not (await see(lab, plain)).stopping
    await lab.start(plain)
    assert not (await _until(lab, woken, plain, stopping=False)).stopping


async def _until(lab: Lab, woken: asyncio.Event, container: str, *, stopping: bool) -> Container:
    """Look each time something wakes, as the loop does."""
    async with asyncio.timeout(30):
        while True:
            woken.clear()
            found = await see(lab, container)
            if found.stopping == stopping:
                return found
            await woken.wait()


# --- networks --------------------


async def test_a_network_of_ours_is_internal_and_bears_its_labels(lab: Lab) -> None:
    """A network is made as asked for, and asking again changes nothing."""
    subnet = next(SUBNETS)
    for _ in range(2):
        await lab.engine.create_network(
            f"{PREFIX}-made", subnet=subnet, device="sg-tmade", labels={"sidegate.managed": "true"}, mtu=1400
        )
    (made,) = [n for n in (await lab.engine.observe()).networks if n.name == f"{PREFIX}-made"]
    assert (made.driver, made.internal, made.labels) == ("bridge", True, {"sidegate.managed": "true"})
    assert made.subnets == (str(subnet),)
    assert IPv4Address(made.gateway) == subnet.network_address + 1


async def test_a_network_with_egress_is_not_internal(lab: Lab) -> None:
    name = f"{PREFIX}-egress"
    await lab.engine.create_network(
        name, subnet=next(SUBNETS), device="sg-tegress", labels={"sidegate.managed": "true"}, mtu=0, egress=True
    )
    assert [n.internal for n in (await lab.engine.observe()).networks if n.name == name] == [False]


async def test_a_taken_subnet_is_refused_by_its_own_error(lab: Lab) -> None:
    """A subnet that overlaps another network's raises SubnetTakenError, and no network is there."""
    subnet = next(SUBNETS)
    await network(lab, subnet)
    with pytest.raises(SubnetTakenError, match=str(subnet.network_address)):
        await lab.engine.create_network(f"{PREFIX}-over", subnet=subnet, device="sg-tover", labels={}, mtu=0)
    assert f"{PREFIX}-over" not in [n.name for n in (await lab.engine.observe()).networks]


async def test_a_bridge_device_of_that_name_is_said(lab: Lab) -> None:
    """Two networks cannot share a bridge device: the error names it."""
    await lab.engine.create_network(f"{PREFIX}-one", subnet=next(SUBNETS), device="sg-tdev", labels={}, mtu=0)
    with pytest.raises(EngineError, match="sg-tdev"):
        await lab.engine.create_network(f"{PREFIX}-two", subnet=next(SUBNETS), device="sg-tdev", labels={}, mtu=0)


# --- connecting --------------------


async def test_connecting_a_created_container_takes_effect_at_its_start(lab: Lab) -> None:
    """Connected before its start a container has its aliases at once, and an address of the subnet once it runs."""
    subnet = next(SUBNETS)
    name, container = await network(lab, subnet), await lab.create()
    await lab.engine.connect(container, name, frozenset({"shop"}))
    endpoint = (await see(lab, container)).endpoint(name)
    assert endpoint is not None
    assert (endpoint.address, endpoint.aliases) == ("", frozenset({"shop"}))
    await lab.start(container)
    endpoint = (await see(lab, container)).endpoint(name)
    assert endpoint is not None
    assert IPv4Address(endpoint.address) in subnet


async def test_connecting_and_disconnecting_a_running_container(lab: Lab) -> None:
    """A running container joins and leaves at once; doing either twice changes nothing; new aliases are seen."""
    subnet = next(SUBNETS)
    name, container = await network(lab, subnet), await lab.create()
    await lab.start(container)
    for aliases in (frozenset({"shop", "shop.internal"}), frozenset({"other"})):
        for _ in range(2):
            await lab.engine.connect(container, name, aliases)
        endpoint = (await see(lab, container)).endpoint(name)
        assert endpoint is not None
        assert IPv4Address(endpoint.address) in subnet
        assert endpoint.aliases == aliases
        for _ in range(2):
            await lab.engine.disconnect(container, name)
        left = await see(lab, container)
        assert left.endpoint(name) is None
        assert left.endpoint("bridge") is not None


async def test_what_is_gone_needs_no_disconnecting(lab: Lab) -> None:
    """A container or a network that is not there is success for whoever wants them apart; joining nothing is not."""
    name, container, nobody = await network(lab), await lab.create(), "f" * 64
    await lab.engine.disconnect(nobody, name)
    await lab.engine.disconnect(container, f"{PREFIX}-nowhere")
    await lab.engine.connect(nobody, name, frozenset())
    await lab.engine.remove_network(f"{PREFIX}-nowhere")
    with pytest.raises(EngineError, match="nowhere"):
        await lab.engine.connect(container, f"{PREFIX}-nowhere", frozenset())


async def test_a_network_goes_with_everything_on_it_taken_off(lab: Lab) -> None:
    """Removing a network takes running and stopped containers off it first, so that a stopped one still starts."""
    name, running, stopped = await network(lab), await lab.create(), await lab.create()
    for container in (running, stopped):
        await lab.engine.connect(container, name, frozenset())
    await lab.start(running)
    for _ in range(2):
        await lab.engine.remove_network(name)
    assert name not in [n.name for n in (await lab.engine.observe()).networks]
    assert [(await see(lab, c)).endpoint(name) for c in (running, stopped)] == [None, None]
    await lab.start(stopped)


async def test_a_network_removed_under_a_stopped_container_can_be_repaired(lab: Lab) -> None:
    """Somebody else's `docker network rm` makes a stopped container's start fail; disconnecting it mends that."""
    name, container = await network(lab), await lab.create()
    await lab.engine.connect(container, name, frozenset())
    await lab.drop_network(name)
    with pytest.raises((AssertionError, EngineError), match="not found"):
        await lab.start(container)
    await lab.engine.disconnect(container, name)
    await lab.start(container)


# --- files --------------------


async def test_small_files_are_read(lab: Lab) -> None:
    """A file comes byte for byte out of a container that never ran; a missing or a large one has its own error."""
    container = await lab.create()
    await lab.write(container, "/password", b"s3cret\0\n")
    await lab.write(container, "/large", bytes(64 * 1024 + 1))
    assert await lab.engine.read_file(container, "/password") == b"s3cret\0\n"
    with pytest.raises(NotFoundError, match="/missing"):
        await lab.engine.read_file(container, "/missing")
    with pytest.raises(EngineError, match="/large"):
        await lab.engine.read_file(container, "/large")


# --- events, and an engine that is away --------------------


async def test_every_change_wakes(lab: Lab) -> None:
    """Whoever watches is woken when it begins, and by each change to a container or a network."""
    woken = asyncio.Event()
    lab.engine.watch(woken.set)

    async def wake() -> None:
        async with asyncio.timeout(30):
            await woken.wait()
        woken.clear()

    await wake()
    container = await lab.create()
    await wake()
    name = await network(lab)
    await wake()
    await lab.start(container)
    await wake()
    await lab.engine.connect(container, name, frozenset())
    await wake()
    await lab.remove(container)
    await wake()


async def test_a_container_is_attached_on_its_create_event(lab: Lab) -> None:
    """A new container whose label is expected is on its network before it starts, and nobody else is."""
    name = await network(lab)
    lab.watch(lambda: None)
    await lab.engine.expect(Newcomers(apps={"shop": ((name, frozenset({"shop"})),)}))
    async with asyncio.timeout(30):
        shop = ""
        while not shop or not (await see(lab, shop)).endpoint(name):  # it takes a moment until somebody listens
            shop, other = await lab.create(labels={"sidegate.app": "shop"}), await lab.create()
    assert (await see(lab, other)).endpoint(name) is None
    await lab.start(shop)
    endpoint = (await see(lab, shop)).endpoint(name)
    assert endpoint is not None
    assert endpoint.address
    assert endpoint.aliases == {"shop"}


async def test_lost_events_cost_nothing_but_time(lab: Lab) -> None:
    """With its events lost an engine still tells all to whoever looks in full."""
    container, name = await lab.create(), await network(lab)
    lab.engine.watch(lambda: None)
    await lab.engine.connect(container, name, frozenset({"before"}))
    await lab.engine.observe()
    lab.deafen(lost=True)
    if isinstance(lab, DockerLab):  # changed behind our back, so that no list row shows it
        await docker("network", "disconnect", name, container)
        await docker("network", "connect", "--alias", "after", name, container)
    else:
        await lab.engine.disconnect(container, name)
        await lab.engine.connect(container, name, frozenset({"after"}))
    found = next(c for c in (await lab.engine.observe(full=True)).containers if c.id == container)
    endpoint = found.endpoint(name)
    assert endpoint is not None
    assert endpoint.aliases == {"after"}
    lab.deafen(lost=False)


async def test_an_engine_that_is_away_says_so(lab: Lab) -> None:
    """Every call on an engine that does not answer raises one of our errors; looking, EngineUnavailableError."""
    engine = await lab.unreachable()
    for looking in (engine.observe(), engine.version()):
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            await looking
    for changing in (
        engine.create_network("n", subnet=IPv4Network("10.9.9.0/27"), device="sg-n", labels={}, mtu=0),
        engine.remove_network("n"),
        engine.connect("c", "n", frozenset()),
        engine.disconnect("c", "n"),
        engine.read_file("c", "/f"),
    ):
        with pytest.raises(SidegateError, match="does not answer"):
            await changing
    await engine.close()
