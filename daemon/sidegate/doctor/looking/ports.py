"""Who listens on the ports that matter."""

import contextlib
import re
from collections.abc import Container
from pathlib import Path

from sidegate.doctor.snapshot import Listener
from sidegate.proxy.ports import holder

LISTEN = "0A"  # the state column of /proc/net/tcp
PID = re.compile(r"\(pid (\d+)\)$")


def look(wanted: Container[int]) -> tuple[Listener, ...]:
    """Listeners on `wanted` ports, by port. Source: proc(5)."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == LISTEN and (port := int(columns[1].rpartition(":")[2], 16)) in wanted:
                    found.add(port)
    return tuple(_listener(port) for port in sorted(found))


def _listener(port: int) -> Listener:
    who = holder(port) or ""
    pid = PID.search(who)
    return Listener(port, who, int(pid[1]) if pid else 0)
