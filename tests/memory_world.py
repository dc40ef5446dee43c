"""The rest of the reconciler's outside world in memory: the host, the data plane, the databases.

Each records what it was told (`calls`, as text) and fails only on demand (`fail_next`: call name -> error, once).
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Network

from sidegate.core.certificates import CertificateSet
from sidegate.core.database_ports import DatabasePort, PortState
from sidegate.core.gates import AccessList, Gate
from sidegate.core.model import DatabaseDetails, HostState
from sidegate.core.passwords import PasswordChanged
from sidegate.core.routes import Routes
from sidegate.core.sessions import Client, Cut, Listening, Session, Usage, WorkerStatus
from sidegate.core.tally import Tally
from sidegate.errors import PortInUseError, SidegateError


class Recorder:
    """What was asked for, and the failures to come."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_next: dict[str, SidegateError] = {}

    def record(self, call: str, *words: object) -> None:
        """Note a call; raises what `fail_next` holds for it."""
        self.calls.append(" ".join([call, *map(str, words)]))
        if error := self.fail_next.pop(call, None):
            raise error


class MemoryHost(Recorder):
    """A host with a fast path to keep. `dead` are pids that ended; `visible` False: a foreign pid namespace."""

    def __init__(self, state: HostState | None = None) -> None:
        super().__init__()
        self.state = state or HostState(mtu=1500, fast_path=True)
        self.dead: set[int] = set()
        self.visible = True

    async def observe(self) -> HostState:
        return self.state

    async def install_fast_path(self) -> None:
        self.record("install_fast_path")
        self.state = _with_fast_path(self.state, there=True)

    async def remove_fast_path(self) -> None:
        self.record("remove_fast_path")
        self.state = _with_fast_path(self.state, there=False)

    async def destroy_sockets(self, pid: int, peers: IPv4Network) -> None:
        self.record("destroy_sockets", pid, peers)

    async def forget_flows(self, peers: IPv4Network) -> None:
        self.record("forget_flows", peers)

    def remember(self, pids: Iterable[int]) -> None:
        self.dead -= set(pids)

    def alive(self, pid: int) -> bool | None:
        return pid not in self.dead if self.visible else None


def _with_fast_path(state: HostState, *, there: bool) -> HostState:
    wanted = there if state.fast_path is not None else None
    return HostState(state.routes, state.mtu, wanted, state.fast_path_fault)


class MemoryDataPlane(Recorder):
    """Forwarders as a dictionary, routes as published. `held`: port -> the process that has it; `verdicts`: container
    id -> what is wrong with it, as active checks would find; `idle`: database -> seconds without a session."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, str] = {}
        self.live: dict[str, tuple[Session, ...]] = {}
        self.verdicts: dict[str, str] = {}
        self.idle: dict[str, float] = {}
        self.refused: dict[str, dict[str, int]] = {}
        self._open: dict[str, Listening] = {}
        self._published: Routes | None = None
        self._certified: CertificateSet | None = None
        self._version = 0
        self.counted = Tally()

    def listeners(self) -> Mapping[str, Listening]:
        return dict(self._open)

    def published(self) -> Routes | None:
        return self._published

    async def tally(self) -> Tally:
        return self.counted

    async def publish(self, routes: Routes) -> int:
        self.record("publish")
        self._version += 1
        self._published = routes
        return self._version

    async def publish_certificates(self, certificates: CertificateSet) -> None:
        self.record("publish_certificates")
        self._certified = certificates

    def certified(self) -> CertificateSet | None:
        return self._certified

    def health(self) -> Mapping[str, str]:
        return dict(self.verdicts)

    async def open_forwarder(self, database: str, gate: Gate, kernel: bool = False) -> Cut:
        self.record("open_forwarder", database, gate.port, *(["kernel"] if kernel else []))
        wanted = Listening(gate, kernel)
        present = self._open.get(database)
        if present is not None and present.gate.port == gate.port:
            self._open[database] = wanted
            return self._cut(database, AccessList(gate).refused(_address(one) for one in self.live.get(database, ())))
        holder = self.held.get(gate.port) or next(
            (name for name, one in self._open.items() if one.gate.port == gate.port), ""
        )
        if holder:
            raise PortInUseError(f"cannot open {database}: port {gate.port} is held by {holder}")
        self._open[database] = wanted
        return Cut()

    async def close_forwarder(self, database: str) -> int:
        self.record("close_forwarder", database)
        self._open.pop(database, None)
        return len(self.live.pop(database, ()))

    async def kick(self, database: str, client: str) -> Cut:
        self.record("kick", database, client)
        return self._cut(database, {client})

    def refusals(self, database: str) -> Mapping[str, int]:
        return self.refused.get(database, {})

    def usage(self, database: str) -> Usage:
        sessions = len(self.live.get(database, ()))
        return Usage(sessions, 0.0 if sessions else self.idle.get(database, 0.0))

    def _cut(self, database: str, clients: Collection[str]) -> Cut:
        live = self.live.get(database, ())
        kept = tuple(one for one in live if one.client not in clients and _address(one) not in clients)
        self.live[database] = kept
        cut = [one for one in live if one not in kept]
        return Cut(len(cut), frozenset((one.masked, one.masked_port) for one in cut if one.masked))

    async def sessions(self, database: str) -> tuple[Session, ...]:
        return self.live.get(database, ())

    def workers(self) -> tuple[WorkerStatus, ...]:
        return (WorkerStatus(slot=0, pid=4242, state="serving", version=self._version, restarts=0),)


def _address(session: Session) -> str:
    return session.client.rpartition(":")[0].strip("[]")


class MemoryPorts(Recorder):
    """Databases' namespaces: `found` is what is in each, by pid; absent where nothing was put. `closed`: why none can
    be entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, DatabasePort] = {}
        self.closed: SidegateError | None = None

    async def observe(self, pid: int) -> DatabasePort:
        self.record("observe", pid)
        self._enter()
        return self.found.get(pid, DatabasePort(PortState.ABSENT))

    async def redirect(self, pid: int, native: int) -> None:
        self.record("redirect", pid, native)
        self._enter()
        self.found[pid] = DatabasePort(PortState.REDIRECTED, native)

    async def remove(self, pid: int) -> None:
        self.record("remove", pid)
        self._enter()
        found = self.found.pop(pid, DatabasePort(PortState.ABSENT))
        if found.state is PortState.OWN:
            self.found[pid] = DatabasePort(PortState.OWN)

    def _enter(self) -> None:
        if self.closed:
            raise self.closed


class MemoryDatabases(Recorder):
    """Databases on which every login works; `threads`: how many sessions each has to kill, and `busy` whose those are
    that a server still has. `logins`: where there is
    one, a database's login and then the password that its server has; `after`: an error that comes although the server
    has taken the new password, which `taken` is told."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[str, int] = {}
        self.busy: set[Client] = set()
        self.logins: dict[str, DatabaseDetails] = {}
        self.after: SidegateError | None = None
        self.taken: Callable[[str], None] = lambda password: None

    async def change_password(self, database: str, password: str, *, disconnect: bool = False) -> PasswordChanged:
        self.record("change_password", database, *(["disconnect"] if disconnect else []))
        old = self.logins.get(database, DatabaseDetails())
        self.logins[database] = new = replace(old, password=password)
        self.taken(password)
        if error := self.after:
            self.after = None
            raise error
        return PasswordChanged("mariadb", old, new, (f"{old.user}@%",), self.threads.pop(database, 0))

    async def kill_sessions(self, database: str, peers: IPv4Network) -> int:
        self.record("kill_sessions", database, peers)
        return self.threads.pop(database, 0)

    async def kill_clients(
        self,
        database: str,
        clients: Collection[Client],
        connected: Callable[[], Awaitable[Collection[Client]]] | None = None,
    ) -> int:
        self.record("kill_clients", database, *sorted(f"{address}:{port}" for address, port in clients))
        killed = self.busy & {*clients} - {*(await connected() if connected else ())}
        self.busy -= killed
        return len(killed)


class MemoryVolumes(Recorder):
    """Named volumes, by name; containers make none."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    async def exists(self, name: str) -> bool:
        return name in self.names

    async def remove(self, name: str) -> None:
        self.record("remove", name)
        self.names.discard(name)
