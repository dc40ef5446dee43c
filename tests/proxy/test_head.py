"""Message heads: what is refused, what is sent on."""

import re
import time

import pytest

from sidegate.proxy.head import CHUNKED, UNTIL_CLOSE, RefusedHeadError, parse_request, parse_response

FORWARDED = b"X-Forwarded-For: 192.0.2.7\r\n"


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a.test") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def refusal(head: bytes) -> int:
    with pytest.raises(RefusedHeadError) as refused:
        parse_request(head, FORWARDED)
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
        (request(b"Transfer-Encoding: gzip, chunked"), 501),
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
    found = parse_request(request(line=line), FORWARDED)
    assert (found.sent_on.split(b"\r\n")[0], found.path, found.fields.host) == (sent, path, host)


def test_an_absolute_target_replaces_the_host_field() -> None:
    found = parse_request(request(line=b"GET http://b.test:81/ HTTP/1.1"), FORWARDED)
    assert re.findall(rb"Host: (.*)\r\n", found.sent_on) == [b"b.test:81", b"b.test:81"]  # Host, X-Forwarded-Host


@pytest.mark.parametrize(
    ("raw", "host"),
    [(b"A.Test:8080", "a.test"), (b"a.test.", "a.test"), (b"[::1]:80", "[::1]"), (b"", ""), (b"a_b.test", "a_b.test")],
)
def test_the_host_is_lower_case_without_port_and_trailing_dot(raw: bytes, host: str) -> None:
    assert parse_request(request(host=b"Host: " + raw), FORWARDED).fields.host == host


def test_fields_that_connection_names_end_here_but_never_the_framing() -> None:
    head = request(b"Connection: close, X-One, content-length, host", b"X-One: 1", b"X-Two: 2", b"Content-Length: 3")
    found = parse_request(head, FORWARDED)
    assert found.sent_on.split(b"\r\n")[1:-2] == [
        b"Host: a.test",
        b"X-Forwarded-For: 192.0.2.7",
        b"X-Forwarded-Host: a.test",
        b"X-Two: 2",
        b"Content-Length: 3",
    ]
    assert (found.fields.keep_alive, found.fields.length) == (False, 3)


def test_underscores_do_not_smuggle_our_own_fields_past_us() -> None:
    fields = (b"X_Forwarded_For: 6.6.6.6", b"Content_Length: 9", b"X_REAL-IP: 6", b"X-Fine_Field: 1")
    found = parse_request(request(*fields), FORWARDED)
    assert b"6" not in found.sent_on.replace(b"192.0.2.7", b"")
    assert b"Content_Length" not in found.sent_on
    assert b"X-Fine_Field: 1\r\n" in found.sent_on


def test_an_equal_block_of_fields_is_not_parsed_again() -> None:
    first = parse_request(request(b"A: b"), FORWARDED)
    second = parse_request(request(b"A: b", line=b"GET /other HTTP/1.1"), FORWARDED, first)
    assert second.fields is first.fields
    assert second.path == "/other"
    for other in (b"GET / HTTP/1.0", b"GET http://b.test/ HTTP/1.1"):
        third = parse_request(request(b"A: b", line=other), FORWARDED, first)
        assert third.fields is not first.fields
        assert parse_request(request(b"A: b"), FORWARDED, third).fields.host == "a.test"


@pytest.mark.parametrize(
    "block", [b"a" * 65000, b"a:" + b" " * 65000 + b"\x01", b":" * 65000, b"\r" * 65000, (b"a" * 100 + b"\r\n") * 600]
)
def test_a_hostile_head_costs_no_more_than_its_length(block: bytes) -> None:
    begun = time.perf_counter()
    assert refusal(request(block)) == 400
    assert time.perf_counter() - begun < 0.1


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
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 304 None\r\nContent-Length: 5\r\n\r\n", False),
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
    ],
)
def test_a_response_that_could_be_read_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(RefusedHeadError) as refused:
        parse_response(head)
    assert refused.value.status == 502
