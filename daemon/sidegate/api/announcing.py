"""Events are made here: what is known now is compared with what was known before, after each pass and each second."""

import asyncio
from dataclasses import dataclass

from sidegate.api.world import World
from sidegate.core.changes import Moment, changes, first_changes
from sidegate.log import get_logger

log = get_logger("events")
LOOK_SECONDS = 1.0
"""How soon what changes without a pass (a worker, a login, a variable) is an event."""


@dataclass(slots=True)
class Announcer:
    """Have `look` called after each pass, and `run` running."""

    world: World
    _before: Moment | None = None

    def look(self) -> None:
        """Announce what has become different since the last look."""
        world, last = self.world, self.world.loop.last
        if not last.finished:
            return
        now = Moment(
            desired=last.desired,
            state=last.state,
            intent=world.intent,
            rules=world.loop.rules,
            engine_fault="" if last.engine_up else last.engine_fault or "it does not answer",
            problems=tuple(last.problems),
            failures=tuple(str(failure) for failure in last.failures),
            workers=tuple(world.data_plane.workers()),
            listeners=world.data_plane.listeners(),
            ended=dict(world.loop.ended),
            logins=dict(world.logins_seen),
        )
        before, self._before = self._before, now
        try:
            found = first_changes(now) if before is None else changes(before, now)
        except Exception:  # events are for those who watch: nothing that is watched may end with them
            log.exception("what has changed is not told")
        else:
            world.events.emit_all(found)

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)
