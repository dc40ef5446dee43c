"""aiohttp, requests, httpx and websockets through a worker, in front of the sample app."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx
import pytest
import requests
import websockets

from interop.plane import HOST, Plane, plane, sample_app

BODY = os.urandom(900_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
async def shop() -> AsyncIterator[Plane]:
    async with sample_app() as port, plane(port) as found:
        yield found


def pieces() -> Iterator[bytes]:
    for start in range(0, len(BODY), 100_000):
        yield BODY[start : start + 100_000]


async def test_aiohttp(shop: Plane) -> None:
    async def feed() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    async with aiohttp.ClientSession(shop.address, headers={"Host": HOST}) as session:
        for body in (BODY, feed()):
            async with session.post("/upload", data=body, expect100=True) as response:
                assert (await response.json())["sha256"] == DIGEST
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            async with session.request(method, "/echo/ä?ö=ü") as response:
                assert (await response.json())["method"] == method
        async with session.head("/stream?bytes=12345") as response:
            assert response.content_length == 12345

        async def download(chunked: str) -> int:
            async with session.get("/stream", params={"bytes": 1_000_000, "chunked": chunked}) as response:
                return len(await response.read())

        sizes = await asyncio.gather(*(download(chunked) for chunked in ("", "1") * 50))
        assert sizes == [1_000_000] * 100

        async with session.ws_connect("/ws", compress=15, autoping=True) as ws:
            await ws.send_str("tea" * 10_000)
            assert await ws.receive_str() == "tea" * 10_000
            await ws.send_bytes(BODY)
            assert await ws.receive_bytes() == BODY
            await ws.ping(b"there?")
            assert await ws.close()
            assert ws.close_code == 1000  # the app's own answer


async def test_requests(shop: Plane) -> None:
    def talk() -> None:
        with requests.Session() as session:
            session.headers["Host"] = HOST
            for body in (BODY, pieces()):
                assert session.put(f"{shop.address}/upload", data=body, timeout=20).json()["sha256"] == DIGEST
            form = session.post(f"{shop.address}/echo", files={"file": BODY}, data={"word": "tea"}, timeout=20)
            assert form.json()["body"]["bytes"] > len(BODY)
            with session.get(f"{shop.address}/stream?bytes=3000000&chunked=1", stream=True, timeout=20) as response:
                assert sum(len(part) for part in response.iter_content(10_000)) == 3_000_000
            assert session.head(f"{shop.address}/stream?bytes=7", timeout=20).headers["Content-Length"] == "7"
            assert session.get(f"{shop.address}/nothing/there", timeout=20).status_code == 404

    await asyncio.to_thread(talk)


async def test_httpx(shop: Plane) -> None:
    async with httpx.AsyncClient(base_url=shop.address, headers={"Host": HOST}, timeout=20) as client:
        answers = await asyncio.gather(*(client.post("/upload", content=BODY) for _ in range(10)))
        assert {answer.json()["sha256"] for answer in answers} == {DIGEST}
        async with client.stream("GET", "/stream?bytes=3000000&chunked=1") as response:
            assert sum([len(part) async for part in response.aiter_raw()]) == 3_000_000


async def test_websockets(shop: Plane) -> None:
    async def talk(number: int) -> None:
        async with websockets.connect(shop.address.replace("http", "ws") + "/ws", max_size=None) as ws:
            for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
                await ws.send(BODY[:size])
                assert await ws.recv() == BODY[:size]
            for word in ("tea", f"number {number}"):
                await ws.send(word)
            assert [await ws.recv(), await ws.recv()] == ["tea", f"number {number}"]
            pong = await ws.ping()
            await pong

    async with asyncio.timeout(30):
        await asyncio.gather(*(talk(number) for number in range(20)))


async def test_a_refused_websocket_is_an_ordinary_response(shop: Plane) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(shop.address.replace("http", "ws") + "/healthz"):
            pass
    assert refused.value.response.status_code == 200
    port = shop.supervisor.http_port
    with pytest.raises(websockets.InvalidStatus) as unknown:
        async with websockets.connect(f"ws://nobody.localhost:{port}/ws", host="127.0.0.1", port=port):
            pass
    assert unknown.value.response.status_code == 404
