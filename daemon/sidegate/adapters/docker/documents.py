"""The parts of the engine's JSON documents that we read, and how they become our own model.

Pure: takes documents, gives values. Field names and nulls are the engine's (API 1.41 to 1.44 and later); whatever it
sends beyond these fields is ignored, and a field that it no longer sends has its empty value.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import msgspec

from sidegate.core.labels import PHASE
from sidegate.core.model import Container, Endpoint, Network
from sidegate.core.workloads import ImageInfo

TCP_PORT = re.compile(r"([0-9]{1,5})(?:/tcp)?")
NO_OPERATION = "#(nop)"
"""Source: moby's builder/dockerfile/internals.go, commit."""

RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
HEALTH_IN_STATUS = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)")
SHORT_ID = 12
NOT_REGULAR = 0x8F280000
"""Go's fs.ModeType: directory, link, pipe, socket or device."""


class Document(msgspec.Struct, frozen=True, rename="pascal"):
    """A JSON object of the engine: keys in PascalCase, unknown keys ignored."""


class EndpointDocument(Document, frozen=True):
    """An entry of NetworkSettings.Networks; in a list row `aliases` is always null."""

    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    ip_address: str = msgspec.field(name="IPAddress", default="")
    gateway: str = ""
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    aliases: tuple[str, ...] | None = None
    dns_names: tuple[str, ...] | None = msgspec.field(name="DNSNames", default=None)


class NetworkSettings(Document, frozen=True):
    """`ports` maps "80/tcp" to its host bindings while the container runs."""

    networks: dict[str, EndpointDocument] | None = None
    ports: dict[str, tuple["PortBinding", ...] | None] | None = None


class PortBinding(Document, frozen=True):
    """`host_port` is a number, a range, or empty where the engine picks one at start."""

    host_port: str = ""


class ContainerRow(Document, frozen=True):
    """One row of `GET /containers/json`: cheap, read without the container's lock, and never with its aliases."""

    id: str
    names: tuple[str, ...] | None = None
    image_id: str = msgspec.field(name="ImageID", default="")
    state: str = ""
    status: str = ""
    network_settings: NetworkSettings | None = None

    def fingerprint(self) -> tuple[object, ...]:
        """Changes whenever this row shows that an inspection would say something new. Leaves out the running time."""
        health = HEALTH_IN_STATUS.search(self.status)
        networks = (self.network_settings and self.network_settings.networks) or {}
        places = sorted((name, e.network_id, e.endpoint_id, e.ip_address) for name, e in networks.items())
        return (self.state, health and health[1], self.names, tuple(places))


class HealthDocument(Document, frozen=True):
    """State.Health; `status` is none, starting, healthy or unhealthy."""

    status: str = ""


class StateDocument(Document, frozen=True):
    """State of a container."""

    status: str = ""
    pid: int = 0
    started_at: str = ""
    health: HealthDocument | None = None


class HealthcheckDocument(Document, frozen=True):
    """Config.Healthcheck; `test` begins with NONE, CMD or CMD-SHELL, and is empty for the image's own."""

    test: tuple[str, ...] | None = None


class ConfigDocument(Document, frozen=True):
    """Config of a container or an image; `env` is a list of KEY=VALUE, `stop_timeout` in seconds."""

    image: str = ""
    labels: dict[str, str] | None = None
    env: tuple[str, ...] | None = None
    exposed_ports: dict[str, object] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: HealthcheckDocument | None = None


class HostConfig(Document, frozen=True):
    """The parts of HostConfig that decide who can reach the container."""

    network_mode: str = "default"
    port_bindings: dict[str, tuple[PortBinding, ...] | None] | None = None
    links: tuple[str, ...] | None = None


class ContainerDocument(Document, frozen=True):
    """`GET /containers/{id}/json`."""

    id: str
    name: str = ""
    image: str = ""
    created: str = ""
    state: StateDocument = StateDocument()
    config: ConfigDocument = ConfigDocument()
    host_config: HostConfig = HostConfig()
    network_settings: NetworkSettings = NetworkSettings()


class ImageDocument(Document, frozen=True):
    """`GET /images/{id}/json`."""

    id: str = ""
    config: ConfigDocument | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        return (self.config.labels if self.config else None) or {}


class ImageRow(Document, frozen=True):
    """One row of `GET /images/json`."""

    repo_tags: list[str] | None = None
    labels: dict[str, str] | None = None


class PathStat(msgspec.Struct, frozen=True):
    """The X-Docker-Container-Path-Stat header. `link_target` is empty for what is no link, else absolute."""

    size: int
    mode: int
    link_target: str = msgspec.field(name="linkTarget", default="")

    @property
    def regular(self) -> bool:
        return not self.mode & NOT_REGULAR


class Subnet(Document, frozen=True):
    """One entry of IPAM.Config."""

    subnet: str = ""
    gateway: str = ""


class Ipam(Document, frozen=True):
    """IPAM of a network."""

    config: tuple[Subnet, ...] | None = None


class AttachedDocument(Document, frozen=True):
    """An entry of a network's Containers, keyed by container id, or by "ep-…" for a ghost endpoint."""

    name: str = ""


class NetworkDocument(Document, frozen=True):
    """`GET /networks/{id}`, or one row of `GET /networks` (which never lists `containers`)."""

    id: str
    name: str
    driver: str = ""
    internal: bool = False
    labels: dict[str, str] | None = None
    ipam: Ipam | None = msgspec.field(name="IPAM", default=None)
    containers: dict[str, AttachedDocument] | None = None


class Actor(Document, frozen=True):
    """Whom an event is about."""

    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = None


class Event(Document, frozen=True):
    """One line of `GET /events`. `time_nano` is the engine's clock."""

    type: str = ""
    action: str = ""
    actor: Actor = Actor()
    time_nano: int = msgspec.field(name="timeNano", default=0)

    @property
    def container(self) -> str:
        """The id of the container concerned; empty where there is none, as for a network that was made."""
        return self.actor.id if self.type == "container" else (self.actor.attributes or {}).get("container", "")

    @property
    def at(self) -> str:
        """When it happened, as `utc` writes times."""
        seconds, nanoseconds = divmod(self.time_nano, 10**9)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"

    @property
    def signal(self) -> str:
        """The signal that a kill event is about, by number or name; empty for every other event."""
        return (self.actor.attributes or {}).get("signal", "") if self.action == "kill" else ""


def container_of(
    document: ContainerDocument, image_labels: Mapping[str, str], image_env: Mapping[str, str] = MappingProxyType({})
) -> Container:
    """Our `Container` from its inspect document, and the labels and variables of its image."""
    config, host, settings = document.config, document.host_config, document.network_settings
    health = document.state.health.status if document.state.health else ""
    return Container(
        id=document.id,
        name=document.name.removeprefix("/"),
        image=config.image,
        labels=_labels(config),
        image_labels=image_labels,
        image_env=image_env,
        env=environment(config),
        state=document.state.status,
        health="" if health == "none" else health,
        network_mode=host.network_mode,
        endpoints=tuple(
            _endpoint(document, name, e)
            for name, e in sorted((settings.networks or {}).items(), key=lambda item: item[0])
        ),
        exposed_ports=exposed(config),
        published_ports=_published(host.port_bindings, settings.ports),
        bound_ports=_bound(host.port_bindings, settings.ports),
        links=host.links or (),
        pid=document.state.pid,
        created=utc(document.created),
    )


def _labels(config: ConfigDocument) -> dict[str, str]:
    """A container's labels; one of a builder's own steps is marked as such, whatever a Dockerfile's LABEL says.

    The engine's builder makes a container for each instruction that only changes the configuration, and never starts
    it: its image has not yet the labels that the instruction gives, so they would count as somebody's word.
    """
    labels = config.labels or {}
    if any(word.startswith(NO_OPERATION) for word in config.cmd or ()):
        return {**labels, PHASE: "build"}
    return labels


def image_of(document: ImageDocument) -> ImageInfo:
    """Our `ImageInfo` from an image's inspect document."""
    config = document.config or ConfigDocument()
    test = (config.healthcheck and config.healthcheck.test) or ()
    return ImageInfo(
        document.id,
        exposed_ports=exposed(config),
        labels=config.labels or {},
        env=environment(config),
        health_check=test[:1] not in ((), ("NONE",)),
    )


def environment(config: ConfigDocument) -> dict[str, str]:
    """Variables that have a value; an entry without one takes a variable away."""
    return dict(entry.split("=", 1) for entry in config.env or () if "=" in entry)


def exposed(config: ConfigDocument) -> tuple[int, ...]:
    """TCP ports, in order."""
    return tuple(sorted(int(m[1]) for p in config.exposed_ports or () if (m := TCP_PORT.fullmatch(p))))


def _endpoint(document: ContainerDocument, network: str, endpoint: EndpointDocument) -> Endpoint:
    """Aliases as they were asked for: engines up to API 1.43 add the short id, and later ones may only have DNSNames,
    which hold the container's own name as well."""
    implied = {document.id[:SHORT_ID]}
    if endpoint.aliases is None:
        implied.add(document.name.removeprefix("/"))
    aliases = endpoint.aliases if endpoint.aliases is not None else endpoint.dns_names or ()
    return Endpoint(network, endpoint.ip_address, frozenset(aliases) - implied, endpoint.network_id)


def _published(*bindings: Mapping[str, tuple[PortBinding, ...] | None] | None) -> tuple[int, ...]:
    """Host ports, sorted; 0 for one that the engine picks when the container starts."""
    ports = {
        int(binding.host_port.partition("-")[0] or 0)
        for by_port in bindings
        for entries in (by_port or {}).values()
        for binding in entries or ()
    }
    return tuple(sorted(ports - {0})) or tuple(ports)


def _bound(*bindings: Mapping[str, tuple[PortBinding, ...] | None] | None) -> tuple[int, ...]:
    """The container's TCP ports that are published, sorted."""
    ports = {
        int(match[1])
        for by_port in bindings
        for port, entries in (by_port or {}).items()
        if entries and (match := TCP_PORT.fullmatch(port))
    }
    return tuple(sorted(ports))


def network_of(document: NetworkDocument) -> Network:
    """Our `Network`; IPv6 subnets are left out."""
    subnets = [s for s in (document.ipam and document.ipam.config) or () if s.subnet and ":" not in s.subnet]
    return Network(
        id=document.id,
        name=document.name,
        driver=document.driver,
        internal=document.internal,
        labels=document.labels or {},
        subnets=tuple(s.subnet for s in subnets),
        gateway=next((s.gateway for s in subnets if s.gateway), ""),
    )


def utc(timestamp: str) -> str:
    """An RFC 3339 time as the engine writes it (trailing zeros trimmed), in UTC with nine decimals: strings sort."""
    match = RFC3339.fullmatch(timestamp)
    if match is None:
        return timestamp
    seconds, fraction, zone = match[1], match[2] or "", match[3]
    if zone != "Z":
        seconds = datetime.fromisoformat(seconds + zone).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{fraction:0<9}Z"
