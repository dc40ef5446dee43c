"""One app's containers being replaced: look at what there is, decide the next step (`core.rollout`), carry it out, and
look again, until nothing is left to do.

Nothing is remembered that cannot be found out again: a daemon that ends half-way goes on at its next start.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from sidegate.core import deployments
from sidegate.core.desired import app_network
from sidegate.core.environment import environment
from sidegate.core.labels import APP, RECREATE, REVISION, App
from sidegate.core.model import Deployment, Intent, Rollout
from sidegate.core.rollout import (
    NEXT,
    OLD,
    Copy,
    Create,
    Decision,
    LetGo,
    Remove,
    Rename,
    Situation,
    Slot,
    Start,
    Step,
    Stop,
    back,
    base_name,
    decisive,
    forward,
)
from sidegate.core.workloads import Snapshot
from sidegate.errors import EngineError, EngineUnavailableError, NotFoundError, RolloutFailedError, SidegateError
from sidegate.reconciler import telling
from sidegate.reconciler.loop import Loop
from sidegate.reconciler.readiness import Readiness
from sidegate.reconciler.world import RolloutStore, Workloads

LOOK_SECONDS = 0.2  # between two looks while somebody is waited for
LONGEST_PAUSE = 10.0  # seconds after a step that fails again and again
RECREATE_DRAIN = 5.0  # seconds: nobody else serves meanwhile

log = structlog.get_logger("sidegate.rollouts")


@dataclass(frozen=True, slots=True)
class Tools:
    """What rollouts work with. `health`: what active checks found, container id -> fault. `listens`: whether anything
    accepts connections at an address and port; `ask`: what is wrong with the answer to a GET there, of a path and for
    a host; `connections`: how many this host has open to it (blocking).

    `healthy` and `drain` are in seconds: for a new container to become healthy, and for what an old one has in hand.
    """

    loop: Loop
    store: RolloutStore
    workloads: Workloads
    health: Callable[[], Mapping[str, str]]
    listens: Callable[[str, int], Awaitable[bool]]
    ask: Callable[[str, int, str, str], Awaitable[str]]
    connections: Callable[[str, int], int]
    clock: Callable[[], float]
    healthy: float = 60.0
    drain: float = 30.0


class Replacing:
    """Replaces the containers of one app. `say` takes what there is to tell of it."""

    def __init__(self, app: str, tools: Tools, say: Callable[[str], None]) -> None:
        self._app = app
        self._tools = tools
        self._loop, self._store, self._workloads = tools.loop, tools.store, tools.workloads
        self._say = say
        self._readiness = Readiness(app, tools.loop, tools.health, tools.listens, tools.ask)
        self._rollout: Rollout | None = None
        self._names: set[str] = set()
        self._strangers: set[str] = set()
        self._snapshots: Mapping[str, Snapshot] = {}
        self._made: set[str] = set()
        self._idle: set[str] = set()
        self._waiting_since: float | None = None
        self._failures = 0
        self._failure: SidegateError | None = None
        self._warned = False
        self._passed = asyncio.Event()

    async def run(self) -> None:
        """To the end. Raises why it failed, once everything is as it was before."""
        stop_watching = self._loop.standing.watch(self._passed.set)
        try:
            while await self._step():
                pass
        finally:
            stop_watching()
            self._loop.standing.troubles.pop(self._app, None)
            self._loop.standing.forget(s.id for s in self._snapshots.values())
        if self._failure is not None:
            raise self._failure

    async def _step(self) -> bool:
        """One look and what follows from it; whether there is more to do."""
        try:
            rollout = self._intent.rollouts.get(self._app)
            if self._rollout and not rollout and not self._failure:
                self._failure = RolloutFailedError(f"{self._app} was removed meanwhile, and this given up")
            self._rollout, going_forward = rollout, rollout is not None
            now = await self._look()
            if self._superseded():
                return True
            if not going_forward:
                self._loop.standing.forget(s.id for s in self._snapshots.values())
            decision = forward(now) if going_forward else back(now)
            self._time(decision)
            if decision.failed:
                await self._fail(await self._why(decision.failed))
            elif decision.steps:
                await self._carry_out(decision.steps, going_forward=going_forward)
            elif decision.waiting:
                self._say(f"{self._app}: {telling.waiting(now, decision)}")
                await self._pause(LOOK_SECONDS)
            elif going_forward:
                await self._end()
            else:
                return False
        except EngineUnavailableError as error:
            self._waiting_since = None
            self._trouble(f"waits for the Docker engine: {error}")
            await self._pause(1.0)
        except SidegateError as error:  # the store, or the engine on a look
            await self._try_again(error)
        return True

    def _superseded(self) -> bool:
        """Whether something else is asked for by now than what was looked at for."""
        return self._intent.rollouts.get(self._app) != self._rollout

    @property
    def _intent(self) -> Intent:
        return self._store.intent

    @property
    def _deployment(self) -> Deployment | None:
        return self._intent.deployments.get(self._app)

    # --- looking

    async def _look(self) -> Situation:
        discovered = self._loop.last.desired.discovery.apps.get(self._app) or App(self._app)
        containers = [replica.container for replica in discovered.replicas]
        slots = deployments.slots(self._app, containers, self._intent, self._loop.rules)
        own = self._deployment is not None
        self._names |= set(slots)
        for name in self._names - slots.keys():  # no pass has seen its containers under their names of now
            slots[name] = not own
        found = await self._workloads.snapshots([n + suffix for n in self._names for suffix in ("", NEXT, OLD)])
        self._snapshots = {
            name: snapshot
            for name, snapshot in found.items()
            if snapshot.labels.get(APP, "").strip() == self._app and (not own or REVISION in snapshot.labels)
        }
        self._strangers = found.keys() - self._snapshots.keys()
        if not own:  # of other people's what is gone is gone
            slots = dict.fromkeys(map(base_name, self._snapshots), True)
        rollout = self._intent.rollouts.get(self._app)
        fault = next((s.strategy_fault for s in self._snapshots.values() if s.strategy_fault), "")
        if not fault and discovered.strategy == RECREATE:
            fault = "a label says so"
        if fault and rollout and not self._warned:
            self._warned = True
            self._say(
                f"{self._app}: two copies cannot run side by side, because {fault}: it stops before the new starts"
            )
        since = self._waiting_since
        return Situation(
            slots=tuple([await self._slot(name, slots[name]) for name in sorted(slots)]),
            replaces=frozenset(rollout.replaces) if rollout else frozenset(),
            recreate=bool(fault),
            own=own,
            late=since is not None and self._tools.clock() - since >= self._tools.healthy,
        )

    async def _slot(self, name: str, wanted: bool) -> Slot:
        current, coming, old = [await self._copy(name + suffix) for suffix in ("", NEXT, OLD)]
        return Slot(name, current, coming, old, wanted)

    async def _copy(self, name: str) -> Copy | None:
        snapshot = self._snapshots.get(name)
        if snapshot is None:
            return None
        state = snapshot.container.state
        rollout = self._intent.rollouts.get(self._app)
        ready = not name.endswith(OLD) and not await self._fault(snapshot)
        if ready and name.endswith(NEXT) and rollout:
            self._admit(snapshot.id)
        return Copy(
            snapshot.id,
            state,
            ready=ready,
            idle=snapshot.id in self._idle and not self._takes_requests(snapshot.id),
            whole=state != "created" or snapshot.id in self._made,
            ended=telling.has_ended(snapshot),
        )

    async def _fault(self, snapshot: Snapshot) -> str:
        rollout = self._intent.rollouts.get(self._app)
        new = rollout is not None and snapshot.id not in rollout.replaces
        return await self._readiness.fault(snapshot, rollout.health if rollout and new else "")

    def _admit(self, container_id: str) -> None:
        if container_id not in self._loop.standing.admitted:
            self._loop.standing.admitted.add(container_id)
            self._loop.wake()

    def _time(self, decision: Decision) -> None:
        """A new container's time runs while it is the only thing that is waited for."""
        if not decision.waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self._tools.clock()

    async def _pause(self, seconds: float) -> None:
        """Until a pass is over, or at most so long."""
        self._passed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._passed.wait()

    # --- doing

    async def _carry_out(self, steps: Iterable[Step], *, going_forward: bool) -> None:
        steps = tuple(steps)
        names = {snapshot.id: snapshot.name for snapshot in self._snapshots.values()}
        for text in telling.steps(steps, names):
            self._say(f"{self._app}: {text}")
        outcomes = await asyncio.gather(*(self._do(step) for step in steps), return_exceptions=True)
        await self._settle()
        failed: list[tuple[Step, SidegateError]] = []
        for step, outcome in zip(steps, outcomes, strict=True):
            if isinstance(outcome, SidegateError):
                failed.append((step, outcome))
            elif outcome is not None:
                raise outcome
        for step, error in failed:
            if decisive(step, going_forward=going_forward) and not isinstance(error, EngineUnavailableError):
                return await self._fail(await self._why_not(step, error))
        if failed:
            raise failed[0][1]
        self._failures = 0
        self._loop.standing.troubles.pop(self._app, None)
        return None

    async def _do(self, step: Step) -> None:
        log.info("step", app=self._app, step=str(step))
        match step:
            case Create():
                self._made.add(await self._create(step))
            case Start():
                await self._workloads.start(step.id)
            case Rename():
                await self._workloads.rename(step.id, step.name)
            case LetGo():
                await self._let_go(step.id)
            case Stop():
                await self._workloads.stop(step.id)
            case Remove():
                await self._workloads.remove(step.id)

    async def _create(self, step: Create) -> str:
        if taken := next((name for name in (step.slot, step.slot + OLD) if name in self._strangers), ""):
            raise EngineError(f"there is a container {taken} already, which is not one of {self._app}'s: rename it")
        if self._deployment is None:
            present = self._snapshots.get(step.slot) or self._snapshots.get(step.slot + OLD)
            if present is None:
                raise EngineError(f"container {step.slot} is gone, so there is nothing to make {step.name} from")
            await self._workloads.check(present)
            return await self._workloads.copy(present, step.name, environment(present.env, self._app, self._intent))
        network = app_network(self._app, self._loop.rules)
        if telling.network_fault(self._loop.last, network, self._loop.rules):
            await self._settle()
            if why := telling.network_fault(self._loop.last, network, self._loop.rules):
                raise EngineError(f"the network {network} was not made: {why}")
        spec = deployments.spec(self._app, self._intent, self._loop.rules, network)
        return await self._workloads.create(spec, step.name)

    async def _let_go(self, container_id: str) -> None:
        """Until nothing of ours is connected to it any more, or it has had its time."""
        places = self._readiness.places(self._by_id(container_id))
        alone = not any(name.endswith(NEXT) and snapshot.running for name, snapshot in self._snapshots.items())
        until = self._tools.clock() + (min(self._tools.drain, RECREATE_DRAIN) if alone else self._tools.drain)
        if self._by_id(container_id).name.endswith(NEXT):
            self._loop.standing.leaving.add(container_id)
        await self._settle()
        if self._takes_requests(container_id):
            await self._pause(LOOK_SECONDS)
            return  # the pass has not seen yet under which name it goes now
        while self._tools.clock() < until and await self._connected(places):
            await self._pause(LOOK_SECONDS / 2)
        self._idle.add(container_id)

    def _takes_requests(self, container_id: str) -> bool:
        route = self._loop.last.desired.routes.apps.get(self._app)
        return route is not None and any(u.id == container_id for u in (*route.upstreams, *route.resting))

    async def _connected(self, places: Iterable[tuple[str, int]]) -> bool:
        def look() -> bool:
            return any(self._tools.connections(address, port) for address, port in places)

        return await asyncio.to_thread(look)

    def _by_id(self, container_id: str) -> Snapshot:
        return next(s for s in self._snapshots.values() if s.id == container_id)

    async def _settle(self) -> None:
        """A pass that has seen what was done: networks are attached, and the routes go by the names of now."""
        with contextlib.suppress(TimeoutError):
            await self._loop.settle()

    # --- the end, the good and the bad

    async def _end(self) -> None:
        rollout, deployment = self._intent.rollouts[self._app], self._deployment
        if deployment and not deployment.replicas and rollout.before:
            await self._write(self._store.forget_app(self._app))
            self._failure = None  # of what it was before it was to go
        else:
            nothing = deployment is not None and not deployment.replicas
            if rollout.health and not nothing:
                await self._store.set_app(self._app, None, {"health": rollout.health})
            await self._write(self._store.end_rollout(self._app, rollout, restore=nothing))
        self._rollout = None
        await self._settle()

    async def _fail(self, why: SidegateError) -> None:
        """Back to what was there before: from now on, also for a daemon that is started later."""
        rollout, deployment = self._rollout, self._deployment
        if rollout is None or self._superseded():
            return
        if deployment and rollout.before is None:  # the first one: what has come of it goes before it is forgotten
            await self._write(self._store.set_deployment(self._app, replace(deployment, replicas=0)))
        else:
            await self._write(self._store.end_rollout(self._app, rollout, restore=True))
        log.warning("rollout failed", app=self._app, error=str(why).partition("\n")[0])
        self._failure = self._failure or why
        self._waiting_since = None
        self._say(f"{self._app}: it failed, so what is new goes again")
        await self._settle()

    async def _write(self, write: Awaitable[Intent]) -> None:
        try:
            await write
        except NotFoundError:  # somebody else has ended it
            log.info("rollout was ended", app=self._app)

    async def _try_again(self, error: SidegateError) -> None:
        """After a step that has to be done some time; longer each time, and said."""
        self._failures += 1
        log.warning("step failed", app=self._app, error=str(error), failures=self._failures)
        self._trouble(f"its containers are being replaced, and that does not go on: {error}")
        await self._pause(min(0.25 * 2**self._failures, LONGEST_PAUSE))

    def _trouble(self, text: str) -> None:
        self._say(f"{self._app}: {text}")
        self._loop.standing.troubles[self._app] = text

    async def _why(self, container_id: str) -> SidegateError:
        """Of a container that did not become healthy: what is wrong with it, and what it wrote last."""
        snapshot = self._by_id(container_id)
        fault = "" if telling.has_ended(snapshot) else await self._fault(snapshot)
        return await self._told(telling.why(snapshot, fault, self._tools.healthy), container_id)

    async def _why_not(self, step: Step, error: SidegateError) -> SidegateError:
        return await self._told(str(error), step.id if isinstance(step, Start) else "")

    async def _told(self, what: str, container_id: str) -> SidegateError:
        rollout = self._intent.rollouts.get(self._app)
        first = self._deployment is not None and rollout is not None and rollout.before is None
        outcome = "nothing of it is left" if first else "the old containers go on serving"
        if self._warned:
            outcome = "the old containers serve again"
        text, lines = f"{self._app}: {what}; {outcome}", ""
        if container_id:
            with contextlib.suppress(SidegateError):
                lines = await self._workloads.logs(container_id)
        return RolloutFailedError(f"{text}. Its last lines:\n{lines}" if lines else text)
