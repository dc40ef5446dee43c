"""The routing snapshot made ready for a worker: apps with their replicas, and how one of these is chosen.

Made anew for each snapshot; a replica that stays is the same Backend and keeps what it has.
"""

from collections.abc import Collection

from sidegate.core.routes import AppRoute, Policy, Routes, Upstream, find_route
from sidegate.proxy.metrics import AppMeter, Meters
from sidegate.proxy.upstream import Backend

Key = tuple[str, str, int]

_EJECTED = 1 << 32  # outweighs any number of requests in flight


class App:
    """A route's target in this worker. `backends` are the replicas that take requests, `only` is one that is alone."""

    __slots__ = ("_turn", "backends", "meter", "mode", "name", "only", "policy", "unavailable")

    def __init__(
        self, name: str, route: AppRoute, backends: list[Backend], policy: Policy, turn: int, meter: AppMeter
    ) -> None:
        self.name = name
        self.meter = meter
        self.mode = route.mode
        self.policy = policy
        self.unavailable = route.unavailable
        self.backends = backends
        self.only = backends[0] if len(backends) == 1 else None
        self._turn = turn

    @property
    def turn(self) -> int:
        return self._turn

    def choose(self, tick: int, tried: Collection[Backend] = ()) -> Backend | None:
        """The replica with the fewest requests in flight that was not tried yet, ties in turn; None: there is none.

        One that is ejected comes after all that are not, and the sooner the nearer its return.
        """
        backends = self.backends
        count = len(backends)
        if not count:
            return None
        self._turn = turn = (self._turn + 1) % count
        best, least = None, _EJECTED * _EJECTED
        for index in range(turn - count, turn):  # negative ones count from the end: once around from `turn` on
            backend = backends[index]
            load = backend.active
            if backend.ejected_until > tick:
                load += (backend.ejected_until - tick) * _EJECTED
            if load < least and backend not in tried:
                best, least = backend, load
        return best


class Table:
    """A snapshot's apps. `leaving` are the replicas that no route knows any more and that still have work in hand;
    `meters` go from one snapshot to the next."""

    def __init__(self, routes: Routes, before: "Table | None" = None, tick: int = 0) -> None:
        self.routes = routes
        self.meters: Meters = before.meters if before else Meters()
        self.backends: dict[Key, Backend] = {}
        self.apps: dict[str, App] = {}
        self.leaving: dict[Key, Backend] = {}
        known = before.backends | before.leaving if before else {}
        old_apps = before.apps if before else {}
        for name, route in routes.apps.items():
            backends = [self._backend(upstream, known) for upstream in route.upstreams]
            for upstream in route.resting:
                self._backend(upstream, known)
            old = old_apps.get(name)
            meter = old.meter if old else self.meters.of(name)
            self.apps[name] = App(name, route, backends, routes.policies[route.policy], old.turn if old else 0, meter)
        self.meters.retain(self.apps.keys(), tick)
        for key, backend in known.items():  # what nobody took
            backend.retire(tick)
            if backend.active:
                self.leaving[key] = backend

    def find(self, host: str, path: str, *, local_client: bool) -> tuple[App | None, str]:
        """Who answers, as core.routes.find_route, and the host name to redirect to or "".

        A route whose app is missing from the snapshot counts as no route.
        """
        route = find_route(self.routes, host, path, local_client=local_client)
        return (None, "") if route is None else (self.apps.get(route.app), route.redirect)

    def _backend(self, upstream: Upstream, known: dict[Key, Backend]) -> Backend:
        """The replica, taken out of the known ones if it is one of them."""
        key = (upstream.id, upstream.address, upstream.port)
        backend = self.backends.get(key)
        if backend is None:
            backend = known.pop(key, None)
            if backend is None:
                backend = Backend(upstream)
            else:
                backend.retired_at, backend.cut = None, False
            self.backends[key] = backend
        return backend
