"""Engines that lose their events, hang, restart as another version, or hold a container's lock."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adapters.labs import DockerLab, docker, see
from adapters.scripted_engine import ScriptedEngine
from sidegate.adapters.docker import DockerEngine
from sidegate.adapters.docker.client import EngineClient
from sidegate.errors import EngineError, EngineUnavailableError


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[ScriptedEngine]:
    script = ScriptedEngine(tmp_path / "docker.sock")
    script.start()
    yield script
    script.stop()


@pytest.fixture
async def engine(script: ScriptedEngine) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(script.url, deadline=60)
    yield engine
    await engine.close()


class Bell:
    """Counts wakes."""

    def __init__(self) -> None:
        self.rung = 0

    def ring(self) -> None:
        self.rung += 1


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.002)


async def subscription(script: ScriptedEngine) -> str:
    """Wait for the next subscription to the script's events; returns its `since`."""
    return await asyncio.to_thread(script.subscribed.get, timeout=30)


# --- versions --------------------


@pytest.mark.parametrize(("offered", "used"), [("1.41", "1.41"), ("1.44", "1.44"), ("1.52", "1.44")])
async def test_the_newest_version_that_both_know(
    script: ScriptedEngine, engine: DockerEngine, offered: str, used: str
) -> None:
    """The API version is the engine's, or the newest that we were written against."""
    script.api_version = offered
    await engine.observe()
    assert sorted(script.asked[-2:]) == [f"GET /v{used}/containers/json", f"GET /v{used}/networks"]


async def test_an_engine_that_restarts_as_another_version(script: ScriptedEngine, engine: DockerEngine) -> None:
    """A broken connection costs no error where the engine is there again, and the version is negotiated anew."""
    await engine.observe()
    script.stop()
    with pytest.raises(EngineUnavailableError, match="is dockerd running"):
        await engine.observe()
    script.api_version = "1.43"
    script.start()
    await engine.observe()
    assert script.asked[-1].split("/")[1] == "v1.43"


# --- what a look costs --------------------


async def test_only_what_changed_is_inspected(script: ScriptedEngine, engine: DockerEngine) -> None:
    """A second look inspects nothing, one after a change that container, and a full one everything."""
    for name in ("a", "b"):
        script.add_container(name)
    seen = (await engine.observe()).containers
    assert [(c.image_labels, c.image_env) for c in seen] == [({"made": "by image"}, {"A": "1"})] * 2

    async def inspected(*, full: bool = False) -> list[str]:
        script.asked.clear()
        await engine.observe(full=full)
        return sorted(r.split("/", 2)[2] for r in script.asked if r.endswith("/json") and r.count("/") > 3)

    assert await inspected() == []
    script.add_container("b", State="exited")
    assert await inspected() == ["containers/b/json"]
    assert await inspected(full=True) == ["containers/a/json", "containers/b/json"]


async def test_a_stop_signal_is_known_at_once_and_costs_no_look(script: ScriptedEngine, engine: DockerEngine) -> None:
    """By name or number, the container's own or SIGKILL. Other signals are nothing, and so is what was sent before the
    container was started."""
    for name, stop_signal in {"a": "", "b": "SIGQUIT", "c": "10", "d": ""}.items():
        script.add_container(name)
        started = time.strftime("%Y-%m-%dT%H:%M:%S.5Z", time.gmtime(time.time() - 60))
        document = {
            "State": {"Status": "running", "Pid": 100, "StartedAt": started},
            "Config": {"StopSignal": stop_signal},
        }
        script.replies["GET", f"/containers/{name}/json"] = 200, {"Id": name, "Image": "sha256:1", **document}
    bell = Bell()
    engine.watch(bell.ring)
    await subscription(script)
    await until(lambda: bell.rung == 1)
    state = await engine.observe()
    script.asked.clear()
    assert engine.told_to_stop(state) == state
    for container, sent in (("a", "1"), ("a", "10"), ("b", "3"), ("c", "SIGTERM"), ("nobody", "9"), ("d", "SIGKILL")):
        script.tell("container", "kill", container, age=70 * (container == "b"), signal=sent)
    await until(lambda: bell.rung == 2)

    def stopping() -> list[str]:
        return [c.id for c in engine.told_to_stop(state).containers if c.stopping]

    assert stopping() == ["d"]
    for container, sent in (("a", "15"), ("b", "SIGQUIT"), ("c", "SIGUSR1")):
        script.tell("container", "kill", container, signal=sent)
    await until(lambda: bell.rung == 5)
    assert sorted(stopping()) == ["a", "b", "c", "d"]
    assert script.asked == []


async def test_a_container_whose_lock_is_held_delays_nobody(script: ScriptedEngine, engine: DockerEngine) -> None:
    """While the engine starts a container, a look gives it as it was known, and wakes when there is more to see."""
    script.add_container("a")
    bell = Bell()
    engine.watch(bell.ring)
    await subscription(script)
    await until(lambda: bell.rung == 1)
    await engine.observe()
    script.add_container("a", State="exited")
    script.add_container("new")
    script.gates = {f"/containers/{name}/json": threading.Event() for name in ("a", "new")}
    async with asyncio.timeout(30):  # the engine has twice as long to answer
        assert [(c.name, c.state) for c in (await engine.observe()).containers] == [("a", "running")]
    for gate in script.gates.values():
        gate.set()
    await until(lambda: bell.rung == 3)
    seen = [(c.name, c.state) for c in (await engine.observe()).containers]
    assert seen == [("a", "exited"), ("new", "running")]


async def test_a_container_that_vanishes_is_left_out(script: ScriptedEngine, engine: DockerEngine) -> None:
    """One that is listed and then gone when it is inspected does not spoil the look."""
    script.add_container("a")
    script.add_container("gone")
    del script.replies["GET", "/containers/gone/json"]
    assert [c.name for c in (await engine.observe()).containers] == ["a"]


async def test_an_image_that_is_gone_has_no_labels(script: ScriptedEngine, engine: DockerEngine) -> None:
    """A container whose image was removed is seen all the same."""
    script.add_container("a")
    del script.replies["GET", "/images/sha256:1/json"]
    assert [c.image_labels for c in (await engine.observe()).containers] == [{}]


# --- failures --------------------


async def test_a_hung_engine_is_given_up_at_the_deadline(script: ScriptedEngine) -> None:
    """An engine that accepts and never answers: looking says that it is away, changing that nothing is known."""
    engine = DockerEngine(script.url, deadline=2.6)
    await engine.version()
    gates = {path: threading.Event() for path in ("/containers/json", "/networks", "/networks/n/connect")}
    script.gates = gates
    with pytest.raises(EngineUnavailableError, match="no reply within 2 s"):
        await engine.observe()
    with pytest.raises(EngineError, match="seen at the next look"):
        await engine.connect("c", "n", frozenset())
    await engine.close()


async def test_refusals_are_told_in_the_engines_words(script: ScriptedEngine, engine: DockerEngine) -> None:
    """An error that means nothing special comes through with what was tried."""
    script.replies["POST", "/networks/create"] = 500, {"message": "could not find an available address pool"}
    with pytest.raises(EngineError, match=r"cannot create network shop .*: could not find an available address pool"):
        await engine.create_network("shop", subnet=IPv4Network("10.9.9.0/27"), device="sg-x", labels={}, mtu=0)
    script.replies["GET", "/networks"] = 200, [{"Id": 5}]
    with pytest.raises(EngineError, match="makes no sense"):
        await engine.observe()


async def test_a_ghost_endpoint_goes_by_its_name(script: ScriptedEngine, engine: DockerEngine) -> None:
    """An endpoint whose container is long gone keeps a network alive until it is taken off by name."""
    script.replies["GET", "/networks/n"] = (
        200,
        {
            "Id": "1",
            "Name": "n",
            "Containers": {"ep-77": {"Name": "ghost"}, "id-2": {"Name": "two"}},
        },
    )
    script.replies["POST", "/networks/n/disconnect"] = 200, None
    script.replies["DELETE", "/networks/n"] = 204, None
    await engine.remove_network("n")
    changes = [r for r in script.asked if not r.startswith("GET")]
    assert changes == ["POST /v1.41/networks/n/disconnect"] * 2 + ["DELETE /v1.41/networks/n"]


# --- events --------------------


async def test_the_stream_resumes_where_it_ended(script: ScriptedEngine, engine: DockerEngine) -> None:
    """Each loss and each recovery wakes, and the new subscription begins at the last event."""
    bell = Bell()
    engine.watch(bell.ring)
    first = await subscription(script)
    assert abs(int(first) - time.time()) < 60
    told = script.tell("container", "start", "a")
    await until(lambda: bell.rung == 2)  # subscribed, and the event
    script.end_streams()
    assert await subscription(script) == f"{told // 10**9}.{told % 10**9:09d}"
    await until(lambda: bell.rung == 4)  # lost, and back


async def test_an_engine_that_goes_and_comes_back_is_logged_once_each(
    script: ScriptedEngine, engine: DockerEngine
) -> None:
    """However often reconnecting is tried, there is one line for the loss and one for the recovery."""
    bell = Bell()
    with capture_logs() as logs:
        engine.watch(bell.ring)
        await subscription(script)
        script.stop()
        await until(lambda: len(logs) == 1)
        script.start()
        await subscription(script)
        await until(lambda: bell.rung >= 3)
    assert [entry["event"] for entry in logs] == ["docker events lost", "docker events are back"]


async def test_lost_on_purpose(script: ScriptedEngine, engine: DockerEngine) -> None:
    """While interrupted nothing is heard and nothing is subscribed; afterwards it is, and wakes."""
    bell = Bell()
    engine.watch(bell.ring)
    await subscription(script)
    await until(lambda: bell.rung == 1)
    engine.interrupt(lost=True)
    await until(lambda: bell.rung == 2)
    script.tell("container", "start", "a")
    assert script.subscribed.empty()
    engine.interrupt(lost=False)
    await subscription(script)
    await until(lambda: bell.rung == 3)


async def test_closing_is_prompt(script: ScriptedEngine) -> None:
    """An open and silent stream, and one that is not answered, are ended at once; nothing wakes after that."""
    for gate in (None, threading.Event()):
        engine, bell = DockerEngine(script.url), Bell()
        if gate is not None:
            script.gates["/events"] = gate
        engine.watch(bell.ring)
        if gate is None:
            await subscription(script)
        began, rung = time.monotonic(), bell.rung
        await engine.close()
        await engine.close()
        assert time.monotonic() - began < 10
        assert bell.rung == rung
        with pytest.raises(EngineUnavailableError, match="closed"):
            await engine.observe()


# --- on the real engine --------------------


@pytest.mark.engine
async def test_commands_in_a_container_are_not_heard() -> None:
    """`docker exec` makes events of its own (a health check every few seconds): none of them comes through."""
    lab, client = DockerLab(), EngineClient("", timeout=8, pool_size=1)
    try:
        container = await lab.create()
        await lab.start(container)
        feed = client.events("")

        def actions() -> Iterator[str]:
            for event in feed:
                if event.container == container:
                    yield event.action
                    if event.action == "rename":
                        feed.close()
                        return

        heard = asyncio.create_task(asyncio.to_thread(lambda: list(actions())), name="events")
        await docker("exec", container, "true")
        await docker("rename", container, f"{(await see(lab, container)).name}x")
        async with asyncio.timeout(30):
            assert set(await heard) <= {"create", "connect", "start", "rename"}
    finally:
        await lab.close()
