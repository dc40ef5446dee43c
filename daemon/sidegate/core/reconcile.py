"""From desired and observed to the plan. Pure: the same two states always give the same plan, and once it is applied,
planning again plans nothing."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from itertools import islice

from sidegate.core.certificates import DEFAULT_LEAF, CertificateSet
from sidegate.core.cutting import by_engines_alone
from sidegate.core.database_ports import DatabasePort, plan_redirects
from sidegate.core.desired import Desired, DesiredNetwork, home_network, is_ours
from sidegate.core.fencing import Fence, fence_actions
from sidegate.core.forwarding import OFF, Kernel, Place, close_actions, open_actions, stray_actions
from sidegate.core.guest import Guest, plan_visits
from sidegate.core.labels import END_A, END_B, discover
from sidegate.core.model import DEFAULT_BRIDGE, Container, EngineState, HostState, Network, Problem, Rules
from sidegate.core.plan import (
    Action,
    ChangePassword,
    ConnectContainer,
    ContainerRef,
    CreateNetwork,
    DestroySockets,
    DisconnectContainer,
    ForgetFlows,
    InstallFastPath,
    IssueCertificates,
    KillSessions,
    Plan,
    PublishCertificates,
    PublishRoutes,
    RemoveNetwork,
    ResetSockets,
    ReturnContainer,
    network_chain,
)
from sidegate.core.routes import DatabaseTarget, Routes
from sidegate.core.sessions import Listening
from sidegate.core.subnets import free_subnets

SCARCE = 20
"""A pool is said to run out when less than one in so many of its subnets is free."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything as it is. `bad_subnets`: CIDRs that the engine refused although nothing visible holds them."""

    engine: EngineState = field(default_factory=EngineState)
    host: HostState = field(default_factory=HostState)
    forwarders: Mapping[str, Listening] = field(default_factory=dict)
    routes: Routes | None = None
    bad_subnets: Collection[str] = ()
    engine_up: bool = True
    certified: CertificateSet | None = None
    kernel: Kernel = field(default_factory=Kernel)
    ports: Mapping[int, DatabasePort] = field(default_factory=dict)
    """How databases answer at 3306, by pid: those whose engine has another port of its own."""
    fence: Fence | None = None
    """None where there can be none."""


def reconcile(desired: Desired, observed: Observed, rules: Rules) -> tuple[Plan, list[Problem]]:
    """The plan, and what it could not plan. While the engine is down only the data plane is touched."""
    problems: list[Problem] = []
    where = places(desired, observed.engine, rules)
    actions: list[Action] = [*_close_forwarders(desired, observed, where), *_publish(desired, observed)]
    if observed.engine_up:
        actions += _leave(desired, observed, rules)
        actions += _fast_path(desired, observed)
        actions += fence_actions(desired, observed.engine, rules, observed.fence)
        actions += plan_redirects(desired.discovery, observed.engine.containers, observed.ports)
        actions += _join(desired, observed, rules, problems)
        ours = {n.name for n in observed.engine.networks if is_ours(n, rules)}
        actions += plan_visits(Guest.of(observed.engine, rules), desired.visits, observed.engine.networks, ours)
        actions += (ChangePassword(cause="it was asked for", database=name) for name in desired.passwords)
    actions += _open_forwarders(desired, observed, where)
    alone = observed.host.cut_fault or not rules.namespaces
    return Plan(tuple(by_engines_alone(actions) if alone else actions)), problems


def plan_forwarders(desired: Desired, observed: Observed, rules: Rules) -> Plan:
    """The part of `reconcile` that is about external connections. It rests on nothing that takes long to look at."""
    where = places(desired, observed.engine, rules)
    actions = (*_close_forwarders(desired, observed, where), *_open_forwarders(desired, observed, where))
    return Plan(actions if rules.namespaces else tuple(by_engines_alone(actions)))


# --- the data plane ------------------------------------------------------------------------------------------------


def _close_forwarders(desired: Desired, observed: Observed, where: Mapping[str, Place]) -> Iterator[Action]:
    for name, present in sorted(observed.forwarders.items()):
        wanted = desired.forwarders.get(name)
        if wanted and wanted.gate.port == present.gate.port:
            continue
        place = where.get(name, Place(name))
        actions = tuple(close_actions(place, present, observed.kernel))
        yield from actions
        # The workers dial from the bridge's own address on the home network, and the kernel masks its clients by it.
        if place.peer and (database := desired.discovery.databases.get(name)):
            yield from _cut(database.container, IPv4Network(place.peer), desired, actions[0].chain, OFF)
    closed = {present.gate.port for present in observed.forwarders.values()}
    yield from stray_actions(desired.ports, desired.forwarders.values(), where, observed.kernel.ports - closed)


def places(desired: Desired, state: EngineState, rules: Rules) -> dict[str, Place]:
    """Where each database's external sessions end."""
    ours = ((_ends(n), n.gateway) for n in state.networks if is_ours(n, rules) and n.internal)
    homes = {ends[0]: gateway for ends, gateway in ours if len(ends) == 1}
    if guest := Guest.of(state, rules):  # then it is the workers' own address
        homes = {name: guest.address(home_network(name, rules)) for name in homes}
    # A purge wants nothing, and yet has to part clients from the databases that there are.
    databases = desired.discovery.databases or discover(state.containers, rules).databases
    return {name: Place(name, db.container.pid, homes.get(name, "")) for name, db in databases.items()}


def _publish(desired: Desired, observed: Observed) -> Iterator[Action]:
    wanted = desired.certificates
    if wanted and wanted.missing and not (wanted.state.issuing or wanted.state.fault):
        names = [name for name in wanted.missing if name != DEFAULT_LEAF]
        named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield IssueCertificates(names=wanted.missing, cause=f"no file has one for {named or 'unknown names'}")
        return  # the rest comes in the next round, with what was issued
    if wanted and observed.certified != wanted.presented:
        change = _certified_difference(observed.certified or CertificateSet(), wanted.presented)
        yield PublishCertificates(certificates=wanted.presented, cause=change)
    if observed.routes != desired.routes:
        yield PublishRoutes(routes=desired.routes, cause=_difference(observed.routes or Routes(), desired.routes))


def _open_forwarders(desired: Desired, observed: Observed, where: Mapping[str, Place]) -> Iterator[Action]:
    for name, wanted in sorted(desired.forwarders.items()):
        place = where.get(name, Place(name))
        yield from open_actions(place, wanted, observed.forwarders.get(name), observed.kernel)


def _difference(old: Routes, new: Routes) -> str:
    """What changed, in one line: each app and database that is served differently."""
    parts = []
    for name in sorted({*old.apps, *new.apps}):
        before, after = old.apps.get(name), new.apps.get(name)
        if before == after:
            continue
        if after is None:
            parts.append(f"{name} is gone")
        elif before and replace(before, mode=after.mode, policy=after.policy) == after:
            parts.append(f"{name} is {after.mode}" if before.mode != after.mode else f"{name} has other options")
        elif after.upstreams:
            served = ", ".join(f"{u.replica} ({u.address}:{u.port})" for u in after.upstreams)
            parts.append(f"{name} is served by {served}")
        else:
            parts.append(f"{name} {_state(after.unavailable)}")
    for name in sorted({*old.databases, *new.databases}):
        if old.databases.get(name) != new.databases.get(name):
            target = new.databases.get(name) or DatabaseTarget()
            parts.append(f"{name} is at {target.address}:{target.port}" if target.address else f"{name} is away")
    if (old.hosts, old.wildcards, old.default_app) != (new.hosts, new.wildcards, new.default_app) and not parts:
        parts.append("domains changed")
    if old.policies != new.policies and not parts:
        parts.append("options changed")
    if old.engine_up != new.engine_up:
        parts.append("the engine answers again" if new.engine_up else "the engine does not answer")
    return "; ".join(parts) or "first routes"


def _certified_difference(old: CertificateSet, new: CertificateSet) -> str:
    """How many certificates came and went, in one line."""
    parts = []
    if came := len(new.pairs.keys() - old.pairs.keys()):
        parts.append(f"{came} new")
    if went := len(old.pairs.keys() - new.pairs.keys()):
        parts.append(f"{went} no longer needed")
    if old.ticket_key != new.ticket_key:
        parts.append("a new ticket key")
    return ", ".join(parts) or "names changed"


def _state(unavailable: str) -> str:
    return unavailable if " " in unavailable else f"is {unavailable}"


# --- networks: leaving ---------------------------------------------------------------------------------------------


def _leave(desired: Desired, observed: Observed, rules: Rules) -> Iterator[Action]:
    state = observed.engine
    on = _attached(state)
    ours = sorted((n for n in state.networks if is_ours(n, rules)), key=lambda n: n.name)
    yield from _rescue(ours, desired, state)
    yield from _forget_vanished(desired, state, rules)
    for network in ours:
        wanted = desired.networks.get(network.name)
        if wanted is None and network.name in state.unseen:
            continue
        if wanted is None:
            yield from _dissolve(network, desired, on[network.name])
            continue
        for container in on[network.name]:
            if container.id not in wanted.members:
                yield from _expel(container, network, desired, on[network.name], "does not belong there")
    for departure in desired.departures:
        bridge = next((n for n in state.networks if n.name == departure.network), None)
        if bridge:
            yield from _depart(departure.container, bridge, desired, departure.cause)


def _rescue(ours: Collection[Network], desired: Desired, state: EngineState) -> Iterator[Action]:
    """Back to the network that it was started on, first, with what would be left on none, which would last over
    restarts."""
    leaving = {n.name: desired.networks.get(n.name) for n in ours if n.name not in state.unseen}
    for container in state.containers:
        on = [e.network for e in container.endpoints]
        stays = [n for n in on if n not in leaving or ((w := leaving[n]) and container.id in w.members)]
        back = DEFAULT_BRIDGE if container.network_mode == "default" else container.network_mode
        if not on or stays or not any(back in (n.name, n.id) for n in state.networks):
            continue
        if not any(container.id in n.members for n in desired.networks.values()):
            ref, why = ContainerRef.of(container), f"{container.name} would be left with no network"
            yield ReturnContainer(network=back, container=ref, cause=why, of_chain=network_chain(max(on)))


def _forget_vanished(desired: Desired, state: EngineState, rules: Rules) -> Iterator[Action]:
    """Off networks of ours that somebody else removed: a container that is configured on one does not start."""
    existing = {n.name for n in state.networks}
    for container in state.containers:
        for endpoint in container.endpoints:
            name = endpoint.network
            if name not in existing and name not in desired.networks and name.startswith(f"{rules.instance}-"):
                ref = ContainerRef.of(container)
                yield DisconnectContainer(network=name, container=ref, cause="that network has gone")


def _dissolve(network: Network, desired: Desired, attached: Collection[Container]) -> Iterator[Action]:
    """Everything off, stopped containers too (or their next start fails), both ends told, then the network goes.

    The network goes last: after a crash half-way it is still there to plan the rest from.
    """
    ends = _ends(network)
    cause = f"{ends[0]} is no longer a database" if network.internal else f"{ends[0]} is no longer deployed"
    if len(ends) > 1:
        cause = f"{' and '.join(ends)} are no longer connected"
    members = {c.id: c for c in attached}
    for container in members.values():
        yield DisconnectContainer(network=network.name, container=ContainerRef.of(container), cause=cause)
    for end in ends:
        members |= {c.id: c for c in desired.discovery.containers(end)}
    chain = network_chain(network.name)
    for subnet in network.ipv4:
        for container in members.values():
            yield from _cut(container, subnet, desired, chain, cause)
        yield ForgetFlows(network=network.name, peers=subnet, cause=cause)
    yield RemoveNetwork(network=network.name, cause=cause)


def _expel(
    container: Container, network: Network, desired: Desired, attached: Collection[Container], cause: str
) -> Iterator[Action]:
    """One container off a network that stays; its sessions there end at both ends, the others' go on."""
    chain = network_chain(network.name)
    yield DisconnectContainer(network=network.name, container=ContainerRef.of(container), cause=cause)
    for subnet in network.ipv4:
        yield from _cut(container, subnet, desired, chain, cause)
    endpoint = container.endpoint(network.name)
    if endpoint and endpoint.address:
        for other in attached:
            if other.id != container.id:
                peer = IPv4Network(endpoint.address)
                yield from _cut(other, peer, desired, chain, cause)


def _depart(container: Container, network: Network, desired: Desired, cause: str) -> Iterator[Action]:
    """One container off a network of other people's: its peers there are told, and not touched."""
    ref, chain = ContainerRef.of(container), network_chain(network.name)
    if container.pid:
        for subnet in network.ipv4:
            yield ResetSockets(container=ref, peers=subnet, of_chain=chain, cause=cause)
    yield DisconnectContainer(network=network.name, container=ref, cause=cause)
    for subnet in network.ipv4:
        yield from _cut(container, subnet, desired, chain, cause)


def _cut(container: Container, peers: IPv4Network, desired: Desired, chain: str, cause: str) -> Iterator[Action]:
    if not container.pid:
        return
    database = _database_of(container, desired)
    yield DestroySockets(container=ContainerRef.of(container), peers=peers, of_chain=chain, cause=cause)
    if database and desired.routes.databases[database].address:
        yield KillSessions(database=database, peers=peers, of_chain=chain, cause=cause)


# --- networks: joining ---------------------------------------------------------------------------------------------


def _join(desired: Desired, observed: Observed, rules: Rules, problems: list[Problem]) -> Iterator[Action]:
    state = observed.engine
    existing = {n.name: n for n in state.networks}
    containers = {c.id: c for c in state.containers}
    taken = [*observed.host.routes, *observed.bad_subnets, *(s for n in state.networks for s in n.subnets)]
    subnets = free_subnets(rules.pool, rules.subnet_prefix, taken)
    for name, wanted in sorted(desired.networks.items()):
        network = existing.get(name)
        if network is None:
            subnet = next(subnets, None)
            if subnet is None:
                problems.append(Problem(name, pool_exhausted(rules)))
                continue
            yield CreateNetwork(
                network=name,
                subnet=subnet,
                device=wanted.device,
                labels=wanted.labels,
                mtu=observed.host.mtu,
                egress=wanted.egress,
                cause=wanted.cause,
            )
        elif not is_ours(network, rules):
            problems.append(Problem(name, "a network of this name exists and is not Sidegate's: remove or rename it"))
            continue
        yield from _attach(wanted, network, containers)
    few = (1 << (rules.subnet_prefix - rules.pool.prefixlen)) // SCARCE
    if 0 < (left := len(list(islice(subnets, few + 1)))) <= few:
        problems.append(Problem("internal_pool", f"only {left} subnets of {rules.pool} are left: widen it in time"))


def pool_exhausted(rules: Rules) -> str:
    return f"no /{rules.subnet_prefix} is left in internal_pool {rules.pool}: remove connections or widen the pool"


def _attach(wanted: DesiredNetwork, network: Network | None, containers: Mapping[str, Container]) -> Iterator[Action]:
    for container_id, names in wanted.members.items():
        container = containers[container_id]
        endpoint = container.endpoint(wanted.name)
        stale = endpoint and (network is None or endpoint.network_id not in ("", network.id))
        if endpoint and not stale and names <= endpoint.aliases:
            continue
        ref = ContainerRef.of(container)
        if endpoint:
            why = "it is configured for a network that has gone" if stale else "its aliases are missing there"
            yield DisconnectContainer(network=wanted.name, container=ref, cause=why)
        yield ConnectContainer(network=wanted.name, container=ref, aliases=names, cause=wanted.cause)


def _fast_path(desired: Desired, observed: Observed) -> Iterator[Action]:
    if desired.networks and observed.host.fast_path is False:
        yield InstallFastPath(cause="bridged packets of our networks would cross every rule that Docker adds")


# --- looking things up ---------------------------------------------------------------------------------------------


def _attached(state: EngineState) -> Mapping[str, list[Container]]:
    """The containers on each network, less those that are going anyway."""
    found: defaultdict[str, list[Container]] = defaultdict(list)
    for container in state.containers:
        if container.state not in ("removing", "dead"):
            for endpoint in container.endpoints:
                found[endpoint.network].append(container)
    return found


def _ends(network: Network) -> tuple[str, ...]:
    ends = (network.labels.get(END_A, ""), network.labels.get(END_B, ""))
    return tuple(end for end in ends if end) or (network.name,)


def _database_of(container: Container, desired: Desired) -> str:
    found = (name for name, d in desired.discovery.databases.items() if d.container.id == container.id)
    return next(found, "")
