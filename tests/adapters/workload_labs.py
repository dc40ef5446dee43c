"""Where the contract of Workloads is tried: what people and programs do, on the engine in memory and the real one."""

import itertools
import os
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Protocol

from adapters.labs import docker
from memory_engine import MemoryEngine
from memory_workloads import MemoryWorkloads
from sidegate.adapters.docker import DockerEngine, DockerWorkloads
from sidegate.core.model import Container
from sidegate.core.workloads import ImageInfo
from sidegate.reconciler.world import Engine, Workloads

PREFIX = f"sg5a{os.getpid()}"
IMAGE, MISSING_IMAGE = "sidegate-base", "sidegate-nothing:none"
SUBNETS = (IPv4Network((int(IPv4Network("10.250.0.0/16").network_address) + 32 * n, 27)) for n in itertools.count())
SERIAL = itertools.count(1)


def fresh(what: str = "c") -> str:
    """A name that nobody has."""
    return f"{PREFIX}-{what}{next(SERIAL)}"


class WorkloadLab(Protocol):
    """`engine` is what the reconciler looks through; containers are made by `run` as an operator would."""

    engine: Engine
    workloads: Workloads

    async def run(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        networks: Mapping[str, tuple[str, ...]] | None = None,
        publish: int = 0,
    ) -> str:
        """A container that sleeps until it is stopped; returns its name. `networks` are names -> aliases."""

    async def network(self) -> str: ...

    async def drop_network(self, name: str) -> None: ...

    async def say(self, container: str, text: str) -> None:
        """Its program writes a line."""

    async def end(self, container: str) -> None:
        """Its program dies, as by SIGKILL."""

    async def unreachable(self) -> Workloads: ...

    async def close(self) -> None: ...


async def seen(lab: WorkloadLab, name: str) -> Container | None:
    """A container as the reconciler sees it."""
    return next((c for c in (await lab.engine.observe()).containers if c.name == name), None)


class MemoryWorkloadLab:
    """On the engine in memory."""

    def __init__(self) -> None:
        self.memory = MemoryEngine()
        self.engine: Engine = self.memory
        self.made = MemoryWorkloads(self.memory)
        self.made.images[IMAGE] = ImageInfo("image:base")
        self.workloads: Workloads = self.made

    async def run(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        networks: Mapping[str, tuple[str, ...]] | None = None,
        publish: int = 0,
    ) -> str:
        mode = next(iter(networks)) if networks else "default"
        made = self.memory.create(
            fresh(),
            networks=tuple(networks or ()),
            network_mode=mode,
            image=IMAGE,
            labels=labels or {},
            env=env or {},
            published_ports=(publish,) * bool(publish),
        )
        for network, aliases in (networks or {}).items():
            await self.memory.disconnect(made.id, network)
            await self.memory.connect(made.id, network, frozenset(aliases))
        return self.memory.start(made.id).name

    async def network(self) -> str:
        return self.memory.add_network(fresh("n"), str(next(SUBNETS))).name

    async def drop_network(self, name: str) -> None:
        await self.memory.remove_network(name)

    async def say(self, container: str, text: str) -> None:
        self.made.say(self.memory.container(container).id, text)

    async def end(self, container: str) -> None:
        self.made.end(self.memory.container(container).id, 137)

    async def unreachable(self) -> Workloads:
        engine = MemoryEngine()
        engine.unavailable = "connection refused"
        return MemoryWorkloads(engine)

    async def close(self) -> None:
        await self.workloads.close()
        await self.engine.close()


class DockerWorkloadLab:
    """On the real engine, by its command line; removes all that it made."""

    def __init__(self) -> None:
        self.engine: Engine = DockerEngine()
        self.workloads: Workloads = DockerWorkloads()

    async def run(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        networks: Mapping[str, tuple[str, ...]] | None = None,
        publish: int = 0,
    ) -> str:
        name = fresh()
        options = [f"--label={k}={v}" for k, v in (labels or {}).items()]
        options += [f"--env={k}={v}" for k, v in (env or {}).items()]
        options += [f"--publish={publish}:80"] * bool(publish)
        first, *others = (networks or {"bridge": ()}).items()
        options += [f"--network={first[0]}", *(f"--network-alias={alias}" for alias in first[1])]
        await docker("create", "--name", name, "--stop-timeout=0", *options, IMAGE, "sleep", "infinity")
        for network, aliases in others:
            await docker("network", "connect", *(f"--alias={alias}" for alias in aliases), network, name)
        await docker("start", name)
        return name

    async def network(self) -> str:
        name = fresh("n")
        await docker("network", "create", "--subnet", str(next(SUBNETS)), name)
        return name

    async def drop_network(self, name: str) -> None:
        await self.engine.remove_network(name)

    async def say(self, container: str, text: str) -> None:
        await docker("exec", container, "sh", "-c", 'echo "$1" > /proc/1/fd/1', "sh", text)

    async def end(self, container: str) -> None:
        await docker("kill", "--signal", "KILL", container)

    async def unreachable(self) -> Workloads:
        return DockerWorkloads("unix:///nonexistent/docker.sock")

    async def close(self) -> None:
        await self.workloads.close()
        await self.engine.close()
        await clean(PREFIX)


async def clean(prefix: str) -> None:
    """Remove the containers, networks and volumes whose names begin so, with their anonymous volumes."""
    if left := (await docker("ps", "-aq", "--filter", f"name={prefix}")).split():
        await docker("rm", "--force", "--volumes", *left)
    for kind in ("network", "volume"):
        if left := (await docker(kind, "ls", "-q", "--filter", f"name={prefix}")).split():
            await docker(kind, "rm", *left)
