"""What the access log will say about a request: kept while one is in hand, if there is a log at all."""

import time

from sidegate.proxy.head import RequestHead
from sidegate.proxy.peer import Peer

Entry = tuple[float, str, str, bytes, str, str, int, int, int, float, float, str, str, bytes]
"""When (unix time), client, scheme, method, host, path without its query, status, bytes of the request's and of the
response's body, seconds in all and until the replica's head (-1: none came), app, replica, request id."""

CLIENT_LEFT = 499
"""The status of a request whose client went before it had an answer (nginx's word for it)."""


class Record:
    """One request, None where its head could not be read. `received` and `sent` are the bytes of the bodies, with the
    framing that they came in."""

    __slots__ = ("_began", "_clock", "_until_head", "received", "replica", "request", "request_id", "sent", "status")

    def __init__(self, request: RequestHead | None, request_id: bytes, began: float) -> None:
        """`began` is the reading of time.monotonic() then."""
        self._began = time.time()
        self._clock = began
        self._until_head = -1.0
        self.request = request
        self.request_id = request_id
        self.replica = ""
        self.received = 0
        self.sent = 0
        self.status = CLIENT_LEFT

    def head_came(self, status: int, replica: str) -> None:
        """A final head came from a replica."""
        self._until_head = time.monotonic() - self._clock
        self.status = status
        self.replica = replica

    def entry(self, peer: Peer, app: str) -> Entry:
        """What to log, now that it is over."""
        request = self.request
        fields = request.fields if request is not None else None
        return (
            self._began,
            fields.client if fields is not None else peer.address,
            fields.scheme if fields is not None else peer.scheme,
            request.method if request is not None else b"",
            fields.host if fields is not None else "",
            request.path.partition("?")[0] if request is not None else "",
            self.status,
            self.received,
            self.sent,
            time.monotonic() - self._clock,
            self._until_head,
            app,
            self.replica,
            self.request_id,
        )
