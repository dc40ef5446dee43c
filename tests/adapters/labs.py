"""Where the engine contract is tried: the verbs of an operator, on the engine in memory and on the real one."""

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network
from typing import Protocol

from memory_engine import MemoryEngine
from sidegate.adapters.docker import DockerEngine
from sidegate.core.model import Container
from sidegate.reconciler.world import Engine

PREFIX = f"sgt{os.getpid()}"
IMAGE = "sidegate-base"
SUBNETS = (IPv4Network((int(IPv4Network("10.251.0.0/16").network_address) + 32 * n, 27)) for n in itertools.count())
SERIAL = itertools.count(1)


class Lab(Protocol):
    """An engine, and what an operator does to it behind our back. Containers are told by id, networks by name."""

    engine: Engine

    def watch(self, wake: Callable[[], None]) -> None: ...

    async def create(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        stop_signal: str = "SIGTERM",
    ) -> str: ...

    async def start(self, container: str) -> None:
        """Raises AssertionError where the engine refuses."""

    async def stop(self, container: str) -> None: ...

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal, by its name; the process goes on running unless it is SIGKILL."""

    async def remove(self, container: str) -> None: ...

    async def drop_network(self, name: str) -> None: ...

    async def write(self, container: str, path: str, content: bytes) -> None: ...

    def deafen(self, *, lost: bool) -> None: ...

    async def unreachable(self) -> Engine:
        """An engine of this kind that does not answer."""

    async def close(self) -> None: ...


async def look(lab: Lab, container: str) -> Container | None:
    """One container as the engine under test observes it; None: it is not there."""
    return next((c for c in (await lab.engine.observe()).containers if c.id == container), None)


async def see(lab: Lab, container: str) -> Container:
    found = await look(lab, container)
    assert found is not None
    return found


async def network(lab: Lab, subnet: IPv4Network | None = None, **labels: str) -> str:
    """A network of its own, made through the engine under test; returns its name."""
    number = next(SERIAL)
    name, device = f"{PREFIX}-n{number}", f"sg-t{os.getpid() % 100_000}-{number}"
    await lab.engine.create_network(name, subnet=subnet or next(SUBNETS), device=device, labels=labels, mtu=0)
    return name


class MemoryLab:
    """On the engine in memory."""

    def __init__(self) -> None:
        self.memory = MemoryEngine()
        self.engine: Engine = self.memory

    def watch(self, wake: Callable[[], None]) -> None:
        self.memory.watch(wake)

    async def create(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        stop_signal: str = "SIGTERM",
    ) -> str:
        name = f"{PREFIX}-c{next(SERIAL)}"
        return self.memory.create(name, image=IMAGE, labels=labels or {}, env=env or {}, stop_signal=stop_signal).id

    async def start(self, container: str) -> None:
        self.memory.start(container)

    async def stop(self, container: str) -> None:
        self.memory.stop(container)

    async def kill(self, container: str, signal: str) -> None:
        self.memory.kill(container, signal)

    async def remove(self, container: str) -> None:
        self.memory.remove(container)

    async def drop_network(self, name: str) -> None:
        self.memory.drop_network(name)

    async def write(self, container: str, path: str, content: bytes) -> None:
        self.memory.files[container, path] = content

    def deafen(self, *, lost: bool) -> None:
        self.memory.deaf = lost

    async def unreachable(self) -> Engine:
        engine = MemoryEngine()
        engine.unavailable = "connection refused"
        return engine

    async def close(self) -> None:
        await self.engine.close()


class DockerLab:
    """On the real engine, by its command line; removes all that it made."""

    def __init__(self) -> None:
        self.docker = DockerEngine()
        self.engine: Engine = self.docker
        self._made: set[str] = set()

    def watch(self, wake: Callable[[], None]) -> None:
        self.docker.watch(wake)

    async def create(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        stop_signal: str = "SIGTERM",
    ) -> str:
        options = [f"--label={k}={v}" for k, v in (labels or {}).items()]
        options += [f"--stop-signal={stop_signal}"] * (stop_signal != "SIGTERM")
        options += [f"--env={k}={v}" for k, v in (env or {}).items()]
        name = f"{PREFIX}-c{next(SERIAL)}"
        container = await docker("create", "--name", name, *options, IMAGE, "sleep", "infinity")
        self._made.add(container)
        return container

    async def start(self, container: str) -> None:
        await docker("start", container)

    async def stop(self, container: str) -> None:
        await docker("stop", "-t", "0", container)

    async def kill(self, container: str, signal: str) -> None:
        await docker("kill", "--signal", signal, container)

    async def remove(self, container: str) -> None:
        await docker("rm", "-f", container)
        self._made.discard(container)

    async def drop_network(self, name: str) -> None:
        await docker("network", "rm", name)

    async def write(self, container: str, path: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            await docker("cp", file.name, f"{container}:{path}")

    def deafen(self, *, lost: bool) -> None:
        self.docker.interrupt(lost=lost)

    async def unreachable(self) -> Engine:
        return DockerEngine("unix:///nonexistent/docker.sock")

    async def close(self) -> None:
        await self.engine.close()
        if self._made:
            await docker("rm", "-f", *self._made)
        if left := (await docker("network", "ls", "-q", "--filter", f"name={PREFIX}")).split():
            await docker("network", "rm", *left)


async def docker(*arguments: str) -> str:
    """Docker's own command line; AssertionError with its words where it fails."""
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return output.decode().strip()
