"""The TCP forwarder on real sockets: what passes, what ends, what is never reached."""

import asyncio
import socket
import time

import pytest

from proxy.plant import echo, forwarding
from proxy.wire import DEADLINE, Handler, backend, closed_port, unaccepting_port, until
from sidegate.core.sessions import Cut

FIN_WAIT2 = 5
"""linux/tcp_states.h: the other end's kernel knows that this one has no more to say."""


async def test_bytes_pass_both_ways_and_the_session_is_listed_until_it_ends() -> None:
    peers = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        await echo(reader, writer)

    async with backend(handler) as port, forwarding(port) as plant:
        async with await plant.client() as client:
            client.writer.write(b"hello")
            assert await client.exactly(5) == b"hello"
            (session,) = plant.forwarder.sessions()
            address, client_port = client.writer.get_extra_info("sockname")
            assert (session.database, session.client) == ("db", f"{address}:{client_port}")
            assert (session.bytes_sent, session.bytes_received) == (5, 5)
            assert (session.masked, session.masked_port) in peers
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
        await plant.refused()
        assert plant.reasons() == {"the database does not run": 1}


async def test_a_client_of_a_database_that_refuses_is_reset() -> None:
    async with forwarding(closed_port()) as plant, await plant.client() as client:
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: not plant.forwarder.sessions())
        assert plant.reasons() == {"the database cannot be reached: connection refused": 1}


async def test_a_client_of_a_database_that_does_not_answer_is_reset_when_the_dial_has_taken_too_long() -> None:
    with unaccepting_port() as port:
        async with forwarding(port, connect=0) as plant, await plant.client() as client:
            await until(lambda: plant.forwarder.count == 1)

            def given_up() -> bool:
                plant.forwarder.sweep()
                return plant.forwarder.count == 0

            await until(given_up)
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert plant.reasons() == {"the database does not answer": 1}


async def test_a_dial_is_given_up_when_the_database_has_gone_from_there() -> None:
    """A container that was killed says nothing: its address is just not answered any more."""
    with unaccepting_port() as port:
        async with forwarding(port, connect=3600) as plant, await plant.client() as client:
            await until(lambda: plant.forwarder.count == 1)
            plant.forwarder.sweep()
            plant.point_at(None)

            def given_up() -> bool:
                plant.forwarder.sweep()
                return plant.forwarder.count == 0

            await until(given_up)
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert plant.reasons() == {"the database does not answer": 1}


async def test_a_client_that_has_left_already_never_reaches_the_database() -> None:
    reached = 0

    async def handler(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached += 1

    async with backend(handler) as port, forwarding(port) as plant:
        for _ in range(20):  # all before the forwarder gets its turn
            with socket.create_connection(("127.0.0.1", plant.port)) as client:
                client.shutdown(socket.SHUT_WR)
                while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != FIN_WAIT2:
                    time.sleep(0.001)
        told = 0
        async with asyncio.timeout(DEADLINE):
            while told < 20:
                told += plant.reasons().get("it left before its session began", 0)
                await asyncio.sleep(0.002)
        assert reached == 0


async def test_a_session_that_is_cut_while_its_database_is_dialled_is_over() -> None:
    with unaccepting_port() as port:
        async with forwarding(port, connect=60) as plant, await plant.client() as client:
            await until(lambda: plant.forwarder.count == 1)
            assert plant.forwarder.kick("127.0.0.1") == Cut(1)
            with pytest.raises(ConnectionResetError):
                await client.rest()
            await until(lambda: plant.forwarder.count == 0)


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
