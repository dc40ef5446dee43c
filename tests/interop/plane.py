"""A supervisor with real workers on this host, processes behind it, commands before it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from ports import free_port
from sidegate.core.routes import AppRoute, PathRoute, Routes, Upstream
from sidegate.proxy.limits import Limits
from sidegate.proxy.supervisor import Supervisor

HOST = "shop.localhost"
"""curl takes it for this machine without asking anybody."""
SAMPLE_APP = Path(__file__).parents[1] / "images" / "app" / "app.py"
NOBODY = 65534
DEADLINE = 60.0


@dataclass
class Plane:
    """Workers that route HOST, and this machine's address, to what `publish` names."""

    supervisor: Supervisor

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.supervisor.http_port}"

    @property
    def address(self) -> str:
        """The same for clients that do not know HOST."""
        return f"http://127.0.0.1:{self.supervisor.http_port}"

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self.supervisor.workers()]

    async def publish(self, *ports: int) -> None:
        """Route to replicas on these ports."""
        await self.supervisor.publish(routes(*ports))


def routes(*ports: int) -> Routes:
    upstreams = tuple(Upstream(f"shop-{port}", "127.0.0.1", port, f"id-{port}") for port in ports)
    everything = (PathRoute("", "shop"),)
    return Routes(
        hosts=dict.fromkeys((HOST, "127.0.0.1"), everything),
        apps={"shop": AppRoute(upstreams, "" if upstreams else "shop has no replica.")},
    )


@contextlib.asynccontextmanager
async def plane(*ports: int, workers: int = 1, limits: Limits | None = None) -> AsyncIterator[Plane]:
    """A data plane in front of these ports. Fails when a worker reported an error or was lost unasked."""
    identity = NOBODY if os.getuid() == 0 else None
    supervisor = Supervisor(
        workers=workers,
        http_port=0,
        log=structlog.get_logger(),
        address="127.0.0.1",
        uid=identity,
        gid=identity,
        limits=limits or Limits(drain=2),
    )
    with structlog.testing.capture_logs() as logged:
        await supervisor.start()
        running = asyncio.create_task(supervisor.run(), name="workers")
        found = Plane(supervisor)
        try:
            await found.publish(*ports)
            yield found
        finally:
            await supervisor.stop()
            await running
    assert not [entry for entry in logged if entry["log_level"] == "error"], logged


@contextlib.asynccontextmanager
async def process(*command: str, environ: dict[str, str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program with its output in a pipe, killed at the end."""
    running = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(environ or {})},
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


@contextlib.asynccontextmanager
async def sample_app() -> AsyncIterator[int]:
    """The sample app as a process of this host; gives its port."""
    port = free_port()
    async with process(sys.executable, "-W", "ignore", str(SAMPLE_APP), environ={"PORT": str(port)}) as app:
        await line(app)
        assert app.stdout is not None
        rest = asyncio.create_task(app.stdout.read(), name="sample app's output")  # else a full pipe stops it
        try:
            yield port
        finally:
            rest.cancel()


async def line(running: asyncio.subprocess.Process) -> str:
    """The next line that a program prints."""
    assert running.stdout is not None
    async with asyncio.timeout(DEADLINE):
        text = (await running.stdout.readline()).decode()
    assert text, "it ended without a word"
    return text


async def run(*command: str, given: bytes | None = None, timeout: float = DEADLINE) -> str:
    """What a command prints on standard output; it must succeed."""
    status, out, error = await outcome(*command, given=given, timeout=timeout)
    assert status == 0, f"{command} exited {status}\n{out}\n{error}"
    return out


async def outcome(*command: str, given: bytes | None = None, timeout: float = DEADLINE) -> tuple[int, str, str]:
    """A command's exit status and both outputs."""
    running = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            out, error = await running.communicate(given)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    assert running.returncode is not None
    return running.returncode, out.decode(), error.decode()


async def wait_for_server(port: int) -> None:
    """Return when something listens there."""
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.01)


def wrk_faults(report: str) -> list[str]:
    """The lines of a report of wrk's that say what went wrong; it prints them only then."""
    assert "Requests/sec" in report, report
    return [line.strip() for line in report.splitlines() if "Socket errors" in line or "Non-2xx" in line]
