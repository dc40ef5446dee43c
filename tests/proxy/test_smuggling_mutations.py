"""Valid messages with a few bytes changed: what is accepted here h11 accepts too, and takes it to mean the same."""

import contextlib
from collections.abc import Callable

import h11
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from proxy.generated import Message, ResponseReader, end_to_end, length, read_requests
from sidegate.proxy.chunked import ChunkedBody, ChunkedError
from sidegate.proxy.head import CHUNKED, UNTIL_CLOSE, RefusedHeadError, parse_request, parse_response
from sidegate.proxy.inbox import Inbox
from sidegate.proxy.peer import TrustedProxies, describe

MANY = settings(deadline=None, derandomize=True, max_examples=200, suppress_health_check=list(HealthCheck))
PEER = describe(("192.0.2.7", 50000), ("192.0.2.1", 80), False, TrustedProxies())

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"POST /a?b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 12\r\nX-A: b\r\n\r\n",
    b"PUT /a%20b HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    b"GET http://b.test/a HTTP/1.1\r\nHost: a.test\r\nConnection: close, x-a\r\nX-A: b\r\nX-B: c\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: a.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: a\r\nConnection: close\r\n\r\n",
]
BODIES = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b'A;a=b\r\n0123456789\r\n1;c="d"\r\nx\r\n00\r\nX-A: b\r\nX-C: d\r\n\r\n',
]
NASTY = [
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b"\t", b" ", b"\x0b", b"\x0c", b"\x7f", b"\x85", b"\xa0", b"\xff",
    b":", b",", b";", b"=", b'"', b"0", b"1", b"+", b"-", b"_", b"x", b"#", b"*", b"/", b"?", b"@", b"[", b"]",
    b"http://", b"HTTP/1.0", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: content-length\r\n", b"chunked", b"identity", b"gzip, ",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    raw = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        kind = draw(st.sampled_from(["insert", "insert", "replace", "delete", "double", "move"]))
        other = draw(st.integers(0, len(raw)))
        if kind == "insert":
            raw = raw[:place] + draw(st.sampled_from(NASTY)) + raw[place:]
        elif kind == "replace":
            raw = raw[:place] + draw(st.sampled_from(NASTY)) + raw[place + 1 :]
        elif kind == "delete":
            raw = raw[:place] + raw[place + draw(st.integers(1, 3)) :]
        elif kind == "double":
            line_end = raw.find(b"\r\n", place) + 2
            raw = raw[:line_end] + raw[raw.rfind(b"\n", 0, place) + 1 : line_end] + raw[line_end:]
        else:
            raw = raw[:place] + raw[other:] + raw[place:other]
    return raw


def head_of(raw: bytes) -> bytes:
    """The head as the proxy finds it."""
    inbox = Inbox()
    inbox.add(raw)
    with contextlib.suppress(RefusedHeadError):
        if (head := inbox.take_head(65536, 16384)) is not None:
            return head
    assume(False)
    raise AssertionError


def first(read: Callable[[], list[Message]]) -> Message:
    found = read()
    assert found
    return found[0]


@MANY
@given(mutated(REQUESTS))
def test_an_accepted_request_means_to_h11_what_it_means_to_us(raw: bytes) -> None:
    head = head_of(raw)
    try:
        ours = parse_request(head, PEER)
    except RefusedHeadError:
        return
    theirs = first(lambda: read_requests(head))
    method, target = theirs.start
    if not target.startswith(b"/"):  # the one deliberate difference: absolute-form becomes origin-form
        authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        assert target == b"*" or ours.fields.authority.encode() == authority
        assert target.endswith(ours.path.removeprefix("/").encode())
    else:
        assert ours.path.encode() == target
        assert [value for name, value in theirs.fields if name == b"host"] in (
            [ours.fields.authority.encode()],
            [] if ours.fields.authority == "" else None,
        )
    assert ours.method == method
    chunked = any(name == b"transfer-encoding" for name, _ in theirs.fields)
    assert ours.fields.length == (CHUNKED if chunked else length(theirs.fields) or 0)
    sent = first(lambda: read_requests(ours.sent_on + b"id\r\n\r\n"))
    assert sent.start == (ours.method, ours.path.encode())
    kept = [(name, value) for name, value in end_to_end(theirs.fields) if name not in (b"expect", b"http2-settings")]
    assert [(name, value) for name, value in end_to_end(sent.fields) if name != b"expect"] == [
        field for field in kept if b"_" not in field[0] or field in end_to_end(sent.fields)
    ]
    assert any(name == b"transfer-encoding" for name, _ in sent.fields) is chunked
    assert length(sent.fields) == (None if chunked else length(theirs.fields))


@MANY
@given(mutated(RESPONSES))
def test_an_accepted_response_means_to_h11_what_it_means_to_us(raw: bytes) -> None:
    head, end, _ = raw.partition(b"\r\n\r\n")
    assume(end)
    try:
        ours = parse_response(head + end)
    except RefusedHeadError:
        return
    reader = ResponseReader(b"GET")
    reader.feed(head + end)
    theirs = reader.message
    if 100 <= ours.status < 200:
        assert ours.status == 101 or theirs.interim[0][0] == ours.status
        return
    assert theirs.start[0] == b"%d" % ours.status
    chunked = any(name == b"transfer-encoding" for name, _ in theirs.fields)
    counted = length(theirs.fields)
    assert ours.length == (CHUNKED if chunked else UNTIL_CLOSE if counted is None else counted)
    passed = ResponseReader(b"GET")
    passed.feed(ours.sent_on(modern=True, close=False))
    assert end_to_end(passed.message.fields) == end_to_end(theirs.fields)


@MANY
@given(mutated(BODIES))
def test_an_accepted_body_is_to_h11_what_it_is_to_us(raw: bytes) -> None:
    try:
        end = ChunkedBody(request=True).feed(raw)
        payload = ChunkedBody().payload_of(raw)
    except ChunkedError:
        return
    body = raw if end == -1 else raw[:end]
    # h11 knows no space before an extension's ";" (RFC 9112 section 7.1.1: bad white space, to be accepted).
    assume(b" ;" not in body and b"\t;" not in body)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    theirs = first(lambda: read_requests(head + body))
    assert theirs.complete is (end != -1)
    assert theirs.body == payload


def test_h11_and_we_refuse_the_same_plain_nonsense() -> None:
    """The comparison compares: h11 does refuse."""
    for raw in (b"GET / HTTP/1.1\r\n\r\n", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", b"nonsense\r\n\r\n"):
        for read in (read_requests, lambda raw: parse_request(raw, PEER)):
            with contextlib.suppress(RefusedHeadError, h11.RemoteProtocolError):
                read(raw)
                raise AssertionError(raw)
