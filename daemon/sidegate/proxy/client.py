"""A client's transport as the HTTP proxy uses it: when it is read, how it is closed, how slow is too slow.

Knows states but no message; http1.py adds the requests.
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar, cast

from sidegate.proxy.gateway import Gateway
from sidegate.proxy.inbox import Inbox
from sidegate.proxy.peer import Peer, peer_of
from sidegate.proxy.sockets import reset

MAX_AHEAD = 65536  # bytes kept of what nobody can take yet: later requests, a body before there is a replica

# What the connection is doing, in the order in which it comes.
IDLE, HEAD, PARKED, DIALLING, WAITING, ANSWERING, LINGERING, GONE = range(8)
_STATES = ("idle", "head", "parked", "dialling", "waiting", "answering", "lingering", "gone")

# Why reading from the client is paused (bits).
HOLD_DIAL, HOLD_BACKEND, HOLD_AHEAD, HOLD_CLIENT = 1, 2, 4, 8


class ClientTransport(asyncio.BaseProtocol):
    """One client's connection. `ended` is called once, when it is over, tunnel included.

    Over TLS (`secure`) no half can be closed before the other: a client that ends is gone.
    """

    __slots__ = (
        "_ahead", "_closing", "_ended", "_eof", "_gateway", "_holds", "_peer", "_since", "_state", "_unsent",
        "transport",
    )  # fmt: skip

    secure: ClassVar[bool] = False
    transport: asyncio.Transport
    _peer: Peer

    def __init__(self, gateway: Gateway, *, ended: Callable[[], None] | None = None) -> None:
        self._gateway = gateway
        self._ended = ended
        self._state = IDLE
        self._since = gateway.tick
        self._ahead: Inbox | None = None  # made when there is something to keep
        self._holds = 0
        self._closing = False  # no further request is taken
        self._eof = False
        self._unsent = 0  # as the last sweep saw it

    def __repr__(self) -> str:
        ahead = len(self._ahead) if self._ahead is not None else 0
        return f"<{type(self).__name__} {_STATES[self._state]} ahead={ahead} holds={self._holds}>"

    @property
    def idle_since(self) -> int | None:
        """The second since when it waits for a request; None while it does anything else, or came just now."""
        return self._since if self._state == IDLE and self._since < self._gateway.tick else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(transport, self._gateway.trusted)

    def eof_received(self) -> bool:
        self._eof = True
        if self.secure or not DIALLING <= self._state <= ANSWERING:
            return False  # one that waits in the park has left, as far as can be known
        if self._sending():
            reset(self.transport)
            return False
        return True  # it still reads: answer what it asked

    def _sending(self) -> bool:
        """Whether some of its request is still to come."""
        raise NotImplementedError

    def _over(self) -> None:
        """The connection has ended, and with it the tunnel that it may have become."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()

    def _keep(self, data: bytes) -> None:
        """For later: what nobody can take yet."""
        if data:
            if self._ahead is None:
                self._ahead = Inbox()
            self._ahead.add(data)

    def _take_ahead(self) -> bytes:
        """All that was kept."""
        ahead, self._ahead = self._ahead, None
        return ahead.take_all() if ahead is not None else b""

    def _hold(self, why: int) -> None:
        if not self._holds:
            self.transport.pause_reading()
        self._holds |= why

    def _release(self, why: int) -> None:
        if self._holds:
            self._holds &= ~why
            if not self._holds and not self.transport.is_closing():
                self.transport.resume_reading()

    def _linger(self, *, silent: bool) -> None:
        """Close after the last response; `silent` is a client that has said all it will.

        Closing while a client still sends would reset the connection and take the response with it: it gets our end
        first, and the connection goes when its own end arrives.
        """
        silent = silent and not self._ahead
        self._state = LINGERING
        self._ahead = None
        self._release(~0)
        if self._eof or self.secure or silent:
            self.transport.close()
        else:
            self.transport.write_eof()

    def _reads_on(self, tick: int) -> bool:
        """Whether everything that was ready for the client is on its way; one that takes nothing is reset."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            return True
        if unsent != self._unsent:
            self._unsent, self._since = unsent, tick
        elif tick - self._since > self._gateway.limits.stall:
            reset(self.transport)
        return False
