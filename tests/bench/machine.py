"""This machine: which cores do what, programs that run on them and end with the benchmark, and what those cost."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

CORES = tuple(sorted(os.sched_getaffinity(0)))
PROXY_CORE = CORES[-1:]
"""What stands between client and backend has this core to itself."""
LOAD_CORES = CORES[:-1] or CORES
"""The load and the backend share the others, as far as there are any."""
FILES = 65536
"""Open files that 10,000 clients and as many connections to a backend take, with room."""

_STOP = 5.0


class Program:
    """A running program that cannot outlive this process. `output` takes both of its outputs."""

    def __init__(
        self, command: Sequence[str], cores: Sequence[int], output: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._output = output
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                bound(command, cores), stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environ and dict(environ)
            )

    def ended(self) -> str:
        """What it said last, if it is not running any more."""
        if self._process.poll() is None:
            return ""
        return f"exit status {self._process.returncode}: {self._output.read_text(errors='replace')[-2000:]}"

    def pids(self) -> list[int]:
        """The process and those under it."""
        return process_tree(self._process.pid)

    def cpu_seconds(self) -> float:
        """User and system time of every thread, with those of processes under it."""
        return cpu_seconds(self._process.pid)

    def memory(self) -> int:
        """Bytes: what is its own, and its share of what it shares (proc(5), smaps_rollup: Pss)."""
        total = 0
        for pid in self.pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total * 1024

    def stop(self) -> None:
        pids = self.pids()
        self._process.terminate()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self._process.wait()


def process_tree(root: int) -> list[int]:
    """A process and those under it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of every thread of a process and of those under it (proc(5), schedstat: nanoseconds)."""
    spent = 0
    for pid in process_tree(root):
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                spent += int(path.read_text().split()[0])
    return spent / 1e9


def bound(command: Sequence[str], cores: Sequence[int]) -> list[str]:
    """The command on these cores alone, told to end when its parent does."""
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", ",".join(map(str, cores)), *command]


def raise_file_limit() -> None:
    """For this process and all that it starts; as far as the kernel lets us."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
