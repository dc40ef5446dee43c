"""A small honest Docker engine in memory: what the reconciler's tests run against, held to the real one's behaviour
by the contract suite in adapters/test_engine_contract.py.

Owns containers, networks and their addresses. Fails only when told to.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from sidegate.core.model import Container, Endpoint, EngineState, Network
from sidegate.core.newcomers import Join, Newcomers, joins
from sidegate.errors import EngineError, EngineUnavailableError, NotFoundError, SidegateError, SubnetTakenError

FILE_LIMIT = 64 * 1024


@dataclass
class MemoryNetwork:
    """A network, and which address each running container has on it."""

    network: Network
    device: str = ""
    mtu: int = 0
    leases: dict[str, IPv4Address] = field(default_factory=dict)

    def lease(self, container_id: str) -> str:
        """The lowest free address after the gateway's, as Docker gives them out to a fresh network."""
        if not self.network.subnets:
            return ""
        taken = {*self.leases.values(), IPv4Address(self.network.gateway)}
        for address in IPv4Network(self.network.subnets[0]).hosts():
            if address not in taken:
                self.leases[container_id] = address
                return str(address)
        raise EngineError(f"no available IPv4 addresses on network {self.network.name}")


class MemoryEngine:
    """Structurally an `Engine`, with the engine's own verbs for tests (`create`, `start`, `stop`, `remove`, …).

    Failures on demand: `unavailable` (a reason: every call raises), `fail_next` (call name -> error, once each),
    `deaf` (events are lost). `calls` records every change that was asked for, as text.
    """

    def __init__(self) -> None:
        self.unavailable = ""
        self.deaf = False
        self.fail_next: dict[str, SidegateError] = {}
        self.calls: list[str] = []
        self.files: dict[tuple[str, str], bytes] = {}
        self.closed = False
        self._wake: Callable[[], None] | None = None
        self._newcomers = Newcomers()
        self._containers: dict[str, Container] = {}
        self._stop_signals: dict[str, str] = {}
        self._networks: dict[str, MemoryNetwork] = {}
        self._serial = itertools.count(1)
        bridge = Network(id=_id("bridge"), name="bridge", subnets=("172.17.0.0/16",), gateway="172.17.0.1")
        self._networks["bridge"] = MemoryNetwork(bridge, "docker0")
        for name, driver in (("host", "host"), ("none", "null")):
            self._networks[name] = MemoryNetwork(Network(id=_id(name), name=name, driver=driver))

    def __repr__(self) -> str:
        return f"<MemoryEngine {len(self._containers)} containers, {len(self._networks)} networks>"

    # --- the Engine protocol --------------------

    async def observe(self, *, full: bool = False) -> EngineState:
        self._check("observe")
        return EngineState(
            tuple(sorted(self._containers.values(), key=lambda c: c.name)),
            tuple(sorted((n.network for n in self._networks.values()), key=lambda n: n.name)),
        )

    def told_to_stop(self, state: EngineState) -> EngineState:
        present = self._containers
        marked = (
            replace(c, stopping=present[c.id].stopping) if c.id in present and present[c.id].pid == c.pid else c
            for c in state.containers
        )
        return replace(state, containers=tuple(marked))

    async def version(self) -> str:
        self._check("version")
        return "20.10.24"

    async def create_network(
        self,
        name: str,
        *,
        subnet: IPv4Network,
        device: str,
        labels: Mapping[str, str],
        mtu: int,
        egress: bool = False,
    ) -> None:
        self._check("create_network", f"{name} {subnet}")
        if name in self._networks:
            return
        for other in self._networks.values():
            if any(IPv4Network(cidr).overlaps(subnet) for cidr in other.network.subnets):
                raise SubnetTakenError(f"subnet {subnet} for network {name} is taken by {other.network.name}")
            if other.device == device:
                raise EngineError(f"cannot create network {name}: a bridge device {device} is there already")
        gateway = str(next(iter(subnet.hosts())))
        network = Network(
            id=_id(f"{name}-{next(self._serial)}"),
            name=name,
            internal=not egress,
            labels=dict(labels),
            subnets=(str(subnet),),
            gateway=gateway,
        )
        self._networks[name] = MemoryNetwork(network, device, mtu)
        self._changed()

    async def remove_network(self, name: str) -> None:
        self._check("remove_network", name)
        if name not in self._networks:
            return
        for container in list(self._containers.values()):
            self._detach(container.id, name)
        del self._networks[name]
        self._changed()

    async def connect(self, container_id: str, network: str, aliases: frozenset[str]) -> None:
        self._check("connect", f"{self._name(container_id)} {network} {','.join(sorted(aliases))}")
        if network not in self._networks:
            raise EngineError(f"cannot connect container {container_id[:12]}: network {network} not found")
        container = self._containers.get(container_id)
        if container is None or container.endpoint(network):
            return
        if container.network_mode == "host" or container.network_mode.startswith("container:"):
            raise EngineError(f"cannot connect container {container.name}: it has no network namespace of its own")
        address = self._networks[network].lease(container_id) if container.running else ""
        self._put(replace(container, endpoints=(*container.endpoints, Endpoint(network, address, aliases))))

    async def disconnect(self, container_id: str, network: str) -> None:
        self._check("disconnect", f"{self._name(container_id)} {network}")
        if self._detach(container_id, network):
            self._changed()

    async def read_file(self, container_id: str, path: str) -> bytes:
        self._check("read_file")
        content = self.files.get((container_id, path))
        if content is None:
            raise NotFoundError(f"there is no {path} in container {container_id[:12]}")
        if len(content) > FILE_LIMIT:
            raise EngineError(f"cannot read {path} in container {container_id[:12]}: {len(content)} bytes are too many")
        return content

    def watch(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        wake()

    async def expect(self, newcomers: Newcomers) -> None:
        self._newcomers = newcomers

    async def close(self) -> None:
        self.closed, self._wake = True, None

    # --- what an operator does to an engine --------------------

    def create(
        self,
        name: str,
        *,
        networks: tuple[str, ...] = (),
        network_mode: str = "default",
        stop_signal: str = "SIGTERM",
        **fields: object,
    ) -> Container:
        """`docker create`: configured on its networks (the default bridge where none is named), not running."""
        configured = networks or (("bridge",) if network_mode in ("default", "bridge") else ())
        if network_mode in ("host", "none"):
            configured = (network_mode,)
        number = next(self._serial)
        container = Container(
            id=_id(f"{name}-{number}"),
            name=name,
            state="created",
            network_mode=network_mode,
            endpoints=tuple(Endpoint(network) for network in configured),
            created=f"2026-01-01T00:00:00.{number:09d}Z",
        )
        created = replace(container, **fields)  # type: ignore[arg-type]
        self._containers[created.id] = created
        self._stop_signals[created.id] = stop_signal
        if not self.deaf:
            self._attach(created.id, joins(created, self._newcomers))
        return self._put(self._containers[created.id])

    def start(self, container_id: str) -> Container:
        """`docker start`: an address on every configured network; a network that is gone fails it, as Docker does."""
        container = self._containers[container_id]
        if container.running:
            return container
        for endpoint in container.endpoints:
            if endpoint.network not in self._networks:
                raise EngineError(f"cannot start container {container.name}: network {endpoint.network} not found")
        endpoints = tuple(
            replace(e, address=self._networks[e.network].lease(container_id)) for e in container.endpoints
        )
        pid = 1000 + next(self._serial)
        return self._put(replace(container, state="running", pid=pid, endpoints=endpoints, stopping=False))

    def run(self, name: str, **options: object) -> Container:
        """`docker run -d`."""
        return self.start(self.create(name, **options).id)  # type: ignore[arg-type]

    def stop(self, container_id: str) -> Container:
        """`docker stop`: still configured on its networks, with no address and no process."""
        container = self._containers[container_id]
        for endpoint in container.endpoints:
            if network := self._networks.get(endpoint.network):
                network.leases.pop(container_id, None)
        endpoints = tuple(replace(e, address="") for e in container.endpoints)
        return self._put(replace(container, state="exited", pid=0, endpoints=endpoints, stopping=False))

    def kill(self, container_id: str, signal: str) -> Container:
        """`docker kill --signal`, for a process that goes on running; what `docker stop` begins with."""
        container = self._containers[container_id]
        if signal in (self._stop_signals.get(container_id, "SIGTERM"), "SIGKILL") and not self.deaf:
            return self._put(replace(container, stopping=container.running))
        return container

    def restart(self, container_id: str) -> Container:
        self.stop(container_id)
        return self.start(container_id)

    def remove(self, container_id: str) -> None:
        """`docker rm -f`."""
        self.stop(container_id)
        del self._containers[container_id]
        self._changed()

    def update(self, container_id: str, **fields: object) -> Container:
        """Whatever else may change about a container, such as its health."""
        return self._put(replace(self._containers[container_id], **fields))  # type: ignore[arg-type]

    def add_network(self, name: str, subnet: str, labels: Mapping[str, str] | None = None) -> Network:
        """A network that somebody else made."""
        gateway = str(next(iter(IPv4Network(subnet).hosts())))
        network = Network(id=_id(name), name=name, labels=labels or {}, subnets=(subnet,), gateway=gateway)
        self._networks[name] = MemoryNetwork(network, f"br-{network.id[:12]}")
        self._changed()
        return network

    def drop_network(self, name: str) -> None:
        """`docker network rm`, which stopped containers that are configured on it do not stop."""
        if self._networks[name].leases:
            raise EngineError(f"cannot remove network {name}: it has active endpoints")
        del self._networks[name]
        self._changed()

    def find(self, container_id: str) -> Container | None:
        return self._containers.get(container_id)

    def container(self, name: str) -> Container:
        return next(c for c in self._containers.values() if c.name == name)

    def network(self, name: str) -> Network | None:
        return self._networks[name].network if name in self._networks else None

    # --- within --------------------

    def _check(self, call: str, change: str = "") -> None:
        if change:
            self.calls.append(f"{call} {change}")
        if self.unavailable:
            raise EngineUnavailableError(f"the Docker engine does not answer ({self.unavailable})")
        if error := self.fail_next.pop(call, None):
            raise error

    def _name(self, container_id: str) -> str:
        container = self._containers.get(container_id)
        return container.name if container else container_id[:12]

    def _put(self, container: Container) -> Container:
        self._containers[container.id] = container
        self._changed()
        return container

    def _attach(self, container_id: str, where: Sequence[Join]) -> None:
        for network, aliases in where:
            container = self._containers[container_id]
            if network in self._networks and not container.endpoint(network):
                added = (*container.endpoints, Endpoint(network, "", aliases))
                self._containers[container_id] = replace(container, endpoints=added)

    def _detach(self, container_id: str, network: str) -> bool:
        container = self._containers.get(container_id)
        if container is None or not container.endpoint(network):
            return False
        if network in self._networks:
            self._networks[network].leases.pop(container_id, None)
        kept = tuple(e for e in container.endpoints if e.network != network)
        self._containers[container_id] = replace(container, endpoints=kept)
        return True

    def _changed(self) -> None:
        if self._wake is not None and not self.deaf and not self.unavailable:
            self._wake()


def _id(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()
