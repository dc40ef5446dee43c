"""From apps and databases to the routing snapshot: which replicas can be dialled, where, and if none, why."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidegate.core.labels import App, Database, Replica, parse_domain
from sidegate.core.model import DEFAULT_BRIDGE, Container, EngineState, Problem
from sidegate.core.routes import AppRoute, DatabaseTarget, PathRoute, Routes, Upstream

HOST_ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Reachability:
    """What of the engine decides where a container is dialled. `ours`: names of our own networks."""

    bridges: frozenset[str]
    ours: frozenset[str]
    containers: Mapping[str, Container]

    @classmethod
    def of(cls, state: EngineState, ours: frozenset[str]) -> "Reachability":
        bridges = frozenset(n.name for n in state.networks if n.driver == "bridge")
        return cls(bridges, ours, {c.id: c for c in state.containers})


def dial_address(container: Container, wanted: str, where: Reachability) -> tuple[str, str]:
    """The address to dial a container at, or "" and the reason.

    `wanted` (its sidegate.network label) decides; else the default bridge, then other people's bridge networks by
    name, then ours, which come and go with connections. Only bridges can be reached from the host.
    """
    mode = container.network_mode
    if mode == "host":
        return HOST_ADDRESS, ""
    if mode == "none":
        return "", f"{container.name} has no network (network_mode none): give it a bridge network"
    if mode.startswith("container:"):
        owner = where.containers.get(mode.removeprefix("container:"))
        if owner is None or not owner.running:
            return "", f"{container.name} lives in the network of a container that does not run"
        return dial_address(owner, wanted, where)
    if wanted:
        endpoint = container.endpoint(wanted)
        if endpoint is None or not endpoint.address:
            return "", f"{container.name} is not on {wanted}, the network its label sidegate.network names"
        return endpoint.address, ""
    found = [e for e in container.endpoints if e.address and e.network in where.bridges]
    if not found:
        return "", f"{container.name} is on no bridge network that the host can reach"
    best = min(found, key=lambda e: (e.network in where.ours, e.network != DEFAULT_BRIDGE, e.network))
    return best.address, ""


def app_route(app: App, where: Reachability, needs: frozenset[str]) -> tuple[AppRoute, list[Problem]]:
    """An app's upstreams. `needs`: networks that a replica must be on before it takes traffic (B2), unless none is,
    since a connection added to running containers must not interrupt them."""
    problems: list[Problem] = []
    ready: list[tuple[Replica, Upstream]] = []
    reasons: list[str] = []
    for replica in app.replicas:
        container = replica.container
        if reason := _not_ready(container):
            reasons.append(reason)
            continue
        address, fault = dial_address(container, replica.network, where)
        if fault:
            problems.append(Problem(app.name, fault))
            reasons.append("cannot be reached")
        else:
            ready.append((replica, Upstream(container.name, address, replica.port)))
    attached = [upstream for replica, upstream in ready if all(replica.container.endpoint(n) for n in needs)]
    upstreams = attached or [upstream for _, upstream in ready]
    order = ("starting", "unhealthy", "cannot be reached", "paused", "stopped")
    why = min(reasons, key=order.index) if reasons else "has no containers"
    return AppRoute(tuple(upstreams), "" if upstreams else why), problems


def _not_ready(container: Container) -> str:
    if container.state in ("created", "restarting") or (container.running and container.health == "starting"):
        return "starting"
    if container.state == "paused":
        return "paused"
    if not container.running:
        return "stopped"
    return "unhealthy" if container.health == "unhealthy" else ""


def database_target(database: Database, home: str) -> DatabaseTarget:
    """Where forwarders dial a database: its home network, and nowhere else."""
    endpoint = database.container.endpoint(home)
    running = database.container.running and endpoint is not None
    return DatabaseTarget(endpoint.address if running and endpoint else "")


def build_routes(
    app_routes: Mapping[str, AppRoute],
    claims: Mapping[str, str],
    targets: Mapping[str, DatabaseTarget],
    base_domain: str,
    *,
    engine_up: bool,
) -> Routes:
    """The snapshot. Every app of `app_routes` answers at its own name; claims of apps without a route are left out."""
    hosts: dict[str, list[PathRoute]] = {f"{name}.{base_domain}": [PathRoute("", name)] for name in app_routes}
    wildcards: dict[str, list[PathRoute]] = {}
    for text, app in claims.items():
        domain = parse_domain(text)
        if domain is None or app not in app_routes:
            continue
        if domain.host.startswith("*."):
            wildcards.setdefault(domain.host[1:], []).append(PathRoute(domain.path, app))
        else:
            hosts.setdefault(domain.host, []).append(PathRoute(domain.path, app))
    return Routes(_sorted(hosts), _sorted(wildcards), dict(app_routes), dict(targets), engine_up)


def _sorted(table: Mapping[str, list[PathRoute]]) -> dict[str, tuple[PathRoute, ...]]:
    return {host: tuple(sorted(paths, key=lambda r: (-len(r.path), r.path))) for host, paths in sorted(table.items())}
