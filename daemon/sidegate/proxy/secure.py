"""What reads from TLS: into one buffer of the worker's, instead of one of 256 KiB made for each read.

uvloop asks SSLObject.read for 256 KiB at a time, and that much is allocated before a byte is known to be there. A
protocol with `get_buffer` spares it that; one that derives from asyncio.Protocol would not be asked for it.
"""

import asyncio

from sidegate.proxy.http1 import ClientConnection
from sidegate.proxy.relay import RelayEnd

_BUFFER = memoryview(bytearray(256 * 1024))  # what was read is copied out before anything else can be


class _Buffered(asyncio.BaseProtocol):
    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(_BUFFER[:count]))

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError


class SecureRelayEnd(RelayEnd, _Buffered):
    """A tunnel's end to a client over TLS."""

    __slots__ = ()
    secure = True


class SecureConnection(ClientConnection, _Buffered):
    """A client over TLS."""

    __slots__ = ()
    secure = True
    relay_end = SecureRelayEnd
