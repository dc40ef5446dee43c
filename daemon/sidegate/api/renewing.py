"""Bringing the containers of apps up to date once their variables have changed, for the verbs that change them."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sidegate.api import schemas
from sidegate.api.progress import Progress, unheard
from sidegate.api.stale import stale_containers
from sidegate.api.world import World
from sidegate.errors import (
    EngineError,
    EngineUnavailableError,
    NotFoundError,
    RefusedError,
    RolloutFailedError,
    SidegateError,
    StoreError,
)

KINDS = (RolloutFailedError, RefusedError, NotFoundError, EngineUnavailableError, EngineError, StoreError)
"""What a redeploy fails with; its code and statuses stay what they are."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """`apps` were redeployed; `notes` say what to know of that."""

    apps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Renewal:
    """`redeploy` replaces an app's containers by ones with its present variables."""

    world: World
    redeploy: Callable[[str, Progress], Awaitable[schemas.AppView]]

    async def bring_up_to_date(self, app: str, progress: Progress = unheard, *, only_stale: bool = False) -> list[str]:
        """Redeploy an app, after what is being done about its containers already; with `only_stale` not where that has
        brought them up to date. Returns notes; raises as `app redeploy` does."""
        while True:
            if self.world.rollouts is not None and self._under_way(app):
                with contextlib.suppress(RolloutFailedError):  # another one's, and does not matter here
                    await self.world.rollouts.carry_out(app, progress)
            if only_stale and not stale_containers(self.world, app):
                return []
            try:
                return (await self.redeploy(app, progress)).notes
            except RefusedError:
                if not self._under_way(app):
                    raise  # else somebody else who waited was first

    def _under_way(self, app: str) -> str:
        return self.world.rollouts.under_way(app) if self.world.rollouts is not None else ""

    async def renew(self, apps: Sequence[str], so_far: str, progress: Progress) -> Renewed:
        """Redeploy those of `apps` that have running containers out of date, one after the other.

        `so_far` is what stands when one cannot be redeployed: the error begins with it. Raises as `app redeploy` does.
        """
        done = Renewed()
        for place, app in enumerate(apps):
            if not stale_containers(self.world, app) and not self._under_way(app):
                done.notes.append(self._unneeded(app))
                continue
            progress(f"{so_far}; {app} is being redeployed")
            try:
                notes = await self.bring_up_to_date(app, progress, only_stale=True)
            except SidegateError as error:
                left = [other for other in apps[place:] if stale_containers(self.world, other)] or [app]
                commands = " and ".join(f"`sidegate app redeploy {other}`" for other in left)
                kind = next((kind for kind in KINDS if isinstance(error, kind)), SidegateError)
                raise kind(
                    f"{so_far}, and that stays; but {app} was not redeployed ({commands} tries again): {error}"
                ) from error
            done.apps.append(app)
            done.notes.extend(notes)
        return done

    def _unneeded(self, app: str) -> str:
        if any(container.running for container in self.world.discovery.containers(app)):
            return f"nothing had to be redeployed: the running containers of {app} have its variables as they are"
        return f"nothing had to be redeployed: no container of {app} is running"
