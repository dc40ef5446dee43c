"""A raw tunnel between two sockets: half-close both ways, back-pressure, byte counts. Knows no protocol.

Used by the TCP forwarder for its sessions and by the HTTP proxy after a 101.
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar, cast

from sidegate.proxy.sockets import reset


class RelayEnd(asyncio.BaseProtocol):
    """One of the two ends. `received` counts the bytes read here. `ended` is called once, when this end is gone."""

    __slots__ = ("_early", "_ended", "_forward", "finished", "peer", "received", "transport")

    secure: ClassVar[bool] = False

    def __init__(self, ended: Callable[["RelayEnd"], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: RelayEnd | None = None
        self.received = 0
        self._early = b""
        self._forward: Callable[[bytes], None] = self._keep
        self.finished = False
        """Whether the other side will send no more."""
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()  # until it has a peer; one that the loop still has to start reads on

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._forward(data)

    def eof_received(self) -> bool:
        self.finished = True
        peer = self.peer
        if peer is None:
            return True  # told to the peer when there is one
        if peer.transport is None:
            return False
        if peer.finished:
            peer.transport.close()
            return False
        _end(peer.transport)
        return self.transport is not None and self.transport.can_write_eof()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        peer, self.peer = self.peer, None
        if peer is not None and peer.transport is not None:
            peer._pass_to(_discard)
            # Ended in order (over TLS that is one end for both directions): what is still unsent goes out. Otherwise
            # the break is passed on.
            if exc is None and (self.finished or peer.finished):
                peer.transport.close()
            else:
                reset(peer.transport)
        self._ended(self)

    def begin(self, peer: "RelayEnd") -> None:
        """Send on what came early, then whatever comes. Both have their peers already."""
        if peer.transport is None:
            return
        if self._early:
            peer.transport.write(self._early)
            self._early = b""
        self._pass_to(peer.transport.write)
        if self.finished:
            _end(peer.transport)

    def _pass_to(self, write: Callable[[bytes], None]) -> None:
        self._forward = write

    def _keep(self, data: bytes) -> None:
        self._early += data
        if self.transport is not None:
            self.transport.pause_reading()

    def abort(self) -> None:
        """Cut this end and with it the other, both with a RST."""
        if self.transport is not None:
            reset(self.transport)


class DirectEnd(RelayEnd):
    """An end whose reads are the other's writes: nothing of ours runs for them, and `received` stays 0.

    uvloop keeps a protocol's `data_received` when it gets the protocol, so a change needs that again.
    """

    __slots__ = ("data_received",)

    def __init__(self, ended: Callable[[RelayEnd], None]) -> None:
        super().__init__(ended)
        self.data_received = self._keep  # type: ignore[method-assign]

    def _pass_to(self, write: Callable[[bytes], None]) -> None:
        self.data_received = write  # type: ignore[method-assign, assignment]  # a parameter's name
        if self.transport is not None:
            self.transport.set_protocol(self)


def _end(transport: asyncio.Transport) -> None:
    """Say that no more comes. TLS has no half-close: there it is the end of both halves."""
    transport.write_eof() if transport.can_write_eof() else transport.close()


def _discard(_data: bytes) -> None:
    """Nobody is there to take it."""


def join(one: RelayEnd, other: RelayEnd) -> None:
    """Let bytes flow between two ends that have transports; each must be paused until now."""
    one.peer, other.peer = other, one
    for end in (one, other):
        if end.transport is not None:
            end.transport.resume_reading()  # first: what came early may be more than the other side takes
    one.begin(other)
    other.begin(one)
