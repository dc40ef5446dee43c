"""Finding what people named: an app or a database that is known, or an error that lists those that are."""

import difflib
from collections.abc import Collection

from sidegate.api.world import World
from sidegate.core.model import check_name
from sidegate.errors import NotFoundError

LISTED = 20  # names in one sentence; more do not help anybody


async def require_app(world: World, name: str) -> str:
    """Return `name` if it is an app's. Raises InvalidInputError, NotFoundError."""
    await look_again(world, check_name(name))
    if name not in world.apps:
        hint = f": {name} is a database" if name in world.databases else ""
        raise not_found(world, "app", name, world.apps, hint)
    return name


async def require_database(world: World, name: str) -> str:
    """Return `name` if it is a database's. Raises InvalidInputError, NotFoundError."""
    await look_again(world, check_name(name))
    if name not in world.databases:
        hint = f": {name} is an app" if name in world.apps else ""
        raise not_found(world, "database", name, world.databases, hint)
    return name


async def look_again(world: World, *names: str) -> None:
    """A container may be so new that no pass has seen it: where a name is not known, wait for one that has."""
    await world.seen()
    if not set(names) <= world.apps | world.databases:
        await world.settle()


def not_found(world: World, kind: str, name: str, known: Collection[str], hint: str = "") -> NotFoundError:
    """The error that names near misses first, then everything there is."""
    text = f"there is no {kind} {name!r}"
    if hint:
        text += hint
    elif close := near(name, known):
        text += f": did you mean {close}?"
    text += f" (known: {listed(known)})" if known else f" (no {kind} is known)"
    if not world.loop.last.engine_up:
        text += "; the Docker engine does not answer, so containers that were not seen before are missing"
    return NotFoundError(text)


def near(name: str, known: Collection[str]) -> str:
    """The known name that `name` may be a slip of; empty when there is none."""
    return next(iter(difflib.get_close_matches(name, sorted(set(known) - {name}), 1, cutoff=0.7)), "")


def listed(known: Collection[str]) -> str:
    """Names for a sentence, the first LISTED of them."""
    shown = sorted(known)[:LISTED]
    more = len(known) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
