"""The routing snapshot: which app answers for a host and a path, how, and where its replicas and databases are.

An immutable value that the control plane makes whole and the workers swap whole; nothing is ever patched. It
travels to the workers as JSON (msgspec encodes these dataclasses as they are).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

SERVING, PAUSED, MAINTENANCE = "serving", "paused", "maintenance"

DATABASE_PORT = 3306
"""Every database's, whatever its engine."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One replica: `replica` is the container's name, `address` IPv4 or IPv6, `port` 1..65535, `id` the container's.

    The id tells a replica from the one that had its address and its name before it.
    """

    replica: str
    address: str
    port: int
    id: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests of an app are treated. Times in seconds, sizes in bytes; 0 means no limit, or off.

    `health` is a path that answers 2xx or 3xx while a replica is well; `rise` and `fall` are how many answers in a row
    change one's mind about it.
    """

    https_redirect: bool = False
    hsts: int = 0
    max_body: int = 0
    connect: float = 5.0
    response: int = 60
    body: int = 60
    websocket_idle: int = 0
    access_log: bool = True
    health: str = ""
    health_interval: int = 5
    health_timeout: int = 2
    health_rise: int = 2
    health_fall: int = 3


@dataclass(frozen=True, slots=True)
class AppRoute:
    """An app as the proxy sees it. With no upstreams `unavailable` says why, for the 503 page.

    `upstreams` take requests. `resting` ones take no new request, for now; what they have in hand goes on. Requests in
    hand at a replica that is in neither have until the drain deadline. `mode` is serving, paused (requests wait) or
    maintenance (they get a 503). `policy` is an index into the snapshot's policies.
    """

    upstreams: tuple[Upstream, ...] = ()
    unavailable: str = ""
    resting: tuple[Upstream, ...] = ()
    mode: str = SERVING
    policy: int = 0


@dataclass(frozen=True, slots=True)
class PathRoute:
    """`path` is a prefix that begins with "/" and ends without one (empty: everything); `app` a key of `apps`.

    With `redirect`, a host name, requests are not passed on but sent there (the `www` redirect).
    """

    path: str
    app: str
    redirect: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """Where a forwarder dials; `address` is empty while the database does not run."""

    address: str = ""
    port: int = DATABASE_PORT


@dataclass(frozen=True, slots=True)
class Routes:
    """Everything a worker knows.

    `hosts`: lower-case exact host -> path routes, longest path first. `wildcards`: the suffix after "*", with its dot,
    -> the same. `engine_up` is False while the Docker engine does not answer: what was true last is served on, and a
    replica that cannot be reached is a 503 rather than a 502. `default_app` answers where no other route does (empty:
    nobody). `policies[0]` is the node's own.
    """

    hosts: Mapping[str, tuple[PathRoute, ...]] = field(default_factory=dict)
    wildcards: Mapping[str, tuple[PathRoute, ...]] = field(default_factory=dict)
    apps: Mapping[str, AppRoute] = field(default_factory=dict)
    databases: Mapping[str, DatabaseTarget] = field(default_factory=dict)
    engine_up: bool = True
    default_app: str = ""
    policies: tuple[Policy, ...] = (Policy(),)


def find_route(routes: Routes, host: str, path: str, *, local_client: bool) -> PathRoute | None:
    """Who answers for `host` (lower case, no port, no trailing dot) and `path`; None: nobody does.

    Exact host before the longest wildcard, the longest path prefix first; a prefix ends at a "/" or at the path's end.
    Names under localhost answer only clients on this machine (RFC 6761 section 6.3: they mean this machine).
    Costs one dictionary look-up per label of the host, however many routes there are.
    """
    if local_client or not (host == "localhost" or host.endswith(".localhost")):
        candidates = routes.hosts.get(host)
        if candidates and (found := _by_path(candidates, path)):
            return found
        dot = host.find(".")
        while dot != -1:
            candidates = routes.wildcards.get(host[dot:])
            if candidates and (found := _by_path(candidates, path)):
                return found
            dot = host.find(".", dot + 1)
    return PathRoute("", routes.default_app) if routes.default_app else None


def _by_path(candidates: tuple[PathRoute, ...], path: str) -> PathRoute | None:
    for route in candidates:
        prefix = route.path
        if not prefix or (path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/", "?")):
            return route
    return None
