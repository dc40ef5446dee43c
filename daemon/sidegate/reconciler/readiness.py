"""Whether a container could take its app's requests: by the engine's health check, by the app's own, else by whether
something listens."""

from collections.abc import Awaitable, Callable, Mapping

from sidegate.core.labels import App
from sidegate.core.routes import Upstream
from sidegate.core.routing import HOST_ADDRESS
from sidegate.core.workloads import Snapshot
from sidegate.reconciler.loop import Loop


class Readiness:
    """Asks for one app. `health`: what active checks found, container id -> fault; `listens`: whether anything accepts
    connections at an address and port; `ask`: what is wrong with the answer to a GET of a path there."""

    def __init__(
        self,
        app: str,
        loop: Loop,
        health: Callable[[], Mapping[str, str]],
        listens: Callable[[str, int], Awaitable[bool]],
        ask: Callable[[str, int, str, str], Awaitable[str]],
    ) -> None:
        self._app = app
        self._loop = loop
        self._health = health
        self._listens = listens
        self._ask = ask
        self._well: set[tuple[str, int]] = set()

    async def fault(self, snapshot: Snapshot, path: str = "") -> str:
        """Why not, in words for the operator; empty where it could. `path`: one that it has to answer, whatever the
        app's options say."""
        container = snapshot.container
        if not container.running:
            return f"it is {container.state}"
        if container.health not in ("", "healthy"):
            return f"its health check says {container.health}"
        desired = self._loop.last.desired
        for network in desired.networks.values():
            if container.id in network.members and not container.endpoint(network.name):
                return f"it is not on {network.name} yet"
        upstream = self._upstream(container.id)
        if upstream is None:
            return desired.waiting.get(container.id, "") or "it cannot be reached yet"
        life = (container.id, snapshot.restart_count)
        if path:
            found = "" if life in self._well else await self._ask(upstream.address, upstream.port, path, self._app)
            if not found:
                self._well.add(life)
            return found
        routes = desired.routes
        policy = routes.policies[routes.apps[self._app].policy]
        if policy.health:
            verdict = self._health().get(container.id)
            return f"it was not asked at {policy.health} yet" if verdict is None else verdict
        if container.health or life in self._well:
            return ""
        if not await self._listens(upstream.address, upstream.port):
            return f"nothing listens at its port {upstream.port}"
        self._well.add(life)
        return ""

    def _upstream(self, container_id: str) -> Upstream | None:
        route = self._loop.last.desired.routes.apps.get(self._app)
        found = (*route.upstreams, *route.resting) if route else ()
        return next((upstream for upstream in found if upstream.id == container_id), None)

    def places(self, snapshot: Snapshot) -> list[tuple[str, int]]:
        """Where requests may have been sent to it: addresses with the port."""
        app = self._loop.last.desired.discovery.apps.get(self._app) or App(self._app)
        ports = {replica.port for replica in app.replicas if replica.container.id == snapshot.id}
        mode = snapshot.container.network_mode
        addresses = [HOST_ADDRESS] if mode == "host" else list(snapshot.addresses.values())
        return [(address, port) for address in addresses for port in ports]
