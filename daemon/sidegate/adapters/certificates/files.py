"""Files that are whole or not there at all: a crash, a kill or a full disk leaves what was there before."""

import contextlib
import os
from pathlib import Path

_TEMPORARY = ".sidegate-new-"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Put `text` at `path` in one step: a new file beside it, flushed to the disk, then renamed. Raises OSError."""
    new = path.with_name(f"{_TEMPORARY}{path.name}")
    try:
        new.unlink(missing_ok=True)  # of a daemon that was killed
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def remove(path: Path) -> bool:
    """Whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    flush(path.parent)
    return True


def flush(directory: Path) -> None:
    """Make renames and removals in a directory last over a crash."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
