"""One daemon per directory: an advisory lock (flock(2)) on `sidegate.lock`, for as long as the process lives.

The lock is the truth, never the file's presence: after a kill -9 the file is there and the lock is not. The file is
never removed, since whoever waits for it would then lock a name that nobody else can see. The descriptor is not
inherited over exec; a process forked without exec must close it, or it goes on holding the lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidegate.errors import AlreadyRunningError, SettingsError

FILE_NAME = "sidegate.lock"

SHARED = {
    "/": "bin boot dev etc home lib lib64 media mnt opt proc root run sbin srv sys tmp usr var",
    "/usr": "bin include lib lib64 local sbin share src",
    "/var": "cache lib local lock log mail opt run spool tmp",
}
"""Directories of the whole system, which nothing of the daemon's belongs straight into: parent -> names.

Source: the Filesystem Hierarchy Standard 3.0, https://refspecs.linuxfoundation.org/FHS_3.0/fhs-3.0.html
"""


@contextmanager
def hold(directory: Path, what: str, *, mode: int = 0o700) -> Iterator[None]:
    """Hold `directory`, which is made with `mode` where it is missing; `what` is the setting that names it.

    Raises AlreadyRunningError naming the holder's pid, SettingsError where the directory cannot be used or is not for
    one program alone.
    """
    try:
        _check_own(directory, what)
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        descriptor = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"{what} = {str(directory)!r}: cannot be used: {error.strerror}") from error
    try:
        _lock(descriptor, directory, what)
        yield
    finally:
        os.close(descriptor)


def _check_own(directory: Path, what: str) -> None:
    where = Path(os.path.realpath(directory))
    if where == Path("/") or where.name in SHARED.get(str(where.parent), "").split():
        leads = "" if where == directory else f"leads to {where}, which "
        raise SettingsError(
            f"{what} = {str(directory)!r}: {leads}is a directory of the whole system: give the daemon one of its own"
        )


def _lock(descriptor: int, directory: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        holder = f" (pid {pid})" if pid.isdigit() else ""
        raise AlreadyRunningError(
            f"another sidegate daemon{holder} holds {directory}: stop it first, or give this one another {what}"
        ) from None
    except OSError as error:
        raise SettingsError(f"{what} = {str(directory)!r}: cannot be locked: {error.strerror}") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
