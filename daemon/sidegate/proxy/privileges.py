"""What a worker gives up before it reads its first byte: its user, its groups, new privileges, other descriptors."""

import ctypes
import os
import resource
import signal

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def close_inherited(keep: int) -> None:
    """Close every descriptor but 0, 1, 2 and `keep`."""
    os.closerange(3, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def raise_open_files() -> int:
    """As many open files as the machine allows this process; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def drop(uid: int | None, gid: int | None) -> None:
    """Become `uid` and `gid` with no other groups, if given; in any case never gain privileges again (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if uid is not None and gid is not None:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        _prctl(libc, _PR_SET_DUMPABLE, 0)  # others of that user may not look into its memory
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach the whole terminal group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
