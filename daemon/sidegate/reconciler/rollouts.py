"""Rollouts: one task for each app whose containers are being replaced, beside the loop, since it takes seconds to
minutes. What there is to do is seen after each pass, so it goes on after a restart by itself."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable

import structlog

from sidegate.core import deployments
from sidegate.core.labels import App
from sidegate.core.model import Rollout
from sidegate.errors import RefusedError, SidegateError, StoreError
from sidegate.reconciler.replacing import Replacing, Tools

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds before what was not asked for, such as making a container that is missing, is tried again after it failed."""

log = structlog.get_logger("sidegate.rollouts")


Tell = Callable[[str, str, str], None]
"""Takes a kind of event, an app, and a sentence about it."""


class _Under:
    """A rollout under way: who is told of it, and its end. `step` is told, too, of what is said."""

    def __init__(self, since: float, step: Callable[[str], None]) -> None:
        self.since = since
        self._step = step
        self.listeners: list[Callable[[str], None]] = []
        self.said = ""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    def say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            self._step(text)
            for listener in tuple(self.listeners):
                listener(text)


class Rollouts:
    """Owns when an app's containers are replaced; how is `Replacing`'s."""

    def __init__(self, tools: Tools, *, wall: Callable[[], float] = time.time, tell: Tell = lambda *_: None) -> None:
        self._tools = tools
        self._wall = wall
        self._tell = tell
        self._under: dict[str, _Under] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._passed = asyncio.Event()
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Rollouts under_way={sorted(self._under)}>"

    def under_way(self, app: str) -> str:
        """How far an app's rollout is, in a sentence; empty where there is none."""
        under = self._under.get(app)
        if under is None and app not in self._tools.store.intent.rollouts:
            return ""
        return (under.said if under else "") or f"{app}: its containers are being replaced"

    async def carry_out(self, app: str, progress: Callable[[str], None]) -> None:
        """Begin, or watch, the rollout that the store holds of an app; returns when it is done.

        Whoever waits here may leave: it goes on. Raises RolloutFailedError when all is as it was before, and
        SidegateError when the daemon stops.
        """
        under = self._under.get(app) or self._begin(app)
        under.listeners.append(progress)
        if under.said:
            progress(under.said)
        try:
            await asyncio.shield(under.done)
        finally:
            under.listeners.remove(progress)

    async def answers(self, app: str, path: str) -> bool:
        """Whether every replica that takes requests now answers a path with 2xx or 3xx; also where there is none."""
        route = self._tools.loop.last.desired.routes.apps.get(app)
        asked = [self._tools.ask(u.address, u.port, path, app) for u in (route.upstreams if route else ())]
        return not any(await asyncio.gather(*asked))

    async def run(self) -> None:
        """See after each pass what there is to do, until cancelled; what is under way goes on at the next start."""
        stop_watching = self._tools.loop.standing.watch(self._passed.set)
        try:
            while True:
                await self._passed.wait()
                self._passed.clear()
                await self._consider()
        finally:
            stop_watching()
            self._stopping = True
            tasks = [under.task for under in self._under.values() if under.task]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def remove_all(self) -> None:
        """For a purge: every container that Sidegate has made of apps, at once, and no new ones.

        Raises RefusedError while containers of others are being replaced: nobody would be left to go on with them.
        """
        intent = self._tools.store.intent
        if theirs := sorted({*self._under, *intent.rollouts} - intent.deployments.keys()):
            raise RefusedError(f"the containers of {', '.join(theirs)} are being replaced: wait until that is done")
        self._stopping = True
        tasks = [under.task for under in self._under.values() if under.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        store, workloads = self._tools.store, self._tools.workloads
        apps = self._tools.loop.last.desired.discovery.apps
        own = [c for name in store.intent.deployments for c in deployments.own_containers(apps.get(name))]
        await asyncio.gather(*(workloads.stop(container.id) for container in own))
        await asyncio.gather(*(workloads.remove(container.id) for container in own))

    def resume(self) -> None:
        """The purge came to nothing."""
        self._stopping = False
        self._passed.set()

    # --- within

    async def _consider(self) -> None:
        """Begin what is due and not under way."""
        last, store, now = self._tools.loop.last, self._tools.store, self._tools.clock()
        if not last.engine_up or self._stopping:
            return
        apps = last.desired.discovery.apps
        names = {*apps, *store.intent.deployments, *store.intent.rollouts} - self._under.keys()
        for name in sorted(names):
            app = apps.get(name) or App(name)
            why = deployments.due(app, store.intent, self._tools.loop.rules)
            if not why or self._not_before.get(name, 0.0) > now:
                continue
            if name not in store.intent.rollouts and deployments.missing(app, store.intent, self._tools.loop.rules):
                deployment = store.intent.deployments[name]
                rollout = Rollout(self._wall(), deployment, store.intent.ports.get(name, 0))
                try:
                    await store.begin_rollout(name, rollout, asked=False)
                except StoreError as error:
                    log.warning("cannot begin", app=name, error=str(error))
                    continue
            log.info("rollout", app=name, cause=why)
            if name not in self._under and not self._stopping:
                self._begin(name)

    def _begin(self, app: str) -> _Under:
        if self._stopping:
            raise SidegateError("the daemon is stopping")
        self._tell("deployment.started", app, "its containers are being replaced")
        step = functools.partial(self._tell, "deployment.step", app)
        under = self._under[app] = _Under(self._tools.clock(), step)
        under.task = asyncio.create_task(self._run(app, under), name=f"rollout {app}")
        return under

    async def _run(self, app: str, under: _Under) -> None:
        outcome: BaseException | None = None
        try:
            await Replacing(app, self._tools, under.say).run()
        except asyncio.CancelledError:
            outcome = SidegateError(f"the daemon stops; the containers of {app} go on being replaced at its next start")
            raise
        except SidegateError as error:
            outcome = error
        except Exception as error:
            log.exception("rollout broke off", app=app)
            outcome = SidegateError(f"replacing the containers of {app} broke off: {type(error).__name__}: {error}")
        finally:
            del self._under[app]
            self._note(app, outcome, asked=bool(under.listeners))
            if outcome is None:
                self._tell("deployment.done", app, "its containers are what they should be")
                under.done.set_result(None)
            else:
                self._tell("deployment.failed", app, str(outcome).removeprefix(f"{app}: "))
                under.done.set_exception(outcome)
                under.done.exception()  # nobody may be waiting
            self._passed.set()

    def _note(self, app: str, outcome: BaseException | None, *, asked: bool) -> None:
        """When to try again what nobody asked for, and what was wrong with it, for the status."""
        if outcome is None:
            self._failures.pop(app, None)
            self._not_before.pop(app, None)
            if not asked:  # what there was to do is done, or cannot be: either way there is time
                self._rest(app, FIRST_PAUSE)
            return
        failures = self._failures[app] = self._failures.get(app, 0) + 1
        pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
        if not asked and not self._stopping:
            self._tools.loop.standing.troubles[app] = str(outcome).removeprefix(f"{app}: ")
            self._tools.loop.wake()
        self._rest(app, pause)

    def _rest(self, app: str, pause: float) -> None:
        self._not_before[app] = self._tools.clock() + pause
        with contextlib.suppress(RuntimeError):  # no loop any more: it is ending
            asyncio.get_running_loop().call_later(pause, self._passed.set)
