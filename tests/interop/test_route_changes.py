"""Routes that change a hundred times a second under load: nobody notices."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

import aiohttp
import pytest
import websockets

from interop.plane import HOST, plane, run, sample_app, wrk_faults
from sidegate.core.routes import AppRoute, PathRoute, Policy, Routes, Upstream
from sidegate.proxy.limits import Limits

pytestmark = pytest.mark.engine
CHANGES = 1200
INTERVAL = 0.01
SOCKETS = 20


def variations(one: int, other: int) -> Iterator[Routes]:
    """Snapshots that differ in everything but that HOST reaches one of two replicas.

    The replicas rest and leave in turn, and are back before their connections' time is over.
    """
    replicas = tuple(Upstream(f"shop-{port}", "127.0.0.1", port, f"id-{port}") for port in (one, other))
    for number in itertools.count():
        first, second = replicas if number % 4 < 2 else reversed(replicas)
        shop = (
            AppRoute((first, second), policy=number % 2),
            AppRoute((first,), resting=(second,)),
            AppRoute((second,)),
        )[number % 3]
        others = {f"app-{number + n}": AppRoute((Upstream("x", "127.0.0.1", 9, f"{number}"),)) for n in range(20)}
        paths = (PathRoute(f"/v{number % 7}", "shop"), PathRoute("", "shop"))
        yield Routes(
            hosts={HOST: paths, "127.0.0.1": paths, **{f"{name}.test": (PathRoute("", name),) for name in others}},
            wildcards={f".{number % 5}.test": (PathRoute("", "shop"),)},
            apps={"shop": shop, **others},
            default_app="shop" if number % 2 else "",
            policies=(Policy(), Policy(max_body=number)),
        )


async def test_a_hundred_changes_a_second_cost_no_request_and_no_websocket() -> None:
    async with (
        sample_app() as one,
        sample_app() as other,
        plane(one, other, workers=2, limits=Limits(drain=6)) as shop,
        contextlib.AsyncExitStack() as stack,
    ):
        url = shop.address.replace("http", "ws") + "/ws"
        sockets = [await stack.enter_async_context(websockets.connect(url, ping_interval=None)) for _ in range(SOCKETS)]
        client = await stack.enter_async_context(aiohttp.ClientSession(shop.address))
        # In flight all the while: 12 s of pieces, on whichever replica.
        query = {"bytes": "1200000", "piece": "10000", "delay": "0.1", "chunked": "1"}
        download = await stack.enter_async_context(client.get("/stream", params=query))
        load = asyncio.create_task(
            run("wrk", "-t1", "-c20", "-d12s", "--timeout", "10s", f"{shop.address}/healthz"), name="wrk"
        )
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, routes in enumerate(itertools.islice(variations(one, other), CHANGES), 1):
            await shop.supervisor.publish(routes)
            if number % 100 == 0:
                await sockets[number // 100 % SOCKETS].send(str(number))
                assert await sockets[number // 100 % SOCKETS].recv() == str(number)
            await asyncio.sleep(max(0, begun + number * INTERVAL - loop.time()))
        print(f"{CHANGES / (loop.time() - begun):.0f} changes a second")
        report = await load
        assert not wrk_faults(report), report
        assert len(await download.read()) == 1_200_000
        for ws in sockets:
            await ws.send("still there")
            assert await ws.recv() == "still there"
