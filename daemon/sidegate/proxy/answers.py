"""What the proxy answers itself, how every request ends, and its entry in the access log."""

from collections.abc import Iterable
from http import HTTPStatus
from time import monotonic

from sidegate.proxy import pages, way
from sidegate.proxy.client import ANSWERING, HEAD, HOLD_BACKEND, HOLD_DIAL, IDLE, PARKED
from sidegate.proxy.delivery import Delivery
from sidegate.proxy.head import ResponseHead
from sidegate.proxy.metrics import AppMeter, Row, count
from sidegate.proxy.record import CLIENT_LEFT, Record
from sidegate.proxy.sockets import reset

SLOW = "The request took too long to arrive."
PAUSED_NOW = "The app is paused. Try again in a moment."
TOO_LARGE = "The request's body is larger than this app takes."

# What answers of the proxy's own are counted as: by the way that the request would have gone, else by their status.
_DETOURS = {way.LAST_HOP: "max_forwards", way.UNDER_MAINTENANCE: "maintenance", way.PARK: "paused"}
_ANSWERS = {
    HTTPStatus.PERMANENT_REDIRECT: "redirect",
    HTTPStatus.NOT_FOUND: "no_app",
    HTTPStatus.REQUEST_TIMEOUT: "slow_client",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "target_too_long",
    HTTPStatus.EXPECTATION_FAILED: "expectation",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "head_too_large",
    HTTPStatus.NOT_IMPLEMENTED: "unsupported",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "unsupported",
    HTTPStatus.BAD_GATEWAY: "bad_gateway",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout",
}


class Answers(Delivery):
    """A client that can be answered. `_pump` is http1's."""

    __slots__ = ("_began", "_hsts", "_number", "_record", "_rows", "_sent", "_status", "_taken", "plain")

    _rows: list[Row]
    """What the request in hand is counted in."""

    def _pump(self) -> None:
        """Go on with what was read ahead."""
        raise NotImplementedError

    def _reset_answers(self) -> None:
        self.plain = False
        self._hsts = 0
        self._number = 0  # of the request among the worker's
        self._record: Record | None = None  # while there is a log
        self._taken = 0  # bytes of the request's body so far, framing included
        self._sent = 0  # of the response's body
        self._status = 0  # of the response that has begun
        self._began = 0.0  # when the request's head was there

    @property
    def _request_id(self) -> bytes:
        """A trusted proxy's, or what makes the request's number unique beyond this worker."""
        given = self._request.fields.request_id if self._request is not None else b""
        return given or b"%b%x" % (self._gateway.id_prefix, self._number)

    def _detour(self) -> None:
        request, app, unavailable = self._request, self._app, HTTPStatus.SERVICE_UNAVAILABLE
        assert request is not None
        fields = request.fields
        match self._way:
            case way.LAST_HOP:
                status = HTTPStatus.OK if request.method == b"OPTIONS" else HTTPStatus.NOT_IMPLEMENTED
                self._answer(status, "The request was to go no further than this proxy.")
            case way.MOVED:
                _, colon, port = fields.authority.rpartition(":")
                self._redirect_to(fields.scheme, self._redirect, int(port) if colon and port.isdigit() else 0)
            case way.TO_HTTPS:
                self._redirect_to("https", fields.host, self._gateway.limits.https_port)
            case way.TOO_LARGE:
                self._closing = True
                self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)
            case way.UNDER_MAINTENANCE if app is not None:
                detail = f"{app.name} is being worked on and will be back soon."
                self._answer(unavailable, detail, title="Back in a moment")
            case way.PARK if app is not None:
                if not self._park(app):
                    self._answer(unavailable, f"{app.name} is paused, and enough requests wait for it already.")
            case way.UNAVAILABLE if app is not None:
                self._answer(unavailable, app.unavailable or f"{app.name} is not running.")
            case _:
                self._answer(HTTPStatus.NOT_FOUND, f"No app answers for {fields.host or 'this address'}.")

    def _answer(self, status: HTTPStatus, detail: str, *, title: str = "") -> None:
        """Answer the request in hand; the connection lives on unless its body is still to come."""
        self._check_closing()
        page = pages.answer(
            status, detail, self._request, self._request_id, close=self._closing, title=title, fields=self._security()
        )
        self._finish(status, page)

    def _redirect_to(self, scheme: str, host: str, port: int) -> None:
        request = self._request
        assert request is not None
        self._check_closing()
        location = pages.location(scheme, host, port, request.path)
        response = pages.redirect(location, request, self._request_id, close=self._closing, fields=self._security())
        self._finish(HTTPStatus.PERMANENT_REDIRECT, response)

    def _fail(self, status: HTTPStatus, detail: str) -> None:
        self._release(HOLD_DIAL | HOLD_BACKEND)
        self._answer(status, detail)

    def _refuse(self, status: HTTPStatus, detail: str, *, bodiless: bool = False) -> None:
        """Answer what cannot be served and close: the next message's beginning is unknown, or it took too long.

        `bodiless`: it was a HEAD, though one that could not be read.
        """
        self._let_go()
        if self._state == ANSWERING:
            reset(self.transport)
            return
        if self._state <= HEAD:  # its head was not read, so that nothing was begun for it
            gateway = self._gateway
            self._number = gateway.requests = gateway.requests + 1
            self._request = None
            self._began = monotonic()
            self._rows = self._meter.rows(b"")
            self._record = Record(None, self._request_id, self._began) if gateway.log is not None else None
        self._closing = True
        page = pages.answer(status, detail, self._request, self._request_id, close=True, fields=self._security())
        self._finish(status, page[: page.find(b"\r\n\r\n") + 4] if bodiless else page)

    def _finish(self, status: HTTPStatus, response: bytes) -> None:
        taken = self._way if self._request is not None else way.ON
        self._meter.answers[_DETOURS.get(taken) or _ANSWERS.get(status, "malformed")] += 1
        self._status = status.value
        self._sent = len(response) - response.find(b"\r\n\r\n") - 4
        if self._record is not None:
            self._record.status = status.value
        self.transport.write(response)
        self._next()

    def _next(self) -> None:
        """The request in hand has its response: count and log it, then see what is next."""
        count(self._rows[self._status // 100], monotonic() - self._began, self._sent, self._taken)
        self._log()
        self._go_on()

    def _go_on(self) -> None:
        """Close, linger, or take the next request."""
        self._taken = self._sent = 0
        self._since = self._gateway.tick
        if self._closing:
            request = self._request
            # Who asked for the close sends no more; where some of a body is still to come, or no head was understood,
            # that is not known.
            self._linger(silent=request is not None and not request.fields.keep_alive and self._upload is None)
            return
        self._state = IDLE
        self._release(HOLD_DIAL | HOLD_BACKEND)
        if self._ahead:
            self._pump()
        if self._eof and self._state <= HEAD:
            self.transport.close()

    @property
    def busy_for(self) -> str | None:
        """The app that its request in hand is for, "" for nobody; None: there is none."""
        return self._meter.name if PARKED <= self._state <= ANSWERING else None

    @property
    def parked(self) -> bool:
        """Whether its request waits for a paused app."""
        return self._state == PARKED

    def _left(self) -> None:
        """The connection has ended with a request in hand: a client that went, or one that was cut off."""
        status = self._status
        if self._state != ANSWERING:
            status = CLIENT_LEFT
            self._meter.left += 1
        count(self._rows[status // 100], monotonic() - self._began, self._sent, self._taken)

    @property
    def _meter(self) -> AppMeter:
        """Whose the request in hand is."""
        app = self._app if self._request is not None else None
        return app.meter if app is not None else self._gateway.table.meters.nobody

    def _check_closing(self) -> None:
        request = self._request
        if request is None or not request.fields.keep_alive or self._upload is not None:
            self._closing = True

    def _security(self) -> Iterable[str]:
        return (pages.hsts(self._hsts),) if self._hsts and self._request is not None else ()

    # --- the access log ---------------------------------------------------------------------------------------------

    def _head_came(self, head: ResponseHead) -> None:
        """Note a final head in the record that there is."""
        if self._record is not None and self._connection is not None:
            self._record.head_came(head.status, self._connection.backend.replica)

    def _log(self) -> None:
        """Hand the record in, if there is one and the app wants it; a request has one entry."""
        record, self._record = self._record, None
        log = self._gateway.log
        if record is None or log is None:
            return
        app = self._app if record.request is not None else None
        if app is None or app.policy.access_log:
            record.received, record.sent = self._taken, self._sent
            log.add(record.entry(self._peer, app.name if app is not None else ""))
