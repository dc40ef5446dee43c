"""What is known of a database's login, and whether it is true.

What people gave wins over the container's own variables; `_FILE` forms are read in the container. Nothing is guessed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from sidegate.api.world import World
from sidegate.core.database_engines import (
    DATABASE_ENGINES,
    DatabaseEngine,
    details_in_environment,
    effective_details,
    with_implied,
)
from sidegate.core.desired import database_port, home_network
from sidegate.core.labels import Database
from sidegate.core.model import DatabaseDetails
from sidegate.errors import LoginFailedError, SidegateError

CHECK_SECONDS = 3.0
PARTS = ("user", "password", "schema", "root_password")


async def resolve_details(
    database: Database, given: DatabaseDetails, read_file: Callable[[str, str], Awaitable[bytes]]
) -> DatabaseDetails:
    """The login to use for a database that has a container; parts that nobody says are empty.

    `read_file(container_id, path)` reads inside the container; a file that cannot be read leaves its part unknown.
    """
    engine = DATABASE_ENGINES[database.engine]
    found, files = details_in_environment(engine, database.container.env)
    for part in PARTS:
        path = getattr(files, part)
        if path and not getattr(found, part) and not getattr(given, part):
            found = replace(found, **{part: await _read(read_file, database.container.id, path)})
    return effective_details(engine, given, with_implied(engine, found, files))


async def _read(read_file: Callable[[str, str], Awaitable[bytes]], container_id: str, path: str) -> str:
    try:
        content = await read_file(container_id, path)
        return content.decode().rstrip("\n")  # as the images' own $(<file) does
    except (SidegateError, UnicodeDecodeError):
        return ""


async def known_login(world: World, name: str) -> tuple[DatabaseEngine | None, DatabaseDetails]:
    """A database's engine (None while it has no container) and its login."""
    given = world.intent.databases.get(name, DatabaseDetails())
    database = world.discovery.databases.get(name)
    if database is None:
        return None, given
    details = await resolve_details(database, given, world.engine.read_file)
    return DATABASE_ENGINES[database.engine], details


def unknown_parts(details: DatabaseDetails) -> list[str]:
    """What of user, password and schema nobody has said."""
    return [part for part in ("user", "password", "schema") if not getattr(details, part)]


def login_fault(world: World, name: str) -> str:
    """That the last login at a database that was tried failed, and why; empty: it did not, or none was tried."""
    outcome, _, why = world.logins_seen.get(name, "").partition(": ")
    return f"the last login at {name} that was tried failed: {why}" if outcome == "refused" else ""


async def check_login(world: World, name: str) -> str:
    """A real login over the database's home network: "ok", "refused: …" or "unknown: …", within 3 s."""
    outcome = world.logins_seen[name] = await _log_in(world, name)
    return outcome


async def _log_in(world: World, name: str) -> str:
    database = world.discovery.databases.get(name)
    if database is None:
        return "unknown: it has no container"
    container = database.container
    endpoint = container.endpoint(home_network(name, world.loop.rules))
    if not container.running:
        return f"unknown: {container.name} is {container.state}"
    if endpoint is None or not endpoint.address:
        return f"unknown: {container.name} is not on its home network yet"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            _, details = await known_login(world, name)
            if not (details.user and details.password):
                return f"unknown: give its {' and '.join(unknown_parts(details))} with `sidegate db set {name}`"
            port = database_port(database, world.loop.rules)
            await world.logins.check(database.engine, endpoint.address, port, details)
    except LoginFailedError as error:
        return f"refused: {error}"
    except TimeoutError:
        return f"unknown: no answer within {CHECK_SECONDS:.0f} s"
    return "ok"
