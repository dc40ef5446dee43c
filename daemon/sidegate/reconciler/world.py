"""The outside world as the reconciler sees it: what each adapter must offer. Passed in, never imported.

Every call has a deadline of its own and raises only errors of `sidegate.errors`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Network
from typing import Protocol

from sidegate.core.certificates import CertificateSet, CertificateState
from sidegate.core.database_ports import DatabasePort
from sidegate.core.gates import Gate, KernelForward, KernelSession
from sidegate.core.model import EngineState, External, HostState, Intent
from sidegate.core.newcomers import Newcomers
from sidegate.core.routes import Routes
from sidegate.core.sessions import Listening, Session, Usage, WorkerStatus


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

    async def replace_external(self, database: str, seen: External, external: External) -> Intent:
        """Keep `external`, unless it is no longer as it was `seen`. Raises StoreError likewise."""


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

    def listeners(self) -> Mapping[str, Listening]:
        """Open forwarders, by the name of their database."""

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

    async def open_forwarder(self, database: str, gate: Gate, kernel: bool = False) -> None:
        """Bind and listen on every worker; returns when all accept on these terms. `kernel` as in Listening.

        Open on that port already: the terms are swapped, sessions that they do not admit are cut, the rest go on.
        Raises PortInUseError naming the holder; then nothing is open.
        """

    async def close_forwarder(self, database: str) -> int:
        """Refuse at once (shutdown by the parent), cut every session, release the port; returns sessions cut.
        Holds even when a worker hangs. Not open is success."""

    async def sessions(self, database: str) -> tuple[Session, ...]:
        """Live sessions of a forwarder over all workers."""

    async def kick(self, database: str, client: str) -> int:
        """Cut the sessions of `client`, an address or one session's address and port as `sessions` writes it; returns
        how many there were. Not open is success."""

    def refusals(self, database: str) -> Mapping[str, int]:
        """Clients refused since a forwarder was opened: reason -> count. At most some two seconds old."""

    def usage(self, database: str) -> Usage:
        """How a forwarder is used, at most some two seconds ago. One that is not open is neither used nor idle."""

    def workers(self) -> tuple[WorkerStatus, ...]: ...


class DatabasePorts(Protocol):
    """Redirects from 3306 in the network namespaces of databases, by pid."""

    async def observe(self, pid: int) -> DatabasePort:
        """Raises HostToolError where the namespace cannot be entered, RefusedError where it is the host's."""

    async def redirect(self, pid: int, native: int) -> None:
        """Have 3306 lead to `native`. So already is success. Raises as `observe` does."""

    async def remove(self, pid: int) -> None:
        """Absent, or a process that is gone, is success. Raises as `observe` does."""


class KernelForwarding(Protocol):
    """Public ports that the kernel forwards by itself. All but `usable` raise HostToolError."""

    async def usable(self) -> str:
        """Why this host's kernel cannot or should not forward; empty when it can. Never raises."""

    async def observe(self) -> Mapping[int, KernelForward]:
        """What works now, by public port; nothing in a daemon that has applied nothing yet."""

    async def apply(self, wanted: Mapping[int, KernelForward]) -> None:
        """Forward exactly `wanted`; sessions go on, those of ports that are not among them too: see `cut`.

        For 10 s, and for as long as `renew` is called: a daemon that dies leaves no way in behind. Sessions that were
        open then go on until the next daemon's `apply` and `cut`."""

    async def renew(self) -> None:
        """Raises where what was applied is not whole any more."""

    async def sessions(self, port: int) -> tuple[KernelSession, ...]:
        """Those that go through a public port."""

    async def counts(self) -> Mapping[int, int]:
        """Public port -> connections that came in through it, counted anew whenever it is changed."""

    async def cut(self, port: int, pid: int, addresses: Collection[str] | None = None) -> int:
        """End sessions through a port at both ends, all or of some clients (an address, or `address:port` for one
        session); returns how many. `pid` is a process of the database, 0 while it does not run. Raises where its
        network namespace cannot be entered; nothing is cut then."""

    async def forget(self, port: int, addresses: Collection[str] | None = None) -> None:
        """Delete the tracked flows of sessions that the database has ended by itself."""

    async def remove(self) -> None:
        """Take away all that was added, whichever daemon of this instance did."""


class Databases(Protocol):
    """Database servers, by name, reached over their home networks."""

    async def kill_sessions(self, database: str, peers: IPv4Network) -> int:
        """End server threads whose client address lies in `peers` (the engine's own KILL: a destroyed socket does
        not stop a running query); returns how many. Raises LoginFailedError when no known login works."""
