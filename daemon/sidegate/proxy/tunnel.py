"""A tunnel after a 101: a client and a replica joined, swept once a second, counted when it is over."""

import asyncio
from collections.abc import Callable

from sidegate.proxy.metrics import AppMeter
from sidegate.proxy.relay import RelayEnd, join
from sidegate.proxy.upstream import Backend


class Tunnel:
    """Two transports that are joined from now on; what comes from one goes to the other until both are gone.

    `meter` is its app's. `idle`: seconds of silence both ways after which it is cut, 0: never. `ended` is called once,
    at the end.
    """

    __slots__ = ("_ended", "_idle", "_seen", "_since", "backend", "client_end", "meter", "server_end")

    def __init__(
        self,
        backend: Backend,
        meter: AppMeter,
        idle: int,
        tick: int,
        ended: Callable[["Tunnel"], None],
        *,
        client_end: type[RelayEnd] = RelayEnd,
    ) -> None:
        self.backend = backend
        self.meter = meter
        self.client_end = client_end(self._end_gone)
        self.server_end = RelayEnd(self._end_gone)
        self._idle = idle
        self._seen = 0  # bytes both ways, as the last sweep found them
        self._since = tick
        self._ended = ended

    def begin(
        self, client: asyncio.Transport, server: asyncio.Transport, sent: bytes, received: bytes, *, ended: bool
    ) -> None:
        """Take both transports over. `sent` came from the client already and `received` from the replica; if `ended`
        nothing more comes from the client."""
        for end, transport in ((self.client_end, client), (self.server_end, server)):
            transport.set_protocol(end)
            end.connection_made(transport)
        self.client_end.data_received(sent)
        self.server_end.data_received(received)
        if ended:
            self.client_end.eof_received()
        join(self.client_end, self.server_end)

    def sweep(self, tick: int) -> None:
        """End what was silent for too long, and what is left of a replica that had to go."""
        seen = self.client_end.received + self.server_end.received
        if seen != self._seen:
            self._seen, self._since = seen, tick
        if self.backend.cut or (self._idle and tick - self._since > self._idle):
            self.abort()

    def abort(self) -> None:
        """Cut both ends with a RST."""
        self.client_end.abort()
        self.server_end.abort()

    def _end_gone(self, _end: RelayEnd) -> None:
        if self.client_end.transport is None and self.server_end.transport is None:
            self.backend.active -= 1
            self._ended(self)
