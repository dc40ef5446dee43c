"""From containers' labels to apps and databases, with a reason for whatever is rejected.

Identity is the name; containers come and go beneath it. A label that the image itself carries is ignored (whoever
built the image wrote it, and could join somebody else's app) unless `trust_image_labels` is set.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from sidegate.core import compose
from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.model import DATABASE_PORT, DEFAULT_INSTANCE, Container, Problem, Rules, name_fault
from sidegate.core.options import OPTIONS, option_fault
from sidegate.core.quoting import MOST, listed, plain, quoted
from sidegate.errors import FixedPortError

PREFIX = "sidegate."
APP, DATABASE, ENGINE = "sidegate.app", "sidegate.database", "sidegate.engine"
PORT, DOMAINS = "sidegate.port", "sidegate.domains"
NETWORK, PHASE, ENABLE = "sidegate.network", "sidegate.phase", "sidegate.enable"
MANAGED, INSTANCE = "sidegate.managed", "sidegate.instance"
STRATEGY, REVISION = "sidegate.strategy", "sidegate.revision"
KNOWN = frozenset(
    {APP, DATABASE, ENGINE, PORT, DOMAINS, NETWORK, PHASE, ENABLE, STRATEGY, REVISION}
    | {PREFIX + name for name in OPTIONS}
)
ROLLING, RECREATE = "rolling", "recreate"
END_A, END_B = "sidegate.end.a", "sidegate.end.b"
SWARM_TASK = "com.docker.swarm.task.id"

DEFAULT_APP_PORT = 8080
MOST_DIGITS = 5  # of a port; int() raises for thousands of them
LONGEST_GUESSED = 60  # characters of a label that may be a slip of a known one
MOST_DOMAINS = 1000  # of an app: each costs every pass and every worker
LONGEST_DOMAIN = 2000  # characters, path included
HOST_PATTERN = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
PATH_PATTERN = re.compile(r"(/[!-.0-~]+)*/?")


@dataclass(frozen=True, slots=True, order=True)
class Domain:
    """A host (exact, or "*.suffix") and a path prefix (empty, or "/api")."""

    host: str
    path: str = ""

    def __str__(self) -> str:
        return self.host + self.path


@dataclass(frozen=True, slots=True)
class Replica:
    """One container of an app; `port` is where it listens, `network` the one it asks to be dialled on."""

    container: Container
    port: int
    network: str = ""


@dataclass(frozen=True, slots=True)
class App:
    """A web program under one name; `replicas` in order of creation.

    `options` are those that labels give, each with a value that can be read; the youngest replica's counts. `strategy`
    is how containers are to be replaced as far as labels say, ROLLING or RECREATE.
    """

    name: str
    replicas: tuple[Replica, ...] = ()
    domains: tuple[Domain, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    strategy: str = ROLLING


@dataclass(frozen=True, slots=True)
class Database:
    """A container that runs a database engine (`engine` is a key of DATABASE_ENGINES)."""

    name: str
    engine: str
    container: Container


@dataclass(frozen=True, slots=True, order=True)
class LeftOut:
    """A container that is neither app nor database, by its name, and why: `reason` follows "because it"."""

    container: str
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What the containers ask to be, and what is wrong with some of them.

    `services` are the compose services of those that no label names, by name; `hosts` is `<service>.<project>` -> the
    app that answers there; `left_out` are containers that are to be nobody's.
    """

    apps: Mapping[str, App]
    databases: Mapping[str, Database]
    problems: tuple[Problem, ...] = ()
    services: Mapping[str, compose.Service] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()

    def containers(self, name: str) -> tuple[Container, ...]:
        """The containers behind an app's or a database's name; none when there is no such thing now."""
        if app := self.apps.get(name):
            return tuple(replica.container for replica in app.replicas)
        if database := self.databases.get(name):
            return (database.container,)
        return ()


class _LabelError(Exception):
    """A container that cannot be taken in; the text says why."""


class _LeftOut(Exception):  # noqa: N818  # nothing is wrong with it
    """A container that is nobody's; the text says why."""


def discover(containers: Iterable[Container], rules: Rules, ports: Mapping[str, int] | None = None) -> Discovery:
    """Sort containers into apps and databases. Of two that claim one name, the one created first keeps it.

    `ports`: app -> the PORT that Sidegate gives; a container that has it listens there, whatever its labels say.
    """
    problems: list[Problem] = []
    replicas: dict[str, list[tuple[Replica, Mapping[str, str]]]] = {}
    databases: dict[str, Database] = {}
    left_out: list[LeftOut] = []
    found = _labelled(containers, rules, problems)
    everything = rules.discover == "all"
    names = _service_names(found) if everything else None
    for container, labels in found:
        if not (labels or everything) or labels.get(PHASE) == "build":  # a build never gets a connection (R20)
            continue
        try:
            kind, name = _identity(container, labels, names)
            if name in databases or (kind == DATABASE and name in replicas):
                _refuse_taken(name, container, databases)
            if kind == APP:
                port = _port(container, labels, found=APP not in labels)
                if ports and container.env.get("PORT") == str(ports.get(name)):
                    port = ports[name]
                replica = Replica(container, port, labels.get(NETWORK, ""))
                replicas.setdefault(name, []).append((replica, labels))
            else:
                databases[name] = Database(name, _engine(container, labels, problems), container)
        except _LeftOut as why:
            left_out.append(LeftOut(container.name, str(why)))
        except _LabelError as error:
            problems.append(Problem(container.name, str(error)))
    apps = {name: _app(name, members, problems) for name, members in sorted(replicas.items())}
    hosts = _hosts(apps, rules, problems) if everything else {}
    services = {name: service for service, name in (names or {}).items() if name in apps or name in databases}
    return Discovery(
        apps, dict(sorted(databases.items())), tuple(problems), services, hosts, tuple(sorted(set(left_out)))
    )


def _labelled(
    containers: Iterable[Container], rules: Rules, problems: list[Problem]
) -> list[tuple[Container, Mapping[str, str]]]:
    """The containers that are this daemon's business, in order of creation, each with the labels that count. Another
    daemon's are not (two on one engine never fight over a container), nor is the one that it runs in itself."""
    ours = (c for c in containers if c.id != rules.self_id and _instance(c, rules) == rules.instance)
    mine = sorted(ours, key=lambda c: (c.created, c.id))
    found = [(c, _trusted_labels(c, rules, problems)) for c in mine if c.id != rules.self_id]
    return [(container, labels) for container, labels in found if container.state not in ("removing", "dead")]


def _service_names(found: Iterable[tuple[Container, Mapping[str, str]]]) -> dict[compose.Service, str]:
    """Names for the compose services that no label names."""
    services: set[compose.Service] = set()
    taken: set[str] = set()
    for container, labels in found:
        if given := {labels[key] for key in (APP, DATABASE) if key in labels}:
            taken |= given
        elif service := compose.service_of(container):
            services.add(service)
    return compose.names(services, taken)


def _hosts(apps: Mapping[str, App], rules: Rules, problems: list[Problem]) -> dict[str, str]:
    """`<service>.<project>` -> the app. Of two that come to one host, the one created first keeps it."""
    hosts: dict[str, str] = {}
    members = ((replica.container, app.name) for app in apps.values() for replica in app.replicas)
    for container, name in sorted(members, key=lambda member: (member[0].created, member[0].id)):
        service = compose.service_of(container)
        host = compose.host_of(service) if service else ""
        if host and (owner := hosts.setdefault(host, name)) != name:
            text = f"does not answer at {host}.{rules.base_domain}: the app {owner} does, which is older"
            problems.append(Problem(name, text))
    return hosts


def _instance(container: Container, rules: Rules) -> str:
    given = container.labels.get(INSTANCE, DEFAULT_INSTANCE)
    inherited = given == container.image_labels.get(INSTANCE) and not rules.trust_image_labels
    return DEFAULT_INSTANCE if inherited else given


def _refuse_taken(name: str, container: Container, databases: Mapping[str, Database]) -> NoReturn:
    older = databases[name].container if name in databases else None
    service = compose.service_of(container)
    if older and service and service == compose.service_of(older):
        raise _LabelError(f"the database {name!r} is {older.name} already, which is older: a database is one container")
    holder = f"container {older.name}" if older else "an app"
    raise _LabelError(f"the name {name!r} is taken by {holder}, which is older: choose another name")


def _trusted_labels(container: Container, rules: Rules, problems: list[Problem]) -> Mapping[str, str]:
    given = container.labels.items()
    ours = {key: value.strip() for key, value in given if key.startswith(PREFIX) and key != INSTANCE}
    if not rules.trust_image_labels:
        inherited = {key for key in ours if container.image_labels.get(key) == container.labels[key]}
        if inherited:
            text = f"ignored {listed(inherited)}: an image cannot say who its containers are"
            problems.append(Problem(container.name, f"{text}; label the container, or set trust_image_labels"))
        ours = {key: value for key, value in ours.items() if key not in inherited}
    unknown = sorted(set(ours) - KNOWN)
    for key in unknown[:MOST]:  # each guess takes a while, and an image can carry thousands
        guess = difflib.get_close_matches(key, KNOWN, 1) if len(key) < LONGEST_GUESSED else ()
        hint = f", did you mean {guess[0]}?" if guess else f"; known are {', '.join(sorted(KNOWN))}"
        problems.append(Problem(container.name, f"unknown label {plain(key)}{hint}"))
    if (more := len(unknown) - MOST) > 0:
        problems.append(Problem(container.name, f"unknown labels: {more} more"))
    return ours


def _identity(
    container: Container, labels: Mapping[str, str], names: Mapping[compose.Service, str] | None
) -> tuple[str, str]:
    """App or database, and the name: as labels say, else as compose does; `names` None: only labels count."""
    if labels.get(ENABLE) == "false":
        raise _LeftOut(f"has {ENABLE}=false")
    service = compose.service_of(container)
    if names is None or APP in labels or DATABASE in labels or (labels and service is None):
        return _given_identity(container, labels)
    if SWARM_TASK in container.labels:
        raise _LeftOut("is a swarm task, which Sidegate does not support")
    if service is None:
        raise _LeftOut(f"has no compose project and no label {APP} or {DATABASE}")
    if compose.one_off(container):
        raise _LeftOut("is a one-off container of `docker compose run`")
    if ENGINE in labels or compose.database_engine(container):
        return DATABASE, names[service]
    return APP, names[service]


def _given_identity(container: Container, labels: Mapping[str, str]) -> tuple[str, str]:
    app, database = labels.get(APP), labels.get(DATABASE)
    if app is not None and database is not None:
        raise _LabelError(f"labelled both {APP} and {DATABASE}: keep one")
    if app is None and database is None:
        raise _LabelError(f"has {listed(labels)} but neither {APP} nor {DATABASE}: add one of them")
    kind, name = (APP, app) if app is not None else (DATABASE, database or "")
    if fault := name_fault(name):
        raise _LabelError(f"{kind}: {fault}")
    if SWARM_TASK in container.labels:
        raise _LabelError("is a swarm task, which Sidegate does not support: run it as a plain container")
    return kind, name


def _engine(container: Container, labels: Mapping[str, str], problems: list[Problem]) -> str:
    engine = labels.get(ENGINE)
    if engine is None and DATABASE not in labels:
        engine = compose.database_engine(container)
    known = ", ".join(DATABASE_ENGINES)
    if engine is None:
        raise _LabelError(f"has no {ENGINE}: add it; known database engines are {known}")
    if engine not in DATABASE_ENGINES:
        raise _LabelError(f"{ENGINE}={quoted(engine)} is not a known database engine; known are {known}")
    if labels.get(PORT, str(DATABASE_PORT)) != str(DATABASE_PORT):
        problems.append(Problem(container.name, f"ignored {PORT}={plain(labels[PORT])}: {FixedPortError()}"))
    return engine


def parse_port(text: str) -> int | None:
    """1..65535 in plain decimal, or None."""
    few = len(text) <= MOST_DIGITS and text.isascii() and text.isdecimal()
    return port if few and 0 < (port := int(text)) < 65536 else None


def _port(container: Container, labels: Mapping[str, str], *, found: bool) -> int:
    """Where a replica listens: its label, its own PORT, its only exposed TCP port, 8080. One that was `found` without
    a label is an app only where something is known of its port."""
    if (label := labels.get(PORT)) is not None:
        if (port := parse_port(label)) is None:
            raise _LabelError(f"{PORT}={quoted(label)} is not a port: use a number from 1 to 65535")
        return port
    given = parse_port(container.env.get("PORT", ""))
    if found:
        port, why = compose.http_port(container, given)
        if not port:
            raise _LeftOut(f"{why}; {PORT}=NUMBER makes it an app all the same")
        return port
    if given:
        return given
    return container.exposed_ports[0] if len(container.exposed_ports) == 1 else DEFAULT_APP_PORT


def _app(name: str, members: list[tuple[Replica, Mapping[str, str]]], problems: list[Problem]) -> App:
    domains: dict[Domain, None] = {}
    options: dict[str, str] = {}
    strategy = ROLLING
    for replica, labels in members:
        given = labels.get(STRATEGY, ROLLING)
        if given == RECREATE:  # where one of them says that two cannot run side by side, better none do
            strategy = RECREATE
        elif given != ROLLING:
            fault = f"ignored {STRATEGY}={plain(given)}: it is {ROLLING} or {RECREATE}"
            problems.append(Problem(replica.container.name, fault))
        wrong = []
        texts = labels.get(DOMAINS, "").split(",", MOST_DOMAINS)  # the last one is the rest
        beyond = len(texts) > MOST_DOMAINS and bool(texts.pop().replace(",", " ").strip())
        for text in filter(None, map(str.strip, texts)):
            if (domain := parse_domain(text)) is None:
                wrong.append(text)
            elif domain in domains or len(domains) < MOST_DOMAINS:
                domains[domain] = None
            else:
                beyond = True
        if beyond:
            fault = f"{DOMAINS}: an app has {MOST_DOMAINS:,} domains at most; {name} keeps the first ones"
            problems.append(Problem(replica.container.name, fault))
        for text in wrong[:MOST]:
            fault = f"{DOMAINS}: {quoted(text)} is not a domain"
            hint = "write shop.example.com, *.shop.example.com or example.com/api"
            problems.append(Problem(replica.container.name, f"{fault}: {hint}"))
        if (more := len(wrong) - MOST) > 0:
            problems.append(Problem(replica.container.name, f"{DOMAINS}: {more} more are not domains"))
        for option in OPTIONS:
            text = labels.get(PREFIX + option, "")
            if text and (why := option_fault(option, text)):
                problems.append(Problem(replica.container.name, f"ignored {PREFIX}{option}: {why}"))
            elif text:
                options[option] = text
    return App(name, tuple(replica for replica, _ in members), tuple(domains), options, strategy)


def parse_domain(text: str) -> Domain | None:
    """A domain from a label, lower-cased, international names in their ASCII form (RFC 5891); None when it is none."""
    if len(text) > LONGEST_DOMAIN:
        return None
    host, slash, rest = text.partition("/")
    wildcard, bare = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    try:
        bare = bare.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    path = (slash + rest).rstrip("/")
    if len(bare) > 253 or not HOST_PATTERN.fullmatch(wildcard + bare) or not PATH_PATTERN.fullmatch(path):
        return None
    return Domain(wildcard + bare, path)
