"""The verbs of external connections: on, off, show, ls, sessions."""

import asyncio
from dataclasses import dataclass

from sidegate.api import schemas
from sidegate.api.logins import known_login
from sidegate.api.names import require_database
from sidegate.api.world import Pass, World
from sidegate.core.database_engines import DatabaseEngine
from sidegate.core.model import DatabaseDetails, External
from sidegate.core.plan import CloseForwarder, OpenForwarder
from sidegate.core.sessions import Session
from sidegate.errors import DataPlaneError, InvalidInputError, PortInUseError, RefusedError, SidegateError
from sidegate.log import get_logger

PORTS_TRIED = 16  # free by the look of it, yet refused when bound: more than a few are no accident

log = get_logger("api")


@dataclass(frozen=True, slots=True)
class ExternalVerbs:
    """One public forwarder per database: its port is chosen once and stays."""

    world: World

    async def on(self, name: str, port: int | None = None) -> schemas.ExternalView:
        """Listen, on the port that it always had, on `port`, or on the lowest free one; returns once that is so.

        Raises NotFoundError, InvalidInputError (`port` out of range), RefusedError (`port` is another database's),
        PortInUseError naming the holder, DataPlaneError; then everything is as it was.
        """
        await require_database(self.world, name)
        if port is not None:
            self._check_port(name, port)
        previous = self.world.intent.externals.get(name)
        stable = port if port is not None else previous.port if previous else None
        if stable is not None:
            await self._open(name, stable, previous)
        else:
            await self._open_lowest(name)
        return await self._shown_on(name)

    async def off(self, name: str) -> schemas.ExternalView:
        """Refuse from now on and cut every session; the port stays the database's. Off already is fine.

        Works without the Docker engine. Raises NotFoundError, DataPlaneError.
        """
        await require_database(self.world, name)
        previous = self.world.intent.externals.get(name)
        cut = len(await self._sessions(name))
        if previous and previous.enabled:
            async with self.world.writing:
                await self.world.store.set_external(name, previous.port, enabled=False)
        passed = await self.world.settle()
        if name in self.world.data_plane.listeners():
            raise _failure(passed, name) or DataPlaneError(f"{name} is still open: see `sidegate status`")
        return await self._view(name, sessions_cut=cut)

    async def show(self, name: str) -> schemas.ExternalView:
        """Whether it is on, where, and who is on it. Raises NotFoundError."""
        await require_database(self.world, name)
        return await self._view(name, warnings=self._warnings(name))

    async def ls(self) -> list[schemas.ExternalView]:
        """Every database's external connection."""
        await self.world.seen()
        return list(await asyncio.gather(*map(self._view, sorted(self.world.databases))))

    async def sessions(self, name: str) -> list[schemas.SessionView]:
        """The clients of an external connection, the oldest first. Raises NotFoundError."""
        await require_database(self.world, name)
        return [
            schemas.SessionView(
                database=s.database,
                client=s.client,
                since=s.since,
                bytes_sent=s.bytes_sent,
                bytes_received=s.bytes_received,
            )
            for s in sorted(await self._sessions(name), key=lambda s: s.since)
        ]

    # --- opening

    def _check_port(self, name: str, port: int) -> None:
        ports = self.world.external_ports
        if port not in ports:
            raise InvalidInputError(f"port {port} is not in external_ports: use one of {ports.start}-{ports.stop - 1}")
        for other, external in self.world.intent.externals.items():
            if other != name and external.port == port:
                raise RefusedError(f"port {port} is kept for {other}: choose another, or leave the choice to Sidegate")

    async def _open_lowest(self, name: str) -> None:
        """Try the free ports from below: one may be taken between a look and the bind, or out of our sight."""
        tried: set[int] = set()
        while True:
            async with self.world.writing:
                given = {external.port for other, external in self.world.intent.externals.items() if other != name}
                candidates = (p for p in self.world.external_ports if p not in given | tried)
                port = next((p for p in candidates if not self.world.port_holder(p)), None)
                if port is None:
                    ports = self.world.external_ports
                    raise RefusedError(f"no port of external_ports {ports.start}-{ports.stop - 1} is free")
                await self.world.store.set_external(name, port, enabled=True)
            tried.add(port)
            try:
                return await self._settle_open(name, port, None)
            except PortInUseError:
                if len(tried) == PORTS_TRIED:
                    raise

    async def _open(self, name: str, port: int, previous: External | None) -> None:
        open_here = self.world.data_plane.listeners().get(name) == port
        if not open_here and (holder := self.world.port_holder(port)):
            raise PortInUseError(f"cannot open {name}: port {port} is held by {holder}")
        async with self.world.writing:
            self._check_free(name, port)
            await self.world.store.set_external(name, port, enabled=True)
        await self._settle_open(name, port, previous)

    def _check_free(self, name: str, port: int) -> None:
        if any(external.port == port for other, external in self.world.intent.externals.items() if other != name):
            raise RefusedError(f"port {port} was just given to another database: choose another")

    async def _settle_open(self, name: str, port: int, previous: External | None) -> None:
        """Wait until it listens, or put back what was before and say why."""
        try:
            passed = await self.world.settle()
            if self.world.data_plane.listeners().get(name) == port:
                return
            fault = _failure(passed, name) or DataPlaneError(f"{name} does not listen on port {port}")
        except SidegateError as error:
            fault = error
        async with self.world.writing:
            if self.world.intent.externals.get(name) == External(port, enabled=True):
                if previous is None:
                    await self.world.store.forget_external(name)
                else:
                    await self.world.store.set_external(name, previous.port, enabled=previous.enabled)
        self.world.loop.wake()
        raise fault

    # --- telling

    async def _shown_on(self, name: str) -> schemas.ExternalView:
        advice = f"turn it off when it is not in use: sidegate external off {name}"
        return await self._view(name, advice=advice, warnings=self._warnings(name))

    def _warnings(self, name: str) -> list[str]:
        external = self.world.intent.externals.get(name)
        if not external or not external.enabled:
            return []
        warnings = []
        database = self.world.discovery.databases.get(name)
        if not self.world.loop.last.engine_up:
            warnings.append(f"the Docker engine does not answer: {self.world.loop.last.engine_fault}")
        elif database is None:
            warnings.append(f"{name} has no container: clients are turned away until it has one")
        elif not database.container.running:
            warnings.append(f"{database.container.name} is {database.container.state}: clients are turned away")
        if database and database.container.published_ports:
            ports = ", ".join(map(str, database.container.published_ports))
            warnings.append(f"{database.container.name} publishes port {ports} itself, which no switch of ours closes")
        return warnings

    async def _view(
        self,
        name: str,
        *,
        advice: str | None = None,
        warnings: list[str] | None = None,
        sessions_cut: int | None = None,
    ) -> schemas.ExternalView:
        external = self.world.intent.externals.get(name)
        engine, details = await known_login(self.world, name)
        host, port = self.world.external_host(), external.port if external else None
        return schemas.ExternalView(
            database=name,
            enabled=bool(external and external.enabled),
            listening=port is not None and self.world.data_plane.listeners().get(name) == port,
            host=host,
            port=port,
            sessions=len(await self._sessions(name)),
            user=details.user or None,
            schema=details.schema or None,
            url=_open_url(engine, details, host, port),
            command=engine.command(details, host, port) if engine and details.user and port is not None else None,
            advice=advice,
            warnings=warnings or [],
            sessions_cut=sessions_cut,
        )

    async def _sessions(self, name: str) -> list[Session]:
        if name not in self.world.data_plane.listeners():
            return []
        try:
            return list(await self.world.data_plane.sessions(name))
        except SidegateError as error:
            log.warning("sessions not known", database=name, error=str(error))
            return []


def _open_url(engine: DatabaseEngine | None, details: DatabaseDetails, host: str, port: int | None) -> str | None:
    """The URL without its password, which only `credentials` tells."""
    if engine is None or port is None or not details.user:
        return None
    login = DatabaseDetails(user=details.user, schema=details.schema)
    return engine.url(login, host, port).replace(":@", "@", 1)


def _failure(passed: Pass, name: str) -> SidegateError | None:
    """Why a pass could not do what was asked of a database's forwarder."""
    actions = (OpenForwarder, CloseForwarder)
    faults = (f.error for f in passed.failures if isinstance(f.action, actions) and f.action.database == name)
    return next(faults, None)
