"""Which running containers have an environment that is out of date, in which keys, and what to do about it."""

from collections.abc import Sequence

from sidegate.api.schemas import StaleView
from sidegate.api.world import World
from sidegate.core.environment import stale_keys
from sidegate.core.labels import App


def stale_containers(world: World, app: str) -> list[StaleView]:
    """Running containers of an app whose environment is not what they would be given now; names of keys only."""
    intent = world.intent
    if not (app in intent.env or app in intent.retired or app in intent.ports):
        return []
    containers = [replica.container for replica in world.discovery.apps.get(app, App(app)).replicas]
    found = ((c.name, stale_keys(c, app, intent)) for c in containers if c.running and not c.stopping)
    return [StaleView(container=name, keys=list(keys)) for name, keys in found if keys]


def stale_apps(world: World) -> list[str]:
    """Apps that have such containers, sorted."""
    return [app for app in sorted(world.discovery.apps) if stale_containers(world, app)]


def stale_note(app: str, stale: Sequence[StaleView]) -> list[str]:
    """What to tell of them; nothing where there are none."""
    if not stale:
        return []
    named = ", ".join(f"{view.container} ({', '.join(view.keys)})" for view in stale)
    return [
        f"running containers of {app} have an environment that is out of date: {named}; "
        f"`sidegate app redeploy {app}` brings it up to date"
    ]
