"""What the access log is handed: one entry for each request, whatever becomes of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.wire import DEADLINE, HOST, Client, Proxy, answering, backend, closed_port, proxying, until
from sidegate.core.routes import PAUSED, AppRoute, Policy, Upstream
from sidegate.proxy.record import CLIENT_LEFT, Entry

OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"


class Log:
    """Stands for access_log.AccessLog: what it is given is all that is asked here."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)


@contextlib.asynccontextmanager
async def logging(*ports: int) -> AsyncIterator[tuple[Proxy, Client, list[Entry]]]:
    log = Log()
    async with proxying(*ports) as proxy, await proxy.client() as client:
        proxy.gateway.log = log  # type: ignore[assignment]
        yield proxy, client, log.entries


async def test_a_response_that_is_passed_on_as_it_came() -> None:
    heads: list[bytes] = []
    async with backend(answering(OK, heads)) as port, logging(port) as (_, client, entries):
        for _ in range(3):
            await client.get("/a?secret=1")
        began, address, scheme, method, host, path, status, received, sent, seconds, until_head, *names = entries[-1]
        assert (address, scheme, method, host, path) == ("127.0.0.1", "http", b"GET", HOST, "/a")
        assert (status, received, sent) == (200, 0, 5)
        assert began > 1_000_000_000
        assert 0 <= until_head <= seconds < DEADLINE
        *who, request_id = names
        assert who == ["shop", f"shop-{port}"]
        assert isinstance(request_id, bytes)
        assert b"X-Request-ID: " + request_id + b"\r\n" in heads[-1]
        assert len(entries) == 3


async def test_bodies_are_counted_both_ways() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(100_000)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for start in range(0, 100_000, 1000):
                writer.write(body[start : start + 1000])
                await writer.drain()

    async with backend(echo) as port, logging(port) as (_, client, entries):
        for _ in range(2):
            assert len((await client.get(method="POST", body=b"x" * 100_000)).body) == 100_000
        await until(lambda: len(entries) == 2)
        assert [entry[6:9] for entry in entries] == [(200, 100_000, 100_000)] * 2


async def test_answers_of_our_own() -> None:
    async with logging(closed_port()) as (proxy, client, entries):
        assert (await client.get(method="POST", body=b"abc")).status == 502
        proxy.publish()
        body = (await client.get()).body
        client.writer.write(b"GET /x HTTP/1.1\r\nHost: b.test\r\n\r\n")
        await client.response()
        client.writer.write(b"GET / HTTP/1.1\r\nbad\r\n\r\n")
        refused = await client.response()
        assert [(entry[3], entry[5], entry[6], entry[11]) for entry in entries] == [
            (b"POST", "/", 502, "shop"),
            (b"GET", "/", 503, "shop"),
            (b"GET", "/x", 404, ""),
            (b"", "", 400, ""),
        ]
        assert (entries[0][7], entries[1][8], entries[1][10]) == (3, len(body), -1.0)
        assert entries[3][13] == refused.headers["x-request-id"].encode()


async def test_a_client_that_leaves_before_it_is_answered_is_499() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with backend(silent) as port, logging(port) as (proxy, client, entries):
        client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9\r\n\r\nx")
        await until(lambda: any("waiting" in repr(one) for one in proxy.gateway.clients))
        client.writer.transport.abort()
        await until(lambda: len(entries) == 1)
        assert (entries[0][6], entries[0][7]) == (CLIENT_LEFT, 1)
        proxy.route(AppRoute(mode=PAUSED))
        async with await proxy.client() as parked:
            parked.writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
            await until(lambda: len(proxy.gateway.parking) == 1)
        await until(lambda: len(entries) == 2)
        assert entries[1][6] == CLIENT_LEFT


async def test_a_response_that_is_cut_short_keeps_its_status() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with backend(half) as port, logging(port) as (_, client, entries):
        client.writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: len(entries) == 1)
        assert (entries[0][6], entries[0][8]) == (200, 4)


async def test_a_tunnel_is_logged_when_it_is_over() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data * 2)

    async with backend(echo) as port, logging(port) as (_, client, entries):
        client.writer.write(b"GET /ws HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        await client.head()
        client.writer.write(b"ping")
        await client.exactly(8)
        assert not entries
        client.writer.write_eof()
        await client.rest()
        await until(lambda: len(entries) == 1)
        assert entries[0][5:9] == ("/ws", 101, 4, 8)


async def test_an_app_may_stay_out_of_the_log() -> None:
    async with backend(answering(OK)) as port, logging() as (proxy, client, entries):
        route = AppRoute((Upstream("shop", "127.0.0.1", port),))
        proxy.route(route, Policy(access_log=False))
        await client.get()
        proxy.route(route)
        await client.get()
        assert len(entries) == 1


async def test_a_log_that_is_switched_off_midway_is_left_alone() -> None:
    async with backend(answering(OK)) as port, logging() as (proxy, client, entries):
        proxy.route(AppRoute(mode=PAUSED))
        client.writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        await until(lambda: len(proxy.gateway.parking) == 1)
        proxy.gateway.log = None
        proxy.publish(port)
        assert (await client.response()).status == 200
        assert not entries
