"""A worker killed under load takes its own connections with it and nothing else."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import aiohttp
import pytest
import websockets

from interop.plane import plane, run, sample_app, wrk_faults

pytestmark = pytest.mark.engine
SOCKETS = 24


def served_by(pid: int, port: int) -> set[int]:
    """The ports of the clients whose connection to `port` this worker holds."""
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2][-4:], 16) for row in rows if row[9] in inodes and int(row[1][-4:], 16) == port}


async def test_only_its_own_connections_break_and_the_port_goes_on() -> None:
    async with sample_app() as app, plane(app, workers=2) as shop, contextlib.AsyncExitStack() as stack:
        url = shop.address.replace("http", "ws") + "/ws"
        sockets = [await stack.enter_async_context(websockets.connect(url, ping_interval=None)) for _ in range(SOCKETS)]
        victim = shop.pids[0]
        doomed_ports = served_by(victim, shop.supervisor.http_port)
        doomed = [ws for ws in sockets if ws.local_address[1] in doomed_ports]
        kept = [ws for ws in sockets if ws not in doomed]
        assert doomed
        assert kept
        load = asyncio.create_task(
            run("wrk", "-t1", "-c20", "-d4s", "--timeout", "10s", f"{shop.address}/healthz"),
            name="wrk",
        )
        await asyncio.sleep(1)  # wrk says nothing when it has begun
        os.kill(victim, signal.SIGKILL)
        for _ in range(50):
            # On a connection of its own each: half of them would have been the victim's.
            async with (
                asyncio.timeout(30),
                aiohttp.ClientSession(shop.address) as client,
                client.get("/healthz") as response,
            ):
                assert response.status == 200
        for ws in doomed:
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()
        for ws in kept:
            await ws.send("still there")
            assert await ws.recv() == "still there"
        report = await load
        broken = wrk_faults(report)
        print(f"{len(doomed)} of {SOCKETS} WebSockets were the victim's; wrk: {broken or 'no errors'}")
        for fault in broken:
            counts = dict(zip(*[iter(fault.replace(",", "").split()[2:])] * 2, strict=True))
            assert {kind: int(count) for kind, count in counts.items()}.keys() == {
                "connect",
                "read",
                "write",
                "timeout",
            }
            assert int(counts["connect"]) == int(counts["timeout"]) == 0, fault
            assert int(counts["read"]) + int(counts["write"]) <= 20, fault  # wrk's connections: each breaks once
