"""The TCP forwarder on real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.wire import DEADLINE, Client, Handler, backend, closed_port, until
from sidegate.core.routes import DatabaseTarget, Routes
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.limits import Limits
from sidegate.proxy.listener import Listener
from sidegate.proxy.ports import bind_group
from sidegate.proxy.tcp import Forwarder


class Plant:
    """A forwarder named db that listens on `port` and can be pointed somewhere."""

    def __init__(self, forwarder: Forwarder, port: int, gateway: Gateway) -> None:
        self.forwarder = forwarder
        self.port = port
        self._gateway = gateway

    def point_at(self, port: int | None) -> None:
        target = DatabaseTarget("127.0.0.1", port) if port else DatabaseTarget()
        self._gateway.publish(Routes(databases={"db": target}))

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))


@contextlib.asynccontextmanager
async def forwarding(port: int | None) -> AsyncIterator[Plant]:
    errors: list[BaseException] = []
    async with asyncio.TaskGroup() as tasks:
        gateway = Gateway(Limits(), tasks, errors.append)
        (sock,) = bind_group(0, 1, "127.0.0.1")
        forwarder = Forwarder("db", lambda: gateway.table.routes.databases.get("db"), gateway.spawn, 1.0)
        plant = Plant(forwarder, sock.getsockname()[1], gateway)
        listener = Listener(sock, forwarder.accepted)
        plant.point_at(port)
        try:
            yield plant
        finally:
            listener.close()
            forwarder.close()
            await until(lambda: not forwarder.sessions())
    assert not errors


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_bytes_pass_both_ways_and_the_session_is_listed_until_it_ends() -> None:
    async with backend(echo) as port, forwarding(port) as plant:
        async with await plant.client() as client:
            client.writer.write(b"hello")
            assert await client.exactly(5) == b"hello"
            (session,) = plant.forwarder.sessions()
            address, client_port = client.writer.get_extra_info("sockname")
            assert (session.database, session.client) == ("db", f"{address}:{client_port}")
            assert (session.bytes_sent, session.bytes_received) == (5, 5)
            client.writer.write_eof()
            assert await client.rest() == b""
        await until(lambda: not plant.forwarder.sessions())


async def test_a_half_that_is_closed_leaves_the_other_open() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))
        await writer.drain()
        writer.write_eof()

    async with backend(handler) as port, forwarding(port) as plant, await plant.client() as client:
        client.writer.write(b"x" * 3_000_000)
        client.writer.write_eof()
        assert await client.rest() == b"3000000"


async def test_the_database_may_end_its_half_first() -> None:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        got.set_result(await reader.read())

    async with backend(handler) as port, forwarding(port) as plant, await plant.client() as client:
        assert await client.rest() == b""
        client.writer.write(b"bye")
        client.writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            assert await got == b"bye"


async def test_a_client_of_a_database_that_does_not_run_is_reset_at_once() -> None:
    async with forwarding(None) as plant:
        with pytest.raises(ConnectionResetError):
            async with await plant.client() as client:
                await client.rest()


async def test_a_client_of_a_database_that_refuses_is_reset() -> None:
    async with forwarding(closed_port()) as plant, await plant.client() as client:
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: not plant.forwarder.sessions())


async def test_close_cuts_both_ends_and_counts() -> None:
    cut = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi")
        try:
            await reader.read()
        except ConnectionResetError:
            cut.set()

    async with backend(handler) as port, forwarding(port) as plant, await plant.client() as client:
        assert await client.exactly(2) == b"hi"
        assert plant.forwarder.close() == 1
        with pytest.raises(ConnectionResetError):
            await client.rest()
        async with asyncio.timeout(DEADLINE):
            await cut.wait()
        await until(lambda: not plant.forwarder.sessions())


async def test_new_sessions_use_a_new_address_and_old_ones_go_on() -> None:
    def greeting(name: bytes) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(name)
            await echo(reader, writer)

        return handler

    async with (
        backend(greeting(b"a")) as a,
        backend(greeting(b"b")) as b,
        forwarding(a) as plant,
        await plant.client() as old,
    ):
        assert await old.exactly(1) == b"a"
        plant.point_at(b)
        async with await plant.client() as new:
            assert await new.exactly(1) == b"b"
            old.writer.write(b"still")
            assert await old.exactly(5) == b"still"


async def test_a_database_is_not_read_faster_than_the_client_reads() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b"x" * 100_000)
            sent += 100_000
            await writer.drain()

    async with backend(flood) as port, forwarding(port) as plant:
        with socket.create_connection(("127.0.0.1", plant.port)):
            before = -1
            while before != sent or not sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 20_000_000
            plant.forwarder.close()
