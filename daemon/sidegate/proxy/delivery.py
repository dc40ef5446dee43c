"""Getting the request in hand to a replica: the choice, spare connections and dials, tries, and the wait in the park.

Each replica is tried once, three of them at most: any request while nothing of it was sent, an idempotent one also
when a connection broke before a word of response and all of the request is still here to be sent again.
"""

import asyncio
import errno
import os
from http import HTTPStatus

from sidegate.proxy.body import RequestBody
from sidegate.proxy.client import DIALLING, HOLD_BACKEND, HOLD_DIAL, PARKED, WAITING, ClientTransport
from sidegate.proxy.head import RequestHead
from sidegate.proxy.table import App, Table
from sidegate.proxy.upstream import Backend, BackendConnection
from sidegate.proxy.way import ON, UNAVAILABLE, way_of

_MAX_TRIES = 3
_FRESH = 1  # seconds that a connection may have been spare before it is too old for what must not be sent twice


class Delivery(ClientTransport):
    """A client whose request has a way to go. The two methods without a body are http1's."""

    __slots__ = (
        "_app", "_connection", "_dial", "_first", "_redirect", "_request", "_table", "_tried", "_upload", "_way",
    )  # fmt: skip

    def _detour(self) -> None:
        """Do what `_way` says of a request that is not for a replica, or not now."""
        raise NotImplementedError

    def _fail(self, status: HTTPStatus, detail: str) -> None:
        """No replica took it."""
        raise NotImplementedError

    def _reset_delivery(self) -> None:
        """Before the first request, and when none has come for a while: keep nothing that can be had again."""
        self._request: RequestHead | None = None
        self._table: Table | None = None  # that of the last look-up
        self._app: App | None = None
        self._way = ON
        self._redirect = ""
        self._first = b""  # what a fresh connection must be sent to begin the request anew; empty: that is lost
        self._tried: tuple[Backend, ...] = ()
        self._upload: RequestBody | None = None  # while some of the request's body is still to come
        self._connection: BackendConnection | None = None
        self._dial: asyncio.Task[None] | None = None

    def _sending(self) -> bool:
        return self._upload is not None

    def _find(self, request: RequestHead, table: Table) -> None:
        """Look up who answers; good for all requests with this head while the table is the same."""
        fields = request.fields
        self._table = table
        self._app, self._redirect = table.find(fields.host, request.path, local_client=fields.local)
        self._way = way_of(request, self._app, self._redirect, self._gateway.limits.https_port)

    def _send_on(self) -> None:
        """Give the request to a replica: over a spare connection, or over a fresh one."""
        gateway, app, request = self._gateway, self._app, self._request
        assert app is not None
        assert request is not None
        backend = app.only or app.choose(gateway.tick)
        assert backend is not None  # ON means that there is one
        spare = backend.spare
        # A request that must not be sent twice takes no connection that may be about to be closed for its age.
        if spare and (request.idempotent or gateway.tick - spare[-1].spare_since <= _FRESH):
            self._connection = connection = spare.pop()
            self._state = WAITING
            connection.send(self, self._first)  # type: ignore[arg-type]  # http1 makes an Exchange of it
        else:
            self._tried = ()
            self._start_dial(backend)

    def _start_dial(self, backend: Backend) -> None:
        self._state = DIALLING
        self._hold(HOLD_DIAL)
        self._dial = self._gateway.spawn(self._reach(backend), "dial")

    async def _reach(self, backend: Backend | None) -> None:
        """Send the request over a fresh connection, to this replica or the next that takes one.

        Cancelled when the client goes or is refused.
        """
        gateway, fault = self._gateway, OSError()
        while backend is not None and self._app is not None:
            try:
                connection = await gateway.dial(backend, self._app.policy.connect)
            except OSError as error:
                self._app.meter.dial_failures += 1
                fault = error
                self._tried += (backend,)
            else:
                self._app.meter.dials += 1
                # One that left meanwhile is passed over for one that stays, as long as tries are left for that.
                stays = backend.retired_at is None or len(self._tried) + 1 >= _MAX_TRIES
                other = None if stays else self._choose_again()
                if not connection.lost and other is None and self._way in (ON, UNAVAILABLE):
                    self._dial, self._connection = None, connection
                    self._state = WAITING
                    self._since = gateway.tick
                    connection.send(self, self._first)  # type: ignore[arg-type]
                    self._release(HOLD_DIAL)
                    return
                if connection.lost:
                    backend.failed(gateway.tick)
                self._tried += (backend,)
                connection.close()
            backend = self._choose_again()
            if backend is not None and self._app is not None:
                self._app.meter.retries += 1
        self._dial = None
        self._nobody_took_it(fault)

    def _choose_again(self) -> Backend | None:
        """The next to try, by the newest table; None: there is none, or it is not for a replica any more."""
        gateway = self._gateway
        if self._table is not gateway.table and self._request is not None:
            self._find(self._request, gateway.table)
        if self._way or self._app is None or len(self._tried) >= _MAX_TRIES:
            return None
        return self._app.choose(gateway.tick, self._tried)

    def _try_again(self) -> bool:
        """Send it once more after a connection broke; False: there is nobody to send it to."""
        backend = self._choose_again()
        if backend is None and not self._way:
            return False
        self._release(HOLD_BACKEND)
        if backend is not None and self._app is not None:
            self._app.meter.retries += 1
        self._detour() if backend is None else self._start_dial(backend)
        return True

    def _nobody_took_it(self, fault: OSError) -> None:
        """`fault` is why the last of them did not."""
        name = self._app.name if self._app is not None else "The app"
        if self._way:
            self._state = WAITING
            self._release(HOLD_DIAL)
            self._detour()
        elif not self._gateway.table.routes.engine_up:
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, f"{name} cannot be reached right now.")
        elif isinstance(fault, TimeoutError):
            self._fail(HTTPStatus.GATEWAY_TIMEOUT, f"{name} did not accept the connection in time.")
        else:
            refused = fault.errno in (None, errno.ECONNREFUSED)  # or closed at once
            why = "refused the connection" if refused else f"cannot be reached: {os.strerror(fault.errno or 0)}"
            self._fail(HTTPStatus.BAD_GATEWAY, f"{name} {why}.")

    def _park(self, app: App) -> bool:
        """Wait for a paused app; False: enough do.

        Reading goes on until MAX_AHEAD, so that a client that leaves is noticed.
        """
        gateway = self._gateway
        if not gateway.parking.add(app.name, self, gateway.limits.pause_requests):
            return False
        self._state = PARKED
        self._since = gateway.tick
        return True

    def _unpark(self) -> None:
        if self._app is not None:
            self._gateway.parking.remove(self._app.name, self)
        self._state = WAITING

    def resume(self) -> None:
        """The app that it was parked for is not paused any more, or not there."""
        if self._request is None:
            return
        self._state = WAITING
        self._since = self._gateway.tick
        self._release(HOLD_DIAL)
        self._find(self._request, self._gateway.table)
        self._detour() if self._way else self._send_on()

    def _let_go(self) -> None:
        """Give up what was on its way to a replica."""
        if self._state == PARKED:
            self._unpark()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
