"""Who listens on the ports that matter."""

import contextlib
from collections.abc import Container, Mapping
from pathlib import Path

from sidegate.doctor.looking.host import read
from sidegate.doctor.snapshot import Listener

PROC = Path("/proc")
LISTEN = "0A"  # the state column of /proc/net/tcp


def look(wanted: Container[int]) -> tuple[Listener, ...]:
    """Listeners on `wanted` ports, by port. Source: proc(5); processes are looked through once, however many ports."""
    sockets: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in read(PROC / "net" / table).splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTEN and (port := int(columns[1].rpartition(":")[2], 16)) in wanted:
                sockets[f"socket:[{columns[9]}]"] = port
    holders = _holders(sockets)
    return tuple(_listener(port, holders.get(port)) for port in sorted(set(sockets.values())))


def _holders(sockets: Mapping[str, int]) -> dict[int, int]:
    """Port -> the first process that has it open, of those that we may look at."""
    found: dict[int, int] = {}
    processes = sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()) if sockets else []
    for pid in processes:
        with contextlib.suppress(OSError):
            for descriptor in (PROC / f"{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if port := sockets.get(str(descriptor.readlink())):
                        found.setdefault(port, pid)
    return found


def _listener(port: int, pid: int | None) -> Listener:
    return Listener(port, f"{read(PROC / f'{pid}/comm') or 'a process'} (pid {pid})", pid) if pid else Listener(port)
