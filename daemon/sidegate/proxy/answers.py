"""What the proxy answers itself, how every request ends, and its entry in the access log."""

from collections.abc import Iterable
from http import HTTPStatus

from sidegate.proxy import pages, way
from sidegate.proxy.client import ANSWERING, HEAD, HOLD_BACKEND, HOLD_DIAL, IDLE
from sidegate.proxy.delivery import Delivery
from sidegate.proxy.head import ResponseHead
from sidegate.proxy.record import Record
from sidegate.proxy.sockets import reset

SLOW = "The request took too long to arrive."
PAUSED_NOW = "The app is paused. Try again in a moment."
TOO_LARGE = "The request's body is larger than this app takes."


class Answers(Delivery):
    """A client that can be answered. `_pump` is http1's."""

    __slots__ = ("_hsts", "_number", "_record", "_taken", "plain")

    def _pump(self) -> None:
        """Go on with what was read ahead."""
        raise NotImplementedError

    def _reset_answers(self) -> None:
        self.plain = False
        self._hsts = 0
        self._number = 0  # of the request among the worker's
        self._record: Record | None = None  # while there is a log
        self._taken = 0  # bytes of the request's body so far, framing included

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
            self._record = Record(None, self._request_id) if gateway.log is not None else None
        self._closing = True
        page = pages.answer(status, detail, self._request, self._request_id, close=True, fields=self._security())
        self._finish(status, page[: page.find(b"\r\n\r\n") + 4] if bodiless else page)

    def _finish(self, status: HTTPStatus, response: bytes) -> None:
        record = self._record
        if record is not None:
            record.status = status.value
            record.sent = len(response) - response.find(b"\r\n\r\n") - 4
        self.transport.write(response)
        self._next()

    def _next(self) -> None:
        """The request in hand has its response: log it, then close, linger, or go on with the next."""
        self._log()
        self._taken = 0
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
            record.received = record.received or self._taken
            log.add(record.entry(self._peer, app.name if app is not None else ""))
