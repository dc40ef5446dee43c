"""The kernel's list of connections: real ones, of both families, and a table as it is written."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidegate.adapters.tcp_connections import ask, count, listens, open_connections, remote_forms

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100D50A:9C40 0200D50A:1F90 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100D50A:9C42 0200D50A:1F90 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0
   3: 0100D50A:9C44 0200D50A:1F91 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   4: 0100D50A:9C46 0200D50A:1F90 02 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
"""


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    address = "127.0.0.1" if request.param == socket.AF_INET else "::1"
    with socket.create_server((address, 0), family=request.param) as server:
        yield server


def test_open_connections_are_counted_and_closed_ones_are_not(listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    assert open_connections(address, port) == 0
    with socket.create_connection((address, port)), socket.create_connection((address, port)):
        assert open_connections(address, port) == 2
        assert open_connections(address, port - 1) == 0
    assert open_connections(address, port) == 0


def test_a_socket_of_ipv6_that_is_connected_to_an_ipv4_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET6) as client:
        port = listener.getsockname()[1]
        client.connect(("::ffff:127.0.0.1", port))
        assert open_connections("127.0.0.1", port) == 1


def test_a_table_that_is_not_there_has_no_connections(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TABLE)
    assert open_connections("127.0.0.1", 80, tmp_path) == 0
    assert open_connections("127.0.0.1", 80, tmp_path / "nowhere") == 0


def test_open_and_opening_connections_to_that_very_port_count() -> None:
    assert count(TABLE, frozenset({"0200D50A:1F90"})) == 2
    assert count("", remote_forms("10.213.0.2", 8080)) == 0


async def test_whether_something_listens(listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    assert await listens(address, port)
    listener.close()
    assert not await listens(address, port)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 204 \r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", ""),
        (b"HTTP/1.1 500 Oh\r\n\r\n", "/up answered 500"),
        (b"", "/up was not answered"),
        (b"SSH-2.0-x\r\n", "not HTTP"),
        (b"HTTP/1.1 " + b"9" * 5000 + b" x\r\n\r\n", "not HTTP"),
        (b"x" * 100_000, "cannot be asked"),
    ],
)
async def test_what_comes_of_asking_a_path(answer: bytes, why: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address, port = server.sockets[0].getsockname()[:2]
        found = await ask(address, port, "/up", "shop")
    assert (why in found) if why else found == ""
