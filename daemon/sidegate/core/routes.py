"""The routing snapshot: which app answers for a host and a path, and where its replicas and databases are.

An immutable value that the control plane makes whole and the workers swap whole; nothing is ever patched. It
travels to the workers as JSON (msgspec encodes these dataclasses as they are).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Upstream:
    """One replica that takes requests: `replica` is the container's name, `address` IPv4 or IPv6, `port` 1..65535."""

    replica: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class AppRoute:
    """An app as the proxy sees it. With no upstreams `unavailable` says why, for the 503 page."""

    upstreams: tuple[Upstream, ...] = ()
    unavailable: str = ""


@dataclass(frozen=True, slots=True)
class PathRoute:
    """`path` is a prefix that begins with "/" and ends without one (empty: everything); `app` a key of `apps`."""

    path: str
    app: str


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """Where a forwarder dials; `address` is empty while the database does not run."""

    address: str = ""
    port: int = 3306


@dataclass(frozen=True, slots=True)
class Routes:
    """Everything a worker knows.

    `hosts`: lower-case exact host -> path routes, longest path first. `wildcards`: the suffix after "*", with its dot,
    -> the same. `engine_up` is False while the Docker engine does not answer: what was true last is served on, and a
    replica that cannot be reached is a 503 rather than a 502.
    """

    hosts: Mapping[str, tuple[PathRoute, ...]] = field(default_factory=dict)
    wildcards: Mapping[str, tuple[PathRoute, ...]] = field(default_factory=dict)
    apps: Mapping[str, AppRoute] = field(default_factory=dict)
    databases: Mapping[str, DatabaseTarget] = field(default_factory=dict)
    engine_up: bool = True


def find_app(routes: Routes, host: str, path: str, *, local_client: bool) -> str | None:
    """The app that answers for `host` (lower case, no port, no trailing dot) and `path`; None: nobody does.

    Exact host before the longest wildcard, the longest path prefix first; a prefix ends at a "/" or at the path's end.
    Names under localhost answer only clients on this machine (RFC 6761 section 6.3: they mean this machine).
    Costs one dictionary look-up per label of the host, however many routes there are.
    """
    if not local_client and (host == "localhost" or host.endswith(".localhost")):
        return None
    candidates = routes.hosts.get(host)
    if candidates and (app := _by_path(candidates, path)):
        return app
    dot = host.find(".")
    while dot != -1:
        candidates = routes.wildcards.get(host[dot:])
        if candidates and (app := _by_path(candidates, path)):
            return app
        dot = host.find(".", dot + 1)
    return None


def _by_path(candidates: tuple[PathRoute, ...], path: str) -> str | None:
    for route in candidates:
        prefix = route.path
        if not prefix or (path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/", "?")):
            return route.app
    return None
