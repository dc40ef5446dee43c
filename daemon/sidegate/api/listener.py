"""The control socket's file: made so that nobody but its owner and its group can connect at any moment."""

import contextlib
import grp
import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sidegate.errors import AlreadyRunningError, SidegateError
from sidegate.log import get_logger

BACKLOG = 1024  # a full one turns clients away at once, unlike one of TCP
MODE = 0o660
PROBE_SECONDS = 1.0

log = get_logger("api")


@dataclass(frozen=True, slots=True)
class ControlSocket:
    """A listening socket and its file, known by device and inode."""

    sock: socket.socket
    path: Path
    inode: tuple[int, int]

    def remove(self) -> None:
        """Remove the file, unless another daemon has put its own in this place."""
        with contextlib.suppress(OSError):
            if _inode(self.path) == self.inode:
                self.path.unlink()


def listen(path: Path, group: str) -> ControlSocket:
    """A listening socket at `path`, mode 0660, of `group` where that exists and may be given.

    It is bound in a directory that only we can enter and moved into place when its mode is right, which also replaces
    a stale socket. Raises AlreadyRunningError when somebody answers at `path`, SidegateError when it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_free(path)
        # As long as "control.sock", so that a path that fits the kernel's limit does so here too.
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as private:
            made = Path(private) / "s"
            sock.bind(str(made))
            _give_to(made, group)
            made.chmod(MODE)
            sock.listen(BACKLOG)
            inode = _inode(made)
            made.rename(path)
    except OSError as error:
        sock.close()
        raise SidegateError(f"cannot make the control socket {path}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return ControlSocket(sock, path, inode)


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _check_free(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SidegateError(f"{path} is there and is not a socket: remove it, or choose another runtime_dir")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # stale: nobody listens
        except TimeoutError:
            pass
    raise AlreadyRunningError(f"another daemon answers on {path}: stop it, or choose another runtime_dir")


def _give_to(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        return  # no such group: root (or whoever started us) only
    except PermissionError:
        log.warning("control socket not given to its group", group=group)
