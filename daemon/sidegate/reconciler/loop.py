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

from sidegate.core.certificates import CertificateState, assign
from sidegate.core.database_ports import DatabasePort, with_other_ports
from sidegate.core.desired import Desired, desire
from sidegate.core.forwarding import Kernel
from sidegate.core.labels import Discovery, discover
from sidegate.core.model import Container, EngineState, HostState, Intent, Problem, Rules
from sidegate.core.newcomers import expect
from sidegate.core.plan import (
    Action,
    ChangePassword,
    CreateNetwork,
    CutAction,
    CutForwarded,
    ForwarderAction,
    KillSessions,
    Plan,
    PortAction,
    StopForwarding,
)
from sidegate.core.reconcile import Observed, reconcile
from sidegate.core.routes import Routes
from sidegate.errors import (
    DataPlaneError,
    EngineError,
    EngineUnavailableError,
    HostToolError,
    StoreError,
    SubnetTakenError,
)
from sidegate.reconciler.apply import Applier, Failure
from sidegate.reconciler.ports import observe_ports
from sidegate.reconciler.standing import Standing
from sidegate.reconciler.terms import Terms
from sidegate.reconciler.world import IntentStore

ROUNDS = 6  # create, connect, leave the bridge, publish: three do; more only after refused subnets
SWITCH_OFF_CHECK = 0.05  # seconds, while an engine that was asked takes its time
ENGINE_RETRY = 0.25  # seconds between looks at what still runs while the engine is away
DOMAIN_GRACE = 300.0  # seconds that an app without containers keeps its domains

log = structlog.get_logger("sidegate.loop")


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass saw and did. `seconds` is how long it took; `finished` a Unix time in seconds."""

    desired: Desired = field(default_factory=lambda: Desired(Discovery({}, {})))
    state: EngineState = field(default_factory=EngineState)
    engine_up: bool = False
    engine_fault: str = "not asked yet"
    actions: int = 0
    failures: tuple[Failure, ...] = ()
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    finished: float = 0.0


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
        self._wanted = 0  # the newest pass that somebody asked for
        self._woken = asyncio.Event()
        self._heard = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[Pass]]] = []
        self._purging = False
        self._bad_subnets: set[str] = set()
        self._missing_since: dict[str, float] = {}
        self._cut_faults: dict[str, Problem] = {}

    def __repr__(self) -> str:
        return f"<Loop wanted={self._wanted} waiting={len(self._waiting)} engine_up={self.last.engine_up}>"

    def wake(self) -> None:
        """Ask for a pass soon; calls while one runs make one more."""
        self._wanted += 1
        self._woken.set()
        self._heard.set()
        self._terms.changed()

    async def settle(self, deadline: float = 30.0) -> Pass:
        """Wake, and return the first pass that began after this call. Raises TimeoutError after `deadline` seconds."""
        self.wake()
        passed: asyncio.Future[Pass] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._wanted, passed))
        async with asyncio.timeout(deadline):
            return await passed

    async def purge(self) -> Pass:
        """From here on want nothing: one pass removes all that is ours."""
        self._purging = True
        result = await self.settle(deadline=300.0)
        if not result.engine_up or any(failure.action.essential for failure in result.failures):
            self._purging = False  # not done: back to work, until somebody asks again
            self.wake()
            return result
        try:
            await self._applier.host.remove_fast_path()
        except HostToolError as error:
            log.warning("fast path not removed", error=str(error))
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
            routes = self._desire(self._store.intent, state, engine_up=self.last.engine_up).routes
            if routes == self._applier.data_plane.published():
                continue
            try:
                await self._applier.data_plane.publish(routes)
            except DataPlaneError as error:  # the pass that follows tries again, and reports it
                log.warning("replicas that stop are not let go of yet", error=str(error))
            else:
                log.info("replicas let go of", stopping=[c.name for c in state.containers if c.stopping])

    async def _passes(self) -> None:
        resync_at = self._clock()
        while True:
            full = self._clock() >= resync_at
            if full:
                resync_at = self._clock() + self._resync
            await self._pass(full=full)
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
        if self._kernel is not None and not self._kernel.begun and (full or not self.last.finished):
            await self._kernel.begin(external.port for external in intent.externals.values())
        elif self._kernel is not None and (full or self._kernel.wanted(intent, self.rules.forwarder)):
            self._kernel.look_soon(self.wake)
        await self._switch_off()
        actions = 0
        before = None
        ports: Mapping[int, DatabasePort] = {}
        failures: tuple[Failure, ...] = ()
        uncut: list[Failure] = []
        if full:
            self._bad_subnets.clear()
        for _ in range(ROUNDS):
            certificates = await self._certificates(full=full)
            state, host, fault = await self._observe(full=full)
            full = False
            desired = self._desire(intent, state, engine_up=not fault)
            if certificates is not None and not self._purging:
                desired = replace(desired, certificates=assign(desired.routes, certificates))
            self.state, self.desired = state, desired
            ports = await self._ports(state, ports) if not fault else {}
            observed = replace(await self._observed(state, host, engine_up=not fault), ports=ports)
            plan, unplanned = reconcile(desired, observed, self.rules)
            if not plan or (failures and str(plan) == before):
                break
            before = str(plan)
            actions += len(plan.actions)
            failures = await self._apply(plan)
            if any(isinstance(action, PortAction) for action in plan.actions):
                ports = {}
            if any(isinstance(action, ChangePassword) for action in plan.actions):
                intent = replace(intent, passwords=self._store.intent.passwords)
            uncut += [failure for failure in failures if isinstance(failure.action, CutAction | CutForwarded)]
        if not fault:
            await self._applier.engine.expect(expect(desired, state, self.rules))
        await self._remember(intent, desired, engine_up=not fault)
        failures = (*(failure for failure in failures if failure not in uncut), *uncut)
        problems = {*desired.problems, *unplanned, *self._cut_faults.values(), *self.standing.problems()}
        if desired.certificates is not None:
            problems |= set(desired.certificates.problems)
        problems |= {Problem(_subject(f.action), str(f)) for f in failures if f.action.essential}
        if host.fast_path_fault:
            problems.add(Problem("host", host.fast_path_fault))
        if self._kernel is not None and self._kernel.trouble:
            problems.add(Problem("host", f"what the kernel forwards cannot be looked at: {self._kernel.trouble}"))
        if fault:
            problems.add(Problem("engine", fault))
        seconds = self._clock() - began
        self.last = Pass(
            desired, state, not fault, fault, actions, failures, tuple(sorted(problems)), seconds, time.time()
        )
        if actions:
            log.info("pass", actions=actions, failures=len(failures), milliseconds=round(seconds * 1000))
        for wanted, passed in self._waiting:
            if wanted <= ticket and not passed.done():
                passed.set_result(self.last)
        self._waiting = [(wanted, passed) for wanted, passed in self._waiting if not passed.done()]
        self.standing.passed()

    async def _switch_off(self) -> None:
        """Close forwarders that nobody wants any more, or not to those who are on them, before looking at anything: an
        engine that hangs must not keep a database open."""
        listeners = self._applier.data_plane.listeners()
        intent = self._terms.intent()
        wanted = {name: e.gate for name, e in intent.externals.items() if e.enabled and not self._purging}
        changed = {name for name, listening in listeners.items() if wanted.get(name) != listening.gate}
        if changed:
            desired = self._desire(intent, self.state, engine_up=self.last.engine_up)
            observed = await self._observed(self.state, HostState(), engine_up=False)
            plan, _ = reconcile(desired, observed, self.rules)
            chains = {a.chain for a in plan.actions if isinstance(a, ForwarderAction) and a.database in changed}
            await self._apply(Plan(tuple(a for a in plan.actions if a.chain in chains)))

    async def close(self) -> None:
        """Stop what would go on forwarding without us, and part its clients: nobody could switch it off any more. For
        after `run` has ended."""
        if self._kernel is None:
            return
        await self._kernel.end()
        observed = await self._observed(self.state, HostState(), engine_up=False)
        if observed.kernel.ports:
            desired = replace(self.desired, forwarders={})
            plan, _ = reconcile(desired, observed, self.rules)
            chains = {a.chain for a in plan.actions if isinstance(a, StopForwarding)}
            await self._apply(Plan(tuple(a for a in plan.actions if a.chain in chains)))

    async def _observe(self, *, full: bool) -> tuple[EngineState, HostState, str]:
        """The engine's and the host's state, and why the engine's is not fresh (empty: it is)."""
        host = asyncio.create_task(self._applier.host.observe(), name="observe host")
        try:
            state = await self._look(full=full or not self.last.engine_up)
        except (EngineUnavailableError, EngineError) as error:
            if self.last.engine_up:
                log.warning("engine lost", error=str(error))
            return self._survivors(), await host, str(error)
        except BaseException:
            host.cancel()
            raise
        self._applier.host.remember(container.pid for container in state.containers if container.pid)
        return state, await host, ""

    async def _look(self, *, full: bool) -> EngineState:
        """The engine's answer. While it takes its time, what somebody switches off meanwhile is closed."""
        look = asyncio.create_task(self._applier.engine.observe(full=full), name="observe engine")
        seen = self._wanted
        try:
            while not look.done():
                await asyncio.wait((look,), timeout=SWITCH_OFF_CHECK)
                if self._wanted != seen:
                    seen = self._wanted
                    await self._switch_off()
            return look.result()
        finally:
            look.cancel()

    async def _certificates(self, *, full: bool) -> CertificateState | None:
        source = self._applier.certificates
        return await source.observe(full=full) if source is not None else None

    async def _ports(self, state: EngineState, known: Mapping[int, DatabasePort]) -> Mapping[int, DatabasePort]:
        """Of the databases that there are, also of those that a purge wants nothing of."""
        ports, host = self._applier.ports, self._applier.host
        discovery = discover(state.containers, self.rules) if self._purging else self.desired.discovery
        containers = with_other_ports(discovery)
        return await observe_ports(ports, containers, host.alive, known) if ports is not None else {}

    def _survivors(self) -> EngineState:
        """What was there last, with containers whose process has ended shown as exited."""

        def now(container: Container) -> Container:
            if not container.pid or self._applier.host.alive(container.pid) is not False:
                return container
            gone = tuple(replace(endpoint, address="") for endpoint in container.endpoints)
            return replace(container, state="exited", pid=0, endpoints=gone)

        return replace(self.last.state, containers=tuple(map(now, self.last.state.containers)))

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
            kernel_fault=self._kernel.fault if self._kernel is not None else "this daemon has no kernel forwarder",
            admitted=self.standing.admitted,
            leaving=self.standing.leaving,
        )

    def _gone(self) -> frozenset[str]:
        return frozenset(app for app, at in self._missing_since.items() if self._clock() - at > DOMAIN_GRACE)

    async def _observed(self, state: EngineState, host: HostState, *, engine_up: bool) -> Observed:
        data_plane = self._applier.data_plane
        return Observed(
            state,
            host,
            data_plane.listeners(),
            data_plane.published(),
            frozenset(self._bad_subnets),
            engine_up,
            data_plane.certified(),
            await self._kernel.observe() if self._kernel is not None else Kernel(),
        )

    async def _apply(self, plan: Plan) -> tuple[Failure, ...]:
        for action in plan.actions:
            if isinstance(action, CutAction | CutForwarded):
                self._cut_faults.pop(action.what, None)
        failures = await self._applier.apply(plan)
        for failure in failures:
            if isinstance(failure.error, SubnetTakenError) and isinstance(failure.action, CreateNetwork):
                self._bad_subnets.add(str(failure.action.subnet))
            if isinstance(failure.action, CutAction | CutForwarded):
                self._cut_faults[failure.action.what] = _cut_problem(failure)
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


def _cut_problem(failure: Failure) -> Problem:
    """What may go on although its connection was cut."""
    action = failure.action
    if isinstance(action, KillSessions):
        text = f"a query that was running when its connection was cut may run on: {failure.error}"
        return Problem(action.database, text)
    return Problem("sidegate", f"sessions may hang at one end: {action.what}: {failure.error}")
