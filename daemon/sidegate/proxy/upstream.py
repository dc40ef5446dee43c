"""The backend side: replicas with their spare connections, and the protocol that reads responses.

Never decides what a client is told; it reports to the exchange it serves.
"""

import asyncio
import os
from typing import Protocol, cast

from sidegate.core.routes import Upstream
from sidegate.proxy.chunked import ChunkedBody, ChunkedError
from sidegate.proxy.head import CHUNKED, UNTIL_CLOSE, RefusedHeadError, ResponseHead, parse_response
from sidegate.proxy.limits import Limits

_MAX_HEAD = 65536
_MAX_INTERIM = 64  # 1xx responses to one request
_MAX_EJECTED = 30  # seconds
_LAST_WORDS = 262144  # bytes of a response that are read after its connection broke


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
    def backend_began(self, head: ResponseHead, received: int) -> None:
        """The beginning of a plain exchange's response was passed on as it came: its head and `received` bytes."""

    def backend_done(self, head: ResponseHead) -> None:
        """A plain exchange was passed on whole; this was its head."""

    def backend_lost(self, reason: str | None) -> None:
        """The connection is of no use any more. `reason` says what was wrong with the response; None: none began."""

    def hold_upload(self, full: bool) -> None: ...


class Spares(Protocol):
    """What keeping a connection for later depends on."""

    limits: Limits
    tick: int


class Backend:
    """One replica: its spare connections, latest used last, and how many requests and tunnels it has in hand.

    `ejected_until` is the second (as Gateway.tick) until which others are asked first. `retired_at` is when it left the
    routes; `cut` is set once what it still has in hand must end.
    """

    __slots__ = ("active", "address", "cut", "ejected_until", "failures", "port", "replica", "retired_at", "spare")

    def __init__(self, upstream: Upstream) -> None:
        self.replica = upstream.replica
        self.address = upstream.address
        self.port = upstream.port
        self.active = 0
        self.failures = 0
        self.ejected_until = 0
        self.retired_at: int | None = None
        self.cut = False
        self.spare: list[BackendConnection] = []

    def __repr__(self) -> str:
        return f"<Backend {self.replica} {self.address}:{self.port} active={self.active} spare={len(self.spare)}>"

    def failed(self, tick: int) -> None:
        """It took no connection, or broke one without a word: eject it for a second, longer each time, at most 30.

        Requests that fail together count once.
        """
        if tick >= self.ejected_until:
            self.ejected_until = tick + 1 + min(1 << self.failures, _MAX_EJECTED)
            self.failures = min(self.failures + 1, _MAX_EJECTED)

    def recovered(self) -> None:
        self.failures = self.ejected_until = 0

    def retire(self, tick: int) -> None:
        """No route leads here any more: spare connections end now, requests in flight in order."""
        if self.retired_at is None:
            self.retired_at = tick
        for connection in list(self.spare):
            connection.close()

    def sweep(self, tick: int, idle: int) -> None:
        """Close what was spare for over `idle` seconds."""
        for connection in [spare for spare in self.spare if tick - spare.spare_since > idle]:
            connection.close()


class BackendConnection(asyncio.Protocol):
    """One connection to a replica. Works for one exchange at a time, or is spare."""

    __slots__ = (
        "_buffer", "_chunks", "_held", "_interim", "_known", "_known_head", "_left", "_phase", "backend", "exchange",
        "lost", "reusable", "spare_since", "transport", "used",
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
        self._interim = 0
        self._chunks: ChunkedBody | None = None
        self._buffer = b""
        self._known_head: bytes | tuple[()] = ()  # the last head; an equal one is not parsed again. () begins nothing
        self._known: ResponseHead | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Begin to work for `exchange` with the first bytes of its request. Not for one that is lost."""
        self.exchange = exchange
        self._interim = 0
        self.backend.active += 1
        self.transport.write(data)  # type: ignore[union-attr]  # only a lost one has none

    def release(self, worker: "Spares") -> None:
        """The exchange is over, in order: become spare if that is possible."""
        self.exchange = None
        backend = self.backend
        backend.active -= 1
        if backend.failures:
            backend.recovered()
        full = len(backend.spare) >= worker.limits.backend_spares
        if not self.reusable or self.lost or backend.retired_at is not None or full:
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
        """Hand the transport over to a tunnel, which counts as active from now on; this object is done."""
        assert self.transport is not None
        transport, self.transport = self.transport, None
        self.exchange = None
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
                left = known.length - len(data) + size if exchange.plain and known.untouched else -1
                if left == 0:
                    exchange.transport.write(data)
                    exchange.backend_done(known)
                elif left > 0:
                    self._left = left
                    self._phase = 1
                    exchange.transport.write(data)
                    exchange.backend_began(known, len(data) - size)
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
            bare = data.count(b"\n") != data.count(b"\r\n")  # its end may never come
            if bare or len(data) > _MAX_HEAD or not data.startswith(b"HTTP/1."[: len(data)]):
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
                if self.lost:
                    self._fail("The app switched protocols and closed the connection.")
                else:
                    exchange.upgraded(head, rest)
                return
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                self._fail("The app sent too many interim responses.")
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
        if exc is not None and self.exchange is not None:
            self._hear_last_words()
        self._ended(exc)
        self.transport = None

    def _hear_last_words(self) -> None:
        """Read what came before a write failed: an app that answers early and closes resets the upload."""
        self.lost = True
        assert self.transport is not None
        left = _LAST_WORDS
        try:
            descriptor = self.transport.get_extra_info("socket").fileno()  # open until connection_lost has returned
            while self.exchange is not None and left > 0 and (data := os.read(descriptor, 65536)):
                left -= len(data)
                self.data_received(data)
        except OSError:
            pass

    def _ended(self, exc: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()
        elif self._phase == 3 and exc is None:
            self._phase = 0
            exchange.body_received(b"", True)
        else:
            begun = self._buffer or self._interim
            self._fail("The app closed the connection within a response's head." if begun else None)

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
