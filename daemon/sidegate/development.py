"""What `sidegate run --dev` sets: a daemon of an ordinary user for the compose projects of one machine.

Everything is a default, which a file and SIDEGATE_ variables still override.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sidegate.core.directories import user_config, user_runtime, user_state
from sidegate.errors import DataPlaneError, SettingsError, SidegateError
from sidegate.settings import DEFAULTS, Settings, load

HTTP_PORT, HTTPS_PORT = 8080, 8443


def development_defaults(environ: Mapping[str, str]) -> Settings:
    """The settings of `--dev` where nothing else is said."""
    return replace(
        DEFAULTS,
        state_dir=user_state(environ),
        runtime_dir=user_runtime(environ),
        http_port=HTTP_PORT,
        https_port=HTTPS_PORT,
        listen="loopback",
        discover="all",
        isolation="report",
        forwarder="userspace",
    )


def development_settings(config: Path | None, environ: Mapping[str, str]) -> Settings:
    """With the file at `config`, else the user's own where there is one; never the node's. Raises SettingsError."""
    return load(config or _own_file(environ), environ, development_defaults(environ))


def _own_file(environ: Mapping[str, str]) -> Path:
    """One that is there and cannot be read counts: that is for `load` to say."""
    own = user_config(environ)
    try:
        own.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.devnull)
    except OSError:
        pass
    return own


def greeting(settings: Settings, engine_fault: str) -> str:
    """What to tell who has just started it."""
    port = "" if settings.http_port == 80 else f":{settings.http_port}"
    lines = [
        f"compose services answer at http://SERVICE.PROJECT.{settings.base_domain}{port}",
        f"`sidegate status` in another terminal says which; its socket is {settings.runtime_dir / 'control.sock'}",
    ]
    if engine_fault:
        lines.append(engine_fault)
    return "\n".join(f"sidegate: {line}" for line in lines)


def ordinary_user_hint(error: SidegateError) -> str:
    """What to add to an error that ended a daemon which was not started with --dev."""
    if os.geteuid() == 0 or not isinstance(error, SettingsError | DataPlaneError):
        return ""
    return "; a node's daemon is run by root. For your own compose projects: `sidegate run --dev`"
