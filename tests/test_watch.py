"""What goes on until somebody has seen enough: events that are followed, the live view; and the audit trail's pages."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from memory_daemon import MemoryDaemon, running
from sidegate.core.audit import AuditEntry


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    async with running(tmp_path) as daemon:
        await daemon.settled()  # of what is there at the first look no event tells
        daemon.app("shop")
        yield await daemon.settled()


@pytest.fixture(autouse=True)
def _no_terminal_is_left() -> Iterator[None]:
    """Also of a test that failed."""
    yield
    while Terminal.all:
        process = Terminal.all.pop()
        if process.poll() is None:
            process.kill()
        process.wait()


COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """The command line on a terminal of its own; `shown` is all that it wrote."""

    all: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, runtime_dir: Path, *words: str, rows: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        environ |= {"SIDEGATE_RUNTIME_DIR": str(runtime_dir), "TERM": "xterm"}
        command = [sys.executable, "-m", "sidegate", *words]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
        )
        os.close(slave)
        self.shown = ""
        self.all.append(self.process)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    async def until(self, *texts: str) -> str:
        """Read until each of `texts` has been shown since the last call; what has."""
        return await asyncio.to_thread(self._until, texts)

    def _until(self, texts: tuple[str, ...]) -> str:
        self.shown, read, deadline = "", b"", time.monotonic() + 60
        while not all(text in self.shown for text in texts):
            assert time.monotonic() < deadline, f"{texts} not shown:\n{self.shown[-2500:]}"
            if select.select([self._master], [], [], 1)[0]:
                read += os.read(self._master, 65536)  # which may end within a character
                self.shown = COLOURS.sub("", read.decode(errors="replace"))
        return self.shown

    async def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; the exit status, and what was shown after it."""
        self.process.send_signal(signal.SIGINT)
        return await asyncio.to_thread(self._end)

    def _end(self) -> tuple[int, str]:
        shown = ""
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while select.select([self._master], [], [], 20)[0]:
                shown += os.read(self._master, 65536).decode(errors="replace")
        os.close(self._master)
        return self.process.wait(20), shown


async def test_the_live_view_shows_what_happens_and_leaves_the_screen_as_it_was(node: MemoryDaemon) -> None:
    terminal = Terminal(node.path.parent, "status", "--watch", "0.2")
    shown = await terminal.until("recent events", "shop has 1 container", "● ok")
    assert "\x1b[?1049h" in shown
    node.app("blog")
    await terminal.until("blog has 1 container", "blog takes requests")
    node.engine.unavailable = "gone fishing"
    node.loop.wake()
    await terminal.until("engine.lost", "degraded", "! engine: the Docker engine does not answer (gone fishing)")
    terminal.resize(12, 60)
    await terminal.until("● degraded")
    status, rest = await terminal.interrupt()
    assert status == 0
    assert "\x1b[?1049l" in rest
    assert "Traceback" not in rest


async def test_the_live_view_goes_on_while_the_daemon_is_away(tmp_path: Path) -> None:
    terminal = None
    for word in ("first", "second"):
        async with running(tmp_path) as daemon:
            await daemon.settled()
            daemon.app(word)
            terminal = terminal or Terminal(daemon.path.parent, "status", "--watch", "0.2")
            await terminal.until("● ok", word)
        await terminal.until("no answer, waiting for it")
    assert terminal is not None
    assert (await terminal.interrupt())[0] == 0


async def test_without_a_daemon_there_is_nothing_to_watch(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "status", "--watch")
    shown = await terminal.until("no Sidegate daemon answers")
    status, rest = await asyncio.to_thread(terminal._end)
    assert status == 3
    assert (shown + rest).startswith("sidegate: no Sidegate daemon answers")
    assert (shown + rest).endswith("or name its socket with --socket\r\n")


async def test_in_a_pipe_the_live_view_is_a_document_for_each_change(node: MemoryDaemon) -> None:
    process = await piped(node, "status", "--watch", "0.2")
    assert process.stdout is not None
    first = json.loads(await line(process))
    assert (first["counts"]["apps"], first["listening"]["http_port"]) == (1, 8080)
    node.app("blog")
    while json.loads(await line(process))["counts"]["apps"] != 2:  # what the app brings with it may come by itself
        pass
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    rest = (await process.stdout.read()).splitlines()
    assert all(json.loads(document)["counts"]["apps"] == 2 for document in rest)


async def test_nobody_reads_the_live_view_any_more(node: MemoryDaemon) -> None:
    """Also where nothing changes that would be written."""
    process = await piped(node, "status", "--watch", "0.2")
    await line(process)
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    assert process.stderr is not None
    assert await process.stderr.read() == b""


async def test_events_are_followed_in_a_pipe_and_on_a_terminal(node: MemoryDaemon) -> None:
    process = await piped(node, "events", "-f", "--kind", "app")
    terminal = Terminal(node.path.parent, "events", "-f", "--limit", "1")
    assert json.loads(await line(process))["kind"] == "app.appeared"
    assert json.loads(await line(process))["kind"] == "app.available"
    await terminal.until("app.available")
    node.events.emit("engine.lost", "engine", "gone\x1b[2J")
    node.events.emit("app.gone", "shop", "test")
    assert json.loads(await line(process))["kind"] == "app.gone"
    shown = await terminal.until("engine.lost", "app.gone")
    assert "gone?[2J" in shown
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert process.stderr is not None
    assert await process.stderr.read() == b""
    assert (await terminal.interrupt())[0] == 0


async def test_events_are_listed(node: MemoryDaemon) -> None:
    table = await node.sidegate("events", "--table")
    assert "shop" in table.stdout
    assert "app.appeared" in table.stdout
    lines = (await node.sidegate("events", "--kind", "app", "--limit", "1")).stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["app.available"]
    wrong = await node.sidegate("events", "--kind", "aps")
    assert wrong.returncode == 2
    assert "did you mean app?" in wrong.stderr
    assert "nothing has happened yet" in (await node.sidegate("events", "--table", "--kind", "certificate")).stdout


async def test_the_audit_trail_is_filtered_and_paged(node: MemoryDaemon) -> None:
    now = time.time()
    for number in range(1005):
        verb, user = ("external on", "anna") if number % 3 else ("db set", "1001")
        await node.store.append_audit(AuditEntry(now, 1001, 1, user, verb, str(number), "done"))
    old = AuditEntry(now - 7200, 0, 1, "root", "external off", "old", "done")
    await node.store.append_audit(old)

    async def targets(*words: str) -> list[str]:
        return [entry["target"] for entry in json.loads((await node.sidegate("audit", *words)).stdout)]

    assert await targets("--limit", "3") == ["old", "1004", "1003"]
    assert len(await targets("--limit", "5000")) == 1006
    everything = await targets("--limit", "1004")
    assert everything == ["old", *(str(number) for number in range(1004, 1, -1))]
    assert await targets("--verb", "external", "--limit", "2") == ["old", "1004"]
    assert await targets("--verb", "external off") == ["old"]
    assert await targets("--verb", "ext") == []
    assert await targets("--user", "root") == ["old"]
    assert (await targets("--user", "1001", "--limit", "2"))[0] == "1004"
    assert await targets("--since", "1h", "--limit", "1") == ["1004"]
    assert (await node.sidegate("audit", "--since", "soon")).returncode == 2


async def piped(node: MemoryDaemon, *words: str) -> asyncio.subprocess.Process:
    environ = os.environ | {"SIDEGATE_RUNTIME_DIR": str(node.path.parent)}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidegate", *words), env=environ, stdout=pipe, stderr=pipe
    )


async def line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return await process.stdout.readline()
