"""What an app's containers write."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from sidegate.api import schemas
from sidegate.api.names import require_app
from sidegate.api.progress import Progress, unheard
from sidegate.api.work import Workloads
from sidegate.api.world import World
from sidegate.core.model import Container
from sidegate.errors import InvalidInputError, NotFoundError, RefusedError, SidegateError

MOST_LINES = 10_000
LOOK_SECONDS = 0.5  # between two looks for containers that have come since


@dataclass(frozen=True, slots=True)
class LogVerbs:
    """Logs as the engine keeps them, each line with its container's name where there are several."""

    world: World

    async def logs(self, app: str, asked: schemas.LogsQuery, progress: Progress = unheard) -> schemas.Logs:
        """The last lines of each container, those that ended included; followed, also those that containers write that
        come later. Raises NotFoundError, InvalidInputError, RefusedError."""
        if not 0 <= asked.tail <= MOST_LINES:
            raise InvalidInputError(f"tail {asked.tail} is not between 0 and {MOST_LINES}")
        await require_app(self.world, app)
        if asked.follow and progress is unheard:
            raise InvalidInputError("what is followed is told in lines: accept application/x-ndjson (Accept)")
        if self.world.workloads is None:
            raise RefusedError("this daemon reads no logs")
        containers = self.world.discovery.containers(app)
        if asked.follow:
            return await self._follow(app, asked.tail, progress, self.world.workloads)
        lines: list[str] = []
        for container in containers:
            prefix = f"{container.name} | " if len(containers) > 1 else ""
            text = await self.world.workloads.logs(container.id, asked.tail) if asked.tail else ""
            lines += [prefix + line for line in text.splitlines()]
        return schemas.Logs(app=app, containers=[c.name for c in containers], lines=lines)

    async def _follow(self, app: str, tail: int, progress: Progress, workloads: Workloads) -> schemas.Logs:
        seen: dict[str, str] = {}
        ended: dict[str, float] = {}

        async def follow(container: Container, lines: int, prefix: str, since: float = 0.0) -> None:
            try:
                async with aclosing(workloads.follow(container.id, lines, since)) as found:
                    async for line in found:
                        progress(prefix + line.text)
            except NotFoundError:
                pass  # it has gone meanwhile
            except SidegateError as error:
                progress(f"{container.name}: cannot be followed any more: {error}")
            else:
                ended[container.id] = self.world.wall()

        async with asyncio.TaskGroup() as group:
            while True:
                containers = self.world.discovery.containers(app)
                for container in containers:
                    if container.id not in seen:
                        prefix = f"{container.name} | " if len(containers) > 1 or seen else ""
                        # One that has come since is followed from its first line.
                        lines = MOST_LINES if seen and container.id not in seen else tail
                        group.create_task(follow(container, lines, prefix))
                    elif container.running and (since := ended.pop(container.id, 0.0)):
                        prefix = f"{container.name} | " if len(seen) > 1 else ""
                        group.create_task(follow(container, MOST_LINES, prefix, since))  # it was begun anew
                seen |= {container.id: container.name for container in containers}
                await asyncio.sleep(LOOK_SECONDS)
