"""Daemons that run on this machine, who looks at them, and what both may do."""

import os
import pwd
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from sidegate.adapters.nft.firewall import WHOLE_MACHINE
from sidegate.development import development_settings
from sidegate.doctor.checks.container import LOST
from sidegate.doctor.looking.host import contained, container_of, host_processes, read
from sidegate.doctor.snapshot import RunningDaemon, Viewer
from sidegate.errors import SettingsError
from sidegate.settings import DEFAULT_FILE, Settings, load

PROC = Path("/proc")
CAPABILITIES: Mapping[str, int] = {
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
}
"""Numbers of linux/capability.h."""


def daemons() -> tuple[RunningDaemon, ...]:
    """Every process that is `sidegate run`, whoever runs it. One that has no workers, and no settings that can be read,
    is about to end."""
    parents: dict[int, int] = {}
    found: list[int] = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            fields = read(entry / "stat").rpartition(")")[2].split()
            if len(fields) > 1:
                parents[int(entry.name)] = int(fields[1])
            if is_daemon(_words(entry / "cmdline")):
                found.append(int(entry.name))
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, parent in parents.items():
        children[parent].append(pid)
    seen = [RunningDaemon(pid, _settings(pid), _family(pid, children), container_of(pid)) for pid in sorted(found)]
    return tuple(
        daemon
        for daemon in seen
        if (daemon.settings or len(daemon.family) > 1) and is_daemon(_words(PROC / f"{daemon.pid}/cmdline"))
    )


def is_daemon(words: Sequence[str]) -> bool:
    """Whether a command line is `sidegate run`, as a script, a module or by its interpreter; a shell that mentions it
    is none."""
    if not words or not Path(words[0]).name.startswith(("python", "sidegate")):
        return False
    for index, word in enumerate(words):
        if Path(word).name == "sidegate" and (index == 0 or words[index - 1] == "-m" or "/" in word):
            return "run" in words[index + 1 :]
    return False


def _words(path: Path) -> list[str]:
    return read(path).split("\0")


def _settings(pid: int) -> Settings | None:
    """What a daemon was started with, from its command line and its environment."""
    process = PROC / str(pid)
    try:
        environ = dict(entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry)
        inside = process / "root"
        default = inside / DEFAULT_FILE.relative_to("/")
        words = _words(process / "cmdline")
        given = config_option(words)
        path = inside / given.lstrip("/") if given.startswith("/") else process / "cwd" / given
        chosen = path if given else default
        if chosen.exists() and not chosen.is_file():
            return None  # whoever runs containers may claim to be a daemon, and a pipe would be read for ever
        if "--dev" in words:
            return development_settings(path if given else None, environ)
        return load(path if given else default if default.exists() else None, environ)
    except (OSError, UnicodeDecodeError, SettingsError):
        return None


def config_option(words: Sequence[str]) -> str:
    """The file that --config names; empty where it is not there."""
    for index, word in enumerate(words):
        if word == "--config" and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--config="):
            return word.partition("=")[2]
    return ""


def _family(pid: int, children: Mapping[int, Sequence[int]]) -> frozenset[int]:
    found, pending = {pid}, [pid]
    while pending:
        for child in children.get(pending.pop(), ()):
            if child not in found:
                found.add(child)
                pending.append(child)
    return frozenset(found)


def viewer(daemon_pid: int, devices: Sequence[str]) -> Viewer:
    """Us; the capabilities are the daemon's where it runs. `devices`: of our network namespace."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    inside = contained()
    mine = _effective("self")
    whole = read(PROC / "self/uid_map").split() == WHOLE_MACHINE
    return Viewer(
        uid=uid,
        name=name,
        root=uid == 0 and whole and bool(mine >> CAPABILITIES["CAP_NET_ADMIN"] & 1),
        contained=inside,
        container=container_of("self") if inside else "",
        host_processes=host_processes(),
        host_network=any(device == "docker0" or device.startswith("br-") for device in devices),
        lacking=lacking(_effective(daemon_pid) if daemon_pid else mine, ordinary=uid != 0 and not daemon_pid),
    )


def lacking(effective: int, *, ordinary: bool = False) -> tuple[str, ...]:
    """What of CAPABILITIES a process does not have. One that has none at all is an ordinary user's, as is meant."""
    if ordinary or not effective:
        return ()
    return tuple(name for name in LOST if not effective >> CAPABILITIES[name] & 1)


def _effective(pid: int | str) -> int:
    for line in read(PROC / f"{pid}/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
