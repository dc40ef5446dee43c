"""Joining two ends, on real sockets."""

import asyncio
import socket

import pytest

from proxy.wire import DEADLINE
from sidegate.proxy.relay import DirectEnd, RelayEnd, join


@pytest.mark.parametrize("kind", [RelayEnd, DirectEnd])
async def test_what_came_early_is_passed_on_first_and_holds_the_reader_while_nobody_takes_it(
    kind: type[RelayEnd],
) -> None:
    loop = asyncio.get_running_loop()
    gone: list[RelayEnd] = []
    ends = (kind(gone.append), kind(gone.append))
    outer = []
    for end in ends:
        sock, far = socket.socketpair()
        far.setblocking(False)
        outer.append(far)
        await loop.create_connection(lambda end=end: end, sock=sock)  # type: ignore[misc]
    client, database = outer
    with client, database:
        early = bytes(range(256)) * 16_384
        ends[0].data_received(early)
        join(*ends)
        transport = ends[0].transport
        assert transport is not None
        assert not transport.is_reading()
        client.send(b"late")
        async with asyncio.timeout(DEADLINE):
            found = b""
            while len(found) < len(early) + 4:
                found += await loop.sock_recv(database, 1 << 20)
        assert found == early + b"late"
        assert transport.is_reading()
        await loop.sock_sendall(database, b"answer")
        async with asyncio.timeout(DEADLINE):
            assert await loop.sock_recv(client, 100) == b"answer"
            ends[0].abort()
            while len(gone) < 2:
                await asyncio.sleep(0.002)
        assert set(gone) == set(ends)
