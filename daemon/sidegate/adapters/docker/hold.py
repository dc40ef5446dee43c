"""Holding a container's processes still from their first instruction until its networks are there.

For when the race of the greeter's docstring is lost: the engine has begun the start, keeps the container's lock until
the process runs, and would attach it 100 ms after that. The process is stopped (SIGSTOP) as soon as the runtime has
made way for it, for HOLD_SECONDS at most, and never sees more than a slow start.

Owns signals to processes in the cgroup of a container that is being started; knows nothing of networks.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

HOLD_SECONDS = 1.0
RUNTIMES = ("runc", "crun", "youki", "runsc")
"""How the command names of processes begin that are still the runtime's: to stop one would stop the start itself."""
PLACES = (
    "pids/docker/{}",  # cgroup v1, driver cgroupfs
    "docker/{}",  # v2, cgroupfs
    "pids/system.slice/docker-{}.scope",  # v1, systemd
    "system.slice/docker-{}.scope",  # v2, systemd
)


class Hold:
    """A context: whatever `grab` stopped goes on at its end, and at `release_all`, which the process's end calls."""

    _held: ClassVar[set["Hold"]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self, container_id: str, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self._proc = proc
        self._lists = [cgroups / place.format(container_id) / "cgroup.procs" for place in PLACES]
        self._stopped: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def grab(self) -> bool:
        """Stop the container's processes, if there are any and none is the runtime's; true once they are stopped."""
        pids = self._pids()
        if not pids or any(self._command(pid).startswith(RUNTIMES) for pid in pids):
            return bool(self._stopped)
        with self._lock:
            self._held.add(self)
            for pid in pids - self._stopped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGSTOP)
                    self._stopped.add(pid)
        return bool(self._stopped)

    def release(self) -> None:
        """Let all go on. Safe to call twice."""
        with self._lock:
            self._held.discard(self)
            self._let_go()

    @classmethod
    def release_all(cls) -> None:
        with cls._lock:
            for hold in cls._held:
                hold._let_go()
            cls._held.clear()

    @staticmethod
    def resume(pids: Iterable[int]) -> None:
        """Let go on what a greeter stopped that was killed before it could: processes in state T (proc(5))."""
        for pid in pids:
            with contextlib.suppress(OSError, IndexError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    os.kill(pid, signal.SIGCONT)

    def _let_go(self) -> None:
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()

    def _pids(self) -> set[int]:
        """Processes in the container's cgroup, as far as they can be seen from here (0: in another pid namespace)."""
        for path in self._lists:
            with contextlib.suppress(OSError, ValueError):
                return {pid for line in path.read_text().split() if (pid := int(line)) > 1}
        return set()

    def _command(self, pid: int) -> str:
        try:
            return (self._proc / str(pid) / "comm").read_text()
        except OSError:
            return RUNTIMES[0]  # gone meanwhile: look again
