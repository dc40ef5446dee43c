"""Whole messages cut anywhere: what is read agrees with h11, however the bytes arrive."""

import asyncio
import itertools

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.core.routes import Upstream
from sidegate.proxy.body import RequestBody
from sidegate.proxy.chunked import ChunkedBody, ChunkedError
from sidegate.proxy.head import CHUNKED, ResponseHead, parse_request
from sidegate.proxy.inbox import Inbox
from sidegate.proxy.peer import TrustedProxies, describe
from sidegate.proxy.upstream import Backend, BackendConnection

PEER = describe(("192.0.2.7", 50000), ("192.0.2.1", 80), False, TrustedProxies())
ANY_CUT = settings(deadline=None, max_examples=40)
REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nhello\r\n\r\nyou"
    b"\r\nPUT /two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhel\r\n\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"
    b"DELETE /three HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
)
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n00a;e\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


def cuts() -> st.SearchStrategy[list[int]]:
    return st.one_of(st.lists(st.integers(0, 1000), max_size=12), st.just(list(range(1000))))


def as_h11_reads_requests(data: bytes) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    target, method, body = b"", b"", b""
    while (event := connection.next_event()) is not h11.NEED_DATA:
        if isinstance(event, h11.Request):
            method, target, body = event.method, event.target, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            found.append((method, target, body))
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
    return found


@ANY_CUT
@given(cuts())
def test_requests_are_read_as_h11_reads_them(places: list[int]) -> None:
    inbox, body, chunks = Inbox(), None, None
    found: list[tuple[bytes, bytes, bytes]] = []
    for piece in cut(REQUESTS, places):
        inbox.add(piece)
        while inbox:
            if body is None:
                head = inbox.take_head(65536, 16384)
                if head is None:
                    break
                parsed = parse_request(head, PEER)
                body = RequestBody(parsed.fields.length)
                chunks = ChunkedBody() if parsed.fields.length == CHUNKED else None
                found.append((parsed.method, parsed.path.encode(), b""))
            taken, rest = body.take(inbox.take_all())
            inbox.add(rest)
            payload = chunks.payload_of(taken) if chunks is not None else taken
            found[-1] = (*found[-1][:2], found[-1][2] + payload)
            if body.complete:
                body = None
    assert found == as_h11_reads_requests(REQUESTS.replace(b"you\r\n", b"you"))  # h11 forgives no empty line


class Listening:
    """An exchange that writes down what it is told."""

    transport: asyncio.Transport
    plain = False
    bodiless = False

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.body = b""
        self.ended = False
        self.lost: list[str | None] = []

    def head_received(self, head: ResponseHead, length: int, first: bytes, ended: bool) -> None:
        self.statuses.append(head.status)
        self._chunks = ChunkedBody() if length == CHUNKED else None
        self.body_received(first, ended)

    def interim_received(self, head: ResponseHead) -> None:
        self.statuses.append(head.status)

    def upgraded(self, head: ResponseHead, first: bytes) -> None:
        raise AssertionError

    def body_received(self, data: bytes, ended: bool) -> None:
        self.body += self._chunks.payload_of(data) if self._chunks is not None else data
        self.ended = ended

    def backend_began(self, head: ResponseHead, received: int) -> None:
        raise AssertionError

    def backend_done(self, head: ResponseHead) -> None:
        raise AssertionError

    def backend_lost(self, reason: str | None) -> None:
        self.lost.append(reason)

    def hold_upload(self, full: bool) -> None:
        raise AssertionError


def as_h11_reads_a_response(data: bytes) -> tuple[list[int], bytes]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    statuses, body = [], b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.InformationalResponse | h11.Response):
            statuses.append(event.status_code)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    return statuses, body


@pytest.mark.parametrize("response", RESPONSES)
@ANY_CUT
@given(places=cuts())
def test_responses_are_read_as_h11_reads_them(response: bytes, places: list[int]) -> None:
    exchange = Listening()
    connection = BackendConnection(Backend(Upstream("shop", "127.0.0.1", 80)))
    connection.exchange = exchange
    for piece in cut(response, places):
        assert not exchange.ended
        connection.data_received(piece)
    if not exchange.ended:
        connection.eof_received()
    assert exchange.ended
    assert exchange.lost == []
    assert (exchange.statuses, exchange.body) == as_h11_reads_a_response(response)


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\nx\r\n",
        b"1\nx\n",
        b"1;a\nb\r\n",
        b"1;a\rb\r\n",
        b"1\r\nxy",
        b"1\r\nx\n",
        b"1111111111111111\r\n",
        b"1;" + b"x" * 5000,
        b"0\r\nbad trailer\r\n",
        b"0\r\n a: b\r\n",
        b"0\r\n" + (b"a: " + b"b" * 3000 + b"\r\n") * 6,
        b"0\r\n\n",
    ],
)
@ANY_CUT
@given(places=cuts())
def test_broken_chunks_are_refused_however_they_arrive(body: bytes, places: list[int]) -> None:
    chunks = ChunkedBody()
    with pytest.raises(ChunkedError):
        for piece in cut(body, places):
            assert chunks.feed(piece) == -1
