"""A second link to the other host, on which each packet from there takes 10 ms.

It is a veth pair with netem; where the kernel has none, a pair of TUN devices and this module as a program between
them, which takes processor time.

python -m bench.delay NAMESPACE    prints a line once both devices are there; carries packets until it is ended
"""

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from bench.engine import NAME
from bench.machine import CORES, Program
from e2e.node import run, wait_for
from e2e.outside import enter_namespace

MILLISECONDS = 10
HERE, THERE = "203.0.113.1", "203.0.113.2"
INNER, OUTER = f"{NAME}di", f"{NAME}do"

# linux/if_tun.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_LARGEST = 65536
_PATIENCE = 10.0


@contextlib.contextmanager
def delayed(directory: str) -> Iterator[str]:
    """This machine's address on that link; the other host must be there. Files go to `directory`."""
    with contextlib.ExitStack() as made:
        if _netem():
            made.callback(run, "ip", "link", "del", OUTER, check=False)
        else:
            made.callback(_tunnel(Path(directory)).stop)
        run("ip", "addr", "add", f"{HERE}/24", "dev", OUTER)
        run("ip", "link", "set", OUTER, "up")
        run("ip", "-n", NAME, "addr", "add", f"{THERE}/24", "dev", INNER)
        run("ip", "-n", NAME, "link", "set", INNER, "up")
        yield HERE


def _netem() -> bool:
    """Make the link with netem; whether that could be done."""
    run("ip", "link", "add", OUTER, "type", "veth", "peer", "name", INNER, "netns", NAME)
    delay = ["netem", "delay", f"{MILLISECONDS}ms", "limit", "100000"]
    if run("tc", "-n", NAME, "qdisc", "add", "dev", INNER, "root", *delay, check=False).returncode == 0:
        return True
    run("ip", "link", "del", OUTER)
    return False


def _tunnel(directory: Path) -> Program:
    output = directory / "delay"
    program = Program([sys.executable, "-P", "-u", "-m", "bench.delay", NAME], CORES, output)
    try:
        wait_for("the delaying link is there", lambda: program.ended() or output.read_text(), _PATIENCE)
        assert not (fault := program.ended()), fault
    except BaseException:
        program.stop()
        raise
    return program


def _device(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _carry(here: int, there: int) -> None:
    waiting: deque[tuple[float, bytes]] = deque()
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready = select.select([here, there], [], [], timeout)[0]
        if here in ready:
            for packet in _packets(here):
                _send(there, packet)
        if there in ready:
            due = time.monotonic() + MILLISECONDS / 1000
            waiting.extend((due, packet) for packet in _packets(there))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _send(here, waiting.popleft()[1])


def _packets(device: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield os.read(device, _LARGEST)


def _send(device: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # a device that is down, or full: packets get lost
        os.write(device, packet)


if __name__ == "__main__":
    outer = _device(OUTER)
    enter_namespace(sys.argv[1])
    inner = _device(INNER)
    print("ready")
    _carry(outer, inner)
