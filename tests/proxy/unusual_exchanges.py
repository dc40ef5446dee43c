"""Exchanges that are unusual and valid: what the app must get and what the client must see, to the byte."""

from dataclasses import dataclass

from proxy.recording import OK

HOST = b"Host: shop.test"
CHUNKED = b"Transfer-Encoding: chunked"
INNER = b"GET /inner HTTP/1.1\r\nHost: shop.test\r\n\r\n"


@dataclass(frozen=True)
class Exchange:
    """`line` and `sent` are the request line and the fields that the app gets, besides Host and those we add.

    `body` and `trailers` are what the app reads. `answer` is all that the client sees; `closes`: then the connection
    ends. `ends`: the app closes after its response.
    """

    id: str
    request: bytes
    line: bytes = b"GET / HTTP/1.1"
    sent: tuple[bytes, ...] = ()
    host: bytes = b"shop.test"
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    response: bytes = OK
    answer: bytes = OK
    closes: bool = False
    ends: bool = False


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join([*parts, b"", b""])


def target(id_: str, raw: bytes, sent: bytes | None = None, method: bytes = b"GET") -> Exchange:
    request = lines(b"%b %b HTTP/1.1" % (method, raw), HOST)
    return Exchange(f"target-{id_}", request, b"%b %b HTTP/1.1" % (method, raw if sent is None else sent))


def method(id_: str, name: bytes) -> Exchange:
    return Exchange(f"method-{id_}", lines(name + b" / HTTP/1.1", HOST), name + b" / HTTP/1.1")


def host(id_: str, value: bytes) -> Exchange:
    return Exchange(f"host-{id_}", lines(b"GET / HTTP/1.1", b"Host:" + value), host=value.strip())


def passed(id_: str, *found: bytes) -> Exchange:
    """Fields that reach the app exactly as they came."""
    return Exchange(f"passed-{id_}", lines(b"GET / HTTP/1.1", HOST, *found), sent=found)


def dropped(id_: str, *found: bytes, sent: tuple[bytes, ...] = ()) -> Exchange:
    return Exchange(f"dropped-{id_}", lines(b"GET / HTTP/1.1", HOST, *found, b"X-Z: z"), sent=(*sent, b"X-Z: z"))


def counted(id_: str, body: bytes, name: bytes = b"POST", length: bytes = b"") -> Exchange:
    line = name + b" / HTTP/1.1"
    request = lines(line, HOST, b"Content-Length: " + (length or b"%d" % len(body))) + body
    answer = OK.removesuffix(b"right") if name == b"HEAD" else OK
    sent = (b"Content-Length: %d" % len(body),)
    return Exchange(f"counted-{id_}", request, line, sent, body=body, response=answer, answer=answer)


def chunks(
    id_: str,
    raw: bytes,
    body: bytes,
    *trailers: tuple[bytes, bytes],
    coding: bytes = b" chunked",
    name: bytes = b"POST",
) -> Exchange:
    line = name + b" / HTTP/1.1"
    request = lines(line, HOST, b"Transfer-Encoding:" + coding) + raw
    return Exchange(f"chunks-{id_}", request, line, (CHUNKED,), body=body, trailers=trailers)


def response(
    id_: str, came: bytes, seen: bytes | None = None, *, closes: bool = False, ends: bool = False, name: bytes = b"GET"
) -> Exchange:
    line = name + b" / HTTP/1.1"
    answer = came if seen is None else seen
    return Exchange(
        f"response-{id_}", lines(line, HOST), line, response=came, answer=answer, closes=closes, ends=ends or closes
    )


EVERY_TOKEN_CHARACTER = b"!#$%&'*+-.^_`|~09AZaz"

REQUESTS = [
    Exchange("plain", lines(b"GET / HTTP/1.1", HOST)),
    Exchange("leading-empty-line", b"\r\n" + lines(b"GET / HTTP/1.1", HOST)),
    Exchange("leading-empty-lines", b"\r\n" * 3 + lines(b"GET / HTTP/1.1", HOST)),
    Exchange("options-without-path", lines(b"OPTIONS http://shop.test HTTP/1.1", HOST), line=b"OPTIONS * HTTP/1.1"),
    Exchange("version-1.2", lines(b"GET / HTTP/1.2", HOST)),
    Exchange("host-last", lines(b"GET / HTTP/1.1", b"A: b", HOST), sent=(b"A: b",)),
    method("lower-case", b"get"),
    method("unknown", b"BREW"),
    method("one-letter", b"G"),
    method("every-token-character", EVERY_TOKEN_CHARACTER),
    method("like-http", b"HTTP"),
    target("asterisk", b"*", method=b"OPTIONS"),
    target("absolute", b"http://shop.test/a?b", b"/a?b"),
    target("absolute-upper-case-scheme", b"HTTPS://shop.test/a", b"/a"),
    target("absolute-without-path", b"http://shop.test", b"/"),
    target("absolute-with-query-only", b"http://shop.test?a=/b", b"/?a=/b"),
    target("absolute-double-slash", b"http://shop.test//a", b"//a"),
    target("encoded-slash", b"/a%2Fb%2fc"),
    target("encoded-dots", b"/%2e%2e/%2E/"),
    target("encoded-nul", b"/%00"),
    target("encoded-crlf", b"/%0d%0aA:%20b"),
    target("percent-alone", b"/%/%zz"),
    target("double-slash", b"//evil.test//a//"),
    target("dots", b"/a/../b/./.."),
    target("backslash", b"/a\\..\\b"),
    target("unwise-characters", b'/{a}|b^c`[d]"e"<f>'),
    target("parameters", b"/a;b=c;d"),
    target("empty-query", b"/?"),
    target("two-question-marks", b"/??a?b"),
    target("url-in-query", b"/?u=http://evil.test/&v=a@b:c"),
    target("longest", b"/" + b"a" * 16383),
    host("upper-case", b" SHOP.TEST"),
    host("port", b" shop.test:8080"),
    host("empty-port", b" shop.test:"),
    host("trailing-dot", b" shop.test."),
    host("without-space", b"shop.test"),
    host("spaces-around", b" \t shop.test \t "),
    Exchange(
        "absolute-wins",
        lines(b"GET http://shop.test:81/ HTTP/1.1", b"Host: other.test"),
        host=b"shop.test:81",
    ),
    passed("duplicates-in-order", b"A: 1", b"B: 2", b"a: 3", b"A: 1"),
    passed("two-cookies", b"Cookie: a=b", b"Cookie: c=d"),
    passed("empty-value", b"A:", b"B: ", b"C:  \t"),
    passed("space-within", b"A: b \t c  d\t"),
    passed("without-space", b"A:b", b"B::", b"C:;,\"'\\"),
    passed("obs-text", b"A: \xff\x80\xa0"),
    passed("utf-8", "A: grün, 緑".encode()),
    passed("every-token-character", EVERY_TOKEN_CHARACTER + b": a"),
    passed("underscores", b"x_api_key: a", b"_: b"),
    passed("digits-as-name", b"0: a"),
    passed("many", *(b"A%d: %d" % (number, number) for number in range(1000))),
    passed("long", b"A: " + b"a" * 65_000),
    passed("max-forwards-on-get", b"Max-Forwards: 0"),
    passed("trailer-announced", b"Trailer: X-Sum"),
    passed("looks-like-a-head", b"A: GET / HTTP/1.1", b"B: Content-Length: 5"),
    dropped("named-by-connection", b"Connection: X-A", b"X-A: a"),
    dropped("named-by-several", b"Connection: , X-A,,", b"x-a: a", b"connection: keep-alive ,\tX-B", b"X-B: b"),
    dropped("hop-by-hop", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers, deflate"),
    dropped("upgrade-not-named", b"Upgrade: websocket"),
    dropped(
        "h2c", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    ),
    dropped(
        "forwarded", b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6", b"X-Real-IP: 6.6.6.6", b"X-Request-ID: 6"
    ),
    dropped("forwarded-underscores", b"X_Forwarded_For: 6.6.6.6", b"X_Request_ID: 6", b"Content_Length: 6"),
    dropped("proxy", b"Proxy: http://evil.test/"),
    Exchange(
        "max-forwards-on-options",
        lines(b"OPTIONS / HTTP/1.1", HOST, b"Max-Forwards: 07"),
        b"OPTIONS / HTTP/1.1",
        (b"Max-Forwards: 6",),
    ),
    Exchange(
        "upgrade-declined",
        lines(b"GET / HTTP/1.1", HOST, b"Connection: Upgrade", b"Upgrade: websocket"),
        sent=(b"Connection: Upgrade", b"Upgrade: websocket"),
    ),
    Exchange(
        "connection-close",
        lines(b"GET / HTTP/1.1", HOST, b"Connection: Close"),
        answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nright",
        closes=True,
    ),
    Exchange(
        "client-1.0",
        lines(b"GET / HTTP/1.0", HOST),
        answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nright",
        closes=True,
    ),
    Exchange(
        "client-1.0-kept",
        lines(b"GET / HTTP/1.0", HOST, b"Connection: Keep-Alive"),
        answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nright",
    ),
    Exchange(
        "client-1.0-body",
        lines(b"POST / HTTP/1.0", HOST, b"Content-Length: 5", b"Expect: 100-continue") + b"hello",
        b"POST / HTTP/1.1",
        (b"Content-Length: 5",),
        body=b"hello",
        answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nright",
        closes=True,
    ),
    Exchange(
        "client-1.0-chunked-response",
        lines(b"GET / HTTP/1.0", HOST, b"Connection: keep-alive"),
        response=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nri\r\n3\r\nght\r\n0\r\nA: b\r\n\r\n",
        answer=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nright",
        closes=True,
    ),
    Exchange(
        "client-1.0-interim",
        lines(b"GET / HTTP/1.0", HOST, b"Connection: keep-alive"),
        response=b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK,
        answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nright",
    ),
    Exchange(
        "expect",
        lines(b"PUT / HTTP/1.1", HOST, b"Expect: 100-Continue", b"Content-Length: 5") + b"hello",
        b"PUT / HTTP/1.1",
        (b"Content-Length: 5", b"Expect: 100-continue"),
        body=b"hello",
    ),
    Exchange("post-without-length", lines(b"POST / HTTP/1.1", HOST), b"POST / HTTP/1.1"),
    counted("zero", b""),
    counted("leading-zeros", b"hello", length=b"0005"),
    counted("spaces", b"hello", length=b" \t5\t "),
    counted("a-request", INNER),
    counted("a-request-with-get", INNER, b"GET"),
    counted("a-request-with-head", INNER, b"HEAD"),
    counted("a-request-with-options", INNER, b"OPTIONS"),
    counted("a-request-with-delete", INNER, b"DELETE"),
    counted("chunks-as-body", b"0\r\n\r\n" + INNER),
    counted("line-ends", b"\r\n\r\n\n\n\r\r"),
    counted("every-byte", bytes(range(256)) * 100),
    chunks("none", b"0\r\n\r\n", b""),
    chunks("many-zeros", b"000000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    chunks("upper-case", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    chunks("lower-case", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    chunks("single-bytes", b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n", b"x" * 3000),
    chunks("line-ends-as-data", b"8\r\n\r\n0\r\n\r\n\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n\n"),
    chunks("a-request", b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER), INNER),
    chunks("a-request-with-get", b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER), INNER, name=b"GET"),
    chunks("extension", b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello"),
    chunks("extensions", b'5;a;b=c;d="e;\\"f"\r\nhello\r\n0\r\n\r\n', b"hello"),
    chunks("extension-spaces", b"5; a = b\t;\tc\r\nhello\r\n0\r\n\r\n", b"hello"),
    chunks("extension-empty-quotes", b'5;a=""\r\nhello\r\n0\r\n\r\n', b"hello"),
    chunks("extension-long", b"5;a=" + b"b" * 4000 + b"\r\nhello\r\n0\r\n\r\n", b"hello"),
    chunks("trailers", b"0\r\nX-Sum: 1\r\nX-Sum:2\r\n\r\n", b"", (b"x-sum", b"1"), (b"x-sum", b"2")),
    chunks("trailer-empty", b"5\r\nhello\r\n0\r\nX-Sum:\r\n\r\n", b"hello", (b"x-sum", b"")),
    chunks("coding-upper-case", b"0\r\n\r\n", b"", coding=b" CHUNKED"),
    chunks("coding-spaces", b"0\r\n\r\n", b"", coding=b"\t chunked \t"),
]

START = b"HTTP/1.1 200 OK\r\n"
FIVE = b"Content-Length: 5\r\n"

RESPONSES = [
    response("without-reason", b"HTTP/1.1 200 \r\n" + FIVE + b"\r\nright"),
    response(
        "without-reason-and-space",
        b"HTTP/1.1 200\r\n" + FIVE + b"\r\nright",
        b"HTTP/1.1 200 \r\n" + FIVE + b"\r\nright",
    ),
    response("1.2", b"HTTP/1.2 200 OK\r\n" + FIVE + b"\r\nright", OK),
    response("reason-obs-text", b"HTTP/1.1 200 Gr\xfcn\r\n" + FIVE + b"\r\nright"),
    response("status-299", b"HTTP/1.1 299 Own\r\n" + FIVE + b"\r\nright"),
    response("status-599", b"HTTP/1.1 599 Own\r\n" + FIVE + b"\r\nright"),
    response("status-999", b"HTTP/1.1 999 Denied\r\n" + FIVE + b"\r\nright"),
    response("partial", b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-4/9\r\n" + FIVE + b"\r\nright"),
    response("reset-content", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
    response("length-zero", START + b"Content-Length: 0\r\n\r\n"),
    response("length-leading-zeros", START + b"Content-Length: 005\r\n\r\nright"),
    response("length-repeated", START + FIVE + FIVE + b"\r\nright", OK),
    response(
        "duplicates-in-order",
        START + b"Set-Cookie: a\r\nA: b\r\nSet-Cookie: c\r\nset-cookie: a\r\n" + FIVE + b"\r\nright",
    ),
    response("empty-values", START + b"A:\r\nB: \t\r\n" + FIVE + b"\r\nright"),
    response("obs-text", START + b"A: \xff\xa0\r\n" + FIVE + b"\r\nright"),
    response("long-head", START + b"A: " + b"a" * 60_000 + b"\r\n" + FIVE + b"\r\nright"),
    response("every-byte", START + b"Content-Length: 25600\r\n\r\n" + bytes(range(256)) * 100),
    response("close", START + FIVE + b"Connection: close\r\n\r\nright", OK, ends=True),
    response("named-by-connection", START + b"X-A: a\r\n" + FIVE + b"Connection: x-a, content-length\r\n\r\nright", OK),
    response(
        "hop-by-hop",
        START + b"Keep-Alive: timeout=5\r\nUpgrade: h2,h2c\r\n" + FIVE + b"Connection: Upgrade\r\n\r\nright",
        OK,
    ),
    response("1.0", b"HTTP/1.0 200 OK\r\n" + FIVE + b"\r\nright", OK, ends=True),
    response("1.0-kept", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + FIVE + b"\r\nright", OK),
    response(
        "1.0-until-close", b"HTTP/1.0 200 OK\r\n\r\nright", START + b"Connection: close\r\n\r\nright", closes=True
    ),
    response(
        "until-close", START + b"A: b\r\n\r\nright", START + b"A: b\r\nConnection: close\r\n\r\nright", closes=True
    ),
    response("until-close-empty", START + b"\r\n", START + b"Connection: close\r\n\r\n", closes=True),
    response("chunks", START + b'Transfer-Encoding: chunked\r\n\r\n2;a="b"\r\nri\r\n03\r\nght\r\n0\r\n\r\n'),
    response("chunks-none", START + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    response(
        "chunks-coding-case",
        START + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    response(
        "trailers",
        START + b"Trailer: A\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\nA: b\r\nCookie: c\r\n\r\n",
    ),
    response(
        "chunks-single-bytes", START + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n"
    ),
    response("head-length", START + FIVE + b"\r\n", name=b"HEAD"),
    response("head-chunked", START + b"Transfer-Encoding: chunked\r\n\r\n", name=b"HEAD"),
    response("head-nothing", START + b"\r\n", name=b"HEAD"),
    response("204", b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n"),
    response(
        "204-length-zero", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
    ),
    response("304", b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n"),
    response("304-length", b"HTTP/1.1 304 Not Modified\r\n" + FIVE + b"\r\n"),
    response("100-unasked", b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    response("102", b"HTTP/1.1 102 Processing\r\n\r\n" + OK),
    response(
        "103-twice", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: b\r\n\r\n" + OK
    ),
    response("199", b"HTTP/1.1 199\r\nA: b\r\n\r\n" + OK, b"HTTP/1.1 199 \r\nA: b\r\n\r\n" + OK),
]

UNUSUAL = [*REQUESTS, *RESPONSES]
