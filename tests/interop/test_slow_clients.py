"""slowhttptest's attacks, all at once, with one good client beside them."""

import asyncio
import re
import time

import aiohttp
import pytest

from interop.plane import HOST, plane, process, sample_app
from interop.toolbox import Toolbox
from sidegate.core.routes import AppRoute, PathRoute, Routes, Upstream

pytestmark = pytest.mark.engine
SECONDS = 15
CONNECTIONS = "300"
ATTACKS = {
    "slow header": ("-H", "-i", "5"),
    "slow body": ("-B", "-i", "5", "-s", "100000", "-t", "POST"),
    "slow read": ("-X", "-w", "1", "-y", "64", "-n", "5", "-z", "1"),
}


def in_parts(nginx: int, app: int) -> Routes:
    """Files from nginx; uploads to an app that takes them piece by piece."""
    apps = {name: AppRoute((Upstream(name, "127.0.0.1", port),)) for name, port in (("files", nginx), ("app", app))}
    return Routes(
        hosts={host: (PathRoute("/upload", "app"), PathRoute("", "files")) for host in (HOST, "127.0.0.1")}, apps=apps
    )


async def test_a_good_client_is_served_throughout(toolbox: Toolbox) -> None:
    toolbox.file("www/index.html", b"hello")
    toolbox.file("www/big", bytes(5_000_000))
    nginx = toolbox.nginx("")
    async with sample_app() as app, plane(workers=2) as shop:
        await shop.supervisor.publish(in_parts(nginx, app))
        load = ("slowhttptest", "-c", CONNECTIONS, "-r", "100", "-l", str(SECONDS), "-p", "10")
        paths = {"slow header": "/", "slow body": "/upload", "slow read": "/big"}
        statuses: list[int] = []
        slowest = 0.0

        async def attack(what: str, words: tuple[str, ...]) -> str:
            async with process(*toolbox.inside(*load, *words, "-u", shop.address + paths[what])) as attacker:
                assert attacker.stdout is not None
                async with asyncio.timeout(SECONDS + 40):
                    return (await attacker.stdout.read()).decode()

        async with asyncio.TaskGroup() as tasks:
            attackers = {what: tasks.create_task(attack(what, words)) for what, words in ATTACKS.items()}
            while not all(task.done() for task in attackers.values()):
                # Every other one on a connection of its own, so that both a new client and a known one are seen.
                async with aiohttp.ClientSession(shop.address, headers={"Host": HOST}) as good:
                    for _ in range(2):
                        begun = time.monotonic()
                        async with good.get("/", timeout=aiohttp.ClientTimeout(30)) as response:
                            await response.read()
                            statuses.append(response.status)
                        slowest = max(slowest, time.monotonic() - begun)
                await asyncio.sleep(0.01)
        for what, task in attackers.items():
            report = re.sub(r"\x1b\[[0-9;]*m", "", task.result())
            connected = [int(count) for count in re.findall(r"^connected: +(\d+)", report, re.MULTILINE)]
            assert connected, report
            assert max(connected) > int(CONNECTIONS) // 2, f"{what} hardly attacked:\n{report[-2000:]}"
            assert "NO" not in re.findall(r"service available: +(\w+)", report), f"{what}:\n{report[-2000:]}"
            print(f"{what}: {max(connected)} connections at a time")
        print(f"the good client: {len(statuses)} requests, the slowest {slowest * 1000:.0f} ms")
        assert len(statuses) > 20
        assert set(statuses) == {200}
