"""Holding processes still: real processes, with a directory in the place of the cgroup file system."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidegate.adapters.docker.hold import Hold

PRINTS = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """A process that repeats each line it is given."""
    with subprocess.Popen([sys.executable, "-c", PRINTS], stdin=-1, stdout=-1, text=True) as running:
        yield running
        running.kill()


@pytest.fixture
def cgroup(tmp_path: Path) -> Callable[..., None]:
    """Writes who is in the cgroup of the container `c`."""
    directory = tmp_path / "docker" / "c"
    directory.mkdir(parents=True)

    def write(*pids: int) -> None:
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    return write


def state(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def answers(process: subprocess.Popen[str]) -> bool:
    assert process.stdin
    assert process.stdout
    process.stdin.write("hello\n")
    process.stdin.flush()
    return process.stdout.readline() == "hello\n"


def test_a_process_is_held_until_the_block_ends(
    process: subprocess.Popen[str], cgroup: Callable[..., None], tmp_path: Path
) -> None:
    assert answers(process)
    with Hold("c", cgroups=tmp_path) as hold:
        assert not hold.grab(), "nobody is there yet"
        cgroup(process.pid)
        assert hold.grab()
        while state(process) != "T":  # a signal takes effect when the process next runs
            time.sleep(0.001)
        assert hold.grab(), "twice is once"
    assert answers(process)


def test_the_runtimes_own_process_is_left_alone(
    process: subprocess.Popen[str], cgroup: Callable[..., None], tmp_path: Path
) -> None:
    """To stop runc would stop the start, and with it the lock that everybody waits for."""
    (tmp_path / str(process.pid)).mkdir()
    (tmp_path / str(process.pid) / "comm").write_text("runc:[2:INIT]\n")
    cgroup(process.pid)
    with Hold("c", proc=tmp_path, cgroups=tmp_path) as hold:
        assert not hold.grab()
        assert answers(process)


def test_processes_that_cannot_be_seen_are_not_signalled(cgroup: Callable[..., None], tmp_path: Path) -> None:
    """From another pid namespace they are listed as 0, and kill(0) would stop ourselves."""
    cgroup(0, 0)
    with Hold("c", cgroups=tmp_path) as hold:
        assert not hold.grab()


def test_all_go_on_when_the_greeter_ends(
    process: subprocess.Popen[str], cgroup: Callable[..., None], tmp_path: Path
) -> None:
    cgroup(process.pid)
    hold = Hold("c", cgroups=tmp_path)
    assert hold.grab()
    Hold.release_all()
    assert answers(process)


def test_what_a_killed_greeter_left_stopped_goes_on(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGSTOP)
    while state(process) != "T":
        time.sleep(0.001)
    Hold.resume([process.pid, 2**22 + 1])
    assert answers(process)
