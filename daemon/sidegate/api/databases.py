"""The verbs of databases: ls, show, set, credentials."""

import asyncio
import contextlib
from dataclasses import dataclass, replace

from sidegate.api import schemas
from sidegate.api.external import ExternalVerbs
from sidegate.api.external_views import external_host
from sidegate.api.logins import check_login, known_login, unknown_parts
from sidegate.api.names import require_database
from sidegate.api.world import World
from sidegate.core.desired import exposures
from sidegate.core.model import DATABASE_PORT, DatabaseDetails
from sidegate.errors import FixedPortError, InvalidInputError, NotFoundError, RefusedError

CHECKS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class DatabaseVerbs:
    """Databases that run, and those that only somebody's wish is known of."""

    world: World
    externals: ExternalVerbs

    async def ls(self, *, login: bool = True) -> list[schemas.DatabaseSummary]:
        """Every database, each with the outcome of a login, unless none is to be tried."""
        await self.world.seen()
        slots = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def summary(name: str) -> schemas.DatabaseSummary:
            async with slots:
                return self._summary(name, await check_login(self.world, name) if login else "unknown: not tried")

        return list(await asyncio.gather(*map(summary, sorted(self.world.databases))))

    async def show(self, name: str) -> schemas.DatabaseView:
        """One database: where it is, who reaches it and how. Raises NotFoundError."""
        await require_database(self.world, name)
        world, database = self.world, self.world.discovery.databases.get(name)
        open_to = exposures(database, world.state, world.loop.rules) if database else {}
        return schemas.DatabaseView(
            name=name,
            engine=database.engine if database else None,
            container=database.container.name if database else None,
            state=database.container.state if database else "absent",
            internal=f"{name}.internal:{DATABASE_PORT}",
            external=await self.externals.show(name),
            connections=world.partners(name),
            exposures=[schemas.Exposure(network=n, containers=list(c)) for n, c in open_to.items()],
            published_ports=list(database.container.published_ports) if database else [],
            login=await check_login(world, name),
            problems=world.problems(name),
            volume=own.volume if (own := world.intent.own_databases.get(name)) else None,
        )

    async def set(self, name: str, request: schemas.DatabaseRequest) -> schemas.DatabaseView:
        """Say what is known of a database's login; parts that are None stay as they are.

        Raises FixedPortError, NotFoundError, InvalidInputError, RefusedError, StoreError.
        """
        if request.port not in (None, DATABASE_PORT):
            raise FixedPortError
        await require_database(self.world, name)
        parts = {
            part: value
            for part in ("user", "password", "schema", "root_password")
            if (value := getattr(request, part)) is not None
        }
        if not parts and request.port is None:
            raise InvalidInputError("nothing to set: give a user, a password, a schema or a root password")
        for part, value in parts.items():
            if "\0" in value or (part in ("user", "schema") and not value.isprintable()):
                raise InvalidInputError(f"the {part.replace('_', ' ')} holds characters that no login can have")
        if parts:
            _, login = await known_login(self.world, name)
            async with self.world.writing:
                if parts.keys() & {"user", "password"} == {"user"} and parts["user"] != login.user:
                    self._check_nothing_under_way(name)
                given = self.world.intent.databases.get(name, DatabaseDetails())
                if "password" in parts and name in self.world.intent.passwords:
                    with contextlib.suppress(NotFoundError):  # a change that nobody knows the end of: this is its end
                        await self.world.store.end_password(name, None)
                await self.world.store.set_database_details(name, replace(given, **parts))
        return await self.show(name)

    def _check_nothing_under_way(self, name: str) -> None:
        """Raise RefusedError where it would go on with another user's password."""
        if name in self.world.intent.passwords:
            raise RefusedError(
                f"a change of the password of {name} is under way, for its present user: wait, or end it by giving "
                "the other user's password too (--password-stdin)"
            )

    async def credentials(self, name: str) -> schemas.Credentials:
        """The login with its secrets, for both ways in, and whether it works. Raises NotFoundError."""
        await require_database(self.world, name)
        engine, details = await known_login(self.world, name)
        external = self.world.intent.externals.get(name)
        host, public = f"{name}.internal", external_host(self.world, external)
        usable = engine if details.user else None
        return schemas.Credentials(
            database=name,
            engine=engine.name if engine else None,
            user=details.user or None,
            password=details.password or None,
            schema=details.schema or None,
            internal=schemas.InternalAccess(
                host=host,
                port=DATABASE_PORT,
                url=usable.url(details, host) if usable and details.password else None,
                command=usable.command(details, host) if usable else None,
            ),
            external=schemas.ExternalAccess(
                enabled=bool(external and external.enabled),
                host=public,
                port=external.port if external else None,
                url=usable.url(details, public, external.port) if usable and external and details.password else None,
                command=usable.command(details, public, external.port) if usable and external else None,
            ),
            checked=await check_login(self.world, name),
            unknown=unknown_parts(details) + ([] if engine else ["engine"]),
        )

    def _summary(self, name: str, login: str) -> schemas.DatabaseSummary:
        database = self.world.discovery.databases.get(name)
        external = self.world.intent.externals.get(name)
        on = external and external.enabled
        return schemas.DatabaseSummary(
            name=name,
            engine=database.engine if database else None,
            container=database.container.name if database else None,
            state=database.container.state if database else "absent",
            internal=f"{name}.internal:{DATABASE_PORT}",
            external=f"{external_host(self.world, external)}:{external.port}" if external and on else None,
            connections=self.world.partners(name),
            login=login,
        )
