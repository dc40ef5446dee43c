"""Where a daemon of one user's own keeps its things: the XDG base directories.

Source: https://specifications.freedesktop.org/basedir-spec/latest/. A variable that holds a relative path counts as
unset, as it says there.
"""

from collections.abc import Mapping
from pathlib import Path

NAME = "sidegate"


def user_state(environ: Mapping[str, str]) -> Path:
    """The database and the certificates of `sidegate run --dev`."""
    return _base(environ, "XDG_STATE_HOME", ".local/state") / NAME


def user_runtime(environ: Mapping[str, str]) -> Path:
    """Its control socket: beside its state where the session has no runtime directory."""
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    return runtime / NAME if runtime.is_absolute() else user_state(environ) / "run"


def user_config(environ: Mapping[str, str]) -> Path:
    """Its settings, which need not be there."""
    return _base(environ, "XDG_CONFIG_HOME", ".config") / NAME / "sidegate.toml"


def _base(environ: Mapping[str, str], variable: str, usual: str) -> Path:
    given, home = Path(environ.get(variable, "")), Path(environ.get("HOME", ""))
    return given if given.is_absolute() else (home if home.is_absolute() else Path("/")) / usual
