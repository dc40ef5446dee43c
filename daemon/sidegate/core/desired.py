"""What should be: the intent and the containers' labels turned into networks, forwarders and routes."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sidegate.core.domains import assign_domains
from sidegate.core.labels import END_A, END_B, INSTANCE, MANAGED, Database, Discovery, discover
from sidegate.core.model import (
    DEFAULT_BRIDGE,
    Container,
    EngineState,
    Intent,
    Network,
    Pair,
    Problem,
    Rules,
)
from sidegate.core.routes import AppRoute, Routes
from sidegate.core.routing import Reachability, app_route, build_routes, database_target


@dataclass(frozen=True, slots=True)
class DesiredNetwork:
    """One network of ours. `members`: container id -> the aliases it has there. `ends`: the names it joins."""

    name: str
    ends: tuple[str, ...]
    labels: Mapping[str, str]
    members: Mapping[str, frozenset[str]]
    cause: str

    @property
    def device(self) -> str:
        """The bridge device's name: 15 characters are all that the kernel allows (IFNAMSIZ)."""
        return f"sg-{hashlib.sha256(self.name.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Departure:
    """A container that should leave a network that is not ours."""

    container: Container
    network: str
    cause: str


@dataclass(frozen=True, slots=True)
class Desired:
    """`forwarders`: database -> public port. `claims`: what the store should remember of domains."""

    discovery: Discovery
    networks: Mapping[str, DesiredNetwork] = field(default_factory=dict)
    forwarders: Mapping[str, int] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    departures: tuple[Departure, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def pair_network(pair: Pair, rules: Rules) -> str:
    return f"{rules.instance}-{pair.a}--{pair.b}"


def home_network(database: str, rules: Rules) -> str:
    return f"{rules.instance}-home--{database}"


def aliases(name: str) -> frozenset[str]:
    """What an end is called on its connections' networks."""
    return frozenset({name, f"{name}.internal"})


def is_ours(network: Network, rules: Rules) -> bool:
    """Whether a network bears our label; nothing else is ever changed or deleted."""
    return network.labels.get(MANAGED) == "true" and network.labels.get(INSTANCE) == rules.instance


def join_fault(container: Container) -> str:
    """Why a container cannot be put on a network; empty when it can."""
    mode = container.network_mode
    if mode == "host":
        return "uses the host's network"
    if mode == "none":
        return "was started with no network (network_mode none)"
    if mode.startswith("container:"):
        return "shares another container's network"
    return ""


def desire(
    intent: Intent, state: EngineState, rules: Rules, *, gone: Collection[str] = (), engine_up: bool = True
) -> Desired:
    """Pure and total: whatever is wrong with a container or a label becomes a problem, never an exception.

    `gone`: apps without containers for so long that their domains are free again.
    """
    discovery = discover(state.containers, rules)
    problems = list(discovery.problems)
    networks: dict[str, DesiredNetwork] = {}
    for name in discovery.databases:
        home = _network(home_network(name, rules), (name,), rules, f"{name} is a database")
        networks[home.name] = _with_members(home, discovery, rules, problems, home=True)
    for pair in sorted(intent.connections):
        joint = _network(pair_network(pair, rules), (pair.a, pair.b), rules, f"{pair} are connected")
        networks[joint.name] = _with_members(joint, discovery, rules, problems)
    claims, contested = assign_domains(discovery.apps, intent.claims, gone, rules.base_domain)
    problems += contested
    for name, database in discovery.databases.items():
        problems += _openings(name, database, state, rules)
    return Desired(
        discovery=discovery,
        networks=networks,
        forwarders={name: e.port for name, e in sorted(intent.externals.items()) if e.enabled},
        routes=_routes(intent, discovery, state, rules, claims, problems, engine_up=engine_up),
        departures=_departures(discovery, state, rules),
        claims=claims,
        problems=tuple(sorted(set(problems))),
    )


def _network(name: str, ends: tuple[str, ...], rules: Rules, cause: str) -> DesiredNetwork:
    labels = {MANAGED: "true", INSTANCE: rules.instance, END_A: ends[0]}
    if len(ends) > 1:
        labels[END_B] = ends[1]
    return DesiredNetwork(name, ends, labels, {}, cause)


def _with_members(
    network: DesiredNetwork, discovery: Discovery, rules: Rules, problems: list[Problem], *, home: bool = False
) -> DesiredNetwork:
    """Fill in who belongs on it: every container of both ends, stopped ones too, as far as the subnet has room."""
    members: dict[str, frozenset[str]] = {}
    for end in network.ends:
        for container in discovery.containers(end):
            if fault := join_fault(container):
                problems.append(Problem(end, f"{container.name} {fault}: it cannot be connected; use a bridge network"))
            elif len(members) == rules.endpoints_per_network:
                text = f"{network.name} is full ({len(members)} containers): {container.name} is not connected"
                problems.append(Problem(end, text))
            else:
                members[container.id] = frozenset() if home else aliases(end)
    return DesiredNetwork(network.name, network.ends, network.labels, members, network.cause)


def _routes(
    intent: Intent,
    discovery: Discovery,
    state: EngineState,
    rules: Rules,
    claims: Mapping[str, str],
    problems: list[Problem],
    *,
    engine_up: bool,
) -> Routes:
    where = Reachability.of(state, frozenset(n.name for n in state.networks if is_ours(n, rules)))
    needs: dict[str, set[str]] = {}
    for pair in intent.connections:
        for end in (pair.a, pair.b):
            needs.setdefault(end, set()).add(pair_network(pair, rules))
    app_routes: dict[str, AppRoute] = {}
    for name, app in discovery.apps.items():
        app_routes[name], faults = app_route(app, where, frozenset(needs.get(name, ())))
        problems += faults
    for name in sorted(known_apps(intent, discovery) - set(app_routes)):
        app_routes[name] = AppRoute(unavailable="has no containers")
    targets = {name: database_target(db, home_network(name, rules)) for name, db in discovery.databases.items()}
    return build_routes(app_routes, claims, targets, rules.base_domain, engine_up=engine_up)


def known_databases(intent: Intent, discovery: Discovery) -> frozenset[str]:
    """Databases that run or that somebody has asked something of."""
    return frozenset(discovery.databases) | frozenset(intent.databases) | frozenset(intent.externals)


def known_apps(intent: Intent, discovery: Discovery) -> frozenset[str]:
    """Apps that run, and names that were connected, given variables or hold a domain and are no database."""
    named = {end for pair in intent.connections for end in (pair.a, pair.b)}
    named |= set(intent.env) | set(intent.claims.values())
    return (frozenset(discovery.apps) | named) - known_databases(intent, discovery)


def _departures(discovery: Discovery, state: EngineState, rules: Rules) -> tuple[Departure, ...]:
    """Databases that leave the default bridge, where everything reaches everything: only once they are home, and
    only those that nothing needs there (`isolation = "bridge"`)."""
    if rules.isolation != "bridge":
        return ()
    linked = {link.split(":")[0].strip("/") for c in state.containers for link in c.links}
    return tuple(
        Departure(c, DEFAULT_BRIDGE, "databases do not stay on the default bridge (isolation = bridge)")
        for name, database in discovery.databases.items()
        if (c := database.container).endpoint(DEFAULT_BRIDGE)
        and c.endpoint(home_network(name, rules))
        and not (c.published_ports or c.links or c.name in linked)
    )


def exposures(database: Database, state: EngineState, rules: Rules) -> dict[str, tuple[str, ...]]:
    """Networks that are not ours -> the containers there that reach this database without being connected to it."""
    ours = {n.name for n in state.networks if is_ours(n, rules)}
    return {
        e.network: tuple(
            sorted(c.name for c in state.containers if c.id != database.container.id and c.endpoint(e.network))
        )
        for e in database.container.endpoints
        if e.network not in ours
    }


def _openings(name: str, database: Database, state: EngineState, rules: Rules) -> list[Problem]:
    """Ways to a database that no connection of ours opened."""
    problems = []
    if database.container.published_ports:
        ports = ", ".join(str(port) for port in database.container.published_ports if port) or "of the engine's choice"
        text = f"publishes port {ports} itself, past Sidegate's switch: run {database.container.name} without -p"
        problems.append(Problem(name, text))
    for network, others in exposures(database, state, rules).items():
        if others:
            text = f"can be reached through {network} without a connection, by {', '.join(others)}"
            problems.append(Problem(name, text))
    return problems
