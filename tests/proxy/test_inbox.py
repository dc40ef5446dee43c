"""Heads found in what a client sent: whole, in parts, too long."""

from http import HTTPStatus

import pytest

from sidegate.proxy.head import RefusedHeadError
from sidegate.proxy.inbox import Inbox

HEAD = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
MOST, MOST_TARGET = 200, 50


def take(*pieces: bytes) -> bytes | HTTPStatus | None:
    """What the pieces lead to, the first time it is not waiting."""
    inbox = Inbox()
    for piece in pieces:
        inbox.add(piece)
        try:
            if (head := inbox.take_head(MOST, MOST_TARGET)) is not None:
                return head
        except RefusedHeadError as refused:
            return refused.status
    return None


def every_way(raw: bytes) -> set[bytes | HTTPStatus | None]:
    """What it leads to, whole, cut in two anywhere, and in single bytes."""
    found = {take(raw[:place], raw[place:]) for place in range(len(raw))}
    return found | {take(*(bytes([byte]) for byte in raw))}


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (HEAD, HEAD),
        (HEAD + b"more", HEAD),
        (b"\r\n" + HEAD, HEAD),
        (b"\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a", None),
        (b"GET / HTTP/1.1\nHost: a.test\n", 400),
        (b"\nGET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\n\n", 400),
        (b"GET / HTTP/1.1\rHost: a.test\r\r", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nA: \0", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET /\r\n", 400),
        (b"GET / HTTP/2.0\r\n", 505),
        (b"GET /" + b"a" * 49 + b" HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 49 + b" HTTP/1.1\r\n\r\n"),
        (b"GET /" + b"a" * 50 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + b"a" * 50, 414),
        (b"GET /" + b"a" * 49 + b" HTTP/1.1\r\nA: " + b"a" * 200, 431),
        (b"G" * 201, 414),
        (b"G" * 201 + b"\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A" * 200, 431),
        (b"GET / HTTP/1.1\r\nA:" + b"a" * 178 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nA:" + b"a" * 178 + b"\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nA:" + b"a" * 179 + b"\r\n\r\n", 431),
    ],
)
def test_a_head_is_the_same_however_it_arrives(raw: bytes, found: object) -> None:
    assert every_way(raw) == {found}


def test_empty_lines_are_forgiven_before_each_head_but_not_for_ever() -> None:
    assert every_way(b"\r\n" * 16 + HEAD) == {HEAD}
    assert every_way(b"\r\n" * 17 + HEAD) <= {400, b"\r\n" + HEAD}  # which is no head either: refused when parsed
    inbox = Inbox()
    inbox.add(b"\r\n" + HEAD + b"\r\n" + HEAD + b"rest")
    assert [inbox.take_head(MOST, MOST_TARGET) for _ in range(2)] == [HEAD, HEAD]
    assert inbox.take_all() == b"rest"
    assert len(inbox) == 0
