"""What should be: the intent and the containers' labels turned into networks, forwarders and routes."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from sidegate.core.certificates import Assignment
from sidegate.core.compose import same_project, unpublishing
from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.deployments import own_containers, with_standing
from sidegate.core.domains import assign_domains, listed_domains, with_domains
from sidegate.core.forwarding import Forwarding, carry_all, forwarding_problems
from sidegate.core.guest import Guest
from sidegate.core.labels import END_A, END_B, INSTANCE, MANAGED, App, Database, Discovery, discover
from sidegate.core.model import (
    DATABASE_PORT,
    DEFAULT_BRIDGE,
    Container,
    EngineState,
    Intent,
    Network,
    Pair,
    Problem,
    Rules,
)
from sidegate.core.options import ADD, KEEP, OPTIONS, WWW, option_fault, policy_of
from sidegate.core.quoting import listed
from sidegate.core.routes import SERVING, AppRoute, Policy, Routes
from sidegate.core.routing import Reachability, app_route, build_routes, database_target


@dataclass(frozen=True, slots=True)
class DesiredNetwork:
    """One network of ours. `members`: container id -> the aliases it has there. `ends`: the names it joins. `egress`:
    its containers reach the world."""

    name: str
    ends: tuple[str, ...]
    labels: Mapping[str, str]
    members: Mapping[str, frozenset[str]]
    cause: str
    egress: bool = False

    @property
    def device(self) -> str:
        return bridge_device(self.name)


@dataclass(frozen=True, slots=True)
class Departure:
    """A container that should leave a network that is not ours."""

    container: Container
    network: str
    cause: str


@dataclass(frozen=True, slots=True)
class Desired:
    """`forwarders`: database -> its external connection, where it is on; `ports`: public port -> the database that has
    it, on or off. `waiting`: container id -> why it takes no requests of its app, in words
    for the operator. `claims`: what the store should remember of domains. `certificates`: None where TLS is off.
    `visits`: networks by which our own container reaches apps, and whether it is to join them for that."""

    discovery: Discovery
    networks: Mapping[str, DesiredNetwork] = field(default_factory=dict)
    forwarders: Mapping[str, Forwarding] = field(default_factory=dict)
    ports: Mapping[int, str] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    waiting: Mapping[str, str] = field(default_factory=dict)
    departures: tuple[Departure, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    certificates: Assignment | None = None
    passwords: tuple[str, ...] = ()
    """databases that are to be told a new password, and can be"""
    visits: Mapping[str, bool] = field(default_factory=dict)


def bridge_device(network: str) -> str:
    """The name of a network's bridge: 15 characters are all that the kernel allows (IFNAMSIZ)."""
    return f"sg-{hashlib.sha256(network.encode()).hexdigest()[:12]}"


def pair_network(pair: Pair, rules: Rules) -> str:
    return f"{rules.instance}-{pair.a}--{pair.b}"


def home_network(database: str, rules: Rules) -> str:
    return f"{rules.instance}-home--{database}"


def app_network(app: str, rules: Rules) -> str:
    """The network of the containers that Sidegate makes of an app; they have it to themselves. No connection's
    is called so, not even that of an app named app."""
    return f"{rules.instance}--{app}"


def aliases(name: str) -> frozenset[str]:
    """What an end is called on its connections' networks."""
    return frozenset({name, f"{name}.internal"})


def is_ours(network: Network, rules: Rules) -> bool:
    """Whether a network bears our label; nothing else is ever changed or deleted."""
    return network.labels.get(MANAGED) == "true" and network.labels.get(INSTANCE) == rules.instance


def database_port(database: Database, rules: Rules) -> int:
    """Where a database is dialled: 3306 whatever its engine, where we can see to it that it answers there."""
    return DATABASE_PORT if rules.namespaces else DATABASE_ENGINES[database.engine].port


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
    intent: Intent,
    state: EngineState,
    rules: Rules,
    *,
    gone: Collection[str] = (),
    engine_up: bool = True,
    health: Mapping[str, str] | None = None,
    kernel_fault: str = "",
    admitted: Collection[str] = (),
    leaving: Collection[str] = (),
) -> Desired:
    """Pure and total: whatever is wrong with a container or a label becomes a problem, never an exception.

    `gone`: apps without containers for so long that their domains are free again. `health`: what active checks found,
    container id -> fault. `kernel_fault`: why the kernel cannot carry external connections here, empty where it can.
    `admitted`: ids of containers that are to take the place of others, and were seen to be ready for it; `leaving`:
    of those that are not to, after all.
    """
    discovery = discover(state.containers, rules, intent.ports)
    problems = list(discovery.problems)
    networks: dict[str, DesiredNetwork] = {}
    for name in sorted({*discovery.databases, *intent.own_databases} - discovery.apps.keys()):
        home = _network(home_network(name, rules), (name,), rules, f"{name} is a database")
        networks[home.name] = _with_members(home, discovery, rules, problems, home=True)
    for name in sorted(intent.deployments.keys() - discovery.databases.keys()):
        own = own_containers(discovery.apps.get(name))
        network = _network(app_network(name, rules), (name,), rules, f"{name} is deployed")
        networks[network.name] = replace(network, members={c.id: frozenset() for c in own}, egress=True)
    for pair in sorted(intent.connections):
        joint = _network(pair_network(pair, rules), (pair.a, pair.b), rules, f"{pair} are connected")
        networks[joint.name] = _with_members(joint, discovery, rules, problems)
    apps = with_domains(discovery.apps, intent.domains, intent.claims, gone)
    claims, contested = assign_domains(apps, intent.claims, gone, rules.base_domain)
    problems += contested
    for name, database in discovery.databases.items():
        problems += _openings(name, database, state, rules)
    waiting: dict[str, str] = {}
    guest, visits = Guest.of(state, rules), dict[str, bool]()
    if rules.self_id and engine_up and guest is None:
        problems.append(Problem("sidegate", f"its own container {rules.self_id[:12]} is not one of this engine's"))
    routes = _routes(
        intent,
        discovery,
        state,
        rules,
        claims,
        problems,
        waiting,
        visits,
        engine_up=engine_up,
        health=health or {},
        admitted=admitted,
        leaving=leaving,
    )
    problems += forwarding_problems(intent.externals, rules.forwarder, kernel_fault)
    if guest:
        ours = {n.name for n in state.networks if is_ours(n, rules)}
        if fault := guest.route_fault(state.networks, ours):
            problems.append(Problem("sidegate", fault))
        for place in networks.values():
            if len(place.ends) == 1 or place.name in visits:
                networks[place.name] = replace(place, members={**place.members, rules.self_id: frozenset()})
    reachable = {name for name, target in routes.databases.items() if target.address}
    problems += _pending_passwords(intent, reachable)
    return Desired(
        discovery=discovery,
        networks=networks,
        forwarders=carry_all(intent.externals, routes.databases, rules.forwarder, kernel_fault),
        ports={external.port: name for name, external in intent.externals.items()},
        routes=routes,
        waiting=waiting,
        departures=_departures(discovery, state, rules),
        claims=claims,
        problems=tuple(sorted(set(problems))),
        passwords=tuple(sorted(reachable & set(intent.passwords))),
        visits=visits,
    )


def _pending_passwords(intent: Intent, reachable: Collection[str]) -> list[Problem]:
    text = "a change of its password is under way, and goes on when it runs"
    return [Problem(name, text) for name in intent.passwords if name not in reachable]


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
    waiting: dict[str, str],
    visits: dict[str, bool],
    *,
    engine_up: bool,
    health: Mapping[str, str],
    admitted: Collection[str],
    leaving: Collection[str],
) -> Routes:
    guest = Guest.of(state, rules)
    where = Reachability.of(state, frozenset(n.name for n in state.networks if is_ours(n, rules) and n.internal), guest)
    needs: dict[str, set[str]] = {}
    for pair in intent.connections:
        for end in (pair.a, pair.b):
            needs.setdefault(end, set()).add(pair_network(pair, rules))
    app_routes: dict[str, AppRoute] = {}
    policies: dict[Policy, int] = {rules.policy: 0}
    www: dict[str, str] = {}
    for name in sorted(known_apps(intent, discovery)):
        app = discovery.apps.get(name) or App(name)
        app, held = with_standing(app, name in intent.rollouts, admitted, leaving)
        options = given_options(app, intent, problems)
        policy = policy_of(options, rules.policy)
        if policy.https_redirect and not rules.tls:
            policy = replace(policy, https_redirect=False)
            problems.append(Problem(name, "is not redirected to HTTPS, which is off: set https_port in the settings"))
        www[name] = options.get(WWW, KEEP)
        domains = listed_domains(app, intent.domains)
        if www[name] == ADD and not any(domain.host.startswith("www.") for domain in domains):
            problems.append(Problem(name, "www=add does nothing: add a domain that begins with www. to its labels"))
        served = app_route(
            app,
            where,
            frozenset(needs.get(name, ())),
            held=held,
            health=health if policy.health else None,
            mode=intent.modes.get(name, SERVING),
            policy=policies.setdefault(policy, len(policies)),
        )
        app_routes[name] = served.route
        waiting |= served.waiting
        visits |= {network: visits.get(network, False) or join for network, join in served.networks.items()}
        problems += served.problems
    if rules.default_app and rules.default_app not in app_routes:
        problems.append(Problem(rules.default_app, "is default_app in the settings, but there is no app of that name"))
    service_hosts = {f"{host}.{rules.base_domain}": name for host, name in discovery.hosts.items()}
    for host, name in service_hosts.items():
        if (holder := claims.get(host, name)) != name:
            problems.append(Problem(name, f"does not answer at {host}: the app {holder} has it as a domain"))
    targets = {
        name: database_target(db, home_network(name, rules), guest, database_port(db, rules))
        for name, db in discovery.databases.items()
    }
    return build_routes(
        app_routes,
        claims,
        targets,
        rules.base_domain,
        engine_up=engine_up,
        www=www,
        default_app=rules.default_app,
        policies=tuple(policies),
        service_hosts=service_hosts,
    )


def given_options(app: App, intent: Intent, problems: list[Problem]) -> dict[str, str]:
    """What was said of an app's options, by labels and, which wins, by command; all of it can be read."""
    given = dict(app.options)
    for option, text in intent.options.get(app.name, {}).items():
        if option not in OPTIONS or option_fault(option, text):  # kept by another version
            why = f"the option {option}={text} means nothing to this version: sidegate app unset {app.name} {option}"
            problems.append(Problem(app.name, why))
        else:
            given[option] = text
    return given


def known_databases(intent: Intent, discovery: Discovery) -> frozenset[str]:
    """Databases that run or that somebody has asked something of."""
    return frozenset(discovery.databases) | frozenset(intent.databases) | frozenset(intent.externals)


def known_apps(intent: Intent, discovery: Discovery) -> frozenset[str]:
    """Apps that run or are deployed, and names that were connected, given variables, options, a port or a mode, or hold
    a domain, and are no database."""
    named = {end for pair in intent.connections for end in (pair.a, pair.b)}
    named |= set(intent.env) | set(intent.claims.values()) | set(intent.modes) | set(intent.options)
    named |= set(intent.deployments) | set(intent.ports) | set(intent.domains)
    return (frozenset(discovery.apps) | named) - known_databases(intent, discovery)


def _departures(discovery: Discovery, state: EngineState, rules: Rules) -> tuple[Departure, ...]:
    """Databases that leave networks that are not ours, once they are home: the default bridge, where everything
    reaches everything, if nothing needs them there (`isolation = "bridge"`), or every one (`"strict"`)."""
    if rules.isolation == "report":
        return ()
    if rules.isolation == "strict":
        theirs = {n.name for n in state.networks if not is_ours(n, rules)}
        return tuple(
            Departure(database.container, e.network, "databases stay on no other network (isolation = strict)")
            for name, database in discovery.databases.items()
            if database.container.endpoint(home_network(name, rules))
            for e in database.container.endpoints
            if e.network in theirs
        )
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
            sorted(
                c.name
                for c in state.containers
                if c.id not in (database.container.id, rules.self_id) and c.endpoint(e.network)
            )
        )
        for e in database.container.endpoints
        if e.network not in ours
    }


def _openings(name: str, database: Database, state: EngineState, rules: Rules) -> list[Problem]:
    """Ways to a database that no connection of ours opened."""
    problems = []
    fault = join_fault(database.container)
    if rules.isolation == "strict" and fault:
        text = f"{database.container.name} {fault}: isolation = strict cannot take it off; run it on a bridge network"
        problems.append(Problem(name, text))
    if database.container.published_ports:
        ports = listed(str(port) for port in database.container.published_ports if port) or "of the engine's choice"
        text = f"publishes port {ports} itself, past Sidegate's switch: {unpublishing(database.container)}"
        problems.append(Problem(name, text))
    for network, others in exposures(database, state, rules).items():
        there = (container for container in state.containers if container.name in others)
        accepted = rules.discover == "all" and rules.isolation == "report"
        if others and not (accepted and same_project(database.container, there)):
            text = f"can be reached through {network} without a connection, by {', '.join(others)}"
            problems.append(Problem(name, text))
    return problems
