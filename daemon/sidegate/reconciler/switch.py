"""External connections follow the intent: what listens, what the kernel forwards, whose sessions end. One at a time.

Nothing here looks at the engine. It goes by what was seen last, so that a switch takes milliseconds; the pass that
comes after it looks, and does the rest by the same means.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from sidegate.core.desired import Desired
from sidegate.core.forwarding import Kernel, carry_all
from sidegate.core.model import EngineState, Intent, Rules
from sidegate.core.plan import ForwarderAction, Plan, StopForwarding
from sidegate.core.reconcile import Observed, plan_forwarders
from sidegate.reconciler.apply import Applier, Failure
from sidegate.reconciler.attempts import Attempts

PASS_AFTER = 0.05  # seconds


class Switch:
    """`intent` and `seen` are asked when it is their turn, so that the last word holds; `apply` carries out a plan."""

    def __init__(
        self,
        applier: Applier,
        rules: Rules,
        *,
        intent: Callable[[], Intent],
        seen: Callable[[], tuple[Desired, EngineState]],
        apply: Callable[[Plan], Awaitable[tuple[Failure, ...]]],
    ) -> None:
        self._data_plane = applier.data_plane
        self._kernel = applier.kernel
        self._rules = rules
        self._intent = intent
        self._seen = seen
        self._apply = apply
        self._turn = asyncio.Lock()
        self._called = asyncio.Event()
        self._waiting: list[tuple[str, asyncio.Future[tuple[Failure, ...]]]] = []

    def __repr__(self) -> str:
        return f"<Switch waiting={len(self._waiting)}{' busy' if self._turn.locked() else ''}>"

    @property
    def kernel(self) -> Kernel:
        """What the kernel forwards, as of the last look or change."""
        return self._kernel.known() if self._kernel is not None else Kernel()

    @property
    def kernel_fault(self) -> str:
        """Why the kernel cannot forward; empty: it can."""
        return self._kernel.fault if self._kernel is not None else "this daemon has no kernel forwarder"

    async def throw(self, database: str) -> tuple[Failure, ...]:
        """Have a database's external connection be as people want it now; returns what failed. Needs `run`."""
        thrown: asyncio.Future[tuple[Failure, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.append((database, thrown))
        self._called.set()
        return await thrown

    async def run(self, wake: Callable[[], None]) -> None:
        """Do what `throw` asks for, beside whatever a pass is busy with, and `wake` one; until cancelled.

        Not at once: a pass keeps both the engine and the host's tools busy, and who has switched waits for an answer.
        """
        while True:
            await self._called.wait()
            self._called.clear()
            waiting, self._waiting = self._waiting, []
            attempts, databases = Attempts(self._apply), {database for database, _ in waiting}
            async with self._turn:
                await attempts.make(_of(self._plan(self._desired()), databases))
            for _, thrown in waiting:
                if not thrown.done():
                    thrown.set_result(attempts.failures)
            asyncio.get_running_loop().call_later(PASS_AFTER, wake)

    async def follow(self, attempts: Attempts) -> bool:
        """Have everything be as people want it now; False where there was nothing to try."""
        async with self._turn:
            return await attempts.make(self._plan(self._desired()))

    async def close(self) -> None:
        """Close what nobody wants any more, and what is open to others than it should be; leave the rest to a pass."""
        async with self._turn:
            desired, listeners = self._desired(), self._data_plane.listeners()
            wanted = {name: forwarding.gate for name, forwarding in desired.forwarders.items()}
            changed = {name for name, listening in listeners.items() if wanted.get(name) != listening.gate}
            if changed:
                await self._apply(_of(self._plan(desired), changed))

    async def end(self) -> None:
        """Stop what would go on forwarding without us, and part its clients. For after `run` has ended."""
        if self._kernel is None:
            return
        await self._kernel.end()
        async with self._turn:
            if self._kernel.known().ports:
                plan = self._plan(replace(self._seen()[0], forwarders={}))
                chains = {a.chain for a in plan.actions if isinstance(a, StopForwarding)}
                await self._apply(Plan(tuple(a for a in plan.actions if a.chain in chains)))

    def _desired(self) -> Desired:
        """What was seen last, with the external connections that people want now."""
        externals, (desired, _) = self._intent().externals, self._seen()
        targets = desired.routes.databases
        forwarders = carry_all(externals, targets, self._rules.forwarder, self.kernel_fault)
        return replace(desired, forwarders=forwarders, ports={e.port: name for name, e in externals.items()})

    def _plan(self, desired: Desired) -> Plan:
        state = self._seen()[1]
        observed = Observed(state, forwarders=self._data_plane.listeners(), kernel=self.kernel)
        return plan_forwarders(desired, observed, self._rules)


def _of(plan: Plan, databases: Collection[str]) -> Plan:
    """What of a plan is about some databases: one that hangs must not hold up another's."""
    chains = {a.chain for a in plan.actions if isinstance(a, ForwarderAction) and a.database in databases}
    return Plan(tuple(action for action in plan.actions if action.chain in chains))


def without_forwarders(plan: Plan) -> Plan:
    """What of a plan is not the switch's."""
    chains = {action.chain for action in plan.actions if isinstance(action, ForwarderAction)}
    return Plan(tuple(action for action in plan.actions if action.chain not in chains))
