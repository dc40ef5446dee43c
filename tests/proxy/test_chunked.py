"""Chunked framing: its grammar to the letter, in both directions."""

import pytest

from sidegate.proxy.chunked import ChunkedBody, ChunkedError


@pytest.mark.parametrize(
    "line",
    [
        b"5",
        b"5;a",
        b"5 ;a",
        b"5\t; a",
        b"5;a=b",
        b"5; a = b",
        b"5;a\t=\tb;c",
        b'5;a="b"',
        b'5;a=""',
        b'5;a="\\"\\\\;\t\xff"',
        b'5;a="\\\xff"',
        b"5;a;a;a",
        b"000000000000005",
    ],
)
def test_a_size_and_its_extensions(line: bytes) -> None:
    raw = line + b"\r\nhello\r\n0\r\n\r\n"
    assert ChunkedBody().feed(raw + b"next") == len(raw)
    assert ChunkedBody().payload_of(raw) == b"hello"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b";",
        b";a",
        b"5;",
        b"5 ",
        b"5;;a",
        b"5;a;",
        b"5;a ",
        b"5;a=",
        b"5;=b",
        b"5;a=b c",
        b"5;a b",
        b"5,a",
        b"5 a",
        b'5;a="',
        b'5;a="b"c',
        b'5;a="\\"',
        b'5;a="\x7f"',
        b'5;a="\\\x01"',
        b'5;"a"',
        b"5;a=\xff",
        b"5;\x00",
        b"5\r",
        b"0000000000000005",
    ],
)
def test_what_is_no_size_line_is_refused(line: bytes) -> None:
    with pytest.raises(ChunkedError):
        ChunkedBody().feed(line + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "name", ["Content-Length", "te", "X_FORWARDED-HOST", "x-forwarded-", "Cookie", "If-Match", "Proxy"]
)
def test_a_request_has_no_trailer_that_belongs_into_its_head(name: str) -> None:
    raw = f"0\r\nX-Fine: 1\r\n{name}: 1\r\n\r\n".encode()
    with pytest.raises(ChunkedError):
        ChunkedBody(request=True).feed(raw)
    assert ChunkedBody().feed(raw) == len(raw)


def test_trailers_that_only_resemble_them_pass() -> None:
    raw = b"0\r\nX-Content-Length: 1\r\nForwarded-By: 1\r\nHosts: 1\r\n\r\n"
    assert ChunkedBody(request=True).feed(raw) == len(raw)


def test_many_small_chunks_are_fine_and_many_large_extensions_are_not() -> None:
    assert ChunkedBody().feed(b"1\r\nx\r\n" * 100_000) == -1
    signed = b"ffff;signature=" + b"0" * 64 + b"\r\n" + b"x" * 65535 + b"\r\n"
    assert ChunkedBody().feed(signed * 100) == -1
    with pytest.raises(ChunkedError, match="extensions"):
        ChunkedBody().feed((b"1;" + b"a" * 100 + b"\r\nx\r\n") * 1000)


def test_a_payload_is_handed_out_however_it_arrives() -> None:
    raw = b"5;a\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n"
    body = ChunkedBody()
    assert b"".join(body.payload_of(bytes([byte])) for byte in raw) == b"hello!"
