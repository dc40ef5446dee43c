"""Two things asked of a TCP socket here: to notice that the other side is gone, and to end with a reset."""

import asyncio
import contextlib
import socket
import struct

_NO_LINGER = struct.pack("ii", 1, 0)


def tune(sock: socket.socket) -> None:
    """No delay for small writes; a peer that is silently gone is noticed within about two minutes.

    Accepted sockets inherit this from the listening one: no call per connection.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _keep_alive(sock)


def tune_dialled(transport: asyncio.Transport) -> None:
    """The same for a connection of the loop's, which has no delay for small writes already."""
    own = transport.get_extra_info("socket")
    # The loop's stand-in makes a socket object of its own for each call.
    sock = socket.socket(own.family, own.type, own.proto, fileno=own.fileno())
    try:
        _keep_alive(sock)
    finally:
        sock.detach()


def end_with_reset(sock: socket.socket) -> None:
    """Make its close a RST, whatever is still unsent."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def reset(transport: asyncio.Transport) -> None:
    """Close at once with a RST, so that the other side knows that what it has is not all there was."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        end_with_reset(sock)
    transport.abort()


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
