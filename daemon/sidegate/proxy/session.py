"""One client of a forwarder and, once it is reached, its database: two ends that are joined."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable

from sidegate.core.sessions import Client, Session
from sidegate.proxy.relay import DirectEnd, RelayEnd

_BYTES_RECEIVED = 128  # struct tcp_info, tcpi_bytes_received (linux/tcp.h); the state is its first byte
_ENDED = (6, 8, 9, 11)  # TCP_TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING: a FIN has come (net/tcp_states.h)


class ForwardedEnd(DirectEnd):
    """An end that keeps how much came from it in `received` when it goes: until then the kernel knows."""

    __slots__ = ()

    def connection_lost(self, exc: Exception | None) -> None:
        self.received = _received(self)
        super().connection_lost(exc)


class ForwardedSession:
    """There from the accept until both ends are gone; then `ended` is called, once.

    `opening` while somebody still works on its ends, `cut` once it must not go on.
    """

    __slots__ = ("_ended", "_name", "_since", "address", "client", "cut", "dialling", "opening", "port", "server")

    def __init__(self, name: str, address: str, port: int, ended: Callable[["ForwardedSession"], None]) -> None:
        """`address` as a person writes it: never ::ffff:a.b.c.d."""
        self.address = address
        self.port = port
        self.client = ForwardedEnd(self._end_gone)
        self.server = ForwardedEnd(self._end_gone)
        self.opening = True
        self.cut = False
        self.dialling: asyncio.Task[None] | None = None
        self._name = name
        self._since = time.time()
        self._ended = ended

    def __repr__(self) -> str:
        return f"<ForwardedSession {self.name} of {self._name}{' cut' if self.cut else ''}>"

    @property
    def name(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def bytes(self) -> tuple[int, int]:
        """From the client, and to it, until now."""
        return _received(self.client), _received(self.server)

    @property
    def masked(self) -> Client | None:
        """What the database sees as its client; None before it is reached."""
        own = self.server.transport.get_extra_info("sockname") if self.server.transport is not None else None
        return (own[0], own[1]) if own else None

    def seen(self) -> Session:
        return Session(self._name, self.name, self._since, *self.bytes, *(self.masked or ("", 0)))

    def abort(self) -> None:
        """Cut both ends with a RST, or leave off reaching the database."""
        self.cut = True
        if self.dialling is not None:
            self.dialling.cancel()
        self.client.abort()
        self.server.abort()

    def unreached(self) -> None:
        """The dial has come to nothing: cut the client."""
        # One that is given up just as it succeeds has told its end of the connection, and never tells of the close.
        self.server.transport = None
        self.client.abort()

    def settle(self) -> None:
        """Nobody works on its ends any more."""
        self.opening = False
        self._end_gone(self.client)

    def _end_gone(self, _end: RelayEnd) -> None:
        if not self.opening and self.client.transport is None and self.server.transport is None:
            self.opening = True  # never again
            self._ended(self)


def _received(end: RelayEnd) -> int:
    """What came from an end's other side, as the kernel counts it; once it is gone, as it was then."""
    sock = end.transport.get_extra_info("socket") if end.transport is not None else None
    if sock is None:
        return end.received
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
    except OSError:
        return end.received
    if len(info) < _BYTES_RECEIVED + 8:
        return end.received
    (count,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED)
    ended = end.finished or info[0] in _ENDED  # it may have come and not been read
    return max(0, int(count) - ended)  # a FIN counts as one
