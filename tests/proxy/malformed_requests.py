"""Requests that two parsers could read differently, and what each is answered with."""

from dataclasses import dataclass

LINE = b"GET / HTTP/1.1"
POST = b"POST / HTTP/1.1"
HOST = b"Host: shop.test"
CHUNKED = b"Transfer-Encoding: chunked"
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n"
"""Follows every one of them: no backend may ever see it."""


@dataclass(frozen=True)
class Malformed:
    """`body`: the head is in order, and may have been sent on before the body turned out not to be."""

    id: str
    raw: bytes
    status: int = 400
    body: bool = False


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join([*parts, b"", b""])


def line(id_: str, first: bytes, status: int = 400) -> Malformed:
    return Malformed(f"line-{id_}", lines(first, HOST), status)


def host(id_: str, *fields: bytes, first: bytes = LINE) -> Malformed:
    return Malformed(f"host-{id_}", lines(first, *fields))


def fields(id_: str, *found: bytes, first: bytes = POST, status: int = 400, rest: bytes = b"") -> Malformed:
    return Malformed(id_, lines(first, HOST, *found) + rest, status)


def chunks(id_: str, body: bytes) -> Malformed:
    return Malformed(f"chunks-{id_}", lines(POST, HOST, CHUNKED) + body, body=True)


def trailer(name: str, value: str = "x") -> Malformed:
    return chunks(f"trailer-{name}", f"5\r\nhello\r\n0\r\n{name}: {value}\r\n\r\n".encode())


REQUEST_LINES = [
    line("no-version", b"GET /"),
    line("only-a-method", b"GET"),
    line("empty-target", b"GET  HTTP/1.1"),
    line("two-spaces-first", b"GET  / HTTP/1.1"),
    line("two-spaces-second", b"GET /  HTTP/1.1"),
    line("trailing-space", b"GET / HTTP/1.1 "),
    line("leading-space", b" GET / HTTP/1.1"),
    line("leading-tab", b"\tGET / HTTP/1.1"),
    line("tab-between", b"GET\t/ HTTP/1.1"),
    line("vertical-tab-between", b"GET\x0b/ HTTP/1.1"),
    line("form-feed-between", b"GET /\x0cHTTP/1.1"),
    line("space-in-target", b"GET /a b HTTP/1.1"),
    line("two-versions", b"GET / HTTP/1.1 HTTP/1.1"),
    line("lower-case-version", b"GET / http/1.1"),
    line("version-without-minor", b"GET / HTTP/1"),
    line("version-with-two-digits", b"GET / HTTP/1.10"),
    line("version-with-leading-zero", b"GET / HTTP/01.1"),
    line("version-with-space", b"GET / HTTP/ 1.1"),
    line("version-with-comma", b"GET / HTTP/1,1"),
    line("version-of-another-protocol", b"GET / HTTPS/1.1"),
    line("version-0.9", b"GET / HTTP/0.9", 505),
    line("connect-with-a-path", b"CONNECT / HTTP/1.1", 501),
    line("version-2.0", b"GET / HTTP/2.0", 505),
    line("version-3.0", b"GET / HTTP/3.0", 505),
    Malformed("line-http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    line("separator-in-method", b"G(T / HTTP/1.1"),
    line("colon-in-method", b"GET: / HTTP/1.1"),
    line("control-in-method", b"GE\x01T / HTTP/1.1"),
    line("high-byte-in-method", b"G\xcbT / HTTP/1.1"),
    line("nul-in-target", b"GET /\0 HTTP/1.1"),
    line("control-in-target", b"GET /\x01 HTTP/1.1"),
    line("delete-in-target", b"GET /\x7f HTTP/1.1"),
    line("high-byte-in-target", b"GET /\xc3\xa4 HTTP/1.1"),
    line("bare-cr-in-target", b"GET /\r HTTP/1.1"),
    line("fragment", b"GET /a#b HTTP/1.1"),
    line("no-leading-slash", b"GET index.html HTTP/1.1"),
    line("asterisk-for-get", b"GET * HTTP/1.1"),
    line("asterisk-and-more", b"OPTIONS *a HTTP/1.1"),
    line("foreign-scheme", b"GET ftp://shop.test/ HTTP/1.1"),
    line("file-scheme", b"GET file:///etc/passwd HTTP/1.1"),
    line("scheme-only", b"GET http:// HTTP/1.1"),
    line("scheme-without-slashes", b"GET http:shop.test HTTP/1.1"),
    line("absolute-empty-host", b"GET http:///a HTTP/1.1"),
    line("absolute-only-port", b"GET http://:80/ HTTP/1.1"),
    line("absolute-userinfo", b"GET http://shop.test@evil.test/ HTTP/1.1"),
    line("absolute-bad-port", b"GET http://shop.test:port/ HTTP/1.1"),
    line("absolute-fragment", b"GET http://shop.test/#a HTTP/1.1"),
    line("absolute-backslash", b"GET http://shop.test\\evil.test/ HTTP/1.1"),
    line("authority-form-for-get", b"GET shop.test:80 HTTP/1.1"),
    line("connect", b"CONNECT shop.test:443 HTTP/1.1", 501),
    line("connect-origin", b"CONNECT /x y HTTP/1.1"),
    line("folded", b"GET / HTTP/1.1\r\n folded"),
    line("folded-before-version", b"GET /\r\n HTTP/1.1"),
    line("bare-cr-end", b"GET / HTTP/1.1\rHost: shop.test"),
    line("bare-lf-end", b"GET / HTTP/1.1\nHost: evil.test"),
    Malformed("line-many-empty-before", b"\r\n" * 17 + lines(LINE, HOST)),
    Malformed("line-bare-lf-before", b"\n" + lines(LINE, HOST)),
    Malformed("line-bare-cr-before", b"\r" + lines(LINE, HOST)),
    Malformed("line-blank-before", b" \r\n" + lines(LINE, HOST)),
    Malformed("line-simple-request", b"GET /\r\n\r\n"),
    Malformed("line-byte-order-mark", b"\xef\xbb\xbf" + lines(LINE, HOST)),
    Malformed("line-nul", b"\0" + lines(LINE, HOST)),
    Malformed("line-response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Malformed("line-tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    Malformed("line-ssh", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    Malformed("line-proxy-protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + lines(LINE, HOST)),
    Malformed("line-proxy-protocol-2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + lines(LINE, HOST)),
    Malformed("line-rest-of-a-body", b"hello" + b"\r\n\r\n"),
]

HOSTS = [
    host("missing"),
    host("missing-with-absolute", first=b"GET http://shop.test/ HTTP/1.1"),
    host("empty", b"Host:"),
    host("blank", b"Host: \t "),
    host("twice-equal", HOST, HOST),
    host("twice-different", HOST, b"Host: evil.test"),
    host("twice-with-absolute", HOST, HOST, first=b"GET http://shop.test/ HTTP/1.1"),
    host("twice-other-case", HOST, b"hOST: shop.test"),
    host("folded", b"Host: shop", b" .test"),
    host("listed", b"Host: shop.test, evil.test"),
    host("two-words", b"Host: shop.test evil.test"),
    host("userinfo", b"Host: u@shop.test"),
    host("path", b"Host: shop.test/evil"),
    host("query", b"Host: shop.test?evil"),
    host("scheme", b"Host: http://shop.test"),
    host("percent", b"Host: shop%2etest"),
    host("high-byte", b"Host: sh\xf6p.test"),
    host("nul", b"Host: shop.test\0.evil.test"),
    host("quote", b'Host: "shop.test"'),
    host("only-port", b"Host: :80"),
    host("two-ports", b"Host: shop.test:80:80"),
    host("named-port", b"Host: shop.test:http"),
    host("signed-port", b"Host: shop.test:+80"),
    host("large-port", b"Host: shop.test:65536"),
    host("long-port", b"Host: shop.test:000080"),
    host("only-dot", b"Host: ."),
    host("empty-label", b"Host: shop..test"),
    host("open-bracket", b"Host: [::1"),
    host("no-address-in-brackets", b"Host: [shop.test]"),
    host("zone", b"Host: [fe80::1%25eth0]"),
    host("after-brackets", b"Host: [::1].shop.test"),
    host("too-long", b"Host: " + b"a." * 2000 + b"test"),
    host("bad-behind-absolute", b"Host: a b", first=b"GET http://shop.test/ HTTP/1.1"),
    host("misspelt-by-space", b"Host : shop.test"),
    host("malformed-1.0", b"Host: a b", first=b"GET / HTTP/1.0"),
]

FIELDS = [
    fields("field-space-before-colon", b"A : b"),
    fields("field-tab-before-colon", b"A\t: b"),
    fields("field-nul-before-colon", b"A\0: b"),
    fields("field-no-colon", b"A b"),
    fields("field-no-name", b": b"),
    fields("field-only-colon", b":"),
    fields("field-folded-space", b"A: b", b" c"),
    fields("field-folded-tab", b"A: b", b"\tc"),
    fields("field-folded-empty", b"A: b", b" "),
    fields("field-folded-framing", b"A: b", b" Content-Length: 5"),
    Malformed("field-folded-first", lines(LINE, b" A: b", HOST)),
    Malformed("field-blank-first", lines(LINE, b" ", HOST)),
    fields("field-bare-lf", b"A: b\nContent-Length: 5"),
    fields("field-bare-cr", b"A: b\rContent-Length: 5"),
    fields("field-cr-cr-lf", b"A: b\r"),
    fields("field-lf-cr", b"A: b\n\rC: d"),
    fields("field-nul", b"A: b\0c"),
    fields("field-escape", b"A: \x1b[0m"),
    fields("field-vertical-tab", b"A: b\x0bc"),
    fields("field-form-feed", b"A: b\x0cc"),
    fields("field-backspace", b"A: b\x08"),
    fields("field-delete", b"A: b\x7f"),
    fields("field-name-high-byte", b"A\xff: b"),
    fields("field-name-utf-8", b"Contenu-Tra\xc3\xaen\xc3\xa9: b"),
    fields("field-name-no-break-space", b"Content-Length\xa0: 5"),
    fields("field-name-quoted", b'"A": b'),
    fields("field-name-slash", b"A/B: b"),
    fields("field-name-brackets", b"A[0]: b"),
    fields("field-name-control", b"A\x01: b"),
    Malformed("field-end-by-lf", b"GET / HTTP/1.1\r\nHost: shop.test\r\n\n"),
    Malformed("field-all-by-lf", b"GET / HTTP/1.1\nHost: shop.test\n\n"),
    Malformed("field-all-by-cr", b"GET / HTTP/1.1\rHost: shop.test\r\r\r\n\r\n"),
    fields("expect-other", b"Expect: 200-ok", status=417),
    fields("expect-two", b"Expect: 100-continue, other", status=417),
    fields("expect-empty", b"Expect:", status=417),
    fields("trace-with-length", b"Content-Length: 5", first=b"TRACE / HTTP/1.1", rest=b"hello"),
    fields("trace-with-chunks", CHUNKED, first=b"TRACE / HTTP/1.1", rest=b"0\r\n\r\n"),
    fields("max-forwards-word", b"Max-Forwards: one", first=b"OPTIONS / HTTP/1.1"),
    fields("max-forwards-twice", b"Max-Forwards: 1", b"Max-Forwards: 0", first=b"TRACE / HTTP/1.1"),
]

LENGTHS = [
    fields(f"length-{id_}", *(b"Content-Length: " + value for value in values), rest=b"hello")
    for id_, values in {
        "differing": (b"5", b"6"),
        "repeated": (b"5", b"5"),
        "zero-and-more": (b"0", b"5"),
        "listed": (b"5, 5",),
        "listed-differing": (b"5, 6",),
        "trailing-comma": (b"5,",),
        "plus": (b"+5",),
        "minus": (b"-5",),
        "minus-zero": (b"-0",),
        "hexadecimal": (b"0x5",),
        "octal-like": (b"0o5",),
        "letter": (b"5a",),
        "fraction": (b"5.0",),
        "exponent": (b"5e0",),
        "underscore": (b"1_0",),
        "inner-space": (b"1 0",),
        "quoted": (b'"5"',),
        "empty": (b"",),
        "word": (b"five",),
        "superscript": (b"\xb2",),
        "vertical-tab": (b"\x0b5",),
        "no-break-space": (b"\xa05",),
        "semicolon": (b"5;",),
        "more-than-64-bits": (b"18446744073709551621",),
        "endless": (b"9" * 200,),
    }.items()
]

CODINGS = [
    fields("both-length-first", b"Content-Length: 5", CHUNKED, rest=b"0\r\n\r\n"),
    fields("both-chunked-first", CHUNKED, b"Content-Length: 5", rest=b"0\r\n\r\n"),
    fields("both-length-zero", CHUNKED, b"Content-Length: 0", rest=b"0\r\n\r\n"),
    fields("both-on-get", CHUNKED, b"Content-Length: 43", first=LINE, rest=b"0\r\n\r\n"),
    fields("both-named-by-connection", b"Connection: content-length", CHUNKED, b"Content-Length: 5"),
    fields("both-and-another-coding", b"Content-Length: 5", b"Transfer-Encoding: identity"),
    fields("coding-1.0", CHUNKED, first=b"POST / HTTP/1.0", rest=b"0\r\n\r\n"),
    fields("coding-1.0-kept", CHUNKED, b"Connection: keep-alive", first=b"POST / HTTP/1.0", rest=b"0\r\n\r\n"),
    fields("coding-twice", CHUNKED, CHUNKED),
    fields("coding-twice-second-other", CHUNKED, b"Transfer-Encoding: identity"),
    fields("coding-twice-first-other", b"Transfer-Encoding: identity", CHUNKED),
    fields("coding-space-before-colon", b"Transfer-Encoding : chunked"),
    fields("coding-tab-before-colon", b"Transfer-Encoding\t: chunked"),
    fields("coding-folded", b"Transfer-Encoding:", b" chunked"),
    fields("coding-gzip", b"Transfer-Encoding: gzip, chunked", status=501),
    fields("coding-unknown", b"Transfer-Encoding: own;level=9, chunked", status=501),
    *(
        fields(f"coding-{id_}", b"Transfer-Encoding:" + value, rest=b"0\r\n\r\n")
        for id_, value in {
            "empty": b"",
            "identity": b" identity",
            "only-gzip": b" gzip",
            "not-last": b" chunked, gzip",
            "twice-listed": b" chunked, chunked",
            "hidden-among-others": b" chunked, gzip, chunked",
            "leading-comma": b" , chunked",
            "trailing-comma": b" chunked,",
            "semicolon": b" chunked;",
            "parameter": b" chunked;a=b",
            "prefix": b" xchunked",
            "suffix": b" chunkedx",
            "hyphen": b" chunked-",
            "two-words": b" chunked x",
            "quoted": b' "chunked"',
            "vertical-tab-before": b"\x0bchunked",
            "vertical-tab-after": b" chunked\x0b",
            "form-feed": b"\x0cchunked",
            "nul": b" chunked\0",
            "no-break-space": b"\xa0chunked",
            "next-line": b"\x85chunked",
            "high-byte": b" \xffchunked",
            "bare-cr": b" \rchunked",
            "bare-lf": b" \nchunked",
        }.items()
    ),
]

CHUNKS = [
    chunks("no-size", b"\r\n0\r\n\r\n"),
    chunks("letter", b"g\r\n0\r\n\r\n"),
    chunks("minus", b"-1\r\nx\r\n0\r\n\r\n"),
    chunks("plus", b"+1\r\nx\r\n0\r\n\r\n"),
    chunks("0x", b"0x1\r\nx\r\n0\r\n\r\n"),
    chunks("underscore", b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    chunks("leading-space", b" 1\r\nx\r\n0\r\n\r\n"),
    chunks("trailing-space", b"1 \r\nx\r\n0\r\n\r\n"),
    chunks("trailing-tab", b"1\t\r\nx\r\n0\r\n\r\n"),
    chunks("sixteen-digits", b"0000000000000001\r\nx\r\n0\r\n\r\n"),
    chunks("overflow-to-zero", b"10000000000000000\r\n\r\n"),
    chunks("overflow-to-five", b"100000005\r\nhello\r\n0\r\n\r\n".replace(b"100000005", b"1" + b"0" * 15 + b"5")),
    chunks("too-long-by-one", b"1\r\nxy\r\n0\r\n\r\n"),
    chunks("too-short-by-one", b"2\r\nx\r\n0\r\n\r\n"),
    chunks("data-then-lf", b"1\r\nx\n0\r\n\r\n"),
    chunks("data-then-cr", b"1\r\nx\r0\r\n\r\n"),
    chunks("data-then-nothing", b"1\r\nx0\r\n\r\n"),
    chunks("size-by-lf", b"1\nx\r\n0\r\n\r\n"),
    chunks("size-by-cr", b"1\rx\r\n0\r\n\r\n"),
    chunks("size-by-cr-cr-lf", b"1\r\r\nx\r\n0\r\n\r\n"),
    chunks("last-by-lf", b"0\n\n"),
    chunks("end-by-lf", b"0\r\n\n"),
    chunks("end-by-cr", b"0\r\n\r\r\n"),
    chunks("extension-without-name", b"1;\r\nx\r\n0\r\n\r\n"),
    chunks("extension-without-name-but-value", b"1;=a\r\nx\r\n0\r\n\r\n"),
    chunks("extension-without-value", b"1;a=\r\nx\r\n0\r\n\r\n"),
    chunks("extension-trailing-space", b"1;a \r\nx\r\n0\r\n\r\n"),
    chunks("extension-two-words", b"1;a b\r\nx\r\n0\r\n\r\n"),
    chunks("extension-lf", b"2;\nxx\r\n0\r\n\r\n"),
    chunks("extension-lf-in-value", b"2;a=b\nxx\r\n0\r\n\r\n"),
    chunks("extension-cr", b"2;a\rb\r\nxx\r\n0\r\n\r\n"),
    chunks("extension-open-quote", b'2;a="b\r\nxx\r\n0\r\n\r\n'),
    chunks("extension-crlf-in-quotes", b'2;a="\r\nxx\r\n0\r\n\r\n"\r\n'),
    chunks("extension-nul", b"2;a=\0\r\nxx\r\n0\r\n\r\n"),
    chunks("extension-high-byte", b"2;\xff\r\nxx\r\n0\r\n\r\n"),
    chunks("extension-too-long", b"1;" + b"a" * 5000 + b"\r\nx\r\n0\r\n\r\n"),
    chunks("extension-flood", (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 200 + b"0\r\n\r\n"),
    chunks("trailer-line-without-colon", b"0\r\nx\r\n\r\n"),
    chunks("trailer-folded", b"0\r\nA: b\r\n c\r\n\r\n"),
    chunks("trailer-space-before-colon", b"0\r\nA : b\r\n\r\n"),
    chunks("trailer-bare-cr", b"0\r\nA: b\rc\r\n\r\n"),
    chunks("trailer-bare-lf", b"0\r\nA: b\nC: d\r\n\r\n"),
    chunks("trailer-request-line", b"0\r\nGET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
    chunks("trailer-flood", b"0\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 20 + b"\r\n"),
    *map(
        trailer, ("Content-Length", "Transfer-Encoding", "Host", "Connection", "TE", "Upgrade", "Trailer", "Forwarded")
    ),
    *map(trailer, ("X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-Any", "X-Real-IP", "X-Request-ID", "Expect")),
    *map(trailer, ("Authorization", "cookie", "Content_Length", "Content-Type", "Content-Encoding", "Content-Range")),
]

SIZES = [
    line("target-too-long", b"GET /" + b"a" * 16384 + b" HTTP/1.1", 414),
    line("absolute-target-too-long", b"GET http://shop.test/" + b"a" * 16384 + b" HTTP/1.1", 414),
    Malformed("size-target-endless", b"GET /" + b"a" * 70_000, 414),
    Malformed("size-method-endless", b"G" * 70_000, 414),
    Malformed("size-field-endless", b"GET / HTTP/1.1\r\nHost: shop.test\r\nA: " + b"a" * 70_000, 431),
    Malformed("size-name-endless", b"GET / HTTP/1.1\r\nHost: shop.test\r\n" + b"a" * 70_000, 431),
    fields("size-field-too-long", b"A: " + b"a" * 65_536, status=431),
    fields("size-too-many-fields", *[b"A: b"] * 12_000, status=431),
]

MALFORMED = [*REQUEST_LINES, *HOSTS, *FIELDS, *LENGTHS, *CODINGS, *CHUNKS, *SIZES]
