"""Sidegate in a container with a network of its own: it reaches what is on its networks, so it joins those it needs.

It belongs on our own networks like any other member. On other people's it is a guest: it comes for the apps there,
under an alias that says so, and leaves with the last of them, so that whoever made the network can remove it. What to
leave is seen from the endpoints alone; networks that it was started on have no such alias, and are never left.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from sidegate.core.model import DEFAULT_BRIDGE, Container, EngineState, Network, Rules
from sidegate.core.plan import Action, ConnectContainer, ContainerRef, DisconnectContainer

KERNEL_FAULT = "the daemon's container has a network of its own, and rules there would not be the host's"
"""Why the kernel does not forward external connections in this form."""

LOST_SIGHT = (
    "the host's network cannot be looked at from a container without pid: host, CAP_SYS_ADMIN and CAP_SYS_PTRACE: "
    "there is no bridge fast path and no fence around private networks, and internal_pool is not compared with the "
    "host's routes"
)

UNKNOWN_HOST = "127.0.0.1"
"""What external details name where the host's address is not known in the container."""

VISITOR = ".visitor"
"""What an alias that marks a guest ends with; before it stands the instance."""

BRIDGE_MODES = frozenset({"default", "bridge"})
"""The network modes of containers that were started on the default bridge."""


@dataclass(frozen=True, slots=True)
class OwnContainer:
    """The container with a network of its own that the daemon is in, as it was started.

    `gateways`: addresses of the engine's bridges that it was put on. Clients that the engine masks come by them: those
    on this machine, those over IPv6 where the engine's own proxy takes them, all of them on Docker Desktop.
    `published`: ports that the same port of the host leads to. `host_process`: one that has the host's network, 0 where
    none is seen.
    """

    id: str
    name: str
    gateways: frozenset[str] = frozenset()
    published: frozenset[int] = frozenset()
    host_process: int = 0

    def port_fault(self, port: int) -> str:
        """Why nobody outside reaches a port; empty: it is published."""
        if port in self.published:
            return ""
        return f"port {port} is not published by Sidegate's container {self.name}: start that with -p {port}:{port}"


@dataclass(frozen=True, slots=True)
class Guest:
    """Our own container. `alias` marks where it is a guest."""

    container: Container
    alias: str

    @classmethod
    def of(cls, state: EngineState, rules: Rules) -> "Guest | None":
        """None where the daemon shares the host's network, or its container is not to be seen."""
        if not rules.self_id:
            return None
        container = next((c for c in state.containers if c.id == rules.self_id), None)
        return cls(container, f"{rules.instance}{VISITOR}") if container else None

    def visits(self) -> frozenset[str]:
        """Networks where it is a guest. There are no aliases on the default bridge, so there its network mode tells."""
        return frozenset(
            e.network
            for e in self.container.endpoints
            if self.alias in e.aliases
            or (e.network == DEFAULT_BRIDGE and self.container.network_mode not in BRIDGE_MODES)
        )

    def address(self, network: str) -> str:
        """Its own there; empty where it is not."""
        endpoint = self.container.endpoint(network)
        return endpoint.address if endpoint else ""

    def reaches(self, network: str) -> bool:
        return bool(self.address(network))

    def started_on(self, ours: Collection[str]) -> frozenset[str]:
        """Networks that it was put on by whoever started it."""
        return frozenset(e.network for e in self.container.endpoints) - self.visits() - frozenset(ours)

    def route_fault(self, networks: Iterable[Network], ours: Collection[str]) -> str:
        """Whether answers to clients leave by another network than they came by; empty: they do not.

        The engine lets the default route lead through the first by name of those with a way out (libnetwork's
        sandbox.go; since engine 28 only where no gw-priority is given).
        """
        there = {e.network for e in self.container.endpoints if e.address}
        first = min((n.name for n in networks if n.name in there and not n.internal), default="")
        started_on = self.started_on(ours)
        if not first or not started_on or first in started_on:
            return ""
        return (
            f"the default route of its container leads through {first}, and so do answers to clients: start it on a "
            "network of its own that is first by name, such as 0sidegate"
        )


def plan_visits(
    guest: Guest | None, wanted: Mapping[str, bool], networks: Iterable[Network], ours: Collection[str]
) -> Iterator[Action]:
    """Join those of other people's networks that are `wanted`, and leave the rest of those that it visits. One that is
    wanted with False is not joined for that, nor left: all that there is on it ends."""
    if guest is None:
        return
    existing = {network.name: network for network in networks}
    ref = ContainerRef.of(guest.container)
    for name in sorted(guest.visits() - frozenset(ours)):
        endpoint, network = guest.container.endpoint(name), existing.get(name)
        if name not in wanted:
            yield DisconnectContainer(network=name, container=ref, cause="no app there runs any more")
        elif wanted[name] and network and endpoint and endpoint.network_id not in ("", network.id):
            why = "it is configured for a network that has gone"
            yield DisconnectContainer(network=name, container=ref, cause=why)
            yield _join(name, ref, guest)
    for name in sorted(wanted.keys() - frozenset(ours)):
        if wanted[name] and name in existing and not guest.container.endpoint(name):
            yield _join(name, ref, guest)


def _join(network: str, ref: ContainerRef, guest: Guest) -> ConnectContainer:
    aliases = frozenset() if network == DEFAULT_BRIDGE else frozenset({guest.alias})
    return ConnectContainer(network=network, container=ref, aliases=aliases, cause="apps there are reached from it")
