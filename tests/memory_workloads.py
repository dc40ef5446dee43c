"""The calls that make containers, on the engine in memory: the reconciler sees what they do, and nothing else does it.

Held to the real one's behaviour by the contract suite in adapters/test_workloads_contract.py.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import replace

from memory_engine import MemoryEngine
from sidegate.core.model import Container, Endpoint
from sidegate.core.workloads import ContainerSpec, ImageInfo, LogLine, Snapshot
from sidegate.errors import EngineError, EngineUnavailableError, NotFoundError, RefusedError, SidegateError


class MemoryWorkloads:
    """Structurally a `Workloads`.

    `images` are those of the node, by reference; an image that is not there has the id "image:" and its reference, as
    long as nobody makes one of it. `started` is called after each start, with the container: the place to make it
    healthy, have it write something (`say`) or end. `faults` and `refusals`: container name -> why two cannot run side
    by side, why it cannot be made anew. Failures on demand: `fail_next` (call name -> error, once each), and the
    engine's `unavailable`. `calls` records every change that was asked for, as text.
    """

    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine
        self.images: dict[str, ImageInfo] = {}
        self.started: Callable[[Container], None] = lambda container: None
        self.faults: dict[str, str] = {}
        self.refusals: dict[str, str] = {}
        self.fail_next: dict[str, SidegateError] = {}
        self.calls: list[str] = []
        self.closed = False
        self._image_ids: dict[str, str] = {}
        self._exit_codes: dict[str, int] = {}
        self._checked: set[str] = set()
        self._lines: dict[str, list[LogLine]] = {}
        self._written: dict[str, list[float]] = {}

    # --- the Workloads protocol --------------------

    async def image(self, reference: str) -> ImageInfo:
        await self._asked("image")
        found = self._image(reference)
        if found is None:
            raise NotFoundError(f"there is no image {reference} on this node: `docker pull {reference}`")
        return found

    async def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        await self._asked("pull", reference)
        progress(f"Pulling from {reference}")
        self.images.setdefault(reference, ImageInfo(f"image:{reference}"))

    async def snapshots(self, names: Collection[str]) -> Mapping[str, Snapshot]:
        await self._asked("snapshots")
        return {c.name: self._snapshot(c) for c in (await self.engine.observe()).containers if c.name in names}

    async def check(self, snapshot: Snapshot) -> None:
        await self._asked("check")
        if why := self.refusals.get(snapshot.name, ""):
            raise RefusedError(f"container {snapshot.name} cannot be made anew: {why}")

    async def copy(self, snapshot: Snapshot, name: str, env: Mapping[str, str]) -> str:
        await self._asked("copy", f"{snapshot.name} {name}")
        original = snapshot.container
        endpoints = tuple(
            Endpoint(e.network, aliases=e.aliases) for e in original.endpoints if self.engine.network(e.network)
        )
        made = self._make(
            name,
            endpoints,
            network_mode=original.network_mode,
            image=original.image,
            labels=original.labels,
            image_labels=original.image_labels,
            env=env,
            exposed_ports=original.exposed_ports,
            published_ports=original.published_ports,
            links=original.links,
        )
        self._image_ids[made] = snapshot.image_id
        if original.health:
            self._checked.add(made)
        return made

    async def create(self, spec: ContainerSpec, name: str) -> str:
        await self._asked("create", f"{spec.image} {name}")
        image = await self.image(spec.image_id or spec.image)
        if self.engine.network(spec.network) is None:
            raise NotFoundError(f"cannot create container {name}: network {spec.network} not found")
        made = self._make(
            name,
            (Endpoint(spec.network, aliases=frozenset(spec.aliases)),),
            network_mode=spec.network,
            image=spec.image,
            labels={**image.labels, **spec.labels},
            image_labels=image.labels,
            env={**image.env, **spec.env},
            exposed_ports=image.exposed_ports,
        )
        self._image_ids[made] = image.id
        if image.health_check:
            self._checked.add(made)
        return made

    async def start(self, container_id: str) -> None:
        container = self._there(container_id)
        await self._asked("start", container.name)
        if self._there(container_id).running:
            return
        self.engine.start(container_id)
        if container_id in self._checked:
            self.engine.update(container_id, health="starting")
        self.started(self._there(container_id))

    async def stop(self, container_id: str) -> None:
        container = self._find(container_id)
        await self._asked("stop", container.name if container else container_id[:12])
        if container and container.running:
            self.engine.kill(container_id, "SIGKILL")
            await asyncio.sleep(0)
        if (found := self._find(container_id)) and found.running:
            self.end(container_id, 0)

    async def rename(self, container_id: str, name: str) -> None:
        container = self._there(container_id)
        await self._asked("rename", f"{container.name} {name}")
        if container.name != name:
            self._free(name)
            self.engine.update(container_id, name=name)

    async def remove(self, container_id: str, *, volumes: bool = False) -> None:
        container = self._find(container_id)
        await self._asked("remove", (container.name if container else container_id[:12]) + " volumes" * volumes)
        if container:
            self.engine.remove(container_id)

    async def logs(self, container_id: str, tail: int = 20) -> str:
        self._there(container_id)
        await self._asked("logs")
        return "\n".join(line.text for line in self._lines.get(container_id, [])[-tail:])

    async def follow(self, container_id: str, tail: int = 20, since: float = 0.0) -> AsyncGenerator[LogLine, None]:
        self._there(container_id)
        await self._asked("follow")
        lines = self._lines.setdefault(container_id, [])
        earlier = sum(at < since for at in self._written.get(container_id, []))
        at = max(earlier, len(lines) - tail)
        while True:
            for line in lines[at:]:
                at += 1
                yield line
            found = self._find(container_id)
            if at == len(lines) and (self.closed or found is None or not found.running):
                return
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        self.closed = True

    # --- what programs in containers do --------------------

    def say(self, container_id: str, *texts: str, stream: str = "stdout") -> None:
        """Write lines to the log."""
        self._lines.setdefault(container_id, []).extend(LogLine(text, stream) for text in texts)
        self._written.setdefault(container_id, []).extend(time.time() for _ in texts)

    def end(self, container_id: str, exit_code: int) -> None:
        """The program exits."""
        self._exit_codes[container_id] = exit_code
        self.engine.stop(container_id)

    # --- within --------------------

    async def _asked(self, call: str, change: str = "") -> None:
        if change:
            self.calls.append(f"{call} {change}")
        if self.engine.unavailable:
            raise EngineUnavailableError(f"the Docker engine does not answer ({self.engine.unavailable})")
        if error := self.fail_next.pop(call, None):
            raise error
        await asyncio.sleep(0)

    def _image(self, reference: str) -> ImageInfo | None:
        return self.images.get(reference) or next((i for i in self.images.values() if i.id == reference), None)

    def _snapshot(self, container: Container) -> Snapshot:
        image = self._image(container.image)
        return Snapshot(
            container,
            image_id=self._image_ids.get(container.id, image.id if image else f"image:{container.image}"),
            exit_code=self._exit_codes.get(container.id, 0),
            strategy_fault=self.faults.get(container.name, "") or _fault(container),
        )

    def _make(self, name: str, endpoints: tuple[Endpoint, ...], **fields: object) -> str:
        self._free(name)
        made = self.engine.create(name, networks=tuple(e.network for e in endpoints), **fields)  # type: ignore[arg-type]
        given = {e.network: e for e in endpoints}
        joined = tuple(replace(e, aliases=given.get(e.network, e).aliases) for e in made.endpoints)
        return self.engine.update(made.id, endpoints=joined).id

    def _free(self, name: str) -> None:
        try:
            holder = self.engine.container(name)
        except StopIteration:
            return
        raise EngineError(f"the container name {name} is already in use by container {holder.id}")

    def _find(self, container_id: str) -> Container | None:
        return self.engine.find(container_id)

    def _there(self, container_id: str) -> Container:
        found = self._find(container_id)
        if found is None:
            raise NotFoundError(f"there is no container {container_id[:12]}")
        return found


def _fault(container: Container) -> str:
    if container.labels.get("sidegate.strategy") == "recreate":
        return "its label sidegate.strategy says recreate"
    if ports := [port for port in container.published_ports if port]:
        return f"it publishes host port {ports[0]}"
    return "it uses the host's network" if container.network_mode == "host" else ""
