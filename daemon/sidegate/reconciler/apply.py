"""Apply a plan: one action, one call of one adapter. Decides nothing; every failure is returned with its action."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import structlog

from sidegate.core.cutting import KillCut
from sidegate.core.fencing import PutFence
from sidegate.core.plan import (
    Action,
    ChangePassword,
    CloseForwarder,
    ConnectContainer,
    CreateNetwork,
    CutForwarded,
    DestroySockets,
    DisconnectContainer,
    ForgetFlows,
    ForwardInKernel,
    InstallFastPath,
    IssueCertificates,
    KillSessions,
    OpenForwarder,
    Plan,
    PublishCertificates,
    PublishRoutes,
    RedirectPort,
    RemoveNetwork,
    RemoveRedirect,
    ReserveForKernel,
    StopForwarding,
)
from sidegate.core.sessions import Client
from sidegate.errors import SidegateError
from sidegate.reconciler.kernel import KernelPorts
from sidegate.reconciler.passwords import Passwords
from sidegate.reconciler.world import Certificates, DatabasePorts, Databases, DataPlane, Engine, Fencing, Host

CHAINS_AT_ONCE = 8  # the engine works on about this many networks side by side before calls only queue

log = structlog.get_logger("sidegate.apply")


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that did not succeed, and why."""

    action: Action
    error: SidegateError

    def __str__(self) -> str:
        return f"{self.action.what}: {self.error}"


@dataclass(frozen=True, slots=True)
class Applier:
    """The adapters that actions are carried out on."""

    engine: Engine
    host: Host
    data_plane: DataPlane
    databases: Databases
    certificates: Certificates | None = None
    """None: no TLS."""
    ports: DatabasePorts | None = None
    """None: only what listens at 3306 itself answers there."""
    kernel: KernelPorts | None = None
    """None: the workers carry every external connection."""
    passwords: Passwords | None = None
    """None: nobody changes one."""
    fence: Fencing | None = None
    """None: networks rest on the engine's rules alone."""
    outcomes: Counter[tuple[type[Action], bool]] = field(default_factory=Counter)
    """Kind of action and whether it was done -> how many."""

    async def apply(self, plan: Plan, each: Callable[[], None], kill: Callable[[KillCut], None]) -> tuple[Failure, ...]:
        """Carry out every chain, side by side and bounded, but the fence before networks are made; returns what
        failed, in no particular order. `each` is called after every action; `kill` with each that is left to the
        caller, and says whose sessions were cut."""
        failures: list[Failure] = []
        slots = asyncio.Semaphore(CHAINS_AT_ONCE)

        async def attempt(action: Action, cut: set[Client]) -> Failure | None:
            failure = await self._attempt(action, cut)
            each()
            return failure

        async def run(chain: Sequence[Sequence[Action]], after: Collection[asyncio.Task[None]]) -> None:
            if after:
                await asyncio.wait(after)
            async with slots:
                cut: set[Client] = set()
                for rank in chain:
                    now = (action for action in rank if not isinstance(action, KillCut))
                    failed = [f for f in await asyncio.gather(*(attempt(action, cut) for action in now)) if f]
                    failures.extend(failed)
                    if any(failure.action.essential for failure in failed):
                        break
            if cut:  # also of a change that failed: no later plan has these again
                for action in (action for rank in chain for action in rank if isinstance(action, KillCut)):
                    kill(replace(action, clients=frozenset(cut)))

        async with asyncio.TaskGroup() as group:
            fencing: list[asyncio.Task[None]] = []
            for chain in sorted(plan.chains(), key=lambda chain: not isinstance(chain[0][0], PutFence)):
                makes = any(isinstance(action, CreateNetwork) for rank in chain for action in rank)
                task = group.create_task(run(chain, fencing if makes else ()), name=f"apply {chain[0][0].chain}")
                if isinstance(chain[0][0], PutFence):
                    fencing.append(task)
        return tuple(failures)

    async def kill(self, action: KillCut) -> Failure | None:
        """Have a database's server end sessions that were cut; returns how that failed."""
        return await self._attempt(action, set())

    async def _attempt(self, action: Action, cut: set[Client]) -> Failure | None:
        try:
            await self._carry_out(action, cut)
        except SidegateError as error:
            self.outcomes[type(action), False] += 1
            log.warning("action failed", action=action.what, cause=action.cause, error=str(error))
            return Failure(action, error)
        self.outcomes[type(action), True] += 1
        log.info("done", action=action.what, cause=action.cause)
        return None

    async def _carry_out(self, action: Action, cut: set[Client]) -> None:
        """`cut`: the external clients that this chain has cut."""
        match action:
            case CreateNetwork():
                await self.engine.create_network(
                    action.network,
                    subnet=action.subnet,
                    device=action.device,
                    labels=action.labels,
                    mtu=action.mtu,
                    egress=action.egress,
                )
            case ConnectContainer():
                await self.engine.connect(action.container.id, action.network, action.aliases)
            case DisconnectContainer():
                await self.engine.disconnect(action.container.id, action.network)
            case RemoveNetwork():
                await self.engine.remove_network(action.network)
            case DestroySockets():
                await self.host.destroy_sockets(action.container.pid, action.peers)
            case ForgetFlows():
                await self.host.forget_flows(action.peers)
            case KillSessions():
                await self.databases.kill_sessions(action.database, action.peers)
            case ChangePassword() if self.passwords is not None:
                await self.passwords.change(action.database)
            case RedirectPort() if self.ports is not None:
                await self.ports.redirect(action.container.pid, action.native)
            case RemoveRedirect() if self.ports is not None:
                await self.ports.remove(action.container.pid)
            case InstallFastPath():
                await self.host.install_fast_path()
            case PutFence() if self.fence is not None:
                await self.fence.put(action.fence)
            case IssueCertificates() if self.certificates is not None:
                await self.certificates.issue(action.names)
            case PublishCertificates():
                await self.data_plane.publish_certificates(action.certificates)
            case PublishRoutes():
                await self.data_plane.publish(action.routes)
            case OpenForwarder():
                kernel = isinstance(action, ReserveForKernel)
                cut |= (await self.data_plane.open_forwarder(action.database, action.gate, kernel)).clients
            case ForwardInKernel() if self.kernel is not None:
                await self.kernel.forward(action.port, action.forward)
            case StopForwarding() if self.kernel is not None:
                await self.kernel.stop(action.port)
            case CutForwarded() if self.kernel is not None:
                ended = await self.kernel.cut(action.database, action.port, action.pid, action.peer, action.gate)
                cut |= ended.clients
            case KillCut():
                await self.databases.kill_clients(action.database, action.clients, lambda: self._connected(action))
            case CloseForwarder():
                await self.data_plane.close_forwarder(action.database)
            case _:
                raise NotImplementedError(type(action).__name__)

    async def _connected(self, action: KillCut) -> frozenset[Client]:
        """Who is on a database through its external connection now, as the database knows them."""
        connected = {(one.masked, one.masked_port) for one in await self.data_plane.sessions(action.database)}
        if self.kernel is not None:
            connected |= {(one.masked, one.masked_port) for one in await self.kernel.sessions(action.port)}
        return frozenset(connected)
