"""From apps and databases to the routing snapshot: which replicas can be dialled, where, and if none, why."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sidegate.core.guest import Guest
from sidegate.core.labels import App, Database, Domain, Replica, parse_domain
from sidegate.core.model import DATABASE_PORT, DEFAULT_BRIDGE, Container, EngineState, Problem
from sidegate.core.options import ADD, REMOVE
from sidegate.core.quoting import plain
from sidegate.core.routes import SERVING, AppRoute, DatabaseTarget, PathRoute, Policy, Routes, Upstream

HOST_ADDRESS = "127.0.0.1"
STARTING, UNHEALTHY, CONNECTING = "starting", "unhealthy", "connecting"
REASONS = (STARTING, UNHEALTHY, "cannot be reached", "paused", "stopping", "stopped")
"""Why an app is unavailable, in words for visitors; of several the first."""

BEYOND = (
    "uses the host's network, which a container with a network of its own does not reach: give it a bridge network, or "
    "run Sidegate in the host's (docs/container.md)"
)


@dataclass(frozen=True, slots=True)
class Reachability:
    """What of the engine decides where a container is dialled. `ours`: names of our own networks. `guest`: our own
    container where we reach its networks only, which are to be joined first, else None; `started_on`: those of them
    that somebody else put it on."""

    bridges: frozenset[str]
    ours: frozenset[str]
    containers: Mapping[str, Container]
    guest: Guest | None = None
    started_on: frozenset[str] = frozenset()

    @classmethod
    def of(cls, state: EngineState, ours: frozenset[str], guest: Guest | None = None) -> "Reachability":
        bridges = frozenset(n.name for n in state.networks if n.driver == "bridge")
        started_on = guest.started_on(ours) if guest else frozenset[str]()
        return cls(bridges, ours, {c.id: c for c in state.containers}, guest, started_on)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a container is dialled: its address, and the network that it has it on, empty for the host's own. `fault`
    says why there is none."""

    address: str = ""
    network: str = ""
    fault: str = ""


def dial_spot(container: Container, wanted: str, where: Reachability) -> Spot:
    """Where to dial a container.

    `wanted` (its sidegate.network label) decides; else the default bridge, then other people's bridge networks by
    name, then ours, which come and go with connections. Only bridges can be reached from the host. A guest comes first
    to those that it need not join.
    """
    mode = container.network_mode
    if mode == "host":
        return Spot(HOST_ADDRESS) if where.guest is None else Spot(fault=f"{container.name} {BEYOND}")
    if mode == "none":
        return Spot(fault=f"{container.name} has no network (network_mode none): give it a bridge network")
    if mode.startswith("container:"):
        owner = where.containers.get(mode.removeprefix("container:"))
        if owner is None or not owner.running:
            return Spot(fault=f"{container.name} lives in the network of a container that does not run")
        return dial_spot(owner, wanted, where)
    if wanted:
        endpoint = container.endpoint(wanted)
        if endpoint is None or not endpoint.address:
            return Spot(
                fault=f"{container.name} is not on {plain(wanted)}, the network its label sidegate.network names"
            )
        return Spot(endpoint.address, wanted)
    found = [e for e in container.endpoints if e.address and e.network in where.bridges]
    if not found:
        return Spot(fault=f"{container.name} is on no bridge network that the host can reach")
    best = min(
        found,
        key=lambda e: (
            e.network not in where.started_on,
            e.network in where.ours,
            e.network != DEFAULT_BRIDGE,
            e.network,
        ),
    )
    return Spot(best.address, best.network)


@dataclass(frozen=True, slots=True)
class Served:
    """An app's route, and for each of its containers that takes no requests (by id) why, in words for the operator.

    `networks` are those on which its containers are dialled, and whether any of those there is not about to end.
    """

    route: AppRoute
    waiting: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    networks: Mapping[str, bool] = field(default_factory=dict)


def app_route(
    app: App,
    where: Reachability,
    needs: frozenset[str],
    *,
    health: Mapping[str, str] | None = None,
    mode: str = SERVING,
    policy: int = 0,
    held: Collection[str] = (),
) -> Served:
    """Who takes an app's requests.

    `needs`: networks that a replica must be on before it does (B2), unless none is, since a connection added to running
    containers must not interrupt them. `health`: what the data plane's checks say (container id -> fault), None for an
    app that has none; a replica that was not checked yet waits while another is known to be well. Who only waits rests:
    what it has in hand goes on. One that was told to stop is let go of, with the time to finish what it has. `held`:
    ids of those that are to wait until they were seen to be ready.
    """
    ready: list[tuple[Replica, Upstream]] = []
    waiting: dict[str, str] = {}
    reasons: list[str] = []
    problems: list[Problem] = []
    networks: dict[str, bool] = {}
    for replica in app.replicas:
        container = replica.container
        spot = dial_spot(container, replica.network, where)
        if spot.network:
            networks[spot.network] = networks.get(spot.network, False) or not container.stopping
        if reason := _not_ready(container):
            reasons.append(reason)
            waiting[container.id] = reason
        elif spot.fault:
            problems.append(Problem(app.name, spot.fault))
            reasons.append("cannot be reached")
            waiting[container.id] = spot.fault
        elif where.guest and not where.guest.reaches(spot.network):
            reasons.append(STARTING)
            waiting[container.id] = f"{CONNECTING}: Sidegate joins {spot.network}"
        else:
            ready.append((replica, Upstream(container.name, spot.address, replica.port, container.id)))
    if held:
        reasons += [STARTING for _, upstream in ready if upstream.id in held]
        waiting |= {upstream.id: STARTING for _, upstream in ready if upstream.id in held}
    serving = _attached([(r, u) for r, u in ready if u.id not in waiting], needs, waiting)
    for replica, _ in serving:
        container = replica.container
        if container.health == "unhealthy":
            waiting[container.id] = f"{UNHEALTHY}: the container's own health check fails"
        elif health is not None and (found := health.get(container.id)):
            waiting[container.id] = f"{UNHEALTHY}: {found}"
    problems += [
        Problem(app.name, f"{replica.container.name} takes no requests: {why}")
        for replica, _ in serving
        if (why := waiting.get(replica.container.id, ""))
    ]
    fit = [(replica, upstream) for replica, upstream in serving if upstream.id not in waiting]
    if health is not None and any(upstream.id in health for _, upstream in fit):
        waiting |= {upstream.id: STARTING for _, upstream in fit if upstream.id not in health}
    upstreams = tuple(upstream for _, upstream in ready if upstream.id not in waiting)
    resting = tuple(upstream for _, upstream in ready if upstream.id in waiting)
    unavailable = ""
    if not upstreams:
        reasons += [UNHEALTHY] * bool(resting)
        unavailable = min(reasons, key=REASONS.index) if reasons else "has no containers"
    route = AppRoute(upstreams, unavailable, resting, mode, policy)
    return Served(route, waiting, tuple(problems), networks)


def _attached(
    ready: list[tuple[Replica, Upstream]], needs: frozenset[str], waiting: dict[str, str]
) -> list[tuple[Replica, Upstream]]:
    """Those of `ready` that are on all of `needs`, all of them where none is; the others wait."""
    attached = [(r, u) for r, u in ready if all(r.container.endpoint(network) for network in needs)]
    if not attached:
        return ready
    there = {upstream.id for _, upstream in attached}
    waiting |= {upstream.id: CONNECTING for _, upstream in ready if upstream.id not in there}
    return attached


def deserted(
    apps: Iterable[App], where: Reachability, about_to_end: Collection[str]
) -> dict[str, frozenset[tuple[str, int]]]:
    """The networks on which every replica that is dialled there is `about_to_end` (ids) -> addresses and ports."""
    ending: dict[str, set[tuple[str, int]]] = {}
    busy: set[str] = set()
    for replica in (replica for app in apps for replica in app.replicas):
        spot = dial_spot(replica.container, replica.network, where)
        if replica.container.id in about_to_end:
            ending.setdefault(spot.network, set()).add((spot.address, replica.port))
        else:
            busy.add(spot.network)
    return {network: frozenset(spots) for network, spots in ending.items() if network and network not in busy}


def _not_ready(container: Container) -> str:
    if container.state in ("created", "restarting") or (container.running and container.health == "starting"):
        return STARTING
    if container.state == "paused":
        return "paused"
    if not container.running:
        return "stopped"
    return "stopping" if container.stopping else ""


def database_target(
    database: Database, home: str, guest: Guest | None = None, port: int = DATABASE_PORT
) -> DatabaseTarget:
    """Where forwarders dial a database: its home network, and nowhere else."""
    endpoint = database.container.endpoint(home)
    running = database.container.running and endpoint is not None and (guest is None or guest.reaches(home))
    return DatabaseTarget(endpoint.address if running and endpoint else "", port)


def build_routes(
    app_routes: Mapping[str, AppRoute],
    claims: Mapping[str, str],
    targets: Mapping[str, DatabaseTarget],
    base_domain: str,
    *,
    engine_up: bool,
    www: Mapping[str, str] | None = None,
    default_app: str = "",
    policies: tuple[Policy, ...] = (Policy(),),
    service_hosts: Mapping[str, str] | None = None,
) -> Routes:
    """The snapshot. Every app of `app_routes` answers at its own name; claims of apps without a route are left out.

    `www`: app -> add or remove, for those whose hosts have a twin with or without www. that is redirected to them.
    `service_hosts`: host -> app, for names of compose services; a claim of the same host wins.
    """
    hosts: dict[str, dict[str, PathRoute]] = {f"{name}.{base_domain}": {"": PathRoute("", name)} for name in app_routes}
    wildcards: dict[str, dict[str, PathRoute]] = {}
    held = [(d, app) for text, app in claims.items() if app in app_routes and (d := parse_domain(text))]
    for domain, app in held:
        place, host = (wildcards, domain.host[1:]) if domain.host.startswith("*.") else (hosts, domain.host)
        place.setdefault(host, {}).setdefault(domain.path, PathRoute(domain.path, app))
    for host, app in (service_hosts or {}).items():
        hosts.setdefault(host, {}).setdefault("", PathRoute("", app))
    for domain, app in held:
        twin = _twin(domain, (www or {}).get(app, ""), base_domain)
        if twin and all(owner == app for owner in _holders(twin, claims)):
            hosts.setdefault(twin.host, {})[twin.path] = PathRoute(twin.path, app, domain.host)
    return Routes(
        _sorted(hosts),
        _sorted(wildcards),
        dict(app_routes),
        dict(targets),
        engine_up,
        default_app if default_app in app_routes else "",
        policies,
    )


def _twin(domain: Domain, www: str, base_domain: str) -> Domain | None:
    """What is redirected to `domain`: www.HOST for remove, HOST for the www.HOST of add. Names that Sidegate gives
    have none, and wildcards neither."""
    host, bare = domain.host, domain.host.removeprefix("www.")
    if host.startswith("*.") or host == base_domain or host.endswith(f".{base_domain}"):
        return None
    if www == REMOVE and bare == host and "." in host:
        return Domain(f"www.{host}", domain.path)
    return Domain(bare, domain.path) if www == ADD and bare != host and "." in bare else None


def _holders(domain: Domain, claims: Mapping[str, str]) -> Iterator[str]:
    """The apps that claim this name and path, or a wildcard that covers it."""
    suffix = domain.host.partition(".")[2]
    names = [domain.host]
    while suffix:
        names.append(f"*.{suffix}")
        suffix = suffix.partition(".")[2]
    return (claims[key] for name in names for key in {name + domain.path, name} if key in claims)


def _sorted(table: Mapping[str, Mapping[str, PathRoute]]) -> dict[str, tuple[PathRoute, ...]]:
    return {
        host: tuple(sorted(paths.values(), key=lambda r: (-len(r.path), r.path)))
        for host, paths in sorted(table.items())
    }
