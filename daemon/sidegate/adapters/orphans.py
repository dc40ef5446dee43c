"""The duty of process 1, which the daemon is in a container with processes of its own: to reap orphans.

Whatever loses its parent there becomes a child of process 1, such as what a `docker exec` has left behind, and stays a
zombie until it is waited for.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

SECONDS = 1.0


async def reap(seconds: float = SECONDS, *, proc: Path = Path("/proc")) -> None:
    """Until cancelled. Takes only what was a zombie at two looks in a row, `seconds` apart: children that the daemon
    has started itself are waited for at once, by whoever started them."""
    seen: frozenset[int] = frozenset()
    while True:
        await asyncio.sleep(seconds)
        zombies = frozenset(_zombies(proc))
        _take(zombies & seen)
        seen = zombies


def _take(zombies: Iterable[int]) -> None:
    for pid in zombies:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _zombies(proc: Path) -> Iterator[int]:
    """Children of this process that have ended (proc_pid_stat(5): fields 3 and 4)."""
    own = str(os.getpid())
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z" and parent == own:
                    yield int(entry.name)
