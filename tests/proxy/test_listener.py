"""Listening: the port's holder, sharing it among workers, and running out of files."""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from typing import cast

import pytest

from ports import free_port
from proxy.wire import DEADLINE, until
from sidegate.errors import DataPlaneError, PortInUseError
from sidegate.proxy.listener import Listener
from sidegate.proxy.ports import LOOPBACK, bind_group, holder, shut


def test_the_holder_of_a_port_is_named_with_its_process() -> None:
    port = free_port()
    script = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('listening', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        assert holder(port) == f"python (pid {other.pid})" or holder(port) == f"python3 (pid {other.pid})"
        with pytest.raises(PortInUseError, match=rf"port {port} is held by python.* \(pid {other.pid}\)"):
            bind_group(port, 2)
        other.communicate(b"\n")
    assert holder(port) is None


def test_a_group_shares_one_port_that_nobody_else_may_join() -> None:
    sockets = bind_group(0, 3)
    try:
        ports = {sock.getsockname()[1] for sock in sockets}
        assert len(ports) == 1
        with pytest.raises(PortInUseError):
            bind_group(ports.pop(), 3)
    finally:
        shut(sockets)


def test_an_ipv4_client_reaches_a_socket_that_listens_everywhere() -> None:
    sockets = bind_group(0, 1)
    try:
        port = sockets[0].getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        if sockets[0].family == socket.AF_INET6:
            socket.create_connection(("::1", port)).close()
    finally:
        shut(sockets)


def test_on_loopback_both_families_are_served_and_no_other_address() -> None:
    sockets = bind_group(free_port(), 2, LOOPBACK)
    try:
        port = sockets[0].getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        if sockets[0].family == socket.AF_INET6:
            socket.create_connection(("::1", port)).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))
            except OSError:
                return  # this machine has no other address
            own = probe.getsockname()[0]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, port), timeout=DEADLINE)
    finally:
        shut(sockets)


def test_an_address_that_is_not_ours_is_refused_with_the_reason() -> None:
    with pytest.raises(DataPlaneError, match="cannot be bound"):
        bind_group(0, 1, "192.0.2.1")


def test_shut_refuses_although_another_process_still_holds_the_socket() -> None:
    sockets = bind_group(0, 1, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    kept = sockets[0].dup()
    try:
        shut(sockets)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        kept.close()


async def test_running_out_of_files_pauses_accepting_and_loses_nobody() -> None:
    (sock,) = bind_group(0, 1, "127.0.0.1")
    address = sock.getsockname()
    accepted: list[socket.socket] = []
    listener = Listener(sock, accepted.append)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket.socket() for _ in range(10)]
    room = [os.dup(0) for _ in range(4)]
    for descriptor in room:
        os.close(descriptor)
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        for client in clients:
            stack.enter_context(client)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(room) + 1, before[1]))
        for client in clients:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, address)
        await until(lambda: listener.paused)
        assert 0 < len(accepted) < 10
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        await until(lambda: len(accepted) == 10)
        for one in accepted:
            one.close()


async def test_a_listener_that_its_parent_shuts_down_closes() -> None:
    (sock,) = bind_group(0, 1, "127.0.0.1")
    parents = sock.dup()
    listener = Listener(sock, lambda connection: connection.close())
    shut([parents])
    async with asyncio.timeout(DEADLINE):
        await until(lambda: sock.fileno() == -1)
    listener.close()


class Served(asyncio.Protocol):
    """Says hello and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = cast(asyncio.Transport, transport)
        client.write(b"hello")
        client.close()


async def greeted(address: tuple[str, int]) -> bool:
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(DEADLINE):
            return await reader.read() == b"hello"
    finally:
        writer.transport.abort()


@pytest.fixture
def looped() -> list[socket.socket]:
    return []


async def test_the_loop_accepts_while_it_may_and_the_listener_does_otherwise(looped: list[socket.socket]) -> None:
    (sock,) = bind_group(free_port(), 1, "127.0.0.1")
    address = sock.getsockname()
    swift = True
    made = 0

    def serve() -> asyncio.Protocol:
        nonlocal swift, made
        made += 1
        swift = made % 5 != 0
        return Served()

    def accepted(connection: socket.socket) -> None:
        connection.send(b"hello")
        connection.close()
        looped.append(connection)

    listener = Listener(sock, accepted, serve=serve, swift=lambda: swift)
    for _ in range(5):
        assert listener.swift
        assert await greeted(address)
    await until(lambda: not listener.swift)
    for _ in range(3):
        assert await greeted(address)
    assert (made, len(looped)) == (5, 3)
    swift = True
    listener.sweep()
    assert listener.swift
    assert await greeted(address)
    assert (made, len(looped)) == (6, 3)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await greeted(address)


@pytest.mark.parametrize("swift", [True, False])
async def test_while_full_clients_wait(swift: bool, looped: list[socket.socket]) -> None:
    (sock,) = bind_group(0, 1, "127.0.0.1")
    address = sock.getsockname()
    full, made = False, 0

    def serve() -> asyncio.Protocol:
        nonlocal full, made
        made += 1
        full = True
        return Served()

    def accepted(connection: socket.socket) -> None:
        nonlocal full, made
        made += 1
        full = True
        connection.send(b"hello")
        connection.close()

    listener = Listener(sock, accepted, serve=serve, swift=lambda: swift and not full, full=lambda: full)
    assert await greeted(address)
    waiting = asyncio.create_task(greeted(address), name="waiting")
    await until(lambda: listener.paused)
    assert made == 1
    full = False
    assert await waiting
    listener.close()


async def test_a_swift_listener_that_its_parent_shuts_down_closes_at_the_next_sweep() -> None:
    (sock,) = bind_group(0, 1, "127.0.0.1")
    parents = sock.dup()
    listener = Listener(sock, lambda connection: connection.close(), serve=Served, swift=lambda: True)
    listener.sweep()
    assert sock.fileno() != -1
    shut([parents])
    listener.sweep()
    assert listener.closed
    listener.sweep()
    listener.close()


async def test_a_paused_listener_closes() -> None:
    (sock,) = bind_group(0, 1, "127.0.0.1")
    listener = Listener(sock, lambda connection: connection.close(), serve=Served, swift=lambda: True)
    listener.pause()
    listener.pause()
    assert listener.paused
    listener.close()
    assert listener.closed
