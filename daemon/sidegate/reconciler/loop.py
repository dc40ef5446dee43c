"""The loop: observe everything, reconcile, apply, until nothing is left to do. The only writer.

Level-triggered: an event, a command or the resync timer only wakes it and carries no truth, so a missed event costs
one resync interval and nothing else. While the engine is away what was true last is served on, less the processes
that have visibly ended.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from sidegate.core.certificates import assign
from sidegate.core.cutting import KillCut
from sidegate.core.database_ports import DatabasePort, with_other_ports
from sidegate.core.desired import Desired, desire
from sidegate.core.fencing import NONE, PutFence
from sidegate.core.labels import Discovery, discover
from sidegate.core.model import EngineState, HostState, Intent, Problem, Rules
from sidegate.core.newcomers import expect
from sidegate.core.plan import (
    Action,
    ChangePassword,
    CreateNetwork,
    Plan,
    PortAction,
)
from sidegate.core.reconcile import Observed, reconcile
from sidegate.core.routes import Routes
from sidegate.core.sessions import Client
from sidegate.core.tally import Histogram
from sidegate.errors import DataPlaneError, HostToolError, StoreError, SubnetTakenError
from sidegate.reconciler.apply import Applier, Failure
from sidegate.reconciler.attempts import Attempts
from sidegate.reconciler.cuts import Cuts
from sidegate.reconciler.observe import UNFENCED, Observer
from sidegate.reconciler.ports import observe_ports
from sidegate.reconciler.standing import Standing
from sidegate.reconciler.switch import Switch, without_forwarders
from sidegate.reconciler.terms import Terms
from sidegate.reconciler.world import IntentStore

ROUNDS = 6  # create, connect, leave the bridge, publish: three do; more only after refused subnets
ENGINE_RETRY = 0.25  # seconds between looks at what still runs while the engine is away
PASS_BOUNDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
DOMAIN_GRACE = 300.0  # seconds that an app without containers keeps its domains

log = structlog.get_logger("sidegate.loop")


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass saw and did. `seconds` is how long it took; `finished` a Unix time in seconds; `cut_fault` as in
    HostState."""

    desired: Desired = field(default_factory=lambda: Desired(Discovery({}, {})))
    state: EngineState = field(default_factory=EngineState)
    engine_up: bool = False
    engine_fault: str = "the Docker engine was not asked yet"
    actions: int = 0
    failures: tuple[Failure, ...] = ()
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    finished: float = 0.0
    cut_fault: str = ""


class Loop:
    """Owns when a pass happens; everything it touches is passed in."""

    def __init__(
        self,
        *,
        applier: Applier,
        store: IntentStore,
        rules: Rules,
        resync_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.last = Pass()
        self.state = self.last.state
        """What the running pass, or the last one, saw."""
        self.desired = self.last.desired
        self.rules = rules
        self.standing = Standing()
        self._applier = applier
        self._store = store
        self._resync = resync_seconds
        self._clock = clock
        self._kernel = applier.kernel
        self._terms = Terms(store, applier.data_plane, applier.kernel, clock=clock, wall=wall)
        self.standing.include(self._terms.problems)
        self._observer = Observer(applier, self._meanwhile)
        self._switch = Switch(
            applier, rules, intent=self._intent, seen=lambda: (self.desired, self.state), apply=self._apply
        )
        self.passes = Histogram(PASS_BOUNDS)
        self.actions: Mapping[tuple[type[Action], bool], int] = applier.outcomes
        self._wanted = 0  # the newest pass that somebody asked for
        self._got_on: float | None = None  # when the running pass did its last step
        self._woken = asyncio.Event()
        self._heard = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[Pass]]] = []
        self._purging = False
        self._bad_subnets: set[str] = set()
        self._missing_since: dict[str, float] = {}
        self._cuts = Cuts(applier.kill, self.wake)

    def __repr__(self) -> str:
        return f"<Loop wanted={self._wanted} waiting={len(self._waiting)} engine_up={self.last.engine_up}>"

    @property
    def ended(self) -> Mapping[str, str]:
        """Database -> why its external connection ended by itself, until somebody switches it."""
        return self._terms.causes

    @property
    def intent(self) -> Intent:
        """What people asked for, less the external connections that are off and could not be saved to be."""
        return self._terms.intent()

    def hold(self, database: str, *, closed: bool) -> None:
        """A database's external connection is off although that could not be saved, or again as it is saved."""
        self._terms.hold(database, closed=closed)

    def wake(self) -> None:
        """Ask for a pass soon; calls while one runs make one more."""
        self._wanted += 1
        self._woken.set()
        self._heard.set()
        self._terms.changed()

    def stalled(self) -> float:
        """For how many seconds the running pass has not got on by a look or an action; 0 between passes."""
        return 0.0 if self._got_on is None else self._clock() - self._got_on

    def _step(self) -> None:
        if self._got_on is not None:
            self._got_on = self._clock()

    async def settle(self, deadline: float = 30.0) -> Pass:
        """Wake, and return the first pass that began after this call. Raises TimeoutError after `deadline` seconds."""
        self.wake()
        passed: asyncio.Future[Pass] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._wanted, passed))
        async with asyncio.timeout(deadline):
            return await passed

    async def switch(self, database: str, deadline: float = 30.0) -> tuple[Failure, ...]:
        """Have a database's external connection be as people want it now, by what was seen last; returns what failed.
        The pass that this wakes sees to the rest. Raises TimeoutError after `deadline` seconds."""
        if not self.last.finished:
            await self.settle(deadline)
        self._terms.switched(database)
        before = self._cuts.under_way(database)
        async with asyncio.timeout(deadline):
            failures = await self._switch.throw(database)
            if killing := self._cuts.under_way(database) - before:
                await asyncio.wait(killing)
        self.standing.switched()
        return failures

    async def kill_cut(self, database: str, port: int, clients: frozenset[Client]) -> None:
        """Have a database's server end the sessions of external clients, as it knows them, who were cut outside of any
        plan. That it could not is a problem."""
        cause = "their client was kicked"
        await self._cuts.kill(KillCut(database=database, port=port, clients=clients, cause=cause))

    def resume(self) -> None:
        """The purge came to nothing: back to work, until somebody asks again."""
        self._purging = False
        self.wake()

    async def purge(self) -> Pass:
        """From here on want nothing: one pass removes all that is ours."""
        self._purging = True
        result = await self.settle(deadline=300.0)
        if not result.engine_up or any(failure.action.essential for failure in result.failures):
            self.resume()
            return result
        try:
            await self._applier.host.remove_fast_path()
        except HostToolError as error:
            log.warning("fast path not removed", error=str(error))
        if self._applier.fence is not None:
            try:
                await self._applier.fence.put(NONE)
            except HostToolError as error:
                log.warning("fence not removed", error=str(error))
        if self._kernel is not None and not self._kernel.fault:
            try:
                await self._kernel.remove()
            except HostToolError as error:
                log.warning("kernel forwarder not removed", error=str(error))
        return result

    async def run(self) -> None:
        """Pass after pass, until cancelled. The first is due at once."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._let_go(), name="let go")
            tasks.create_task(self._terms.run(self.wake), name="terms")
            tasks.create_task(self._switch.run(self.wake), name="switch")
            if self._kernel is not None:
                tasks.create_task(self._kernel.keep(self.wake), name="lease")
            await self._passes()

    async def _let_go(self) -> None:
        """Take replicas that were told to stop out of the routes, beside whatever a pass is busy with: until the engine
        was asked again and again their process may be gone."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            state = self._applier.engine.told_to_stop(self.state)
            if state == self.state:
                continue
            desired = self._desire(self._store.intent, state, engine_up=self.last.engine_up)
            if desired.routes == self._applier.data_plane.published():
                continue
            try:
                await self._applier.data_plane.publish(desired.routes)
            except DataPlaneError as error:  # the pass that follows tries again, and reports it
                log.warning("replicas that stop are not let go of yet", error=str(error))
            else:
                replicas = (r.container for app in desired.discovery.apps.values() for r in app.replicas)
                log.info("replicas let go of", stopping=[c.name for c in replicas if c.stopping])

    async def _passes(self) -> None:
        resync_at = self._clock()
        while True:
            full = self._clock() >= resync_at
            if full:
                resync_at = self._clock() + self._resync
            self._got_on = self._clock()
            await self._pass(full=full)
            self._got_on = None
            until = resync_at - self._clock() if self.last.engine_up else ENGINE_RETRY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until)):
                    await self._woken.wait()

    async def _pass(self, *, full: bool) -> None:
        self._woken.clear()
        ticket = self._wanted
        began = self._clock()
        await self._terms.enforce()
        intent = self._terms.intent()  # one for the whole pass: what fails of it is told to who waits for this pass
        look_at_kernel = self._kernel is not None and (full or self._kernel.wanted(intent, self.rules.forwarder))
        if self._kernel is not None and not self._kernel.begun and (full or not self.last.finished):
            await self._kernel.begin(external.port for external in intent.externals.values())
            look_at_kernel = False
        await self._switch.close()
        ports: Mapping[int, DatabasePort] = {}
        others, forwarders = Attempts(self._apply), Attempts(self._apply)
        if full:
            self._bad_subnets.clear()
        for _ in range(ROUNDS):
            look = await self._observer.look(self.last.state, engine_up=self.last.engine_up, full=full)
            self._step()
            state, host, fault, full = look.state, look.host, look.engine_fault, False
            desired = self._desire(intent, state, engine_up=not fault)
            if look.certificates is not None and not self._purging:
                desired = replace(desired, certificates=assign(desired.routes, look.certificates))
            self.state, self.desired = state, desired
            ports = await self._ports(state, ports) if not fault else {}
            observed = replace(self._observed(state, host, ports, engine_up=not fault), fence=look.fence)
            plan, unplanned = reconcile(desired, observed, self.rules)
            rest = without_forwarders(plan)
            done, switched = await asyncio.gather(others.make(rest), self._switch.follow(forwarders))
            if not done and not (switched and forwarders.failed):
                break
            if any(isinstance(action, PortAction) for action in rest.actions):
                ports = {}
            if any(isinstance(action, ChangePassword) for action in rest.actions):
                intent = replace(intent, passwords=self._store.intent.passwords)
        if self._kernel is not None and look_at_kernel:
            self._kernel.look_soon(self.wake)
        if not fault:
            await self._applier.engine.expect(expect(desired, state, self.rules))
        await self._remember(intent, desired, engine_up=not fault)
        actions, failures = others.actions + forwarders.actions, (*others.failures, *forwarders.failures)
        problems = {*desired.problems, *unplanned, *self._cuts.problems, *self.standing.problems()}
        if desired.certificates is not None:
            problems |= set(desired.certificates.problems)
        problems |= {Problem(_subject(f.action), str(f)) for f in failures if f.action.essential}
        problems |= {Problem("host", text) for text in (host.fast_path_fault, host.cut_fault, *host.lost) if text}
        if self._kernel is not None and self._kernel.trouble:
            problems.add(Problem("host", f"what the kernel forwards cannot be looked at: {self._kernel.trouble}"))
        unfenced = [look.fence_fault, *(str(f.error) for f in failures if isinstance(f.action, PutFence))]
        if desired.networks:
            problems |= {Problem("host", f"{UNFENCED}: {why}") for why in unfenced if why}
        if fault:
            problems.add(Problem("engine", fault))
        seconds = self._clock() - began
        self.passes.observe(seconds)
        self.last = Pass(
            desired,
            state,
            not fault,
            fault,
            actions,
            failures,
            tuple(sorted(problems)),
            seconds,
            time.time(),
            host.cut_fault,
        )
        if actions:
            log.info("pass", actions=actions, failures=len(failures), milliseconds=round(seconds * 1000))
        for wanted, passed in self._waiting:
            if wanted <= ticket and not passed.done():
                passed.set_result(self.last)
        self._waiting = [(wanted, passed) for wanted, passed in self._waiting if not passed.done()]
        self.standing.passed()

    async def _meanwhile(self) -> None:
        """While the engine takes its time: what somebody has switched off is closed."""
        if self._woken.is_set():
            await self._switch.close()

    async def close(self) -> None:
        """Stop what would go on forwarding without us: nobody could switch it off any more. For after `run` has
        ended."""
        await self._cuts.end()
        await self._switch.end()

    async def _ports(self, state: EngineState, known: Mapping[int, DatabasePort]) -> Mapping[int, DatabasePort]:
        """Of the databases that there are, also of those that a purge wants nothing of."""
        ports, host = self._applier.ports, self._applier.host
        discovery = discover(state.containers, self.rules) if self._purging else self.desired.discovery
        containers = with_other_ports(discovery)
        return await observe_ports(ports, containers, host.alive, known) if ports is not None else {}

    def _intent(self) -> Intent:
        return Intent() if self._purging else self._terms.intent()

    def _desire(self, intent: Intent, state: EngineState, *, engine_up: bool) -> Desired:
        if self._purging:
            return Desired(Discovery({}, {}), routes=Routes())
        return desire(
            intent,
            self._applier.engine.told_to_stop(state),
            self.rules,
            gone=self._gone(),
            engine_up=engine_up,
            health=self._applier.data_plane.health(),
            kernel_fault=self._switch.kernel_fault,
            admitted=self.standing.admitted,
            leaving=self.standing.leaving,
        )

    def _gone(self) -> frozenset[str]:
        return frozenset(app for app, at in self._missing_since.items() if self._clock() - at > DOMAIN_GRACE)

    def _observed(
        self, state: EngineState, host: HostState, ports: Mapping[int, DatabasePort], *, engine_up: bool
    ) -> Observed:
        data_plane = self._applier.data_plane
        return Observed(
            state,
            host,
            data_plane.listeners(),
            data_plane.published(),
            frozenset(self._bad_subnets),
            engine_up,
            data_plane.certified(),
            self._switch.kernel,
            ports,
        )

    async def _apply(self, plan: Plan) -> tuple[Failure, ...]:
        self._cuts.begin(plan.actions)
        failures = await self._applier.apply(plan, self._step, self._cuts.kill_soon)
        for failure in failures:
            if isinstance(failure.error, SubnetTakenError) and isinstance(failure.action, CreateNetwork):
                self._bad_subnets.add(str(failure.action.subnet))
            self._cuts.note(failure)
        return failures

    async def _remember(self, intent: Intent, desired: Desired, *, engine_up: bool) -> None:
        """Keep domain claims for after a restart, and know since when their holders have had no containers."""
        if not engine_up or self._purging:
            return
        holders = set(desired.claims.values()) - set(desired.discovery.apps)
        self._missing_since = {app: self._missing_since.get(app, self._clock()) for app in holders}
        if dict(desired.claims) != dict(intent.claims):
            try:
                await self._store.replace_claims(desired.claims)
            except StoreError as error:
                log.warning("domain claims not saved", error=str(error))


def _subject(action: Action) -> str:
    """Whom a failed action is a problem of."""
    return action.database if isinstance(action, PortAction | ChangePassword) else "sidegate"
