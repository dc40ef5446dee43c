"""Who gets in: the counting by itself, then a listener that is full, and a client who has had its share."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from proxy.wire import DEADLINE, HOST, answering, backend, until
from sidegate.core.routes import AppRoute, PathRoute, Routes, Upstream
from sidegate.proxy.acceptor import Acceptor
from sidegate.proxy.admission import Admission
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.limits import Limits
from sidegate.proxy.ports import bind_group
from sidegate.proxy.tls import TlsContexts

PLENTY = 100_000
OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"
GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
OWN = "192.0.2.1"


def test_without_limits_the_open_files_are_the_limit() -> None:
    admission = Admission(Limits(), 1096)
    assert admission.most == 500
    assert Admission(Limits(connections=400), 1096).most == 400
    assert Admission(Limits(connections=4000), 1096).most == 500
    for _ in range(499):
        assert admission.enter()
    assert (admission.full, admission.ample) == (False, False)
    assert admission.enter()
    assert (admission.full, admission.ample) == (True, False)
    for _ in range(260):
        admission.leave()
    assert (admission.full, admission.ample) == (False, True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("198.51.100.7", "198.51.100.7", True),
        ("198.51.100.7", "::ffff:198.51.100.7", True),
        ("198.51.100.7", "198.51.100.8", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_what_counts_as_one_client(one: str, other: str, same: bool) -> None:
    admission = Admission(Limits(connections_per_client=1), PLENTY)
    assert admission.enter(one, OWN)
    assert admission.enter(other, OWN) is not same
    admission.leave(one, OWN)
    assert admission.enter(one, OWN)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.9", OWN, f"::ffff:{OWN}", "10.1.2.3"])
def test_who_is_not_limited(address: str) -> None:
    admission = Admission(Limits(connections_per_client=1, trusted_proxies=("10.0.0.0/8", "2001:db8::/32")), PLENTY)
    for _ in range(3):
        assert admission.enter(address, OWN)
    assert admission.count == 3
    for _ in range(3):
        admission.leave(address, OWN)
    assert admission.count == 0


class Strict(Admission):
    """Limits loopback too: a test has no other addresses."""

    def _key_of(self, address: str, own: str) -> str | bytes:
        return address


@dataclass
class Place:
    acceptor: Acceptor
    admission: Admission
    gateway: Gateway
    address: tuple[str, int]


@contextlib.asynccontextmanager
async def accepting(
    limits: Limits, *ports: int, tls: bool = False, admission: Admission | None = None
) -> AsyncIterator[Place]:
    errors: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(RuntimeError(str(context))))
    async with asyncio.TaskGroup() as tasks:
        gateway = Gateway(limits, tasks, errors.append)
        upstreams = tuple(Upstream(f"shop-{port}", "127.0.0.1", port, str(port)) for port in ports)
        gateway.publish(Routes(hosts={HOST: (PathRoute("", "shop"),)}, apps={"shop": AppRoute(upstreams)}))
        (sock,) = bind_group(0, 1, "127.0.0.1")
        admission = admission or Admission(limits, PLENTY)
        name = sock.getsockname()
        acceptor = Acceptor(sock, gateway, admission, TlsContexts().context if tls else None)
        try:
            yield Place(acceptor, admission, gateway, (name[0], name[1]))
        finally:
            acceptor.close()
            gateway.abort()
            async with asyncio.timeout(DEADLINE):
                await gateway.quiet()
    await until(lambda: admission.count == 0)
    assert not errors, errors


async def ask(place: Place, source: str) -> bytes:
    """Everything that comes back; `source` is an address of this machine to come from."""
    reader, writer = await asyncio.open_connection(*place.address, local_addr=(source, 0))
    try:
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        async with asyncio.timeout(DEADLINE):
            return await reader.read()
    finally:
        writer.transport.abort()


async def hold(place: Place) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, place.address)
    return sock


async def test_connections_are_counted_from_accept_to_the_end() -> None:
    async with backend(answering(OK)) as port, accepting(Limits(), port) as place:
        held = [await hold(place) for _ in range(5)]
        await until(lambda: place.admission.count == 5)
        assert (await ask(place, "127.0.0.1")).endswith(b"hello")
        for sock in held:
            sock.close()
        await until(lambda: place.admission.count == 0)


async def test_when_full_idle_clients_go_and_the_next_is_served() -> None:
    async with backend(answering(OK)) as port, accepting(Limits(connections=4), port) as place:
        idle = [await hold(place) for _ in range(4)]
        await until(lambda: place.admission.count == len(place.gateway.clients) == 4)
        place.gateway.sweep()
        for _ in range(8):
            assert (await ask(place, "127.0.0.1")).endswith(b"hello")
        for sock in idle:
            sock.close()


async def test_when_all_are_busy_the_next_waits_in_the_backlog_until_one_ends() -> None:
    go_on = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        writer.write(OK)

    async with backend(slow) as port, accepting(Limits(connections=3), port) as place:
        asking = [asyncio.create_task(ask(place, "127.0.0.1"), name="ask") for _ in range(9)]
        await until(lambda: place.admission.count == 3)
        place.acceptor.sweep()
        go_on.set()
        for task in asking:
            assert (await task).endswith(b"hello")


async def test_a_client_with_its_share_gets_429_and_room_again_when_it_has_let_go() -> None:
    limits = Limits(connections_per_client=2)
    async with backend(answering(OK)) as port, accepting(limits, port, admission=Strict(limits, PLENTY)) as place:
        held = [await hold(place) for _ in range(2)]
        await until(lambda: place.admission.count == 2)
        refused = await ask(place, "127.0.0.1")
        assert refused.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert b"\r\nRetry-After: " in refused
        assert (await ask(place, "127.0.0.2")).endswith(b"hello")
        assert place.acceptor.refused == 1
        held.pop().close()
        await until(lambda: place.admission.count == 1)
        assert (await ask(place, "127.0.0.1")).endswith(b"hello")
        held.pop().close()


async def test_failed_and_slow_handshakes_are_counted_and_nobodys_error() -> None:
    async with accepting(Limits(head=1), tls=True) as place:
        silent = await hold(place)
        await until(lambda: place.admission.count == 1)
        scanner = await hold(place)
        await asyncio.get_running_loop().sock_sendall(scanner, b"GET / HTTP/1.0\r\n\r\n")
        await until(lambda: place.acceptor.failed == 2)  # the silent one by its deadline
        await until(lambda: place.admission.count == 0)
        silent.close()
        scanner.close()


async def test_handshakes_under_way_end_with_the_listener() -> None:
    async with accepting(Limits(), tls=True) as place:
        silent = await hold(place)
        await until(lambda: place.admission.count == 1)
        place.acceptor.close()
        await until(lambda: place.admission.count == 0)
        silent.close()
