"""The command line as people have it, but that completion waits for a daemon that a busy machine holds up."""

import shlex
import sys
from pathlib import Path

COMMAND = (
    sys.executable,
    "-c",
    "from sidegate.cli import completing, main; completing.SECONDS = 30.0; main()",
)


def program(directory: Path) -> str:
    """A file there that runs it."""
    path = directory / "sidegate"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    path.chmod(0o755)
    return str(path)
