"""The plan: actions that take observed to desired, each with its cause. Plans print; tests compare the text.

An action is one call of one adapter and decides nothing. Actions of one `chain` run in the order of their `rank`,
equal ranks side by side, and stop at the first rank where an essential one failed; chains know nothing of each other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from itertools import groupby
from typing import ClassVar

from sidegate.core.certificates import CertificateSet
from sidegate.core.gates import Gate, KernelForward
from sidegate.core.model import DATABASE_PORT, Container
from sidegate.core.routes import Routes


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """A container to act on: by id, named for people; `pid` is 0 while it does not run."""

    id: str
    name: str
    pid: int = 0

    @classmethod
    def of(cls, container: Container) -> "ContainerRef":
        return cls(container.id, container.name, container.pid)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One call. `cause` says why, in words that follow "because"; a failed one that is not `essential` is reported,
    and its chain goes on."""

    rank: ClassVar[int]
    essential: ClassVar[bool] = True
    cause: str

    @property
    def chain(self) -> str:
        raise NotImplementedError

    @property
    def what(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.what}: {self.cause}"


def network_chain(network: str) -> str:
    """The chain of everything that is done about one network."""
    return f"network {network}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkAction(Action):
    network: str

    @property
    def chain(self) -> str:
        return network_chain(self.network)


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectContainer(NetworkAction):
    rank: ClassVar[int] = 1
    container: ContainerRef

    @property
    def what(self) -> str:
        return f"disconnect {self.container} from {self.network}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutAction(Action):
    """Ends sessions with `peers`, as one step of the chain `of_chain`. It comes after the disconnect, not before: a
    client that reconnects at once would slip in between. Both ends get one each, so both know."""

    rank: ClassVar[int] = 2
    essential: ClassVar[bool] = False
    peers: IPv4Network
    of_chain: str

    @property
    def chain(self) -> str:
        return self.of_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class DestroySockets(CutAction):
    """End TCP sessions inside a container's network namespace."""

    container: ContainerRef

    @property
    def what(self) -> str:
        return f"destroy sockets of {self.container} with {self.peers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetSockets(DestroySockets):
    """The same while the path is still there, so that peers hear of it: for a network whose other containers are none
    of our business."""

    rank: ClassVar[int] = 0

    @property
    def what(self) -> str:
        return f"reset sockets of {self.container} with {self.peers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KillSessions(CutAction):
    """End a database server's threads for these clients: a destroyed socket does not stop a running query. After those
    are destroyed, since the login that this takes may itself come from an address of theirs."""

    rank: ClassVar[int] = 3
    database: str

    @property
    def what(self) -> str:
        return f"kill sessions of {self.database} with {self.peers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetFlows(NetworkAction):
    rank: ClassVar[int] = 2
    essential: ClassVar[bool] = False
    peers: IPv4Network

    @property
    def what(self) -> str:
        return f"forget tracked flows of {self.peers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNetwork(NetworkAction):
    rank: ClassVar[int] = 4

    @property
    def what(self) -> str:
        return f"remove network {self.network}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateNetwork(NetworkAction):
    """`egress`: its containers reach the world; else nothing but each other."""

    rank: ClassVar[int] = 5
    subnet: IPv4Network
    device: str
    labels: Mapping[str, str] = field(repr=False)
    mtu: int = 0
    egress: bool = False

    @property
    def what(self) -> str:
        return f"create network {self.network} ({self.subnet}{', with egress' if self.egress else ''})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectContainer(NetworkAction):
    rank: ClassVar[int] = 6
    container: ContainerRef
    aliases: frozenset[str] = frozenset()

    @property
    def what(self) -> str:
        named = f" as {', '.join(sorted(self.aliases))}" if self.aliases else ""
        return f"connect {self.container} to {self.network}{named}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnContainer(ConnectContainer):
    """Back to the network that it was started on, before the chain that takes its last one away."""

    rank: ClassVar[int] = 0
    of_chain: str

    @property
    def chain(self) -> str:
        return self.of_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallFastPath(Action):
    rank: ClassVar[int] = 0

    @property
    def chain(self) -> str:
        return "firewall"

    @property
    def what(self) -> str:
        return "put the bridge fast path at the head of DOCKER-USER"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueCertificates(Action):
    """Have the local authority issue for these names."""

    rank: ClassVar[int] = 0
    essential: ClassVar[bool] = False
    names: tuple[str, ...] = field(repr=False)

    @property
    def chain(self) -> str:
        return "routes"

    @property
    def what(self) -> str:
        return f"issue {len(self.names)} certificates" if len(self.names) > 1 else "issue a certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishCertificates(Action):
    """Before the routes: a new host has its certificate when its route appears. HTTP does not wait for a failed one."""

    rank: ClassVar[int] = 1
    essential: ClassVar[bool] = False
    certificates: CertificateSet = field(repr=False)

    @property
    def chain(self) -> str:
        return "routes"

    @property
    def what(self) -> str:
        return "publish certificates"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRoutes(Action):
    rank: ClassVar[int] = 2
    routes: Routes = field(repr=False)

    @property
    def chain(self) -> str:
        return "routes"

    @property
    def what(self) -> str:
        return "publish routes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwarderAction(Action):
    database: str
    port: int

    @property
    def chain(self) -> str:
        return f"forwarder {self.database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseForwarder(ForwarderAction):
    rank: ClassVar[int] = 0

    @property
    def what(self) -> str:
        return f"close {self.database} on port {self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopForwarding(ForwarderAction):
    """Take a port from the kernel; its sessions go on until they are cut. `database` names the chain."""

    rank: ClassVar[int] = 0

    @property
    def what(self) -> str:
        return f"stop forwarding port {self.port} in the kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenForwarder(ForwarderAction):
    """Listen, or change who may come in."""

    rank: ClassVar[int] = 4
    gate: Gate = field(repr=False)

    @property
    def what(self) -> str:
        return f"open {self.database} on port {self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardInKernel(ForwarderAction):
    """After the listener: it is there for whoever comes to it."""

    rank: ClassVar[int] = 5
    forward: KernelForward = field(repr=False)

    @property
    def what(self) -> str:
        return f"forward port {self.port} to {self.database} at {self.forward.address} in the kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutForwarded(ForwarderAction):
    """End sessions that the kernel carries, at both ends: all of them, or those that `gate` does not admit. `pid` is
    the database's, `peer` what it sees as their client, empty where it is on no network of ours."""

    rank: ClassVar[int] = 6
    essential: ClassVar[bool] = False
    pid: int
    peer: str
    gate: Gate | None = field(repr=False, default=None)

    @property
    def what(self) -> str:
        whose = "all sessions" if self.gate is None else "sessions of clients that may no longer come in"
        return f"cut {whose} through port {self.port} in the kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveForKernel(OpenForwarder):
    """Have the listener refuse whom the kernel turned down; only once the kernel takes the rest."""

    rank: ClassVar[int] = 7

    @property
    def what(self) -> str:
        return f"leave clients of {self.database} on port {self.port} to the kernel's limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePassword(Action):
    """Have a database's server take the password that the store keeps for it."""

    rank: ClassVar[int] = 0
    database: str

    @property
    def chain(self) -> str:
        return f"password {self.database}"

    @property
    def what(self) -> str:
        return f"change the password of {self.database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortAction(Action):
    """About the redirect in a database's own network namespace, from 3306 to `native`, its engine's own port."""

    rank: ClassVar[int] = 0
    database: str
    container: ContainerRef
    native: int

    @property
    def chain(self) -> str:
        return f"port {self.database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectPort(PortAction):
    @property
    def what(self) -> str:
        return f"redirect port {DATABASE_PORT} of {self.container} to {self.native}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRedirect(PortAction):
    @property
    def what(self) -> str:
        return f"remove the redirect from port {DATABASE_PORT} of {self.container} to {self.native}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order they read best; `chains` is the order they run in."""

    actions: tuple[Action, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    def __str__(self) -> str:
        return "\n".join(map(str, self.actions))

    def chains(self) -> Iterator[tuple[tuple[Action, ...], ...]]:
        """Each chain as its ranks in order, each rank as the actions that run side by side."""
        by_chain: dict[str, list[Action]] = {}
        for action in self.actions:
            by_chain.setdefault(action.chain, []).append(action)
        for actions in by_chain.values():
            ranked = sorted(actions, key=lambda action: action.rank)
            yield tuple(tuple(group) for _, group in groupby(ranked, key=lambda action: action.rank))
