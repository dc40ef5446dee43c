"""Replicas that fail, leave and come: what is tried again and what never, who is shunned, and how work in hand ends."""

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.wire import HOST, Handler, Proxy, answering, backend, closed_port, proxying, unaccepting_port, until
from sidegate.core.routes import PAUSED, AppRoute, Policy, Upstream
from sidegate.proxy.limits import Limits
from sidegate.proxy.upstream import Backend, BackendConnection

OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"
GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
UPGRADE = f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".encode()
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


def upstream(port: int, identity: str = "") -> Upstream:
    return Upstream(f"shop-{port}", "127.0.0.1", port, identity)


def breaking(seen: list[bytes], *, after: bytes = b"") -> Handler:
    """Read a head, write `after` and reset the connection."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(after)
        await writer.drain()
        if not after:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort() if not after else writer.close()

    return handler


def replica(proxy: Proxy, port: int) -> Backend:
    return next(one for one in proxy.gateway.table.backends.values() if one.port == port)


def first(proxy: Proxy, port: int) -> None:
    """Let the replica on `port` be the next choice: the others look busy."""
    for one in proxy.gateway.table.backends.values():
        one.active = 0 if one.port == port else 10


def lowest_free_descriptor() -> int:
    with socket.socket() as sock:
        return sock.fileno()


# --- tries ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_any_request_goes_to_another_replica_while_nothing_of_it_was_sent(method: str) -> None:
    dead = closed_port()
    async with backend(answering(OK)) as port, proxying(dead, port) as proxy, await proxy.client() as client:
        first(proxy, dead)
        found = await client.get(method=method)
        assert (found.status, found.body) == (200, b"hello")
        assert replica(proxy, dead).ejected_until > proxy.gateway.tick


async def test_a_body_that_came_while_dialling_is_not_lost_when_the_dial_fails() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(50_000)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + body)

    dead = closed_port()
    async with backend(echo) as port, proxying(dead, port) as proxy, await proxy.client() as client:
        first(proxy, dead)
        assert (await client.get(method="POST", body=b"u" * 50_000)).body == b"u" * 50_000


async def test_three_replicas_are_tried_and_no_more() -> None:
    dead = [closed_port() for _ in range(5)]
    async with proxying(*dead) as proxy, await proxy.client() as client:
        assert (await client.get()).status == 502
        assert sum(one.failures for one in proxy.gateway.table.backends.values()) == 3


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [("GET", b"", 200), ("PUT", b"all of it", 200), ("DELETE", b"", 200), ("POST", b"", 502), ("PATCH", b"x", 502)],
)
async def test_what_was_sent_is_sent_again_only_if_it_is_idempotent(method: str, body: bytes, status: int) -> None:
    seen: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(body)) == body
        writer.write(OK)

    async with (
        backend(breaking(seen)) as broken,
        backend(take) as well,
        proxying(broken, well) as proxy,
        await proxy.client() as client,
    ):
        first(proxy, broken)
        assert (await client.get(method=method, body=body)).status == status
        assert len(seen) == 1
        assert replica(proxy, broken).ejected_until > proxy.gateway.tick
        assert replica(proxy, broken).active == 0


async def test_a_body_that_was_passed_on_in_parts_is_not_sent_again() -> None:
    seen: list[bytes] = []
    got = asyncio.Event()

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"second")
        got.set()
        writer.transport.abort()

    async with (
        backend(broken) as port,
        backend(answering(OK, seen)) as well,
        proxying(port, well) as proxy,
        await proxy.client() as client,
    ):
        first(proxy, port)
        client.writer.write(b"PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100\r\n\r\nfirst")
        await until(lambda: any("waiting" in repr(one) for one in proxy.gateway.clients))
        client.writer.write(b"second")
        async with asyncio.timeout(30):
            await got.wait()
        assert (await client.response("PUT")).status == 502
        assert not seen


@pytest.mark.parametrize("after", [b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_nothing_is_sent_again_once_a_response_began(after: bytes) -> None:
    seen: list[bytes] = []
    heads: list[bytes] = []
    async with (
        backend(breaking(seen, after=after)) as broken,
        backend(answering(OK, heads)) as well,
        proxying(broken, well) as proxy,
        await proxy.client() as client,
    ):
        first(proxy, broken)
        assert (await client.get()).status == 502
        assert (len(seen), heads) == (1, [])


async def test_a_spare_connection_that_was_closed_does_not_count_against_its_replica() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")  # the second on a connection is never answered

    async with backend(once) as port, proxying(port, closed_port()) as proxy, await proxy.client() as client:
        first(proxy, port)
        for _ in range(5):
            assert (await client.get()).body == b"hello"
        assert replica(proxy, port).failures == 0


async def test_a_worker_that_runs_out_of_files_does_not_blame_its_replicas() -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy, await proxy.client() as client:
        await until(lambda: len(proxy.gateway.clients) == 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor(), hard))
        try:
            assert (await client.get()).status == 502
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert replica(proxy, port).failures == 0
        assert (await client.get()).status == 200


async def test_a_request_whose_replica_left_while_it_dialled_is_chosen_anew() -> None:
    heads: list[bytes] = []
    with unaccepting_port() as hanging:
        async with backend(answering(OK, heads)) as port, proxying() as proxy, await proxy.client() as client:
            proxy.route(AppRoute((upstream(hanging),)), Policy(connect=0.5))
            client.writer.write(GET)
            await until(lambda: any("dialling" in repr(one) for one in proxy.gateway.clients))
            proxy.publish(port)
            found = await client.response()
            assert (found.status, len(heads)) == (200, 1)


async def test_a_request_whose_replicas_leave_as_fast_as_they_are_dialled_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(backend(answering(OK))) for _ in range(6)]
        proxy = await stack.enter_async_context(proxying(ports.pop()))
        client = await stack.enter_async_context(await proxy.client())
        dial = proxy.gateway.dial

        async def dial_and_leave(one: Backend, seconds: float) -> BackendConnection:
            connection = await dial(one, seconds)
            proxy.publish(ports.pop())
            return connection

        monkeypatch.setattr(proxy.gateway, "dial", dial_and_leave)
        assert (await client.get(method="POST")).status == 200
        assert len(ports) == 2  # three were dialled


async def test_a_request_whose_app_was_paused_while_it_dialled_waits() -> None:
    with unaccepting_port() as hanging:
        async with backend(answering(OK)) as port, proxying() as proxy, await proxy.client() as client:
            proxy.route(AppRoute((upstream(hanging),)), Policy(connect=0.2))
            client.writer.write(GET)
            await until(lambda: any("dialling" in repr(one) for one in proxy.gateway.clients))
            proxy.route(AppRoute((upstream(port),), mode=PAUSED))
            await until(lambda: len(proxy.gateway.parking) == 1)
            proxy.publish(port)
            assert (await client.response()).body == b"hello"


async def test_an_app_that_does_not_accept_in_its_time_is_504_and_ejected() -> None:
    with unaccepting_port() as hanging:
        async with proxying() as proxy, await proxy.client() as client:
            proxy.route(AppRoute((upstream(hanging),)), Policy(connect=0.1))
            assert (await client.get()).status == 504
            assert replica(proxy, hanging).failures == 1
            assert replica(proxy, hanging).active == 0


async def test_replicas_are_asked_by_how_much_they_have_in_hand() -> None:
    release = asyncio.Event()
    held = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal held
        await reader.readuntil(b"\r\n\r\n")
        held += 1
        await release.wait()
        writer.write(OK)

    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(backend(slow)) for _ in range(3)]
        proxy = await stack.enter_async_context(proxying(*ports))
        clients = [await stack.enter_async_context(await proxy.client()) for _ in range(9)]
        for client in clients:
            client.writer.write(GET)
        await until(lambda: held == 9)
        assert [replica(proxy, port).active for port in ports] == [3, 3, 3]
        release.set()
        for client in clients:
            assert (await client.response()).status == 200
        assert [replica(proxy, port).active for port in ports] == [0, 0, 0]


# --- leaving ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def waiting_app() -> AsyncIterator[tuple[int, Callable[[], Awaitable[None]], asyncio.Event]]:
    """A port, what waits until a request is there, and the event that lets it be answered."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"Upgrade" in head:
                writer.write(SWITCH)
                asked.set()
                while data := await reader.read(100):
                    writer.write(data)
                return
            asked.set()
            await release.wait()
            writer.write(OK)

    async def until_asked() -> None:
        async with asyncio.timeout(30):
            await asked.wait()

    async with backend(slow) as port:
        yield port, until_asked, release


async def test_a_replica_that_leaves_ends_its_requests_in_order_and_keeps_no_spare_connection() -> None:
    async with waiting_app() as (port, asked, release), proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(GET)
        await asked()
        leaving = replica(proxy, port)
        proxy.publish()
        proxy.pass_time(29)
        release.set()
        assert (await client.response()).body == b"hello"
        assert (leaving.active, leaving.spare) == (0, [])
        proxy.pass_time(1)
        assert not proxy.gateway.table.leaving


async def test_spare_connections_end_when_their_replica_leaves() -> None:
    ended = asyncio.Event()
    answer = answering(OK)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            ended.set()

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        await client.get()
        assert not ended.is_set()
        proxy.publish()
        async with asyncio.timeout(30):
            await ended.wait()


async def test_what_a_replica_that_left_has_not_finished_by_the_deadline_is_cut() -> None:
    async with waiting_app() as (port, _, _), proxying(port, limits=Limits(drain=5)) as proxy:
        async with await proxy.client() as client, await proxy.client() as tunnel:
            tunnel.writer.write(UPGRADE)
            await tunnel.head()
            client.writer.write(GET)
            await until(lambda: any("waiting" in repr(one) for one in proxy.gateway.clients))
            assert replica(proxy, port).active == 2
            proxy.publish(closed_port())
            for _ in range(5):
                proxy.publish(closed_port())  # more snapshots make no new deadline
                proxy.pass_time(1)
            tunnel.writer.write(b"still")
            assert await tunnel.exactly(5) == b"still"
            proxy.pass_time(1)
            assert (await client.response()).status == 503
            with pytest.raises(ConnectionResetError):
                await tunnel.rest()
        await until(lambda: not proxy.gateway.clients and not proxy.gateway.tunnels)
        proxy.pass_time(1)
        assert not proxy.gateway.table.leaving


async def test_a_replica_that_comes_back_before_the_deadline_is_not_cut() -> None:
    async with (
        waiting_app() as (port, asked, release),
        proxying(port, limits=Limits(drain=5)) as proxy,
        await proxy.client() as client,
    ):
        client.writer.write(GET)
        await asked()
        proxy.publish()
        proxy.pass_time(3)
        proxy.publish(port)
        proxy.pass_time(20)
        release.set()
        assert (await client.response()).body == b"hello"


async def test_a_resting_replica_keeps_what_it_has_and_takes_nothing_new() -> None:
    heads: list[bytes] = []
    async with (
        waiting_app() as (port, _, release),
        backend(answering(OK, heads)) as other,
        proxying(port, limits=Limits(drain=5)) as proxy,
        await proxy.client() as client,
        await proxy.client() as tunnel,
    ):
        tunnel.writer.write(UPGRADE)
        await tunnel.head()
        client.writer.write(GET)
        await until(lambda: any("waiting" in repr(one) for one in proxy.gateway.clients))
        proxy.route(AppRoute((upstream(other),), resting=(upstream(port),)))
        async with await proxy.client() as another:
            for _ in range(4):
                assert (await another.get()).status == 200
        assert len(heads) == 4
        proxy.pass_time(20)
        tunnel.writer.write(b"still")
        assert await tunnel.exactly(5) == b"still"
        release.set()
        assert (await client.response()).body == b"hello"


async def test_a_new_container_at_an_old_address_does_not_inherit_connections() -> None:
    connections = 0
    answer = answering(OK)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answer(reader, writer)

    async with backend(handler) as port, proxying() as proxy, await proxy.client() as client:
        for identity, count in (("a", 1), ("a", 1), ("b", 2)):
            proxy.route(AppRoute((upstream(port, identity),)))
            await client.get()
            assert connections == count


async def test_an_idle_tunnel_is_cut_when_its_app_wants_that() -> None:
    async with waiting_app() as (port, _, _), proxying() as proxy, await proxy.client() as client:
        proxy.route(AppRoute((upstream(port),)), Policy(websocket_idle=5))
        client.writer.write(UPGRADE)
        await client.head()
        proxy.pass_time(4)
        client.writer.write(b"ping")
        assert await client.exactly(4) == b"ping"
        proxy.pass_time(5)
        assert len(proxy.gateway.tunnels) == 1
        proxy.pass_time(2)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: not proxy.gateway.tunnels)
        assert replica(proxy, port).active == 0
