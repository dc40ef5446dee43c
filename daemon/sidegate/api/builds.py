"""The verb build: an app's image, by the engine, with the app's variables for builds."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from sidegate.api import schemas
from sidegate.api.progress import Progress
from sidegate.api.work import Builder
from sidegate.api.world import World
from sidegate.core import builds
from sidegate.core.builds import BuildLog, BuildOrder
from sidegate.core.env import check_key, check_value
from sidegate.core.model import DATABASE_PORT, check_name
from sidegate.errors import BuildFailedError, InvalidInputError, RefusedError

FROM = "FROM "
EXITED = re.compile(r"The command '.*' returned a non-zero code: (\d+)", re.DOTALL)
"""What the engine says of a step that failed, after the step itself."""


@dataclass(frozen=True, slots=True)
class BuildVerbs:
    """Builds of apps' images. One that is cancelled ends at the engine, too."""

    world: World

    async def build(
        self, app: str, asked: schemas.BuildQuery, context: AsyncIterator[bytes], progress: Progress
    ) -> schemas.Built:
        """Build an image from a tar archive. The app need not be there yet. Nothing of it is deployed.

        Raises InvalidInputError, RefusedError, EngineUnavailableError, BuildFailedError with the step and the last
        lines, and with the reason where it looked for an internal connection.
        """
        world = self.world
        if world.builds is None:
            raise RefusedError("this daemon cannot build")
        await world.seen()
        if check_name(app) in world.databases:
            raise RefusedError(f"{app} is a database: builds are for apps")
        given = _decoded(asked.build_args)
        variables = world.intent.env.get(app, ())
        order = BuildOrder(
            tag=builds.check_tag(asked.tag or f"{world.loop.rules.instance}/{app}"),
            dockerfile=asked.file,
            arguments=builds.arguments(variables, given),
            no_cache=asked.no_cache,
            pull=asked.pull,
        )
        warnings = self._warnings(app, order.arguments)
        for warning in warnings:
            progress(f"warning: {warning}")
        secrets = [v.value for v in variables if v.secret and order.arguments.get(v.key) == v.value]
        began = world.clock()
        image_id = await self._run(world.builds, app, order, context, BuildLog(secrets), progress)
        return schemas.Built(
            app=app,
            tag=order.tag,
            image_id=image_id,
            seconds=round(world.clock() - began, 1),
            arguments=sorted(order.arguments),
            notes=warnings,
        )

    async def _run(
        self,
        builder: Builder,
        app: str,
        order: BuildOrder,
        context: AsyncIterator[bytes],
        log: BuildLog,
        progress: Progress,
    ) -> str:
        """Build to the end and tell of each line; returns the image's id."""
        image_id = error = ""
        async with aclosing(builder.build(context, order)) as said:
            async for line in said:
                for text in log.feed(line.text):
                    progress(text)
                image_id, error = line.image_id or image_id, line.error or error
        for text in log.end():
            progress(text)
        if error:
            raise BuildFailedError(self._failure(app, order, log, log.hide(error)))
        if not image_id:
            raise BuildFailedError(
                f"the build of {app} ended without an image: the engine gave up on it, its log says why"
            )
        return image_id

    def _warnings(self, app: str, arguments: Mapping[str, str]) -> list[str]:
        """What is known of these arguments before the build begins."""
        known = (self.world.apps | self.world.databases) - {app}
        hosts = builds.internal_hosts(arguments, known)
        closed = builds.closed_doors(arguments, self.world.intent.externals, self.world.external_host())
        return [
            *(self._explanation(app, name, arguments, keys) for name, keys in hosts.items()),
            *(builds.closed_door(name, keys) for name, keys in closed.items()),
        ]

    def _explanation(self, app: str, name: str, arguments: Mapping[str, str], keys: Sequence[str]) -> str:
        external = self.world.intent.externals.get(name)
        details = f"{self.world.external_host()}:{external.port}" if external and external.enabled else ""
        ports = [key for key, value in arguments.items() if keys and value == str(DATABASE_PORT)]
        both = {v.key for v in self.world.intent.env.get(app, ()) if v.scope == "both"}
        return builds.explanation(
            app,
            name,
            keys=keys,
            ports=ports,
            shared=[key for key in (*keys, *ports) if key in both],
            database=name in self.world.databases,
            details=details,
        )

    def _failure(self, app: str, order: BuildOrder, log: BuildLog, error: str) -> str:
        """Where it failed, why, its last lines, and what to do."""
        known = (self.world.apps | self.world.databases) - {app}
        given = builds.internal_hosts(order.arguments, known)
        where = f" in step {log.step}" if log.step else ""
        reason = f"exit status {found[1]}" if (found := EXITED.fullmatch(error.strip())) else error.strip()
        parts = [f"the build of {app} failed{where}: {reason}"]
        if said := [line for line in log.last if line != error.strip()]:
            parts.append("\n".join(["its last lines:", *(f"  {line}" for line in said)]))
        if name := builds.looked_up([*log.failed_lookups, error], known, given):
            parts.append(self._explanation(app, name, order.arguments, given.get(name, ())))
        elif image := _base_image(log.step):
            parts.append(
                f"{image} is not on this node and was not to be had: `docker pull {image}` where there is a network, "
                "`docker load` where there is none"
            )
        return "\n".join(parts)


def _base_image(step: str) -> str:
    """The image of a FROM; empty for any other step."""
    words = step.partition(f"({FROM}")[2].rstrip(")").split()
    return next((word for word in words if not word.startswith("--")), "")


def _decoded(text: str) -> dict[str, str]:
    """Arguments as they travel. Raises InvalidInputError."""
    try:
        given = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise InvalidInputError(f"build_args is no JSON object of texts: {error}") from None
    for key, value in given.items():
        check_value(check_key(key), value)
    return given
