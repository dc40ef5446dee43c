"""Compose services that bear no label of ours: what they are called, which are databases, where an app listens.

Compose says by labels which project and service a container belongs to. Everything here is decided from one
container, or from the set of all services, never from the order in which they came.
Source: https://github.com/docker/compose/blob/main/pkg/api/labels.go
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from sidegate.core.database_engines import CLIENT_HOSTS, CLIENT_TOOL_HOSTS, DATABASE_ENGINES
from sidegate.core.model import Container, name_fault
from sidegate.core.quoting import plain

PREFIX = "com.docker.compose."
PROJECT, SERVICE = PREFIX + "project", PREFIX + "service"
ONE_OFF, NUMBER, CONFIG_HASH = PREFIX + "oneoff", PREFIX + "container-number", PREFIX + "config-hash"

LONGEST_NAME = 40
LONGEST_LABEL = 63  # characters of one label of a host name (RFC 1035 section 2.3.4)
HASH_DIGITS = (0, 6, 12, 24, 38)
"""Of a name's suffix, the first that leaves it alone with its name; the last one leaves room for one letter more."""

NOT_HTTP: Mapping[int, str] = {
    21: "FTP",
    22: "SSH",
    25: "SMTP",
    53: "DNS",
    110: "POP3",
    143: "IMAP",
    389: "LDAP",
    443: "TLS",
    465: "SMTP",
    587: "SMTP",
    636: "LDAP",
    873: "rsync",
    993: "IMAP",
    995: "POP3",
    1025: "SMTP",
    1110: "POP3",
    1143: "IMAP",
    1433: "SQL Server",
    1521: "Oracle",
    1883: "MQTT",
    2181: "ZooKeeper",
    2379: "etcd",
    2380: "etcd",
    3306: "MySQL",
    4222: "NATS",
    4369: "Erlang",
    5432: "PostgreSQL",
    5671: "AMQP",
    5672: "AMQP",
    5900: "VNC",
    6033: "MySQL",
    6222: "NATS",
    6379: "Redis",
    6432: "PostgreSQL",
    7473: "TLS",
    7687: "Bolt",
    8443: "TLS",
    8883: "MQTT",
    9042: "Cassandra",
    9092: "Kafka",
    9094: "Kafka",
    9300: "Elasticsearch's own protocol",
    9443: "TLS",
    11211: "memcached",
    15671: "TLS",
    15691: "metrics",
    15692: "metrics",
    16379: "Redis",
    25672: "Erlang",
    26379: "Redis",
    27017: "MongoDB",
    27018: "MongoDB",
    27019: "MongoDB",
    28015: "RethinkDB",
    33060: "MySQL",
    61613: "STOMP",
    61616: "ActiveMQ",
}
"""Ports that are well known for something else than plain HTTP."""

FIRST_PORTS = (80, 8080, 8000, 3000, 5000, 8025, 15672, 8123, 9200)
"""Of several ports that may be HTTP, these come first, in this order; then the lowest, debuggers' ports last."""

LAST_PORTS = frozenset({5005, 5678, 9003, 9229, 24678, 35729, 50000})
FASTCGI_PORT = 9000

_WORD = re.compile(r"[^a-z0-9]+")
_HOST_LABEL = re.compile(r"[^a-z0-9-]+")
_TAG_OR_DIGEST = re.compile(r"[:@].*")
_ITSELF = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "", "*"})


class Service(NamedTuple):
    """One service of one compose project, as compose has it."""

    service: str
    project: str


def service_of(container: Container) -> Service | None:
    """The service that a container belongs to; None: to none, as far as the container itself says.

    Images that compose builds bear project and service too, so whoever runs one by hand seems to say so: only compose
    numbers its containers. An image that was committed from such a container bears its number, too, but then compose
    gives a hash of the service of its own.
    """
    labels, inherited = container.labels, container.image_labels
    project, service = labels.get(PROJECT), labels.get(SERVICE)
    if not project or not service:
        return None
    if NUMBER in labels:
        run_by_hand = all(inherited.get(key) == labels.get(key) for key in (NUMBER, CONFIG_HASH))
    else:
        run_by_hand = any(inherited.get(key) == labels[key] for key in (PROJECT, SERVICE))
    return None if run_by_hand else Service(service, project)


def one_off(container: Container) -> bool:
    """Whether `docker compose run` made it."""
    return container.labels.get(ONE_OFF, "").lower() == "true"


def same_project(container: Container, others: Iterable[Container]) -> bool:
    """Whether they all are of one project, so that its file says what they share."""
    service = service_of(container)
    found = (service_of(other) for other in others)
    return service is not None and all(other is not None and other.project == service.project for other in found)


def unpublishing(container: Container) -> str:
    """What whoever runs a container does to have it publish no port."""
    service = service_of(container)
    if service is None:
        return f"run {container.name} without -p"
    return f"take it out of `ports:` of the service {plain(service.service)}, project {plain(service.project)}"


# --- names


def names(services: Collection[Service], taken: Collection[str] = ()) -> dict[Service, str]:
    """A name for each: `<service>-<project>` where that fits our rules, and nobody else's is the same.

    All that would share a name, or have one of `taken`, get a suffix, a hash of what they are called.
    """
    depths = dict.fromkeys(services, 0)
    while True:
        found = {service: _name(service, depth) for service, depth in depths.items()}
        counts = Counter(found.values())
        shared = [service for service, name in found.items() if counts[name] > 1 or name in taken]
        if not shared:
            return found
        for service in shared:
            depths[service] += 1


def _name(service: Service, depth: int) -> str:
    plain = _WORD.sub("-", f"{service.service}-{service.project}".lower()).strip("-") or "service"
    if not plain[0].isalpha():
        plain = f"s-{plain}"
    if depth == 0 and not name_fault(plain):
        return plain
    depth = max(depth, 1)
    text = "\0".join((*service, str(depth)))
    suffix = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[: HASH_DIGITS[min(depth, 4)]]
    return f"{plain[: LONGEST_NAME - 1 - len(suffix)].rstrip('-')}-{suffix}"


def host_of(service: Service) -> str:
    """`<service>.<project>` as a host name has it; empty where nothing of one is left."""
    parts = [_HOST_LABEL.sub("-", part.lower())[:LONGEST_LABEL].strip("-") for part in service]
    return ".".join(parts) if all(parts) else ""


# --- databases


def database_engine(container: Container) -> str:
    """The database engine that a container runs, a key of DATABASE_ENGINES; empty: none that we know.

    By its image's name. An image of somebody's own is known by the engine's port, which it exposes, together with a
    variable that its base set, or that only a server is given; not where a variable names another host to log in at,
    as those of apps, backups and poolers do. Passwords alone say nothing: apps are given them, too.
    """
    image, given = image_name(container.image), container.env.items() - container.image_env.items()
    variables = {variable for variable, _ in given}
    for name, engine in DATABASE_ENGINES.items():
        signs = engine.signs
        serves = not variables.isdisjoint(signs.server)
        if image in signs.images:
            return "" if not serves and _logs_in(container, CLIENT_TOOL_HOSTS) else name
        built = not container.image_env.keys().isdisjoint(signs.base)
        if engine.port in container.exposed_ports and (built or serves) and not _logs_in(container, CLIENT_HOSTS):
            return name
    return ""


def image_name(reference: str) -> str:
    """The last component of an image's name, without tag and digest; empty for an image that is given by its id."""
    return "" if reference.startswith("sha256:") else _TAG_OR_DIGEST.sub("", reference.rpartition("/")[2])


def _logs_in(container: Container, variables: Collection[str]) -> bool:
    """Whether a variable names a host that is not the container itself."""
    itself = {container.name, container.labels.get(SERVICE, "")}
    itself.update(*(endpoint.aliases for endpoint in container.endpoints))
    hosts = {container.env.get(variable, "") for variable in variables}
    return any(host not in _ITSELF | itself and not host.startswith("/") for host in hosts)


# --- apps


def http_port(container: Container, given: int | None) -> tuple[int, str]:
    """Where an app listens, or 0 and why it is none. `given` is its PORT, None without one.

    PORT where there is one; else the port that is published, else the one that is exposed. Of several those count that
    are not known for something else than HTTP.
    """
    exposed = container.exposed_ports
    if given and (given in exposed or not exposed or any(_may_be_http(port, container) for port in exposed)):
        return given, ""
    for ports in (container.bound_ports, exposed):
        if likely := [port for port in ports if _may_be_http(port, container)]:
            return min(likely, key=_rank), ""
    if not exposed:
        return 0, "has no port: nothing is published, exposed or given as PORT"
    spoken = ", ".join(f"{port} ({NOT_HTTP.get(port, 'FastCGI')})" for port in exposed)
    return 0, f"speaks no plain HTTP: its ports are {spoken}"


def _may_be_http(port: int, container: Container) -> bool:
    fastcgi = port == FASTCGI_PORT and "PHP_VERSION" in container.image_env
    return port not in NOT_HTTP and not fastcgi


def _rank(port: int) -> tuple[int, int]:
    if port in FIRST_PORTS:
        return 0, FIRST_PORTS.index(port)
    return (2 if port in LAST_PORTS else 1), port
