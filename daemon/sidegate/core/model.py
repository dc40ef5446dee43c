"""What the rest of the core talks about: what the engine has (observed) and what people asked for (intent).

Plain frozen values. Nothing here knows where they come from.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Self

from sidegate.core.gates import Gate
from sidegate.core.quoting import quoted
from sidegate.core.routes import DATABASE_PORT as DATABASE_PORT
from sidegate.core.routes import Policy
from sidegate.errors import InvalidInputError

DEFAULT_BRIDGE = "bridge"
DEFAULT_INSTANCE = "sidegate"
DEFAULT_POOL = IPv4Network("10.213.0.0/16")

NAME_PATTERN = re.compile(r"[a-z]([a-z0-9]|-(?=[a-z0-9])){0,39}")
FORWARDERS = ("auto", "kernel", "userspace")
RESERVED_NAMES = frozenset({"home", "host", "localhost", "internal", "gateway"})


def name_fault(name: str) -> str:
    """Why `name` cannot be an app's or a database's name; empty when it can."""
    if name in RESERVED_NAMES:
        return f"the name {name!r} is reserved"
    if not NAME_PATTERN.fullmatch(name):
        return (
            f"{quoted(name)} is not a name: use 1 to 40 of a-z, 0-9 and single dashes, "
            "beginning with a letter and not ending with a dash"
        )
    return ""


def check_name(name: str) -> str:
    """Return `name`, or raise InvalidInputError saying what is wrong with it."""
    if fault := name_fault(name):
        raise InvalidInputError(fault)
    return name


# --- observed --------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on one network. `address` is IPv4, empty while the container does not run.

    `network_id` tells a network from an earlier one of the same name, which keeps a container from starting.
    """

    network: str
    address: str = ""
    aliases: frozenset[str] = frozenset()
    network_id: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """One container, as `GET /containers/{id}/json` describes it.

    `state` is the engine's word (created, running, paused, restarting, exited, removing, dead); `health` is empty
    without a health check, else starting, healthy or unhealthy; `network_mode` is default, bridge, host, none,
    container:<id> or a network's name; `created` is RFC 3339 in UTC, so that strings sort by time. `stopping`: it was
    told to end and still runs; its state does not show that.
    """

    id: str
    name: str
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    image_labels: Mapping[str, str] = field(default_factory=dict)
    image_env: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    state: str = "running"
    health: str = ""
    network_mode: str = "default"
    endpoints: tuple[Endpoint, ...] = ()
    exposed_ports: tuple[int, ...] = ()
    published_ports: tuple[int, ...] = ()
    bound_ports: tuple[int, ...] = ()
    """Those of `exposed_ports` that are published."""
    links: tuple[str, ...] = ()
    pid: int = 0
    created: str = ""
    stopping: bool = False

    def endpoint(self, network: str) -> Endpoint | None:
        """This container's endpoint on `network`, if it has one."""
        return next((e for e in self.endpoints if e.network == network), None)

    @property
    def running(self) -> bool:
        return self.state == "running"


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the engine. `subnets` are IPv4 CIDRs, `gateway` the bridge's own address."""

    id: str
    name: str
    driver: str = "bridge"
    internal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    gateway: str = ""

    @property
    def ipv4(self) -> tuple[IPv4Network, ...]:
        """The subnets as values; an engine may give one by an address inside it."""
        return tuple(IPv4Network(subnet, strict=False) for subnet in self.subnets)


@dataclass(frozen=True, slots=True)
class EngineState:
    """All containers and networks at one moment.

    `unseen` are networks with containers that could not be looked at (a start holds them): not empty, whatever
    `containers` says.
    """

    containers: tuple[Container, ...] = ()
    networks: tuple[Network, ...] = ()
    unseen: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HostState:
    """What matters of the host: CIDRs it routes, the uplink's MTU (0: unknown), the bridge fast path.

    `fast_path` is None where the host has no use for the rule or it cannot be kept (`fast_path_fault` says why),
    else whether it stands at the head of DOCKER-USER. `cut_fault` says why no socket in a container can be destroyed.
    """

    routes: tuple[str, ...] = ()
    mtu: int = 0
    fast_path: bool | None = None
    fast_path_fault: str = ""
    lost: tuple[str, ...] = ()
    """what the daemon lacks the rights for, a sentence each"""
    cut_fault: str = ""


# --- intent: what the store holds --------------------


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """An internal connection's two ends, sorted, so that a pair is the same from either side."""

    a: str
    b: str

    @classmethod
    def of(cls, one: str, other: str) -> Self:
        return cls(*sorted((one, other)))

    def other(self, name: str) -> str:
        return self.b if name == self.a else self.a

    def __str__(self) -> str:
        return f"{self.a} and {self.b}"


@dataclass(frozen=True, slots=True)
class External:
    """A database's external connection: its port and its lists stay the same while it is off.

    `expires_at`: when it ends, in Unix time; 0 never. `idle_off`: after so many seconds without a session; 0 never.
    `forwarder` is one of FORWARDERS, empty for what the settings say. `used_at`: a session was seen then, or it was
    switched on, in Unix time and not to the second; 0 where `idle_off` is.
    """

    gate: Gate
    enabled: bool
    expires_at: float = 0.0
    idle_off: int = 0
    forwarder: str = ""
    used_at: float = 0.0

    @property
    def port(self) -> int:
        """The public one."""
        return self.gate.port


@dataclass(frozen=True, slots=True)
class DatabaseDetails:
    """What is known of a database's login; empty means unknown. Never printed: the repr leaves secrets out."""

    user: str = ""
    password: str = field(default="", repr=False)
    schema: str = ""
    root_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable of an app. `scope` is build, runtime or both; `source` says where it came from."""

    key: str
    value: str = field(repr=False)
    scope: str = "runtime"
    source: str = "manual"
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Deployment:
    """An app whose containers Sidegate makes itself. `image` is the reference that people gave, `image_id` what it was
    when they gave it, so that a tag that moves changes nothing by itself; `command` is empty for the image's own."""

    image: str
    image_id: str = ""
    replicas: int = 1
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """Containers of an app that are being replaced, until all are or none is.

    `before` is what was deployed when it began (None: nothing, or an app that others run), `port_before` the port, and
    both come back if it fails. `began` is a Unix time in seconds. `replaces` are the ids of the containers that are to
    go: whatever else there is by then has come since. `health` is a path that new ones have to answer before they take
    over, and the app's option from then on; empty where the options stay as they are.
    """

    began: float
    before: Deployment | None = None
    port_before: int = 0
    replaces: tuple[str, ...] = ()
    health: str = ""


@dataclass(frozen=True, slots=True)
class PasswordChange:
    """A password that a database's engine may have already and the store has not; it is there while one is under way.

    `update_env`: variables that Sidegate added follow. `began` is a Unix time in seconds: sessions from before it used
    the old one, and `disconnect` ends them.
    """

    password: str = field(repr=False)
    update_env: bool = False
    disconnect: bool = False
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class OwnDatabase:
    """A database whose container Sidegate makes itself. `engine` is a key of DATABASE_ENGINES."""

    engine: str
    image: str
    volume: str


@dataclass(frozen=True, slots=True)
class Intent:
    """Everything that people asked for, as one immutable value; each commit of the store makes a new one."""

    connections: frozenset[Pair] = frozenset()
    externals: Mapping[str, External] = field(default_factory=dict)
    databases: Mapping[str, DatabaseDetails] = field(default_factory=dict)
    env: Mapping[str, tuple[Variable, ...]] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    """domain (host, or host/path) -> the app that holds it"""
    modes: Mapping[str, str] = field(default_factory=dict)
    """app -> paused or maintenance; one that serves is not there"""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """app -> option -> value, as text; they win over labels"""
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    """apps that Sidegate runs itself"""
    ports: Mapping[str, int] = field(default_factory=dict)
    """app -> the PORT that its containers are given from their next start on"""
    domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """app -> domains given by command; labels add theirs"""
    retired: Mapping[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    """app -> (key, SHA-256 of its value in hex) of variables that Sidegate no longer gives: a container that still has
    exactly that one is stale, and loses it when it is recreated"""
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    """apps whose containers are being replaced"""
    passwords: Mapping[str, PasswordChange] = field(default_factory=dict)
    """databases whose password is being changed"""
    own_databases: Mapping[str, OwnDatabase] = field(default_factory=dict)
    """databases whose containers Sidegate makes itself"""


# --- settings of the core --------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that the pure core needs.

    `subnet_prefix` is the length of each network's subnet; `policy` is how requests are treated where an app's options
    do not say; `default_app` answers where nobody else does (empty: nobody); `tls`: there is HTTPS to redirect to;
    `forwarder` is one of FORWARDERS; `discover` is labels, or all: compose services need none; `loopback`: nothing
    listens for other machines; `namespaces`: those of containers' networks can be entered, which takes root. `self_id`
    is our own container's id where that has a network of its own, else empty.
    """

    instance: str = DEFAULT_INSTANCE
    base_domain: str = "localhost"
    isolation: str = "bridge"
    trust_image_labels: bool = False
    pool: IPv4Network = DEFAULT_POOL
    subnet_prefix: int = 27
    policy: Policy = field(default_factory=Policy)
    default_app: str = ""
    tls: bool = True
    forwarder: str = "userspace"
    discover: str = "labels"
    loopback: bool = False
    namespaces: bool = True
    self_id: str = ""

    @property
    def endpoints_per_network(self) -> int:
        """Addresses of one subnet less network, broadcast, the bridge's own and our own container's: 29 in a /27."""
        return (1 << (32 - self.subnet_prefix)) - (4 if self.self_id else 3)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something an operator should know: about whom, and what, with what to do."""

    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"
