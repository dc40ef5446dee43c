"""Upgraded connections: a raw tunnel with half-close and back-pressure."""

import asyncio

import pytest
import websockets

from proxy.wire import HOST, answering, backend, proxying, until

UPGRADE = f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".encode()
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


async def switched(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Connection: Upgrade\r\nUpgrade: echo\r\n" in head
    writer.write(SWITCH)
    return head


async def test_a_websocket_echoes() -> None:
    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with proxying(port) as proxy:
            uri = f"ws://{HOST}/"
            async with websockets.connect(uri, host="127.0.0.1", port=proxy.port, proxy=None) as client:
                for message in ("hello", "x" * 1_000_000):
                    await client.send(message)
                    assert len(await client.recv()) == len(message)
                assert len(proxy.gateway.tunnels) == 1
            await until(lambda: not proxy.gateway.tunnels)


async def test_each_side_may_end_its_half_first() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await switched(reader, writer)
        everything = await reader.read()
        writer.write(everything.upper())

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(UPGRADE + b"early ")
        assert await client.head() == SWITCH
        client.writer.write(b"late")
        client.writer.write_eof()
        assert await client.rest() == b"EARLY LATE"


async def test_a_break_on_one_side_breaks_the_other() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await switched(reader, writer)
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(UPGRADE)
        await client.head()
        client.writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: not proxy.gateway.tunnels)


async def test_a_tunnel_does_not_buffer_for_a_reader_that_stops() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await switched(reader, writer)
        while True:
            writer.write(b"x" * 100_000)
            sent += 100_000
            await writer.drain()

    async with backend(flood) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(UPGRADE)
        await client.head()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 20_000_000
        (tunnel,) = proxy.gateway.tunnels
        assert tunnel.client_end.transport is not None
        assert tunnel.client_end.transport.get_write_buffer_size() < 1_000_000


async def test_a_new_snapshot_leaves_tunnels_alone() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await switched(reader, writer)
        while data := await reader.read(100):
            writer.write(data)

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(UPGRADE)
        await client.head()
        proxy.publish()
        client.writer.write(b"still")
        assert await client.exactly(5) == b"still"


async def test_an_upgrade_that_the_app_declines_is_an_ordinary_response() -> None:
    response = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo\r\nContent-Length: 0\r\n\r\n"
    async with backend(answering(response)) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(2):
            client.writer.write(UPGRADE)
            found = await client.response()
            assert (found.status, found.headers["connection"], found.headers["upgrade"]) == (426, "Upgrade", "echo")


async def test_h2c_is_never_asked_of_an_app() -> None:
    heads: list[bytes] = []
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with backend(answering(ok, heads)) as port, proxying(port) as proxy, await proxy.client() as client:
        for value in ("h2c", "websocket, h2c"):
            response = await client.get(
                "/", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {value}", "HTTP2-Settings: x"
            )
            assert response.status == 200
            assert b"h2c" not in heads[-1]
            assert b"HTTP2-Settings" not in heads[-1]
