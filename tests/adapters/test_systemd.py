"""sd_notify against a real datagram socket: what is told, when, and what is not."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from notify_socket import NotifySocket
from sidegate.adapters.systemd import LONGEST_STATUS, STALL_SECONDS, ServiceManager, one_line

WATCHDOG = 0.04


@dataclass
class Daemon:
    """What a service manager is told about."""

    is_ready: bool = False
    line: str = "starting"
    seconds: float = 0.0

    def ready(self) -> bool:
        return self.is_ready

    def status(self) -> str:
        return self.line

    def stalled(self) -> float:
        return self.seconds


class Listener(NotifySocket):
    """One that waits for what comes."""

    async def until(self, wanted: str) -> list[str]:
        """What comes until one begins with `wanted`."""
        found: list[str] = []
        async with asyncio.timeout(10):
            while not any(line.startswith(wanted) for line in found):
                found += (await asyncio.get_running_loop().sock_recv(self.socket, 65536)).decode().split("\n")
        return found


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    address = str(tmp_path / "notify") if request.param == "file" else f"@sidegate-test-{os.getpid()}"
    listener = Listener(address)
    with listener.socket:
        yield listener


@contextlib.asynccontextmanager
async def running(manager: ServiceManager, daemon: Daemon) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(manager.run(ready=daemon.ready, status=daemon.status, stalled=daemon.stalled))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        manager.close()


def manager_of(listener: Listener, **more: str) -> ServiceManager:
    return ServiceManager.of({"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": f"{WATCHDOG * 1e6:.0f}", **more})


async def test_ready_once_it_is_then_beats_and_a_status_that_changes(listener: Listener) -> None:
    daemon = Daemon()
    async with running(manager_of(listener), daemon):
        before = await listener.until("WATCHDOG=1")
        assert "STATUS=starting" in before
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in before)
        assert not any(line.startswith("READY") for line in before)
        daemon.is_ready, daemon.line = True, "3 apps"
        assert f"MAINPID={os.getpid()}" in await listener.until("READY=1")
        await listener.until("WATCHDOG=1")
        daemon.line = "4 apps"
        later = await listener.until("STATUS=4 apps")
        assert not any(line.startswith(("READY", "EXTEND")) for line in later)
        await listener.until("WATCHDOG=1")
        assert set(await listener.until("WATCHDOG=1")) == {"WATCHDOG=1"}


async def test_no_beat_while_a_pass_does_not_get_on(listener: Listener) -> None:
    daemon = Daemon(is_ready=True)
    async with running(manager_of(listener), daemon):
        await listener.until("WATCHDOG=1")
        daemon.seconds, daemon.line = STALL_SECONDS, "stalled"
        await listener.until("STATUS=stalled")
        daemon.line = "looked at once more"
        assert "WATCHDOG=1" not in await listener.until("STATUS=looked")
        daemon.seconds = 0.0
        await listener.until("WATCHDOG=1")


async def test_a_start_that_does_not_get_on_is_not_prolonged(listener: Listener) -> None:
    daemon = Daemon(seconds=STALL_SECONDS)
    async with running(manager_of(listener), daemon):
        assert await listener.until("STATUS=") == ["STATUS=starting"]


async def test_a_message_that_could_not_be_taken_goes_again(listener: Listener) -> None:
    daemon = Daemon(is_ready=True)
    manager = manager_of(listener)
    while manager.tell("STATUS=filler"):  # until the queue is full
        pass
    async with running(manager, daemon):
        for _ in range(3):
            await asyncio.sleep(0)
        assert set(listener.waiting()) == {"STATUS=filler"}
        assert "STATUS=starting" in await listener.until("READY=1")


async def test_a_manager_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    daemon = Daemon(is_ready=True)
    manager = ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1000"})
    async with running(manager, daemon) as task:
        manager.stopping(1)
        await asyncio.sleep(0)
        assert not task.done()


async def test_stopping(listener: Listener) -> None:
    manager = manager_of(listener)
    manager.stopping(45)
    manager.close()
    manager.close()
    assert listener.waiting() == ["STOPPING=1", "STATUS=stopping", "EXTEND_TIMEOUT_USEC=45000000"]


async def test_without_a_socket_nothing_happens() -> None:
    manager = ServiceManager.of({"WATCHDOG_USEC": "1000"})
    await manager.run(ready=lambda: True, status=lambda: "", stalled=lambda: 0.0)
    assert not manager.tell("READY=1")


async def test_an_address_that_is_no_unix_socket_is_left_alone() -> None:
    await ServiceManager.of({"NOTIFY_SOCKET": "vsock:2:1234"}).run(
        ready=lambda: True, status=lambda: "", stalled=lambda: 0.0
    )


@pytest.mark.parametrize(
    ("watchdog", "beats"),
    [
        ({"WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_PID": "nobody"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
async def test_whose_watchdog(listener: Listener, watchdog: dict[str, str], beats: bool) -> None:
    async with running(manager_of(listener, **watchdog), Daemon(is_ready=True)):
        assert ("WATCHDOG=1" in await listener.until("READY=1")) is beats


def test_children_inherit_no_word_of_it() -> None:
    environ = {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    ServiceManager.of(environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a label\nMAINPID=1", "a label MAINPID=1"),
        ("\x1b[31mred\r\x00\x85\u2028", " [31mred    "),
        ("x" * LONGEST_STATUS, "x" * LONGEST_STATUS),
        ("x" * (LONGEST_STATUS + 1), "x" * (LONGEST_STATUS - 3) + "..."),
    ],
)
def test_a_status_is_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
