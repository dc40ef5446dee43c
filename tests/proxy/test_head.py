"""Message heads: what is refused, what is sent on."""

import re
import time

import pytest

from sidegate.proxy.head import (
    CHUNKED,
    UNTIL_CLOSE,
    RefusedHeadError,
    RequestHead,
    parse_request,
    parse_response,
)
from sidegate.proxy.peer import TrustedProxies, describe

PEER = describe(("192.0.2.7", 50000), ("192.0.2.1", 80), False, TrustedProxies())
PROXY = describe(("192.0.2.7", 50000), ("192.0.2.1", 80), False, TrustedProxies(["192.0.2.0/28"]))
ABOUT = [
    b"X-Forwarded-For: 192.0.2.7",
    b"X-Real-IP: 192.0.2.7",
    b"X-Forwarded-Proto: http",
    b"X-Forwarded-Port: 80",
    b"X-Forwarded-Host: a.test",
    b'Forwarded: for=192.0.2.7;host="a.test";proto=http',
]


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a.test") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def parsed(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a.test") -> RequestHead:
    return parse_request(request(*fields, line=line, host=host), PEER)


def sent(head: RequestHead) -> list[bytes]:
    """The lines of what a backend gets, without those that say who asked."""
    lines = head.sent_on.split(b"\r\n")
    assert lines.pop() == b"X-Request-ID: "
    return [line for line in lines if line not in ABOUT]


def refusal(head: bytes) -> int:
    with pytest.raises(RefusedHeadError) as refused:
        parse_request(head, PEER)
    return refused.value.status


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(host=b""), 400),
        (request(b"Host: a.test"), 400),
        (request(b"Host: b.test"), 400),
        (request(host=b"Host: a b"), 400),
        (request(host=b"Host: u@a.test"), 400),
        (request(host=b"Host: a.test/x"), 400),
        (request(host=b"Host: a.test:80:80"), 400),
        (request(host=b"Host: a.test:65536"), 400),
        (request(host=b"Host: a.test:x"), 400),
        (request(host=b"Host: :80"), 400),
        (request(host=b"Host: "), 400),
        (request(host=b"Host: ."), 400),
        (request(host=b"Host: a..test"), 400),
        (request(host=b"Host: a.test, b.test"), 400),
        (request(host=b"Host: a\xe4.test"), 400),
        (request(host=b"Host: a%2etest"), 400),
        (request(host=b"Host: [::1"), 400),
        (request(host=b"Host: [1::2::3]"), 400),
        (request(host=b"Host: [::1]a"), 400),
        (request(host=b"Host: " + b"a." * 200), 400),
        (request(host=b"Host: a b", line=b"GET http://b.test/ HTTP/1.1"), 400),
        (request(host=b"", line=b"GET http://b.test/ HTTP/1.1"), 400),
        (request(b"A : b"), 400),
        (request(b"A b"), 400),
        (request(b": b"), 400),
        (request(b"A\t: b"), 400),
        (request(b"A: b", b" folded"), 400),
        (request(b"A: b", b"\tfolded"), 400),
        (request(b" A: b"), 400),
        (request(b"A: b\nC: d"), 400),
        (request(b"A: b\rC: d"), 400),
        (request(b"A: b\0"), 400),
        (request(b"A: \x7f"), 400),
        (request(b"A\xe4: b"), 400),
        (request(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
        (request(b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
        (request(b"Content-Length: 5", b"Content-Length: 6"), 400),
        (request(b"Content-Length: 5", b"Content-Length: 5"), 400),
        (request(b"Content-Length: 5, 5"), 400),
        (request(b"Content-Length: +5"), 400),
        (request(b"Content-Length: -5"), 400),
        (request(b"Content-Length: 0x5"), 400),
        (request(b"Content-Length: 5_0"), 400),
        (request(b"Content-Length: "), 400),
        (request(b"Content-Length: 9999999999999999999"), 400),
        (request(b"Transfer-Encoding: identity"), 400),
        (request(b"Transfer-Encoding: xchunked"), 400),
        (request(b"Transfer-Encoding: chunked, chunked"), 400),
        (request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
        (request(b"Transfer-Encoding: \x0bchunked"), 400),
        (request(b"Transfer-Encoding: \xa0chunked"), 400),
        (request(b"Transfer-Encoding:"), 400),
        (request(b"Transfer-Encoding: chunked;q=1"), 400),
        (request(b"Transfer-Encoding: chunked, gzip"), 400),
        (request(b"Transfer-Encoding: chunked , gzip, chunked"), 400),
        (request(b"Transfer-Encoding: , chunked"), 400),
        (request(b"Transfer-Encoding: 'chunked'"), 400),
        (request(b"Transfer-Encoding: gzip, chunked"), 501),
        (request(b"Transfer-Encoding: br;level=9 , x-own, chunked"), 501),
        (request(b"Content-Length: 1", line=b"TRACE / HTTP/1.1"), 400),
        (request(b"Max-Forwards: x", line=b"TRACE / HTTP/1.1"), 400),
        (request(b"Max-Forwards: -1", line=b"OPTIONS / HTTP/1.1"), 400),
        (request(b"Max-Forwards: 1", b"Max-Forwards: 2", line=b"OPTIONS / HTTP/1.1"), 400),
        (request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), 400),
        (request(b"Expect: the unexpected"), 417),
        (request(line=b"GET /"), 400),
        (request(line=b"GET / HTTP/1.1 "), 400),
        (request(line=b"GET  / HTTP/1.1"), 400),
        (request(line=b"GET\t/ HTTP/1.1"), 400),
        (request(line=b"GET / x HTTP/1.1"), 400),
        (request(line=b"GET / http/1.1"), 400),
        (request(line=b"G(T / HTTP/1.1"), 400),
        (request(line=b"GET x HTTP/1.1"), 400),
        (request(line=b"GET * HTTP/1.1"), 400),
        (request(line=b"GET ftp://a.test/ HTTP/1.1"), 400),
        (request(line=b"GET http://u@a.test/ HTTP/1.1"), 400),
        (request(line=b"GET http:///x HTTP/1.1"), 400),
        (request(line=b"GET http://:80/ HTTP/1.1"), 400),
        (request(line=b"GET http:/a.test/ HTTP/1.1"), 400),
        (request(line=b"GET /a#b HTTP/1.1"), 400),
        (request(line=b"GET http://a.test#b HTTP/1.1"), 400),
        (request(line=b"GET /\xe4 HTTP/1.1"), 400),
        (request(line=b"GET /\x7f HTTP/1.1"), 400),
        (request(line=b"GET /\0 HTTP/1.1"), 400),
        (request(line=b"GET / HTTP/2.0"), 505),
        (request(line=b"GET / HTTP/0.9"), 505),
        (request(line=b"CONNECT a.test:443 HTTP/1.1"), 501),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(head: bytes, status: int) -> None:
    assert refusal(head) == status


@pytest.mark.parametrize(
    ("line", "sent", "path", "host"),
    [
        (b"GET /a?b HTTP/1.1", b"GET /a?b HTTP/1.1", "/a?b", "a.test"),
        (b"GET /a HTTP/1.0", b"GET /a HTTP/1.1", "/a", "a.test"),
        (b"GET /a HTTP/1.7", b"GET /a HTTP/1.1", "/a", "a.test"),
        (b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1", "*", "a.test"),
        (b"GET http://B.test:81/x?y HTTP/1.1", b"GET /x?y HTTP/1.1", "/x?y", "b.test"),
        (b"GET HTTPS://b.test HTTP/1.1", b"GET / HTTP/1.1", "/", "b.test"),
        (b"GET http://b.test?q HTTP/1.1", b"GET /?q HTTP/1.1", "/?q", "b.test"),
    ],
)
def test_every_form_of_target_becomes_origin_form(line: bytes, sent: bytes, path: str, host: str) -> None:
    found = parsed(line=line)
    assert (found.sent_on.split(b"\r\n")[0], found.path, found.fields.host) == (sent, path, host)


@pytest.mark.parametrize(
    "path", [b"/%2e%2e/a", b"//a//", b"/a%2Fb", b"/./..", b"/%", b"/a|b^c{}`", b'/"<>\\', b"/;a?%00"]
)
def test_a_path_is_sent_on_as_it_came(path: bytes) -> None:
    found = parsed(line=b"GET %b HTTP/1.1" % path)
    assert found.sent_on.startswith(b"GET %b HTTP/1.1\r\n" % path)
    assert found.path == path.decode()


def test_an_absolute_target_replaces_the_host_field() -> None:
    found = parsed(line=b"GET http://b.test:81/ HTTP/1.1")
    assert re.findall(rb"Host: (.*)\r\n", found.sent_on) == [b"b.test:81", b"b.test:81"]  # Host, X-Forwarded-Host
    assert b';host="b.test:81";' in found.sent_on
    assert found.fields.authority == "b.test:81"


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        (b"A.Test:8080", "a.test"),
        (b"a.test.", "a.test"),
        (b"a.test:", "a.test"),
        (b"[::1]:80", "[::1]"),
        (b"[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
        (b"a_b.test", "a_b.test"),
        (b"192.0.2.1:65535", "192.0.2.1"),
    ],
)
def test_the_host_is_lower_case_without_port_and_trailing_dot(raw: bytes, host: str) -> None:
    found = parsed(host=b"Host: " + raw).fields
    assert (found.host, found.authority) == (host, raw.decode())


@pytest.mark.parametrize("host", [b"", b"Host:"])
def test_http_1_0_needs_no_host(host: bytes) -> None:
    found = parsed(line=b"GET / HTTP/1.0", host=host)
    assert sent(found) == [b"GET / HTTP/1.1", b"Host: ", b"Forwarded: for=192.0.2.7;proto=http"]
    assert (found.fields.host, found.fields.authority, found.fields.keep_alive) == ("", "", False)


@pytest.mark.parametrize(
    ("line", "connection", "keep_alive"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Close", False),
        (b"GET / HTTP/1.1", b"keep-alive, close", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Keep-Alive", True),
        (b"GET / HTTP/1.0", b"close, keep-alive", False),
    ],
)
def test_connections_are_kept_as_the_version_and_the_client_say(
    line: bytes, connection: bytes, keep_alive: bool
) -> None:
    assert parsed(b"Connection: " + connection, line=line).fields.keep_alive is keep_alive


def test_fields_that_connection_names_end_here_but_never_the_framing() -> None:
    found = parsed(b"Connection: close, X-One, content-length, host", b"X-One: 1", b"X-Two: 2", b"Content-Length: 3")
    assert sent(found) == [b"GET / HTTP/1.1", b"Host: a.test", b"X-Two: 2", b"Content-Length: 3"]
    assert (found.fields.keep_alive, found.fields.length) == (False, 3)


@pytest.mark.parametrize("named", [b"x-forwarded-for", b"x-real-ip", b"x-request-id", b"forwarded", b"host"])
def test_connection_takes_none_of_our_own_fields_away(named: bytes) -> None:
    found = parsed(b"Connection: " + named)
    assert [line for line in found.sent_on.split(b"\r\n") if line in ABOUT] == ABOUT
    assert b"\r\nHost: a.test\r\n" in found.sent_on


def test_a_backend_is_told_who_asked_and_strangers_are_not_believed() -> None:
    found = parsed(
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-Proto: 6",
        b"X-Forwarded-Server: 6",
        b"x-real-ip: 6.6.6.6",
        b"Forwarded: for=6.6.6.6",
        b"X-Request-ID: 6",
        b"X_Forwarded_For: 6.6.6.6",
        b"X-Request_ID: 6",
        b"X_REAL-IP: 6",
        b"Content_Length: 6",
        b"Transfer_Encoding: 6",
        b"Proxy: 6",
        b"X-Fine_Field: 1",
    )
    assert found.sent_on.split(b"\r\n")[2:8] == ABOUT
    assert sent(found) == [b"GET / HTTP/1.1", b"Host: a.test", b"X-Fine_Field: 1"]
    about = found.fields
    assert (about.client, about.local, about.scheme, about.request_id) == ("192.0.2.7", False, "http", b"")


def test_a_trusted_proxy_is_believed() -> None:
    fields = (b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-Proto: https", b"X-Request-ID: abc-1", b"X-A: b")
    found = parse_request(request(*fields), PROXY)
    about = found.fields
    assert (about.client, about.local, about.scheme, about.request_id) == ("203.0.113.9", False, "https", b"abc-1")
    assert found.sent_on.split(b"\r\n")[2:] == [
        b"X-Forwarded-For: 203.0.113.9, 192.0.2.7",
        b"X-Real-IP: 203.0.113.9",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Port: 443",
        b"X-Forwarded-Host: a.test",
        b'Forwarded: for=192.0.2.7;host="a.test";proto=http',
        b"X-A: b",
        b"X-Request-ID: ",
    ]
    said_nothing = parse_request(request(), PROXY)
    assert said_nothing.sent_on == parse_request(request(), PEER).sent_on


@pytest.mark.parametrize(
    ("fields", "upgrade", "websocket"),
    [
        ((b"Connection: Upgrade", b"Upgrade: websocket"), True, True),
        ((b"Connection: keep-alive, upgrade", b"Upgrade: WebSocket"), True, True),
        ((b"Connection: Upgrade", b"Upgrade: own/1.0, websocket"), True, True),
        ((b"Connection: Upgrade", b"Upgrade: own/1.0", b"Upgrade: other"), True, False),
        ((b"Upgrade: websocket",), False, False),
        ((b"Connection: Upgrade",), False, False),
        ((b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), False, False),
        ((b"Connection: Upgrade", b"Upgrade: websocket, H2C"), False, False),
        ((b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"), False, False),
        ((b"Connection: Upgrade", b"Upgrade: web socket"), False, False),
        ((b"Connection: Upgrade", b"Upgrade: "), False, False),
    ],
)
def test_a_switch_of_protocols_is_asked_for_by_two_fields_and_never_to_h2c(
    fields: tuple[bytes, ...], upgrade: bool, websocket: bool
) -> None:
    found = parsed(*fields)
    assert (found.fields.upgrade, found.fields.websocket) == (upgrade, websocket)
    lines = sent(found)[2:]
    assert (lines[:1] == [b"Connection: Upgrade"]) is upgrade
    assert len(lines) == (2 if upgrade else 0)
    assert not parsed(*fields, line=b"GET / HTTP/1.0").fields.upgrade


@pytest.mark.parametrize(
    ("method", "raw", "sent_on", "value"),
    [
        (b"TRACE", b"0", b"0", 0),
        (b"OPTIONS", b"10", b"9", 10),
        (b"OPTIONS", b"1", b"0", 1),
        (b"GET", b"0", b"0", -1),
        (b"GET", b"x", b"x", -1),
    ],
)
def test_max_forwards_counts_down_for_two_methods(method: bytes, raw: bytes, sent_on: bytes, value: int) -> None:
    found = parsed(b"Max-Forwards: " + raw, line=method + b" / HTTP/1.1")
    assert found.fields.max_forwards == value
    assert b"\r\nMax-Forwards: %b\r\n" % sent_on in found.sent_on
    assert parsed(line=method + b" / HTTP/1.1").fields.max_forwards == -1


def test_an_equal_block_of_fields_is_not_parsed_again() -> None:
    first = parsed(b"A: b")
    second = parse_request(request(b"A: b", line=b"GET /other HTTP/1.1"), PEER, first)
    assert second.fields is first.fields
    assert second.path == "/other"
    for other in (b"GET / HTTP/1.0", b"GET http://b.test/ HTTP/1.1"):
        third = parse_request(request(b"A: b", line=other), PEER, first)
        assert third.fields is not first.fields
        assert parse_request(request(b"A: b"), PEER, third).fields.host == "a.test"


def test_what_a_block_means_to_one_method_is_not_taken_for_another() -> None:
    hops = request(b"Max-Forwards: 0")
    first = parse_request(hops, PEER)
    assert parse_request(hops.replace(b"GET", b"OPTIONS"), PEER, first).fields.max_forwards == 0
    bodied = request(b"Content-Length: 1")
    with pytest.raises(RefusedHeadError):
        parse_request(bodied.replace(b"GET", b"TRACE"), PEER, parse_request(bodied, PEER))


@pytest.mark.parametrize(
    "block", [b"a" * 65000, b"a:" + b" " * 65000 + b"\x01", b":" * 65000, b"\r" * 65000, (b"a" * 100 + b"\r\n") * 600]
)
def test_a_hostile_head_costs_no_more_than_its_length(block: bytes) -> None:
    begun = time.process_time()
    assert refusal(request(block)) == 400
    assert time.process_time() - begun < 0.5  # its square costs seconds


@pytest.mark.parametrize(
    ("fields", "length", "keep_alive"),
    [
        (b"Content-Length: 5\r\n", 5, True),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", 5, True),
        (b"Transfer-Encoding: Chunked\r\n", CHUNKED, True),
        (b"", UNTIL_CLOSE, True),
        (b"Content-Length: 5\r\nConnection: close\r\n", 5, False),
    ],
)
def test_a_response_is_framed_by_its_fields(fields: bytes, length: int, keep_alive: bool) -> None:
    found = parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
    assert (found.length, found.keep_alive) == (length, keep_alive)


def test_a_response_loses_what_concerns_only_the_app_and_us() -> None:
    found = parse_response(
        b"HTTP/1.0 404 Not here\r\nServer: x\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Length:7\r\n\r\n"
    )
    assert found.start == b"HTTP/1.1 404 Not here\r\nServer: x\r\nContent-Length:7\r\n"
    assert (found.keep_alive, found.untouched) == (True, False)


@pytest.mark.parametrize(
    ("head", "untouched"),
    [
        (b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 200\r\nDate: now\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.2 200 OK\r\nDate: now\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nDate: now\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.1 204 None\r\nDate: now\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 304 None\r\nDate: now\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
    ],
)
def test_only_a_head_without_surprises_is_passed_on_as_it_came(head: bytes, untouched: bool) -> None:
    assert parse_response(head).untouched is untouched


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_response_that_could_be_read_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(RefusedHeadError) as refused:
        parse_response(head)
    assert refused.value.status == 502


def test_a_204_is_never_said_to_be_chunked() -> None:
    found = parse_response(b"HTTP/1.1 204 None\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert found.length == CHUNKED
    assert found.sent_on(modern=True, close=False) == b"HTTP/1.1 204 None\r\n\r\n"
