"""What the commands need of the rest of the daemon: protocols, and one value that holds an implementation of each.

The composition root fills it. Nothing here does anything but look at the intent and at the last pass.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidegate.api.events import Hub
from sidegate.api.schemas import ProblemView
from sidegate.api.work import Builder, Passwords, Rollouts, Volumes, Workloads
from sidegate.core.audit import AuditEntry
from sidegate.core.desired import Desired, known_apps, known_databases
from sidegate.core.gates import KernelSession
from sidegate.core.guest import OwnContainer
from sidegate.core.labels import Discovery
from sidegate.core.model import (
    DatabaseDetails,
    Deployment,
    EngineState,
    External,
    Intent,
    Network,
    OwnDatabase,
    Pair,
    PasswordChange,
    Problem,
    Rollout,
    Rules,
    Variable,
)
from sidegate.core.plan import Action
from sidegate.core.routes import Routes
from sidegate.core.sessions import Client, Cut, Listening, Session, WorkerStatus
from sidegate.core.tally import Histogram, Tally
from sidegate.errors import SidegateError


class Store(Protocol):
    """What people asked for, kept. Every write raises StoreError when it failed, and then nothing has changed."""

    @property
    def intent(self) -> Intent: ...

    async def add_connection(self, pair: Pair, app: str, variables: Sequence[Variable]) -> Intent: ...

    async def take_back_connection(self, pair: Pair, app: str, variables: Sequence[Variable] = ()) -> Intent: ...

    async def remove_connection(self, pair: Pair, *, keep_variables: bool) -> Intent: ...

    async def set_external(self, database: str, external: External) -> Intent: ...

    async def forget_external(self, database: str) -> Intent: ...

    async def set_database_details(self, name: str, details: DatabaseDetails) -> Intent: ...

    async def begin_password(self, database: str, change: PasswordChange) -> Intent: ...

    async def end_password(
        self, database: str, details: DatabaseDetails | None, updates: Mapping[str, Sequence[Variable]] = ...
    ) -> Intent: ...

    async def set_own_database(self, name: str, own: OwnDatabase | None) -> Intent: ...

    async def forget_database(self, name: str) -> Intent: ...

    async def set_variables(self, app: str, variables: Sequence[Variable], gone: Sequence[Variable] = ()) -> Intent: ...

    async def unset_variable(self, app: str, key: str, scope: str | None = None) -> Intent: ...

    async def rename_variable(
        self, app: str, old: str, new: str, scope: str | None = None, *, new_scope: str | None = None
    ) -> Intent: ...

    async def set_app(
        self, app: str, mode: str | None = None, options: Mapping[str, str | None] | None = None
    ) -> Intent: ...

    async def set_deployment(
        self,
        app: str,
        deployment: Deployment | None,
        *,
        port: int | None = None,
        domains: tuple[str, ...] | None = None,
        options: Mapping[str, str | None] | None = None,
        variables: Sequence[Variable] = (),
        rollout: Rollout | None = None,
    ) -> Intent: ...

    async def set_port(self, app: str, port: int | None) -> Intent: ...

    async def set_domains(self, app: str, domains: tuple[str, ...]) -> Intent: ...

    async def begin_rollout(self, app: str, rollout: Rollout) -> Intent: ...

    async def forget_app(self, app: str) -> Intent: ...

    async def purge(self) -> Intent: ...

    async def append_audit(self, entry: AuditEntry) -> None: ...

    async def audit(
        self, limit: int, *, verb: str = "", user: str = "", since: float = 0.0, before: int | None = None
    ) -> Sequence[AuditEntry]: ...


class Failure(Protocol):
    """An action of a pass that failed."""

    @property
    def action(self) -> Action: ...

    @property
    def error(self) -> SidegateError: ...


class Pass(Protocol):
    """What the reconciler's last pass saw and did."""

    @property
    def desired(self) -> Desired: ...

    @property
    def state(self) -> EngineState: ...

    @property
    def engine_up(self) -> bool: ...

    @property
    def engine_fault(self) -> str: ...

    @property
    def cut_fault(self) -> str:
        """Why no socket can be destroyed here; empty: they can."""

    @property
    def actions(self) -> int: ...

    @property
    def failures(self) -> Sequence[Failure]: ...

    @property
    def problems(self) -> Sequence[Problem]: ...

    @property
    def seconds(self) -> float: ...

    @property
    def finished(self) -> float: ...


class Loop(Protocol):
    """The reconciler: the only writer of the engine and of the data plane."""

    @property
    def last(self) -> Pass: ...

    @property
    def rules(self) -> Rules: ...

    @property
    def passes(self) -> Histogram:
        """How long they took."""

    @property
    def actions(self) -> Mapping[tuple[type[Action], bool], int]:
        """Kind of action and whether it was done -> how many."""

    def wake(self) -> None: ...

    @property
    def ended(self) -> Mapping[str, str]:
        """Database -> why its external connection ended by itself, until somebody switches it."""

    async def settle(self) -> Pass:
        """The first pass that begins after this call, when it is done. Raises TimeoutError."""

    async def switch(self, database: str) -> Sequence[Failure]:
        """Have a database's external connection be as the intent has it, at once; returns what failed. Raises
        TimeoutError."""

    @property
    def intent(self) -> Intent:
        """What people asked for, less the external connections that are off and could not be saved to be."""

    def hold(self, database: str, *, closed: bool) -> None:
        """A database's external connection is off although that could not be saved, or again as it is saved."""

    async def kill_cut(self, database: str, port: int, clients: frozenset[Client]) -> None:
        """Have a database's server end the sessions of external clients that were cut; where it cannot, a problem."""

    async def purge(self) -> Pass: ...

    def resume(self) -> None:
        """Go back to work after a purge that came to nothing."""


class Engine(Protocol):
    """What is asked of the Docker engine outside of passes."""

    async def version(self) -> str: ...

    async def read_file(self, container_id: str, path: str) -> bytes: ...


class Logins(Protocol):
    """Tries logins on database servers."""

    async def check(self, engine: str, host: str, port: int, details: DatabaseDetails) -> None:
        """One real login. Raises LoginFailedError with the server's reason."""

    async def speaks_tls(self, database: str) -> bool | None:
        """Whether clients of this database can have TLS; None where it cannot be asked. Takes 1 s at most."""

    async def locks_out_after(self, database: str) -> int | None:
        """How many may leave without logging in until their address is locked out; None: any, or it is not known."""


class CertificateFiles(Protocol):
    """The directory of certificates, and the local authority's own."""

    async def add(self, name: str, chain: str, key: str) -> None:
        """Raises RefusedError, InvalidInputError, StoreError; then nothing is kept."""

    async def remove(self, name: str) -> None:
        """Raises RefusedError, NotFoundError, StoreError."""

    async def authority(self) -> str:
        """Its certificate in PEM. Raises CertificateError."""


class DataPlane(Protocol):
    """What the data plane tells about itself."""

    def listeners(self) -> Mapping[str, Listening]: ...

    def published(self) -> Routes | None: ...

    async def sessions(self, database: str) -> Sequence[Session]: ...

    async def kick(self, database: str, client: str) -> Cut:
        """Cut the sessions of an address, or of an address and port; returns which there were."""

    def refusals(self, database: str) -> Mapping[str, int]: ...

    def workers(self) -> Sequence[WorkerStatus]: ...

    async def tally(self) -> Tally:
        """What all workers have counted. Takes 1 s at most."""


class Kernel(Protocol):
    """The kernel's part in external connections."""

    @property
    def fault(self) -> str:
        """Why it cannot be used here, as of the last look; empty: it can."""

    async def look(self) -> str:
        """The same, now."""

    def carries(self, port: int) -> bool:
        """Whether it forwards a public port."""

    async def sessions(self, port: int) -> Sequence[KernelSession]:
        """Raises HostToolError."""

    async def traffic(self) -> Mapping[int, tuple[int, int]]:
        """Public port -> sessions now, and so far. Raises HostToolError."""

    async def kick(self, database: str, port: int, pid: int, peer: str, addresses: Collection[str]) -> Cut:
        """End the sessions of client addresses; returns which. Raises SidegateError."""


class EngineCalls(Protocol):
    """What calls to the engine came to."""

    @property
    def outcomes(self) -> Mapping[tuple[str, str], int]:
        """(operation, outcome) -> how many."""

    @property
    def seconds(self) -> Mapping[str, Histogram]:
        """Operation -> how long they took."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that the commands touch.

    `port_holder(port)` says which process listens on a TCP port ("nginx (pid 812)"), empty for none; `stop` asks the
    daemon to end, soon and in order; `clock` counts seconds from anywhere.
    """

    store: Store
    loop: Loop
    engine: Engine
    logins: Logins
    data_plane: DataPlane
    port_holder: Callable[[int], str]
    external_host: Callable[[], str]
    stop: Callable[[], None]
    clock: Callable[[], float]
    version: str
    external_ports: range
    http_port: int
    certificates: CertificateFiles | None = None
    """None: no TLS."""
    https_port: int = 0
    """The public one, 0 without TLS."""
    kernel: Kernel | None = None
    """None: the workers carry every external connection."""
    passwords: Passwords | None = None
    """None: nobody changes one."""
    volumes: Volumes | None = None
    builds: Builder | None = None
    workloads: Workloads | None = None
    container: OwnContainer | None = None
    """None: the daemon has the host's network."""
    rollouts: Rollouts | None = None
    """None, as `workloads`: nobody makes containers."""
    engine_calls: EngineCalls | None = None
    """None: nobody counts them."""
    wall: Callable[[], float] = time.time
    """Unix time in seconds."""
    events: Hub = field(default_factory=Hub)
    logins_seen: dict[str, str] = field(default_factory=dict)
    """Database -> the outcome of the last login that was tried."""
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from a check to the write that rests on it, never while a pass is awaited."""

    async def seen(self) -> None:
        """Return once the engine was looked at, which right after the start may still be under way."""
        if not self.loop.last.finished:
            await self.settle()

    async def settle(self) -> Pass:
        """One pass that begins now. Raises SidegateError when it takes too long."""
        try:
            return await self.loop.settle()
        except TimeoutError:
            raise SidegateError("the daemon is still busy with an earlier pass: see `sidegate status`") from None

    async def switch(self, database: str) -> Sequence[Failure]:
        """Have a database's external connection be as the intent has it, without a look at the engine; returns what
        failed. Raises SidegateError when it takes too long."""
        try:
            return await self.loop.switch(database)
        except TimeoutError:
            raise SidegateError("the daemon is still busy with an earlier switch: see `sidegate status`") from None

    @property
    def intent(self) -> Intent:
        return self.loop.intent

    @property
    def state(self) -> EngineState:
        return self.loop.last.state

    @property
    def discovery(self) -> Discovery:
        return self.loop.last.desired.discovery

    @property
    def apps(self) -> frozenset[str]:
        return known_apps(self.intent, self.discovery)

    @property
    def databases(self) -> frozenset[str]:
        return known_databases(self.intent, self.discovery)

    def network(self, name: str) -> Network | None:
        return next((n for n in self.state.networks if n.name == name), None)

    def problems(self, name: str = "") -> list[ProblemView]:
        """Problems of one app or database, of its containers and of its networks; without a name all there are."""
        last, subjects = self.loop.last, {name, *(c.name for c in self.discovery.containers(name))}
        subjects |= {network.name for network in last.desired.networks.values() if name in network.ends}
        found = (p for p in last.problems if not name or p.subject in subjects)
        return [ProblemView(subject=p.subject, text=p.text) for p in found]

    def partners(self, name: str) -> list[str]:
        """What `name` is connected to, sorted."""
        return sorted(pair.other(name) for pair in self.intent.connections if name in (pair.a, pair.b))
