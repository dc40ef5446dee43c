"""The outside world as the reconciler sees it: what each adapter must offer. Passed in, never imported.

Every call has a deadline of its own and raises only errors of `sidegate.errors`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Protocol

from sidegate.core.certificates import CertificateSet, CertificateState
from sidegate.core.database_ports import DatabasePort
from sidegate.core.fencing import Fence
from sidegate.core.gates import Gate, KernelForward, KernelSession
from sidegate.core.model import (
    DatabaseDetails,
    Deployment,
    EngineState,
    External,
    HostState,
    Intent,
    PasswordChange,
    Rollout,
    Variable,
)
from sidegate.core.newcomers import Newcomers
from sidegate.core.passwords import PasswordChanged
from sidegate.core.routes import Routes
from sidegate.core.sessions import Client, Cut, Listening, Session, Usage, WorkerStatus
from sidegate.core.workloads import ContainerSpec, ImageInfo, LogLine, Snapshot


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
        self,
        name: str,
        *,
        subnet: IPv4Network,
        device: str,
        labels: Mapping[str, str],
        mtu: int,
        egress: bool = False,
    ) -> None:
        """A bridge network (`POST /networks/create`, CheckDuplicate), internal unless its containers are to have
        `egress`, a way out. Existing already is success.

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


class Workloads(Protocol):
    """Containers, made and made anew. Raises EngineUnavailableError when the engine does not answer, EngineError when
    it refuses. A change that it did not confirm in time is looked at again before anything is raised."""

    async def image(self, reference: str) -> ImageInfo:
        """An image that this node has, by name or id. Raises NotFoundError saying how to get it."""

    async def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        """Fetch an image with the engine's own credentials; `progress` gets what it says, a line at a time, at most
        some four a second. As long as it takes: cancel it. Raises NotFoundError, EngineError."""

    async def snapshots(self, names: Collection[str]) -> Mapping[str, Snapshot]:
        """Those of the named containers that exist, asked of the engine now (2 to 4 ms each): never from a cache, so a
        decision may rest on it. A start that is under way holds the answer up until it is through."""

    async def check(self, snapshot: Snapshot) -> None:
        """Raise RefusedError where the container cannot be made anew, saying why: --rm, a swarm task, an image or a
        container that it needs is gone, another container lives in its namespaces or links to it. Nothing is changed;
        ask before anything is stopped. `copy` does not ask again."""

    async def copy(self, snapshot: Snapshot, name: str, env: Mapping[str, str]) -> str:
        """Create, not start, a container that differs from the snapshot in name and environment only; returns its id.

        `env` is the whole environment; a variable that the image gives comes back when it is left out. It shares the
        volumes, anonymous ones included. Ports and addresses are taken at the start and not before: where two cannot
        run side by side, it can be created while the first still runs.

        A copy is not made in one call: one that is still `created` when a daemon starts may lack networks. Remove it
        and copy again. Raises EngineError where the name is taken.
        """

    async def create(self, spec: ContainerSpec, name: str) -> str:
        """Create, not start, a container of our own; returns its id. Named volumes that are missing are made. Raises
        EngineError where the name is taken, NotFoundError where the image or the network is missing."""

    async def start(self, container_id: str) -> None:
        """Running already is success. Raises NotFoundError, and EngineError with the engine's reason (a port that is
        taken, a program that is not there)."""

    async def stop(self, container_id: str) -> None:
        """By its own stop signal, and SIGKILL after its own timeout: returns when it has ended. Not running, or not
        there, is success."""

    async def rename(self, container_id: str, name: str) -> None:
        """Named so already is success. Raises NotFoundError, and EngineError where the name is taken."""

    async def remove(self, container_id: str, *, volumes: bool = False) -> None:
        """Kill it if it runs, and remove it; returns when its name is free. Not there is success. `volumes`: its
        anonymous volumes, too, less those that another container has (a copy has them all)."""

    async def logs(self, container_id: str, tail: int = 20) -> str:
        """The last lines that it wrote, both streams, 16 KiB at most; also where it has ended. In parentheses, why
        there are none to be had. Raises NotFoundError."""

    def follow(self, container_id: str, tail: int = 20, since: float = 0.0) -> AsyncGenerator[LogLine, None]:
        """The last lines, then each as it is written, until the container ends: for `async with aclosing(...)`. Who
        reads slowly slows down nobody but himself. `since`: none that were written before that Unix time, in seconds.
        Raises NotFoundError."""

    async def close(self) -> None:
        """End what is under way. Safe to call twice."""


class IntentStore(Protocol):
    """The store as far as the reconciler goes: it reads the intent, and remembers who holds which domain."""

    @property
    def intent(self) -> Intent: ...

    async def replace_claims(self, claims: Mapping[str, str]) -> Intent:
        """Remember domain -> app; raises StoreError, and then nothing has changed."""

    async def replace_external(self, database: str, seen: External, external: External) -> Intent:
        """Keep `external`, unless it is no longer as it was `seen`. Raises StoreError likewise."""


class RolloutStore(Protocol):
    """The store as far as rollouts go. Every write raises StoreError when it failed, and then nothing has changed."""

    @property
    def intent(self) -> Intent: ...

    async def begin_rollout(self, app: str, rollout: Rollout, *, asked: bool = True) -> Intent:
        """An app's containers are being replaced from now on; unless nobody `asked` and they are already."""

    async def end_rollout(self, app: str, rollout: Rollout, *, restore: bool) -> Intent:
        """It is over; `restore`: what was deployed before, and the port, come back. Raises NotFoundError where
        that one was not under way any more."""

    async def set_deployment(self, app: str, deployment: Deployment | None) -> Intent:
        """What Sidegate shall run of an app; the rest that is known of it stays."""

    async def set_app(
        self, app: str, mode: str | None = None, options: Mapping[str, str | None] | None = None
    ) -> Intent:
        """Set some of its options; None unsets one."""

    async def forget_app(self, app: str) -> Intent:
        """As if nobody had ever said anything of it."""


class PasswordStore(Protocol):
    """The store as far as passwords go. Every write raises StoreError when it failed, and then nothing has changed."""

    @property
    def intent(self) -> Intent: ...

    async def begin_password(self, database: str, change: PasswordChange) -> Intent:
        """A password is about to be changed."""

    async def end_password(
        self, database: str, details: DatabaseDetails | None, updates: Mapping[str, Sequence[Variable]] = ...
    ) -> Intent:
        """A change of a password is over; `details` None: it was taken back. `updates`: variables by app that follow.

        Raises NotFoundError where none was under way, and KeyClashError.
        """


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

    async def open_forwarder(self, database: str, gate: Gate, kernel: bool = False) -> Cut:
        """Bind and listen on every worker; returns when all accept on these terms. `kernel` as in Listening.

        Open on that port already: the terms are swapped, sessions that they do not admit are cut and returned, the rest
        go on.
        Raises PortInUseError naming the holder; then nothing is open.
        """

    async def close_forwarder(self, database: str) -> int:
        """Refuse at once (shutdown by the parent), cut every session, release the port; returns sessions cut.
        Holds even when a worker hangs. Not open is success."""

    async def sessions(self, database: str) -> tuple[Session, ...]:
        """Live sessions of a forwarder over all workers."""

    async def kick(self, database: str, client: str) -> Cut:
        """Cut the sessions of `client`, an address or one session's address and port as `sessions` writes it; returns
        which there were. Not open is success."""

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

    async def carried(self) -> Mapping[int, int]:
        """Public port -> how many go through it."""

    async def counts(self) -> Mapping[int, int]:
        """Public port -> connections that came in through it, counted anew whenever it is changed."""

    async def cut(self, port: int, pid: int, addresses: Collection[str] | None = None) -> Sequence[KernelSession]:
        """End sessions through a port at both ends, all or of some clients (an address, or `address:port` for one
        session); returns those that there were. `pid` is a process of the database, 0 while it does not run. Raises
        where its network namespace cannot be entered; nothing is cut then."""

    async def forget(self, port: int, addresses: Collection[str] | None = None) -> None:
        """Delete the tracked flows of sessions that the database has ended by itself."""

    async def remove(self) -> None:
        """Take away all that was added, whichever daemon of this instance did."""


class Fencing(Protocol):
    """The rules that keep our networks to themselves, whatever becomes of the engine's own."""

    async def observe(self) -> Fence:
        """What stands now; raises HostToolError."""

    async def put(self, fence: Fence) -> None:
        """Have exactly this, with no moment between; it outlives the daemon. Raises HostToolError."""


class Databases(Protocol):
    """Database servers, by name, reached over their home networks."""

    async def change_password(self, database: str, password: str, *, disconnect: bool = False) -> PasswordChanged:
        """Give the user that apps log in as a new password, in all its accounts; having it already is success.
        `disconnect` ends the sessions that this user has.

        Raises PasswordRefusedError where the server goes on with the old one, PasswordUncertainError where it may have
        the new one, LoginFailedError where this has changed nothing.
        """

    async def kill_sessions(self, database: str, peers: IPv4Network) -> int:
        """End server threads whose client address lies in `peers` (the engine's own KILL: a destroyed socket does
        not stop a running query); returns how many. Raises LoginFailedError when no known login works."""

    async def kill_clients(
        self,
        database: str,
        clients: Collection[Client],
        connected: Callable[[], Awaitable[Collection[Client]]] | None = None,
    ) -> int:
        """The same for exactly these clients, as the server knows them, whose sockets are gone already: whoever has the
        same address and port by now is one of `connected`, which is asked once the server has been, and spared."""
