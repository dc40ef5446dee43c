"""The environment that containers of an app are to have, and what of the one they have is out of date.

What Sidegate gives is the stored variables for run time, and PORT. Everything else that a container has is its own or
its image's, and is left alone.
"""

import hashlib
from collections.abc import Mapping

from sidegate.core.env import select
from sidegate.core.model import Container, Intent

PORT = "PORT"


def digest(value: str) -> str:
    """What is kept of a value that Sidegate no longer gives: its SHA-256, in hex."""
    return hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()


def given(app: str, intent: Intent) -> dict[str, str]:
    """What Sidegate gives each container of an app, by key. A port that was set wins over a variable named PORT."""
    variables = {variable.key: variable.value for variable in select(intent.env.get(app, ()), "runtime")}
    if port := intent.ports.get(app):
        variables[PORT] = str(port)
    return variables


def environment(present: Mapping[str, str], app: str, intent: Intent) -> dict[str, str]:
    """What a container that takes the place of one with the environment `present` has."""
    retired = intent.retired.get(app, frozenset())
    kept = {key: value for key, value in present.items() if (key, digest(value)) not in retired}
    return kept | given(app, intent)


def stale_keys(container: Container, app: str, intent: Intent) -> tuple[str, ...]:
    """Keys of a container's environment that are not as they would be if it were made now, sorted (B5).

    What is taken from it, it has from its image again where that has a value of its own.
    """
    inherited = {key: value for key, value in container.image_env.items() if key in container.env}
    wanted = inherited | environment(container.env, app, intent)
    keys = container.env.keys() | wanted.keys()
    return tuple(sorted(key for key in keys if container.env.get(key) != wanted.get(key)))
