"""The client side of the HTTP/1.1 proxy: one object per connection, one request at a time, answered in order.

A request goes through data_received, _take_head (_begin at once where the head is the last one again), _begin, which
looks up its way, and _send_on, which gives it to a replica; what comes back arrives in the methods of
upstream.Exchange, and _next ends it. No task and no timer per request: a dial is a task, everything else happens in
transport callbacks, and one sweep a second looks for what took too long.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import ClassVar

from sidegate.core.tally import BOUNDS
from sidegate.proxy import pages, way
from sidegate.proxy.answers import PAUSED_NOW, SLOW, TOO_LARGE, Answers
from sidegate.proxy.body import RequestBody
from sidegate.proxy.chunked import ChunkedBody, ChunkedError
from sidegate.proxy.client import (
    ANSWERING,
    DIALLING,
    GONE,
    HEAD,
    HOLD_AHEAD,
    HOLD_BACKEND,
    HOLD_CLIENT,
    HOLD_DIAL,
    IDLE,
    LINGERING,
    MAX_AHEAD,
    PARKED,
    WAITING,
)  # fmt: skip
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.head import CHUNKED, UNTIL_CLOSE, RefusedHeadError, RequestHead, ResponseHead, parse_request
from sidegate.proxy.metrics import QUICK, SECONDS, SENT, count
from sidegate.proxy.record import Record
from sidegate.proxy.relay import RelayEnd
from sidegate.proxy.sockets import reset
from sidegate.proxy.table import Table
from sidegate.proxy.tunnel import Tunnel

_FORGETFUL = 5  # seconds after which an idle connection keeps nothing of its last request


class ClientConnection(Answers):
    """One client. Implements upstream.Exchange for the request in hand, and gateway.Client."""

    __slots__ = ("_bounded", "_dechunk", "_head", "_pumping", "bodiless")

    relay_end: ClassVar[type[RelayEnd]] = RelayEnd
    """What it becomes in a tunnel."""

    def __init__(self, gateway: Gateway, *, ended: Callable[[], None] | None = None) -> None:
        super().__init__(gateway, ended=ended)
        self._reset_delivery()
        self._reset_answers()
        self._head: bytes | tuple[()] = ()  # the last head; an equal one is not parsed again. () begins nothing
        self._bounded = False  # the response says its length
        self._dechunk: ChunkedBody | None = None
        self._pumping = False
        self.bodiless = False

    # --- the client's transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._gateway.clients.add(self)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == IDLE and data.startswith(self._head) and not self._ahead:
            size = len(self._head)
            self._begin(self._request, data[size:] if len(data) > size else b"")  # type: ignore[arg-type]
        elif state <= HEAD:
            self._keep(data)
            self._pump()
        elif state == LINGERING:
            pass
        elif self._upload is not None:
            self._upload_received(data)
        else:
            self._keep(data)
            if self._ahead is not None and len(self._ahead) > MAX_AHEAD:
                self._hold(HOLD_AHEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        if DIALLING <= self._state <= ANSWERING:
            self._left()
        self._log()
        self._state = GONE
        self._gateway.forget(self)
        self._over()

    def pause_writing(self) -> None:
        """The client reads slowly: neither its response nor its next request is read until it has caught up."""
        if self._connection is not None:
            self._connection.hold(True)
        self._hold(HOLD_CLIENT)

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.hold(False)
        self._release(HOLD_CLIENT)
        if self._ahead and self._state <= HEAD:
            self._pump()

    def sweep(self, tick: int) -> None:
        """End what has taken too long; called once a second.

        A response without a length may be silent for as long as its app likes once it has begun: it may be a stream
        of events. One with a length has something to say, and is cut after the silence that a head is granted.
        """
        limits, state, connection = self._gateway.limits, self._state, self._connection
        if connection is not None and connection.backend.cut:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The app's container was replaced.")
            return
        if not self._reads_on(tick):
            return
        age = tick - self._since
        if state == IDLE:
            if age > limits.idle:
                self.transport.abort()
            elif age == _FORGETFUL:
                self._head = ()
                self._reset_delivery()
        elif state == HEAD and age > limits.head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, SLOW)
        elif state == PARKED and age > limits.pause:
            self._let_go()
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, PAUSED_NOW)
        elif state in (WAITING, ANSWERING) and self._app is not None:
            policy = self._app.policy
            if self._upload is not None and not self._holds:
                if policy.body and age > policy.body:
                    self._refuse(HTTPStatus.REQUEST_TIMEOUT, SLOW)
            elif policy.response and age > policy.response and (state == WAITING or self._bounded):
                self._refuse(HTTPStatus.GATEWAY_TIMEOUT, "The app did not answer in time.")
        elif state == LINGERING and age > limits.linger:
            self.transport.abort()

    def drain(self) -> None:
        """Close after the request in hand, or now if there is none; nobody will say that a parked one may go on."""
        self._closing = True
        self.plain = False
        if self._state == IDLE:
            self.transport.close()
        elif self._state == PARKED:
            self._let_go()
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, PAUSED_NOW)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Take requests from what was read ahead, one after the other, while each is answered at once."""
        if self._pumping:
            return
        self._pumping = True
        while self._ahead and self._state <= HEAD and not self._holds & HOLD_CLIENT and self._take_head():
            pass
        self._pumping = False

    def _take_head(self) -> bool:
        ahead = self._ahead
        assert ahead is not None
        limits = self._gateway.limits
        if self._state == IDLE:
            self._since = self._gateway.tick
            self._state = HEAD
        head: bytes | None = None
        try:
            head = ahead.take_head(limits.head_bytes, limits.target_bytes)
            if head is None:
                if not ahead:  # an empty line is no request yet
                    self._ahead, self._state = None, IDLE
                return False
            if head != self._head:
                self._request = parse_request(head, self._peer, self._request)
                self._head, self._table = head, None
        except RefusedHeadError as refused:
            bodiless = (head or ahead).startswith(b"HEAD ")
            self._refuse(refused.status, refused.reason, bodiless=bodiless)
            return False
        self._release(HOLD_AHEAD)
        assert self._request is not None
        self._begin(self._request, self._take_ahead())
        return True

    def _begin(self, request: RequestHead, rest: bytes) -> None:
        """Send a request on its way; `rest` is what came after its head."""
        gateway = self._gateway
        self._number = gateway.requests = number = gateway.requests + 1
        if self._table is not gateway.table:
            self._find(request, gateway.table)
        self._state = WAITING
        self._since = gateway.tick
        self._began = monotonic()
        fields = request.fields
        if fields.request_id:
            self._first = b"%b%b\r\n\r\n" % (request.sent_on, fields.request_id)
        else:
            self._first = b"%b%b%x\r\n\r\n" % (request.sent_on, gateway.id_prefix, number)
        if gateway.log is not None:
            self._record = Record(request, self._request_id, self._began)
        if fields.length or rest:
            self._upload = RequestBody(fields.length)
            body = self._body_of(rest)
            if body is None:
                return
            self._first += body
        self._detour() if self._way else self._send_on()

    def _find(self, request: RequestHead, table: Table) -> None:
        super()._find(request, table)
        app = self._app
        self._rows = self._meter.rows(request.method)
        self._hsts = app.policy.hsts if app is not None and request.fields.scheme == "https" else 0
        self.plain = request.plain and not self._hsts and not self._closing
        self.bodiless = request.method == b"HEAD"

    def _body_of(self, data: bytes) -> bytes | None:
        """What of `data` belongs to the body in hand; the rest is kept for later. None: refused."""
        upload = self._upload
        assert upload is not None
        try:
            body, rest = upload.take(data)
        except ChunkedError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"The request's body is malformed: {error}.")
            return None
        if upload.complete:
            self._upload = None
            self._keep(rest)
        self._taken += len(body)
        most = self._app.policy.max_body if self._app is not None and self._way in (way.ON, way.PARK) else 0
        if 0 < most < upload.content:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)
            return None
        return body

    def _upload_received(self, data: bytes) -> None:
        self._since = self._gateway.tick
        body = self._body_of(data)
        if body is None:
            return
        if self._connection is None:
            self._first += body
            if len(self._first) > MAX_AHEAD:
                self._hold(HOLD_DIAL)
        elif self._connection.transport is not None:
            self._first = b""
            self._connection.transport.write(body)

    def hold_upload(self, full: bool) -> None:
        self._hold(HOLD_BACKEND) if full else self._release(HOLD_BACKEND)

    # --- the response -----------------------------------------------------------------------------------------------

    def backend_began(self, head: ResponseHead, received: int) -> None:
        """The beginning of a large response was passed on uncopied; the rest comes to body_received."""
        self._state = ANSWERING
        self._since = self._gateway.tick
        self._first = b""
        self._bounded = True
        self._status = head.status
        self._sent = received
        if self._record is not None:
            self._head_came(head)

    def backend_done(self, head: ResponseHead) -> None:
        """A plain exchange was passed on whole: back to idle, on the shortest way."""
        connection = self._connection
        row = self._rows[head.status // 100]
        seconds = monotonic() - self._began
        row[SECONDS] += seconds
        row[SENT] += head.length
        row[0 if seconds <= QUICK else bisect_left(BOUNDS, seconds)] += 1
        if self._record is not None:
            self._head_came(head)
            self._sent = head.length
            self._log()
            self._sent = 0
        self._connection = None
        self._state = IDLE
        self._since = self._gateway.tick
        connection.release(self._gateway)  # type: ignore[union-attr]
        if self._ahead or self._eof or self._holds:
            self._go_on()

    def interim_received(self, head: ResponseHead) -> None:
        if self._request is not None and self._request.modern:
            self.transport.write(head.start + b"\r\n")

    def head_received(self, head: ResponseHead, length: int, first: bytes, ended: bool) -> None:
        request = self._request
        assert request is not None
        self._state = ANSWERING
        self._since = self._gateway.tick
        self._first = b""
        self._status = head.status
        if self._record is not None:
            self._head_came(head)
        bodied = not (self.bodiless or head.status in (204, 304))
        unframed = length == UNTIL_CLOSE or (length == CHUNKED and not request.modern)
        if not request.fields.keep_alive or (unframed and bodied) or self._upload is not None:
            self._closing = True
        self._bounded = length >= 0
        start = head.sent_on(modern=request.modern, close=self._closing)
        if not head.dated:
            start = b"%b%b\r\n\r\n" % (start[:-2], pages.date().encode())
        if self._hsts and b"\nstrict-transport-security:" not in start.lower():
            start = b"%b%b\r\n\r\n" % (start[:-2], pages.hsts(self._hsts).encode())
        if unframed and bodied and length == CHUNKED:
            self._dechunk = ChunkedBody()
            self.transport.write(start)
        else:
            self.transport.write(start + first)
            self._sent = len(first)
            first = b""
        if first or ended:
            self.body_received(first, ended)

    def body_received(self, data: bytes, ended: bool) -> None:
        self._since = self._gateway.tick
        if self._dechunk is not None:
            data = self._dechunk.payload_of(data)  # read once already, it cannot fail
        if data:
            self.transport.write(data)
            self._sent += len(data)
        if ended:
            self._dechunk = None
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.release(self._gateway) if self._upload is None else connection.drop()
            self._next()

    def backend_lost(self, reason: str | None) -> None:
        connection, self._connection = self._connection, None
        request = self._request
        assert request is not None
        assert connection is not None
        if self._state == ANSWERING:
            reset(self.transport)  # a truncated response must look like one
            return
        if reason is None:
            if connection.used:  # it may have been closed for its age just as it was taken
                self._tried = ()
            else:
                connection.backend.failed(self._gateway.tick)
                self._tried += (connection.backend,)
            if self._first and request.idempotent and self._try_again():
                return
        self._fail(HTTPStatus.BAD_GATEWAY, reason or "The app closed the connection without an answer.")

    def upgraded(self, head: ResponseHead, first: bytes) -> None:
        request, connection, app, gateway = self._request, self._connection, self._app, self._gateway
        assert request is not None
        assert connection is not None
        assert app is not None
        if not request.fields.upgrade or self._upload is not None:
            self._refuse(HTTPStatus.BAD_GATEWAY, "The app switched protocols without being asked.")
            return
        if self._record is not None:
            self._head_came(head)
        self.transport.write(head.start + b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % head.upgrade)
        self._connection = None
        self._first = b""
        self._state = GONE
        count(self._rows[1], monotonic() - self._began, 0, self._taken)
        app.meter.tunnels += 1
        idle, end = app.policy.websocket_idle, self.relay_end
        tunnel = Tunnel(connection.backend, app.meter, idle, gateway.tick, self._tunnel_over, client_end=end)
        gateway.tunnels.add(tunnel)
        gateway.forget(self)
        tunnel.begin(self.transport, connection.detach(), self._take_ahead(), first, ended=self._eof)

    def _tunnel_over(self, tunnel: Tunnel) -> None:
        self._taken, self._sent = tunnel.client_end.received, tunnel.server_end.received
        tunnel.meter.received += self._taken
        tunnel.meter.sent += self._sent
        self._log()
        self._gateway.forget_tunnel(tunnel)
        self._over()
