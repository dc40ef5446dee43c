"""The daemon at the control socket, and whoever holds the lock of its directory."""

import os
import socket
import stat
import struct
from pathlib import Path

import msgspec

from sidegate.adapters.lock import FILE_NAME
from sidegate.api.client import Client
from sidegate.core.model import Problem
from sidegate.doctor.looking.host import read
from sidegate.doctor.snapshot import Daemon, DaemonStatus
from sidegate.errors import DaemonUnreachableError, SidegateError

SECONDS = 10.0
CREDENTIALS = "3i"
LOCKS = Path("/proc/locks")


class _Engine(msgspec.Struct):
    connected: bool = True
    fault: str | None = None


class _Pass(msgspec.Struct):
    failures: list[str] = []


class _Pool(msgspec.Struct):
    cidr: str = ""


class _Status(msgspec.Struct):
    """The part of the daemon's status that is looked at; it may be of another version."""

    version: str
    ready: bool = True
    engine: _Engine = msgspec.field(default_factory=_Engine)
    last_pass: _Pass = msgspec.field(default_factory=_Pass)
    pool: _Pool = msgspec.field(default_factory=_Pool)
    problems: list[Problem] = []


class _External(msgspec.Struct):
    carrier: str | None = None


class _App(msgspec.Struct):
    name: str


def look(path: Path, state_dir: Path) -> Daemon:
    """Blocks, for SECONDS at most where the daemon hangs."""
    kind = _kind(path)
    holder = lock_holder(state_dir)
    if kind != "socket":
        return Daemon(path=path, file=kind, holder=holder)
    try:
        pid, uid = _listener(path)
    except (ConnectionRefusedError, FileNotFoundError):
        return Daemon(path=path, file=kind, stale=True, fault=f"nobody listens at {path}", holder=holder)
    except OSError:
        pid = uid = 0
    client = Client(path, SECONDS)
    try:
        status = _status(client)
    except SidegateError as error:
        denied = isinstance(error, DaemonUnreachableError) and not os.access(path, os.W_OK)
        return Daemon(path=path, file=kind, pid=pid, uid=uid, fault=str(error), denied=denied, holder=holder)
    return Daemon(path=path, file=kind, pid=pid, uid=uid, status=status, holder=holder)


def _status(client: Client) -> DaemonStatus:
    said = client.call("GET", "/v1/status", _Status).value
    externals = client.call("GET", "/v1/external", list[_External]).value
    return DaemonStatus(
        version=said.version,
        pool=said.pool.cidr,
        ready=said.ready,
        engine_fault="" if said.engine.connected else said.engine.fault or "it does not answer",
        failures=tuple(said.last_pass.failures),
        problems=tuple(said.problems),
        kernel=any(external.carrier == "kernel" for external in externals),
    )


def apps(path: Path) -> list[str]:
    """Names of the apps that the daemon knows; none where it does not answer."""
    try:
        return [app.name for app in Client(path, SECONDS).call("GET", "/v1/apps", list[_App]).value]
    except SidegateError:
        return []


def _kind(path: Path) -> str:
    try:
        return "socket" if stat.S_ISSOCK(path.stat().st_mode) else "other"
    except PermissionError:
        return "socket"
    except OSError:
        return ""


def _listener(path: Path) -> tuple[int, int]:
    """Pid and uid of who listens there (unix(7), SO_PEERCRED); a pid of 0 is in another pid namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(SECONDS)
        probe.connect(str(path))
        found = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(CREDENTIALS))
        pid, uid, _ = struct.unpack(CREDENTIALS, found)
        return pid, uid


def lock_holder(directory: Path) -> int | None:
    """Who holds a daemon's directory: his pid, 0 for nobody, None where that cannot be seen.

    Read from /proc/locks (proc(5)), since trying the lock would keep a daemon that starts at that moment from it.
    """
    try:
        found = (directory / FILE_NAME).stat()
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in read(LOCKS).splitlines():
        words = line.split()
        if "FLOCK" in words and wanted in words:
            return max(0, int(words[words.index(wanted) - 1]))
    return 0
