"""The verbs of databases whose containers Sidegate makes itself: db create, db rm."""

import asyncio
import contextlib
from dataclasses import dataclass, replace

from sidegate.api import schemas
from sidegate.api.logins import check_login
from sidegate.api.names import look_again, require_database
from sidegate.api.passwords import PasswordVerbs
from sidegate.api.progress import Progress, unheard
from sidegate.api.work import Volumes, Workloads
from sidegate.api.world import World
from sidegate.core.database_engines import DATABASE_ENGINES, DatabaseEngine
from sidegate.core.desired import home_network
from sidegate.core.model import DatabaseDetails, OwnDatabase, check_name
from sidegate.core.own_databases import container_name, container_spec, first_login, volume_name
from sidegate.core.passwords import check_password
from sidegate.core.workloads import ImageInfo
from sidegate.errors import EngineError, InvalidInputError, NotFoundError, RefusedError, SidegateError

LOGIN_SECONDS = 180.0  # from its start: a first start makes the database
LOOK_SECONDS = 0.25
LOG_LINES = 20


@dataclass(frozen=True, slots=True)
class OwnDatabaseVerbs:
    """A container and a named volume per database, on its home network and on no other."""

    world: World
    passwords: PasswordVerbs

    async def create(
        self, asked: schemas.CreateDatabaseRequest, progress: Progress = unheard
    ) -> schemas.DatabaseCreated:
        """Make a database and wait until it takes logins.

        Raises InvalidInputError, RefusedError (the name or the volume is there already), NotFoundError (no such image),
        EngineError with the container's last lines where it does not come up; then what was made is gone again.
        """
        name, engine = check_name(asked.name), _engine(asked.engine)
        details = self._login(asked, engine)
        await look_again(self.world, name)
        if name in self.world.apps | self.world.databases:
            kind = "an app" if name in self.world.apps else "a database"
            raise RefusedError(f"there is {kind} {name} already: choose another name")
        workloads, volumes = self._engine_calls()
        volume = volume_name(name, self.world.loop.rules)
        container = container_name(name, self.world.loop.rules)
        if await workloads.snapshots([container]):  # what fails from here on is undone: by its name it would go
            raise RefusedError(f"there is a container {container} already, and it is not {name}: remove or rename it")
        await _check_volume(volumes, volume, name, wanted=asked.existing_volume)
        image_name = asked.image or engine.image
        image = await _image(workloads, image_name, progress)
        own = OwnDatabase(engine.name, image_name, volume)
        async with self.world.writing:
            if name in self.world.apps | self.world.databases:
                raise RefusedError(f"the name {name} was just taken: choose another")
            await self.world.store.set_own_database(name, own)
            await self.world.store.set_database_details(name, details)
        began = self.world.clock()
        try:
            await self._bring_up(name, own, engine, image, details, progress)
        except BaseException:
            await asyncio.shield(self._undo(name, volume if not asked.existing_volume else None))
            raise
        given = None if asked.existing_volume else asked.password
        if given is not None:
            await self.passwords.change(name, schemas.PasswordRequest(password=given), progress)
        seconds = self.world.clock() - began
        progress(f"{name} takes logins after {seconds:.1f} s")
        return schemas.DatabaseCreated(
            database=name,
            engine=engine.name,
            image=image_name,
            container=container,
            volume=volume,
            user=details.user,
            password=details.password if asked.password is None else None,
            schema=details.schema,
            seconds=round(seconds, 3),
        )

    async def rm(self, name: str, *, volume: bool = False, progress: Progress = unheard) -> schemas.DatabaseRemoved:
        """Remove a database that Sidegate made, its data only with `volume`; of one that others run, forget what is
        known. Its connections end, with the variables that they added. Raises NotFoundError, RefusedError."""
        await require_database(self.world, name)
        own = self.world.intent.own_databases.get(name)
        if volume and own is None:
            raise RefusedError(f"{name} was not made by Sidegate, and neither was its volume: remove that yourself")
        removed = None
        if own is not None:
            workloads, _ = self._engine_calls()
            removed = container_name(name, self.world.loop.rules)
            progress(f"stopping {removed}")
            await _remove(workloads, removed)
        async with self.world.writing:
            before = self.world.intent
            external = before.externals.get(name)
            partners = self.world.partners(name)
            await self.world.store.forget_database(name)
        after = self.world.intent
        if volume and own is not None:
            progress(f"removing the volume {own.volume}")
            await self._engine_calls()[1].remove(own.volume)
        await self.world.settle()
        kept = None if own is not None else self.world.discovery.databases.get(name)
        return schemas.DatabaseRemoved(
            database=name,
            container=removed,
            kept_container=kept.container.name if kept else None,
            volume=own.volume if own and volume else None,
            kept_volume=own.volume if own and not volume else None,
            disconnected=partners,
            external_port=external.port if external else None,
            variables_removed=sum(map(len, before.env.values())) - sum(map(len, after.env.values())),
        )

    def _engine_calls(self) -> tuple[Workloads, Volumes]:
        if self.world.workloads is None or self.world.volumes is None:
            raise RefusedError("this daemon makes no containers")
        return self.world.workloads, self.world.volumes

    def _login(self, asked: schemas.CreateDatabaseRequest, engine: DatabaseEngine) -> DatabaseDetails:
        details = first_login(asked.name, engine, asked.user, asked.schema)
        if not asked.existing_volume:
            if asked.password is not None:
                check_password(asked.password, engine)
            return details
        if not asked.password:
            raise InvalidInputError(
                "a volume has its login in it: give its password (--stdin), and its user and schema"
            )
        return replace(details, password=asked.password, root_password="")

    async def _bring_up(
        self,
        name: str,
        own: OwnDatabase,
        engine: DatabaseEngine,
        image: ImageInfo,
        details: DatabaseDetails,
        progress: Progress,
    ) -> None:
        workloads, rules = self._engine_calls()[0], self.world.loop.rules
        home, container = home_network(name, rules), container_name(name, rules)
        progress(f"making {container} of {own.image}")
        passed = await self.world.settle()
        if not any(network.name == home for network in passed.state.networks):
            raise EngineError(f"{name} was not made, since its network {home} was not: see `sidegate status`")
        made = await workloads.create(container_spec(name, own, engine, image, details, rules, home), container)
        await workloads.start(made)
        progress(f"waiting until {name} takes logins")
        await self._wait(name, container, made, details)

    async def _wait(self, name: str, container: str, container_id: str, details: DatabaseDetails) -> None:
        """Until a login succeeds. Raises EngineError with the container's last lines."""
        workloads = self._engine_calls()[0]
        deadline = self.world.clock() + LOGIN_SECONDS
        while True:
            login = await check_login(self.world, name)
            if login == "ok":
                return
            found = (await workloads.snapshots([container])).get(container)
            if found is None:
                raise EngineError(f"{name} was not made: somebody removed {container}")
            ended = found.restart_count or found.container.state in ("exited", "dead", "restarting")
            if ended or self.world.clock() > deadline:
                why = "its container ended" if ended else f"it takes no logins ({login})"
                with contextlib.suppress(SidegateError):
                    why += f"; its last lines:\n{await workloads.logs(container_id, LOG_LINES)}"
                for secret in filter(None, (details.password, details.root_password)):
                    why = why.replace(secret, "***")
                raise EngineError(f"{name} was not made: {why}")
            await asyncio.sleep(LOOK_SECONDS)  # a server that takes logins tells nobody

    async def _undo(self, name: str, volume: str | None) -> None:
        """Take away what was made. A failure is not raised: why it failed first is what counts."""
        workloads, volumes = self._engine_calls()
        with contextlib.suppress(SidegateError):
            await _remove(workloads, container_name(name, self.world.loop.rules))
            if volume is not None:
                await volumes.remove(volume)
        with contextlib.suppress(SidegateError):
            async with self.world.writing:
                await self.world.store.forget_database(name)
            await self.world.settle()


async def remove_containers(world: World) -> None:
    """For a purge: the containers that Sidegate made for databases; their volumes stay."""
    own = world.intent.own_databases
    if own and world.workloads is not None:
        names = [container_name(name, world.loop.rules) for name in own]
        await asyncio.gather(*(_remove(world.workloads, name) for name in names))


def _engine(name: str) -> DatabaseEngine:
    if name not in DATABASE_ENGINES:
        raise InvalidInputError(f"{name!r} is not a database engine that is known: {', '.join(DATABASE_ENGINES)}")
    return DATABASE_ENGINES[name]


async def _check_volume(volumes: Volumes, volume: str, name: str, *, wanted: bool) -> None:
    there = await volumes.exists(volume)
    if there and not wanted:
        raise RefusedError(
            f"the volume {volume} is there already, with the data of an earlier {name}: take it up again with "
            f"`--existing-volume`, or remove it with `docker volume rm {volume}`"
        )
    if wanted and not there:
        raise NotFoundError(f"there is no volume {volume} to be taken up again")


async def _image(workloads: Workloads, reference: str, progress: Progress) -> ImageInfo:
    """The image, fetched where this node does not have it."""
    try:
        return await workloads.image(reference)
    except NotFoundError:
        progress(f"fetching the image {reference}")
        await workloads.pull(reference, progress)
        return await workloads.image(reference)


async def _remove(workloads: Workloads, container: str) -> None:
    """Stop a container in its own time and remove it; not there is fine."""
    found = (await workloads.snapshots([container])).get(container)
    if found is not None:
        await workloads.stop(found.id)
        await workloads.remove(found.id, volumes=True)
