"""Engines that do not confirm what they did, refuse, or are still busy with it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.scripted_engine import ScriptedEngine
from sidegate.adapters.docker import DockerWorkloads
from sidegate.core.workloads import ContainerSpec
from sidegate.errors import EngineError, NotFoundError

ID = "c" * 64


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[ScriptedEngine]:
    script = ScriptedEngine(tmp_path / "docker.sock")
    script.start()
    script.replies["GET", "/networks"] = 200, [{"Id": "n" * 64, "Name": "bridge"}]
    yield script
    script.stop()


@pytest.fixture
async def workloads(script: ScriptedEngine) -> AsyncIterator[DockerWorkloads]:
    workloads = DockerWorkloads(script.url, deadline=30, slow=30)
    yield workloads
    await workloads.close()


@pytest.fixture
async def hasty(script: ScriptedEngine) -> AsyncIterator[DockerWorkloads]:
    """Ones that do not wait for a change to be confirmed: only for those that the engine never answers."""
    workloads = DockerWorkloads(script.url, deadline=30, slow=0.2)
    yield workloads
    await workloads.close()


def document(**state: Any) -> dict[str, Any]:
    return {"Id": ID, "Name": "/shop", "State": state, "Config": {"StopTimeout": 30}, "HostConfig": {}}


def is_there(script: ScriptedEngine, **state: Any) -> None:
    for name in (ID, "shop"):
        script.replies["GET", f"/containers/{name}/json"] = 200, document(**state)


def hang(script: ScriptedEngine, path: str) -> None:
    """The request is read and never answered."""
    script.gates[path] = threading.Event()


async def test_a_container_that_was_made_all_the_same(script: ScriptedEngine, hasty: DockerWorkloads) -> None:
    """Not confirmed, and there: that is the one. Not confirmed and not there: said."""
    hang(script, "/containers/create")
    with pytest.raises(EngineError, match=r"did not confirm within 0\.2 s that it could create container shop"):
        await hasty.create(ContainerSpec("i"), "shop")
    is_there(script, Running=False)
    assert await hasty.create(ContainerSpec("i"), "shop") == ID
    with pytest.raises(EngineError, match="did not confirm"):  # somebody else's of that name
        await hasty.create(ContainerSpec("i", labels={"sidegate.app": "shop"}), "shop")


async def test_a_change_that_was_not_confirmed_is_looked_at(script: ScriptedEngine, hasty: DockerWorkloads) -> None:
    """What was wanted is so, or the error says that it was not confirmed."""
    hang(script, f"/containers/{ID}/start")
    is_there(script, Running=False)
    with pytest.raises(EngineError, match="did not confirm"):
        await hasty.start(ID)
    is_there(script, Running=True)
    await hasty.start(ID)


async def test_a_removal_that_is_under_way(script: ScriptedEngine, workloads: DockerWorkloads) -> None:
    """Somebody else's removal is waited for, and not for ever."""
    refusal = {"message": f"removal of container {ID} is already in progress"}
    script.replies["DELETE", f"/containers/{ID}"] = 409, refusal
    is_there(script, Running=False)
    hang(script, f"/containers/{ID}")
    removing = asyncio.create_task(workloads.remove(ID))
    async with asyncio.timeout(30):
        while f"DELETE /v1.41/containers/{ID}" not in script.asked:
            await asyncio.sleep(0.01)
        workloads._slow = 0.2
        script.gates.pop(f"/containers/{ID}").set()
        with pytest.raises(EngineError, match="already in progress"):
            await removing
    del script.replies["GET", f"/containers/{ID}/json"]
    await workloads.remove(ID)


async def test_slow_stops_keep_nobody_from_looking(script: ScriptedEngine, workloads: DockerWorkloads) -> None:
    """As many as there may be side by side take their time, and the answer to a look comes all the same."""
    hang(script, f"/containers/{ID}/stop")
    is_there(script, Status="running", Running=True)
    stops = [asyncio.ensure_future(workloads.stop(ID)) for _ in range(8)]
    async with asyncio.timeout(30):
        while script.asked.count(f"POST /v1.41/containers/{ID}/stop") < len(stops):
            await asyncio.sleep(0.01)
        with pytest.raises(NotFoundError):
            await workloads.image("missing")
        assert not any(stop.done() for stop in stops)
        script.gates[f"/containers/{ID}/stop"].set()
        await asyncio.gather(*stops, return_exceptions=True)


async def test_a_start_that_is_refused(script: ScriptedEngine, workloads: DockerWorkloads) -> None:
    """The engine's reason is passed on; a network that is missing is not a container that is missing."""
    script.replies["POST", f"/containers/{ID}/start"] = 500, {"message": "port is already allocated"}
    with pytest.raises(EngineError, match="cannot start container cccccccccccc: port is already allocated"):
        await workloads.start(ID)
    script.replies["POST", f"/containers/{ID}/start"] = 404, {"message": "network shop-net not found"}
    with pytest.raises(EngineError, match="network shop-net not found"):
        await workloads.start(ID)


async def test_pulling(script: ScriptedEngine, workloads: DockerWorkloads) -> None:
    """Progress is told; errors come as a status or in the midst of the answer."""
    told: list[str] = []
    script.replies["POST", "/images/create"] = 200, {"id": "ab12", "status": "Downloading", "progress": "[=>  ]"}
    await workloads.pull("shop:1", told.append)
    assert told == ["ab12: Downloading [=>  ]"]
    script.replies["POST", "/images/create"] = 200, {"error": "manifest unknown"}
    with pytest.raises(EngineError, match="cannot pull image shop:1: manifest unknown"):
        await workloads.pull("shop:1", told.append)
    script.replies["POST", "/images/create"] = 404, {"message": "repository does not exist"}
    with pytest.raises(NotFoundError, match="no image shop:1 to be pulled: repository does not exist"):
        await workloads.pull("shop:1", told.append)


async def test_a_log_that_cannot_be_read(script: ScriptedEngine, workloads: DockerWorkloads) -> None:
    """The last lines are wanted where something failed already: the reason takes their place. Following says it."""
    is_there(script, Running=True)
    script.replies["GET", f"/containers/{ID}/logs"] = 501, {"message": "logging driver does not support reading"}
    assert await workloads.logs(ID) == "(no log: logging driver does not support reading)"
    with pytest.raises(EngineError, match="does not support reading"):
        await anext(workloads.follow(ID))
