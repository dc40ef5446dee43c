"""The client side of the HTTP/1.1 proxy: one object per connection, one request at a time, answered in order.

No task and no timer per request: a dial is a task, everything else happens in transport callbacks, and one sweep a
second looks for what took too long. Parsing is head.py's and chunked.py's, responses are read by upstream.py.
"""

import asyncio
from http import HTTPStatus
from typing import cast

from sidegate.proxy import pages
from sidegate.proxy.body import RequestBody
from sidegate.proxy.chunked import ChunkedBody, ChunkedError
from sidegate.proxy.gateway import Gateway, UnreachableError
from sidegate.proxy.head import CHUNKED, UNTIL_CLOSE, RefusedHeadError, RequestHead, ResponseHead, parse_request
from sidegate.proxy.inbox import Inbox
from sidegate.proxy.peer import peer_of
from sidegate.proxy.sockets import reset
from sidegate.proxy.upstream import App, Backend, BackendConnection, Table

_SLOW = "The request took too long to arrive."
_MAX_AHEAD = 65536  # bytes of later requests kept while one is answered

# What the connection is doing.
_IDLE, _HEAD, _DIALLING, _WAITING, _ANSWERING, _LINGERING, _GONE = range(7)
_STATES = ("idle", "head", "dialling", "waiting", "answering", "lingering", "gone")

# Why reading from the client is paused (bits).
_HOLD_DIAL, _HOLD_BACKEND, _HOLD_AHEAD, _HOLD_CLIENT = 1, 2, 4, 8


class ClientConnection(asyncio.Protocol):
    """One client. Implements upstream.Exchange for the request in hand."""

    __slots__ = (
        "_ahead", "_app", "_closing", "_connection", "_dechunk", "_dial", "_eof", "_first", "_gateway", "_head",
        "_holds", "_peer", "_pumping", "_replayable", "_request", "_since", "_state", "_table", "_unsent", "_upload",
        "bodiless", "plain", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._state = _IDLE
        self._since = gateway.tick
        self._ahead = Inbox()
        self._head: bytes | tuple[()] = ()  # the last head; an equal one is not parsed again. () begins nothing
        self._request: RequestHead | None = None
        self._table: Table | None = None
        self._app: App | None = None
        self._connection: BackendConnection | None = None
        self._dial: asyncio.Task[None] | None = None
        self._first = b""  # what a fresh connection must be sent to begin the request anew
        self._replayable = False
        self._holds = 0
        self._upload: RequestBody | None = None  # while some of the request's body is still to come
        self._dechunk: ChunkedBody | None = None
        self._closing = False
        self._eof = False
        self._pumping = False
        self._unsent = 0  # as the last sweep saw it
        self.plain = False
        self.bodiless = False

    def __repr__(self) -> str:
        return f"<ClientConnection {_STATES[self._state]} ahead={len(self._ahead)} holds={self._holds}>"

    # --- the client's transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(transport)
        self._gateway.clients.add(self)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _IDLE and data.startswith(self._head) and not self._ahead:
            size = len(self._head)
            self._begin(self._request, data[size:] if len(data) > size else b"")  # type: ignore[arg-type]
        elif state <= _HEAD:
            self._ahead.add(data)
            self._pump()
        elif state == _LINGERING:
            pass
        elif self._upload is not None:
            self._upload_received(data)
        else:
            self._ahead.add(data)
            if len(self._ahead) > _MAX_AHEAD:
                self._hold(_HOLD_AHEAD)

    def eof_received(self) -> bool:
        self._eof = True
        if self._state in (_DIALLING, _WAITING, _ANSWERING) and self._upload is None:
            return True  # it still reads: answer what it asked
        if self._state in (_DIALLING, _WAITING, _ANSWERING):
            reset(self.transport)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _GONE
        self._gateway.forget(self)
        self._let_go()

    def pause_writing(self) -> None:
        """The client reads slowly: neither its response nor its next request is read until it has caught up."""
        if self._connection is not None:
            self._connection.hold(True)
        self._hold(_HOLD_CLIENT)

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.hold(False)
        self._release(_HOLD_CLIENT)
        if self._ahead and self._state <= _HEAD:
            self._pump()

    def sweep(self, tick: int) -> None:
        """End what has taken too long; called once a second."""
        limits, state, age = self._gateway.limits, self._state, tick - self._since
        unsent = self.transport.get_write_buffer_size()
        if unsent:  # it is the client that we wait for
            if unsent != self._unsent:
                self._unsent, self._since = unsent, tick
            elif age > limits.stall:
                reset(self.transport)
            return
        if state == _WAITING:
            stalled = self._upload is not None and not self._holds
            if stalled and self._app is not None and age > self._app.policy.body:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, _SLOW)
            elif not stalled and self._app is not None and age > self._app.policy.response:
                self._refuse(HTTPStatus.GATEWAY_TIMEOUT, "The app did not answer in time.")
        elif state == _HEAD and age > limits.head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, _SLOW)
        elif (state == _IDLE and age > limits.idle) or (state == _LINGERING and age > limits.linger):
            self.transport.abort()

    def drain(self) -> None:
        """Close after the request in hand, or now if there is none."""
        self._closing = True
        self.plain = False
        if self._state == _IDLE:
            self.transport.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Take requests from what was read ahead, one after the other, while each is answered at once."""
        if self._pumping:
            return
        self._pumping = True
        while self._ahead and self._state <= _HEAD and not self._holds & _HOLD_CLIENT and self._take_head():
            pass
        self._pumping = False

    def _take_head(self) -> bool:
        if self._state == _IDLE:
            self._since = self._gateway.tick
            self._state = _HEAD
        try:
            head = self._ahead.take_head(self._gateway.limits.head_bytes)
            if head is None:
                return False
            if head != self._head:
                self._request = parse_request(head, self._peer.forwarded, self._request)
                self._head, self._table = head, None
        except RefusedHeadError as refused:
            self._refuse(refused.status, refused.reason)
            return False
        self._release(_HOLD_AHEAD)
        assert self._request is not None
        self._begin(self._request, self._ahead.take_all())
        return True

    def _begin(self, request: RequestHead, rest: bytes) -> None:
        gateway = self._gateway
        gateway.requests += 1
        table = gateway.table
        if self._table is not table:
            self._app = table.find(request.fields.host, request.path, local_client=self._peer.local)
            self._table = table
        self.plain = request.plain and not self._closing
        self._since = gateway.tick
        self.bodiless = request.method == b"HEAD"
        first = request.sent_on
        if request.fields.length or rest:
            self._upload = RequestBody(request.fields.length)
            body = self._body_of(rest)
            if body is None:
                return
            first += body
        app = self._app
        if app is None:
            self._answer(HTTPStatus.NOT_FOUND, f"No app answers for {request.fields.host or 'this address'}.")
            return
        choices = app.choices(gateway.tick)
        if not choices:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, app.unavailable or f"{app.name} is not running.")
            return
        self._first = first
        self._replayable = True
        spare = choices[0].spare
        # A request that must not be sent twice takes no connection that may be about to be closed for its age.
        if spare and (request.idempotent or gateway.tick - spare[-1].spare_since <= 1):
            connection = spare.pop()
            self._connection = connection
            self._state = _WAITING
            connection.send(self, first)
        else:
            self._start_dial(app, choices)

    def _body_of(self, data: bytes) -> bytes | None:
        """What of `data` belongs to the body in hand; the rest is kept for later. None: refused."""
        assert self._upload is not None
        try:
            body, rest = self._upload.take(data)
        except ChunkedError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"The request's body is malformed: {error}.")
            return None
        if self._upload.complete:
            self._upload = None
            self._ahead.add(rest)
        return body

    def _upload_received(self, data: bytes) -> None:
        self._since = self._gateway.tick
        body = self._body_of(data)
        if body is None:
            return
        if self._connection is None:
            self._first += body  # at most what was on its way when reading was paused
        elif self._connection.transport is not None:
            self._replayable = False
            self._first = b""
            self._connection.transport.write(body)

    # --- the backend ------------------------------------------------------------------------------------------------

    def _start_dial(self, app: App, choices: list[Backend]) -> None:
        self._state = _DIALLING
        self._hold(_HOLD_DIAL)
        self._dial = self._gateway.spawn(self._dial_any(app, choices), "dial")

    async def _dial_any(self, app: App, choices: list[Backend]) -> None:
        """Send the request over a fresh connection. Cancelled when the client goes or is refused."""
        try:
            connection = await self._gateway.dial_first(app, choices)
        except UnreachableError as error:
            self._dial = None
            self._fail(error.status, error.detail)
            return
        self._dial, self._connection = None, connection
        self._state = _WAITING
        self._since = self._gateway.tick
        connection.send(self, self._first)  # if it is lost already, it says so
        self._release(_HOLD_DIAL)

    def hold_upload(self, full: bool) -> None:
        self._hold(_HOLD_BACKEND) if full else self._release(_HOLD_BACKEND)

    def backend_done(self) -> None:
        """A plain exchange was passed on whole: back to idle, on the shortest way."""
        connection = self._connection
        self._connection = None
        self._state = _IDLE
        self._since = self._gateway.tick
        connection.release(self._gateway)  # type: ignore[union-attr]
        if self._ahead or self._eof or self._holds:
            self._next()

    def interim_received(self, head: ResponseHead) -> None:
        if self._request is not None and self._request.modern:
            self.transport.write(head.start + b"\r\n")

    def head_received(self, head: ResponseHead, length: int, first: bytes, ended: bool) -> None:
        request = self._request
        assert request is not None
        self._state = _ANSWERING
        self._first = b""
        bodied = not (self.bodiless or head.status in (204, 304))
        unframed = length == UNTIL_CLOSE or (length == CHUNKED and not request.modern)
        if not request.fields.keep_alive or (unframed and bodied) or self._upload is not None:
            self._closing = True
        start = head.sent_on(modern=request.modern, close=self._closing)
        if unframed and bodied and length == CHUNKED:
            self._dechunk = ChunkedBody()
            self.transport.write(start)
        else:
            self.transport.write(start + first)
            first = b""
        if first or ended:
            self.body_received(first, ended)

    def body_received(self, data: bytes, ended: bool) -> None:
        if self._dechunk is not None:
            data = self._dechunk.payload_of(data)  # read once already, it cannot fail
        if data:
            self.transport.write(data)
        if ended:
            self._dechunk = None
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.release(self._gateway) if self._upload is None else connection.drop()
            self._next()

    def backend_lost(self, reason: str | None) -> None:
        connection, self._connection = self._connection, None
        request, app = self._request, self._app
        if self._state == _ANSWERING:
            reset(self.transport)  # a truncated response must look like one
            return
        assert request is not None
        # A spare connection may have been closed just as it was taken; what was sent in vain is sent once more.
        stale = reason is None and connection is not None and connection.used
        if stale and self._replayable and request.idempotent and app is not None and app.backends:
            self._replayable = False
            self._release(_HOLD_BACKEND)
            self._start_dial(app, app.choices(self._gateway.tick))
            return
        self._fail(HTTPStatus.BAD_GATEWAY, reason or "The app closed the connection without an answer.")

    def upgraded(self, head: ResponseHead, first: bytes) -> None:
        request, connection = self._request, self._connection
        assert request is not None
        assert connection is not None
        if not request.fields.upgrade or self._upload is not None:
            self._refuse(HTTPStatus.BAD_GATEWAY, "The app switched protocols without being asked.")
            return
        self.transport.write(head.start + b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % head.upgrade)
        self._connection = None
        self._state = _GONE
        self._gateway.forget(self)
        self._gateway.tunnel(self.transport, connection.detach(), self._ahead.take_all(), first, ended=self._eof)

    # --- answers and ends -------------------------------------------------------------------------------------------

    def _answer(self, status: HTTPStatus, detail: str) -> None:
        """Answer the request in hand ourselves; the connection lives on unless its body is still to come."""
        request = self._request
        assert request is not None
        if not request.fields.keep_alive or not request.modern or self._upload is not None:
            self._closing = True
        self.transport.write(pages.answer(status, detail, request, close=self._closing))
        self._next()

    def _fail(self, status: HTTPStatus, detail: str) -> None:
        self._release(_HOLD_DIAL | _HOLD_BACKEND)
        self._answer(status, detail)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer what cannot be served and close: the next message's beginning is unknown, or it took too long."""
        self._let_go()
        if self._state == _ANSWERING:
            reset(self.transport)
            return
        request = self._request if self._state > _HEAD else None
        self.transport.write(pages.answer(status, detail, request, close=True))
        self._closing = True
        self._next()

    def _next(self) -> None:
        """The request in hand has its response: close, linger, or go on with the next."""
        self.plain = False
        self._since = self._gateway.tick
        if self._closing:
            # Closing while the client still sends would reset the connection and take the response with it: it gets
            # our end first, and the connection goes when its own end arrives.
            self._state = _LINGERING
            self._ahead.take_all()
            self._release(~0)
            self.transport.close() if self._eof else self.transport.write_eof()
            return
        self._state = _IDLE
        self._release(_HOLD_DIAL | _HOLD_BACKEND)
        if self._ahead:
            self._pump()
        if self._eof and self._state <= _HEAD:
            self.transport.close()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None

    def _hold(self, why: int) -> None:
        if not self._holds:
            self.transport.pause_reading()
        self._holds |= why

    def _release(self, why: int) -> None:
        if self._holds:
            self._holds &= ~why
            if not self._holds and not self.transport.is_closing():
                self.transport.resume_reading()
