"""The outside world as the reconciler sees it: what each adapter must offer. Passed in, never imported.

Every call has a deadline of its own and raises only errors of `sidegate.errors`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Network
from typing import Protocol

from sidegate.core.certificates import CertificateSet, CertificateState
from sidegate.core.model import EngineState, HostState, Intent
from sidegate.core.newcomers import Newcomers
from sidegate.core.routes import Routes
from sidegate.core.sessions import Session, WorkerStatus


class Engine(Protocol):
    """The Docker engine (or the in-memory one of the tests: one contract suite holds both)."""

    async def observe(self, *, full: bool = False) -> EngineState:
        """Everything there is. `full` asks again for what is cached per container (immutable parts, aliases).

        Raises EngineUnavailableError when the engine does not answer.
        """

    def told_to_stop(self, state: EngineState) -> EngineState:
        """What was observed, with what has been heard since of containers that were told to stop: at once, no call of
        the engine. `observe` says it too. A hint: it may end although the container goes on running."""

    async def version(self) -> str:
        """The engine's version; raises EngineUnavailableError."""

    async def create_network(
        self, name: str, *, subnet: IPv4Network, device: str, labels: Mapping[str, str], mtu: int
    ) -> None:
        """An internal bridge network (`POST /networks/create`, internal, CheckDuplicate). Existing already is success.

        Raises SubnetTakenError when the engine says the subnet overlaps another.
        """

    async def remove_network(self, name: str) -> None:
        """Force off whatever the engine still counts as attached, then remove. Not found is success."""

    async def connect(self, container_id: str, network: str, aliases: frozenset[str]) -> None:
        """Attach, running or not (`POST /networks/{id}/connect`). Attached already, or container gone, is success."""

    async def disconnect(self, container_id: str, network: str) -> None:
        """Detach with force, running or not. Not attached, or either one gone, is success."""

    async def read_file(self, container_id: str, path: str) -> bytes:
        """A small file (64 KiB at most) in a container, running or not. Raises NotFoundError or EngineError."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Begin calling `wake` (on the event loop) whenever something that matters may have changed; also each time
        the event stream was lost and is back. Never raises: it reconnects for ever, at most one second apart."""

    async def expect(self, newcomers: Newcomers) -> None:
        """A head start: from now on attach containers that these name on their create event, before they start."""

    async def close(self) -> None:
        """End the event stream and the threads. Safe to call twice."""


class IntentStore(Protocol):
    """The store as far as the reconciler goes: it reads the intent, and remembers who holds which domain."""

    @property
    def intent(self) -> Intent: ...

    async def replace_claims(self, claims: Mapping[str, str]) -> Intent:
        """Remember domain -> app; raises StoreError, and then nothing has changed."""


class Host(Protocol):
    """The machine: its routes, its firewall's fast path, sockets in containers' network namespaces."""

    async def observe(self) -> HostState: ...

    async def install_fast_path(self) -> None:
        """Put our rule at the head of DOCKER-USER, whatever stood there; raises HostToolError."""

    async def remove_fast_path(self) -> None:
        """Remove our rule and only that. Absent is success."""

    async def destroy_sockets(self, pid: int, peers: IPv4Network) -> None:
        """Destroy TCP sockets whose remote address lies in `peers`, in the network namespace of `pid` (`ss -K`).

        A process that is gone is success. Raises HostToolError where the namespace cannot be entered.
        """

    async def forget_flows(self, peers: IPv4Network) -> None:
        """Delete conntrack entries from or to `peers`."""

    def remember(self, pids: Iterable[int]) -> None:
        """Note these processes as they are now, to be told from later ones of the same number."""

    def alive(self, pid: int) -> bool | None:
        """Whether that process still runs; None when processes of containers cannot be seen from here."""


class Certificates(Protocol):
    """The certificates of the directory and of the local authority."""

    async def observe(self, *, full: bool = False) -> CertificateState:
        """Everything there is; what is wrong is part of it. `full`: have the authority try again."""

    async def issue(self, names: Collection[str]) -> None:
        """Begin to issue leafs for these, and wait a moment for them. Raises CertificateError."""


class DataPlane(Protocol):
    """The workers, as their supervisor offers them."""

    def listeners(self) -> Mapping[str, int]:
        """Open forwarders: database name -> public port."""

    def published(self) -> Routes | None:
        """The routes published last."""

    async def publish(self, routes: Routes) -> int:
        """Hand new routes to every worker; returns the version when all have acknowledged (a worker that does not
        within 1 s is replaced, and the replacement's acknowledgement counts)."""

    async def publish_certificates(self, certificates: CertificateSet) -> None:
        """Hand new certificates to every worker; returns when all present them to new connections."""

    def certified(self) -> CertificateSet | None:
        """The certificates published last."""

    def health(self) -> Mapping[str, str]:
        """What active checks found of published replicas: container id -> fault, empty while it is well. One that is
        not there is not known yet, or not asked."""

    async def open_forwarder(self, database: str, port: int) -> None:
        """Bind and listen on every worker; returns when all accept. Open on that port already is success.

        Raises PortInUseError naming the holder; then nothing is open.
        """

    async def close_forwarder(self, database: str) -> int:
        """Refuse at once (shutdown by the parent), cut every session, release the port; returns sessions cut.
        Holds even when a worker hangs. Not open is success."""

    async def sessions(self, database: str) -> tuple[Session, ...]:
        """Live sessions of a forwarder over all workers."""

    def workers(self) -> tuple[WorkerStatus, ...]: ...


class Databases(Protocol):
    """Database servers, by name, reached over their home networks."""

    async def kill_sessions(self, database: str, peers: IPv4Network) -> int:
        """End server threads whose client address lies in `peers` (the engine's own KILL: a destroyed socket does
        not stop a running query); returns how many. Raises LoginFailedError when no known login works."""
