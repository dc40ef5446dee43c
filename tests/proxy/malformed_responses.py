"""Responses that are broken or that two parsers could read differently, and what becomes of each."""

from dataclasses import dataclass

CUT = -1
START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
"""Follows every one of them: no client may ever be answered with it."""


@dataclass(frozen=True)
class Malformed:
    """`first` is sent at once, `then` when the client has the head.

    `status` is what the client sees, or CUT: a head and then a reset. `end`: the app closes after it.
    """

    id: str
    first: bytes
    status: int = 502
    then: bytes = b""
    method: str = "GET"
    end: bool = False


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join([*parts, b"", b""])


def status(id_: str, line: bytes) -> Malformed:
    return Malformed(f"status-{id_}", lines(line, b"Content-Length: 5") + b"hello" + POISON)


def fields(id_: str, *found: bytes, rest: bytes = b"hello") -> Malformed:
    return Malformed(id_, START + lines(*found) + rest + POISON)


def chunks(id_: str, body: bytes) -> list[Malformed]:
    """Once in one piece with its head, once after it."""
    head = START + lines(CHUNKED)
    return [
        Malformed(f"chunks-{id_}", head + body + POISON),
        Malformed(f"chunks-later-{id_}", head + b"2\r\nok\r\n", CUT, body + POISON),
    ]


def surplus(id_: str, response: bytes, method: str = "GET", final: int = 200) -> list[Malformed]:
    """A good response and something after it: the client gets the response and nothing else."""
    head, end, body = response.partition(b"\r\n\r\n")
    found = [Malformed(f"surplus-{id_}", response + POISON, final, method=method)]
    if body:
        found.append(Malformed(f"surplus-later-{id_}", head + end, final, body + POISON, method))
    return found


MALFORMED = [
    Malformed("lines-end-in-lf-and-it-waits", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    Malformed("blank-line-is-lf-and-it-waits", START + b"Content-Length: 5\r\n\nhello"),
    status("no-version", b"200 OK"),
    status("http-2", b"HTTP/2 200 OK"),
    status("http-2.0", b"HTTP/2.0 200 OK"),
    status("http-0.9", b"HTTP/0.9 200 OK"),
    status("version-without-minor", b"HTTP/1 200 OK"),
    status("version-with-two-digits", b"HTTP/1.10 200 OK"),
    status("lower-case", b"http/1.1 200 OK"),
    status("other-protocol", b"ICY 200 OK"),
    status("leading-space", b" HTTP/1.1 200 OK"),
    status("leading-line", b"\r\nHTTP/1.1 200 OK"),
    status("two-spaces", b"HTTP/1.1  200 OK"),
    status("tab", b"HTTP/1.1\t200 OK"),
    status("no-code", b"HTTP/1.1 OK"),
    status("only-version", b"HTTP/1.1"),
    status("two-digits", b"HTTP/1.1 20 OK"),
    status("four-digits", b"HTTP/1.1 2000 OK"),
    status("below-100", b"HTTP/1.1 099 OK"),
    status("negative", b"HTTP/1.1 -200 OK"),
    status("reason-glued", b"HTTP/1.1 200OK"),
    status("reason-nul", b"HTTP/1.1 200 O\0K"),
    status("reason-bare-cr", b"HTTP/1.1 200 O\rK"),
    status("bare-lf", b"HTTP/1.1 200 OK\nA: b"),
    status("a-request", b"GET / HTTP/1.1"),
    status("a-page", b"<!doctype html><title>no head</title>"),
    status("tls-alert", b"\x15\x03\x01\x00\x02\x02\x46"),
    Malformed("status-nothing", b"", method="POST", end=True),
    Malformed("status-unfinished", b"HTTP/1.1 200 O", end=True),
    Malformed("head-unfinished", START + b"Content-Length: 5\r\n", end=True),
    Malformed("head-endless", START + b"A: " + b"a" * 100_000),
    Malformed("head-all-by-lf", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", end=True),
    fields("field-folded", b"A: b", b" c", b"Content-Length: 5"),
    fields("field-folded-length", b"Content-Length: 5", b" 0"),
    fields("field-folded-first", b" A: b", b"Content-Length: 5"),
    fields("field-space-before-colon", b"Content-Length : 5"),
    fields("field-no-colon", b"A", b"Content-Length: 5"),
    fields("field-no-name", b": a", b"Content-Length: 5"),
    fields("field-nul", b"A: \0", b"Content-Length: 5"),
    fields("field-bare-cr", b"A: b\rSet-Cookie: c", b"Content-Length: 5"),
    fields("field-bare-lf", b"A: b\nSet-Cookie: c", b"Content-Length: 5"),
    fields("field-name-high-byte", b"A\xff: b", b"Content-Length: 5"),
    fields("length-differing", b"Content-Length: 5", b"Content-Length: 6"),
    fields("length-listed", b"Content-Length: 5, 6"),
    fields("length-plus", b"Content-Length: +5"),
    fields("length-minus", b"Content-Length: -5"),
    fields("length-hexadecimal", b"Content-Length: 0x5"),
    fields("length-empty", b"Content-Length:"),
    fields("length-word", b"Content-Length: five"),
    fields("length-endless", b"Content-Length: " + b"9" * 30),
    fields("length-vertical-tab", b"Content-Length: \x0b5"),
    fields("both-length-first", b"Content-Length: 5", CHUNKED, rest=b"0\r\n\r\n"),
    fields("both-chunked-first", CHUNKED, b"Content-Length: 5", rest=b"0\r\n\r\n"),
    fields("coding-twice", CHUNKED, CHUNKED, rest=b"0\r\n\r\n"),
    *(
        fields(f"coding-{id_}", b"Transfer-Encoding:" + value, rest=b"0\r\n\r\n")
        for id_, value in {
            "empty": b"",
            "identity": b" identity",
            "gzip": b" gzip",
            "gzip-chunked": b" gzip, chunked",
            "not-last": b" chunked, gzip",
            "parameter": b" chunked;a=b",
            "suffix": b" chunkedx",
            "vertical-tab": b" \x0bchunked",
        }.items()
    ),
    Malformed("coding-1.0", b"HTTP/1.0 200 OK\r\n" + lines(CHUNKED) + b"0\r\n\r\n" + POISON),
    Malformed("switch-unasked", b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n" + POISON),
    Malformed("switch-to-nothing", b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + POISON),
    Malformed("interim-with-body", b"HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\nhello" + POISON),
    Malformed("interim-flood", b"HTTP/1.1 103 Early\r\n\r\n" * 1000 + POISON),
    Malformed("interim-then-nothing", b"HTTP/1.1 103 Early\r\n\r\n", end=True),
    Malformed("interim-then-garbage", b"HTTP/1.1 100 Continue\r\n\r\nhello\r\n\r\n" + POISON),
    *chunks("no-size", b"\r\n"),
    *chunks("letter", b"zz\r\n"),
    *chunks("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    *chunks("minus", b"-5\r\nhello\r\n0\r\n\r\n"),
    *chunks("trailing-space", b"5 \r\nhello\r\n0\r\n\r\n"),
    *chunks("overflow", b"1" + b"0" * 16 + b"\r\nhello\r\n0\r\n\r\n"),
    *chunks("too-long", b"5\r\nhello!\r\n0\r\n\r\n"),
    *chunks("bare-lf", b"5\nhello\n0\n\n"),
    *chunks("extension-without-name", b"5;\r\nhello\r\n0\r\n\r\n"),
    *chunks("extension-bare-lf", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    *chunks("trailer-without-colon", b"0\r\nnonsense\r\n\r\n"),
    *chunks("trailer-folded", b"0\r\nA: b\r\n c\r\n\r\n"),
    Malformed("cut-length", START + lines(b"Content-Length: 100"), CUT, b"half", end=True),
    Malformed("cut-chunk", START + lines(CHUNKED), CUT, b"5\r\nhel", end=True),
    Malformed("cut-before-last-chunk", START + lines(CHUNKED), CUT, b"5\r\nhello\r\n", end=True),
    Malformed("cut-in-trailers", START + lines(CHUNKED), CUT, b"5\r\nhello\r\n0\r\nA: b\r\n", end=True),
    *surplus("length", START + b"Content-Length: 5\r\n\r\nright"),
    *surplus("length-zero", START + b"Content-Length: 0\r\n\r\n"),
    *surplus("length-repeated", START + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nright"),
    *surplus("chunks", START + b"Transfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n"),
    *surplus("chunks-trailer", START + b"Transfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\nA: b\r\n\r\n"),
    *surplus("head", START + b"Content-Length: 5\r\n\r\n", "HEAD"),
    *surplus("head-chunked", START + b"Transfer-Encoding: chunked\r\n\r\n", "HEAD"),
    *surplus("204", b"HTTP/1.1 204 No Content\r\n\r\n", final=204),
    *surplus("204-length", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", final=204),
    *surplus("204-chunked", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", final=204),
    *surplus("304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", final=304),
    *surplus("interim-before", b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"),
    *surplus("204-body-later", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nwrong", final=204),
    *surplus("head-body-later", START + b"Content-Length: 5\r\n\r\nwrong", "HEAD"),
    *surplus("304-body-later", b"HTTP/1.1 304 Not Modified\r\n\r\nwrong", final=304),
]
