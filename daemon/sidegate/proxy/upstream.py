"""The backend side: replicas with their spare connections, how one is chosen, and the protocol that reads responses.

Never decides what a client is told; it reports to the exchange it serves.
"""

import asyncio
from typing import Protocol, cast

from sidegate.core.routes import AppRoute, Policy, Routes, find_route
from sidegate.proxy.chunked import ChunkedBody, ChunkedError
from sidegate.proxy.head import CHUNKED, UNTIL_CLOSE, RefusedHeadError, ResponseHead, parse_response
from sidegate.proxy.limits import Limits

_MAX_HEAD = 65536
_SHUNNED = 1  # seconds that a replica which refused a connection is tried last


class Exchange(Protocol):
    """One request on its way; what a backend connection tells whoever it works for."""

    transport: asyncio.Transport
    plain: bool
    """The request was plain and is sent whole: a response that is whole and untouched may be passed on as it came."""
    bodiless: bool
    """The response has no body whatever its fields say (HEAD)."""

    def head_received(self, head: ResponseHead, length: int, first: bytes, ended: bool) -> None:
        """A final head, the body's length (or CHUNKED, UNTIL_CLOSE), its first bytes, and whether that is all."""

    def interim_received(self, head: ResponseHead) -> None: ...
    def upgraded(self, head: ResponseHead, first: bytes) -> None: ...
    def body_received(self, data: bytes, ended: bool) -> None: ...
    def backend_done(self) -> None:
        """A plain exchange was passed on whole."""

    def backend_lost(self, reason: str | None) -> None:
        """The connection is of no use any more. `reason` says what was wrong with the response; None: it closed."""

    def hold_upload(self, full: bool) -> None: ...


class Spares(Protocol):
    """What keeping a connection for later depends on."""

    limits: Limits
    tick: int


class Backend:
    """One address that takes requests: its spare connections, latest used last, and how many are at work."""

    __slots__ = ("active", "address", "failed_at", "port", "retired", "spare")

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.port = port
        self.active = 0
        self.failed_at = -_SHUNNED - 1
        self.retired = False
        self.spare: list[BackendConnection] = []

    def __repr__(self) -> str:
        return f"<Backend {self.address}:{self.port} active={self.active} spare={len(self.spare)}>"

    def retire(self) -> None:
        """No route leads here any more: requests in flight end in order, spare connections now."""
        self.retired = True
        for connection in list(self.spare):
            connection.close()

    def sweep(self, tick: int, idle: int) -> None:
        """Close what was spare for over `idle` seconds."""
        for connection in [spare for spare in self.spare if tick - spare.spare_since > idle]:
            connection.close()


class App:
    """A route's target in this worker."""

    __slots__ = ("_turn", "backends", "name", "policy", "unavailable")

    def __init__(self, name: str, route: AppRoute, backends: list[Backend], policy: Policy) -> None:
        self.name = name
        self.policy = policy
        self.unavailable = route.unavailable
        self.backends = backends
        self._turn = 0

    def choices(self, tick: int) -> list[Backend]:
        """All replicas, best first: not lately failed, fewest requests in flight, ties in turn."""
        if len(self.backends) < 2:
            return self.backends
        self._turn = (self._turn + 1) % len(self.backends)
        turned = self.backends[self._turn :] + self.backends[: self._turn]
        turned.sort(key=lambda backend: (tick - backend.failed_at <= _SHUNNED, backend.active))
        return turned


class Table:
    """A routing snapshot made ready for this worker; replicas that stay keep their connections."""

    def __init__(self, routes: Routes, before: "Table | None" = None) -> None:
        known = before.backends if before else {}
        self.routes = routes
        self.backends: dict[tuple[str, int], Backend] = {}
        self.apps: dict[str, App] = {}
        for name, route in routes.apps.items():
            backends = []
            for upstream in route.upstreams:
                key = (upstream.address, upstream.port)
                if key not in self.backends:
                    self.backends[key] = known.get(key) or Backend(*key)
                backends.append(self.backends[key])
            self.apps[name] = App(name, route, backends, routes.policies[route.policy])
        for key in known.keys() - self.backends.keys():
            known[key].retire()

    def find(self, host: str, path: str, *, local_client: bool) -> App | None:
        """As core.routes.find_route; a route whose app is missing from the snapshot counts as no route."""
        route = find_route(self.routes, host, path, local_client=local_client)
        return self.apps.get(route.app) if route is not None else None


class BackendConnection(asyncio.Protocol):
    """One connection to a replica. Works for one exchange at a time, or is spare."""

    __slots__ = (
        "_buffer", "_chunks", "_held", "_known", "_known_head", "_left", "_phase", "backend", "exchange", "lost",
        "reusable", "spare_since", "transport", "used",
    )  # fmt: skip

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.used = False  # has served a whole exchange before
        self.lost = False
        self.reusable = True
        self.spare_since = 0
        self._held = False
        self._phase = 0  # 0: head, 1: counted body, 2: chunked body, 3: body until close
        self._left = 0
        self._chunks: ChunkedBody | None = None
        self._buffer = b""
        self._known_head: bytes | tuple[()] = ()  # the last head; an equal one is not parsed again. () begins nothing
        self._known: ResponseHead | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Begin to work for `exchange` with the first bytes of its request."""
        if self.lost or self.transport is None:  # closed between its connect and now
            exchange.backend_lost(None)
            return
        self.exchange = exchange
        self.backend.active += 1
        self.transport.write(data)

    def release(self, worker: "Spares") -> None:
        """The exchange is over, in order: become spare if that is possible."""
        self.exchange = None
        backend = self.backend
        backend.active -= 1
        full = len(backend.spare) >= worker.limits.backend_spares
        if not self.reusable or self.lost or backend.retired or full:
            self.close()
            return
        if self._held:
            self.hold(False)
        self.used = True
        self.spare_since = worker.tick
        backend.spare.append(self)

    def hold(self, held: bool) -> None:
        """Stop or go on reading the response."""
        self._held = held
        if self.transport is not None:
            self.transport.pause_reading() if held else self.transport.resume_reading()

    def drop(self) -> None:
        """The exchange is over before its time: close without another word to it."""
        if self.exchange is not None:
            self.exchange = None
            self.backend.active -= 1
        self.close(abort=True)

    def close(self, *, abort: bool = False) -> None:
        self.lost = True
        if self in self.backend.spare:
            self.backend.spare.remove(self)
        if self.transport is not None:
            self.transport.abort() if abort else self.transport.close()

    def detach(self) -> asyncio.Transport:
        """Hand the transport over to a tunnel; this object is done."""
        assert self.transport is not None
        transport, self.transport = self.transport, None
        self.exchange = None
        self.backend.active -= 1
        self.lost = True
        return transport

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close(abort=True)  # nobody asked for it
        elif self._phase == 0:
            if data.startswith(self._known_head) and not self._buffer:
                known = self._known
                size = len(self._known_head)
                assert known is not None
                if exchange.plain and known.untouched and known.length == len(data) - size:
                    exchange.transport.write(data)
                    exchange.backend_done()
                else:
                    self._take_head(exchange, known, data[size:])
            else:
                self._read_head(exchange, data)
        else:
            self._take_body(exchange, data)

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            self._buffer = data
            if len(data) > _MAX_HEAD or not data.startswith(b"HTTP/1."[: len(data)]):
                self._fail("The app's response has no valid head.")
            return
        self._buffer = b""
        head = data[:end]
        try:
            parsed = parse_response(head)
        except RefusedHeadError as refused:
            self._fail(refused.reason)
            return
        self._known_head, self._known = head, parsed
        self._take_head(exchange, parsed, data[end:])

    def _take_head(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        status = head.status
        if status < 200:
            if status == 101:
                exchange.upgraded(head, rest)
                return
            exchange.interim_received(head)
            if rest and self.exchange is exchange:
                self._read_head(exchange, rest)
            return
        self.reusable = head.keep_alive
        length = head.length
        if exchange.bodiless or status in (204, 304):
            # A 204 with a coding or a length may be followed by a body that must not be taken for the next response.
            if status == 204 and length not in (0, UNTIL_CLOSE):
                self.reusable = False
            if rest:
                self.reusable = False
            exchange.head_received(head, length, b"", True)
        elif length >= 0:
            left = length - len(rest)
            if left < 0:
                rest = rest[:length]
                self.reusable = False
            if left > 0:
                self._left = left
                self._phase = 1
            exchange.head_received(head, length, rest, left <= 0)
        elif length == CHUNKED:
            self._chunks = ChunkedBody()
            self._phase = 2
            try:
                end = self._chunks.feed(rest)
            except ChunkedError:
                self._fail("The app's response has broken chunks.")
                return
            self._chunk_end(end, rest)
            exchange.head_received(head, length, rest if end == -1 else rest[:end], end != -1)
        else:
            self.reusable = False
            self._phase = 3
            exchange.head_received(head, length, rest, False)

    def _take_body(self, exchange: Exchange, data: bytes) -> None:
        if self._phase == 1:
            left = self._left - len(data)
            if left > 0:
                self._left = left
                exchange.body_received(data, False)
                return
            if left < 0:
                data = data[: self._left]
                self.reusable = False
            self._phase = 0
            exchange.body_received(data, True)
        elif self._phase == 2:
            assert self._chunks is not None
            try:
                end = self._chunks.feed(data)
            except ChunkedError:
                self._fail("The app's response has broken chunks.")
                return
            self._chunk_end(end, data)
            exchange.body_received(data if end == -1 else data[:end], end != -1)
        else:
            exchange.body_received(data, False)

    def _chunk_end(self, end: int, data: bytes) -> None:
        if end != -1:
            self._phase = 0
            self._chunks = None
            if end != len(data):
                self.reusable = False

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self.transport = None

    def _ended(self, exc: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()
        elif self._phase == 3 and exc is None:
            self._phase = 0
            exchange.body_received(b"", True)
        else:
            self._fail(None if not self._buffer else "The app closed the connection within a response's head.")

    def _fail(self, reason: str | None) -> None:
        exchange = self.exchange
        self.drop()
        if exchange is not None:
            exchange.backend_lost(reason)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.hold_upload(True)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.hold_upload(False)
