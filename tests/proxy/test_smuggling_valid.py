"""Strictness must not cost anything that is valid: unusual exchanges pass, to the byte."""

import asyncio
import re

import pytest

from proxy.recording import OK, recording
from proxy.unusual_exchanges import UNUSUAL, Exchange
from proxy.wire import backend, proxying

OURS = (
    b"Host",
    b"X-Forwarded-For",
    b"X-Real-IP",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Port",
    b"X-Forwarded-Host",
    b"Forwarded",
    b"X-Request-ID",
)

# A response's start up to the fields of its final head, if it has no Date: those are given one, and the rest must not
# be touched.
UNDATED = re.compile(
    rb"\A((?:HTTP/1\.[0-9] 1[0-9]{2}[^\r]*\r\n(?:[^\r]+\r\n)*\r\n)*HTTP/1\.[0-9] [2-9][^\r]*\r\n)(?!Date:)"
)


def dated(response: bytes) -> bytes:
    return UNDATED.sub(rb"\1Date: Mon, 05 Jan 2026 10:00:00 GMT\r\n", response)


@pytest.mark.parametrize("row", UNUSUAL, ids=lambda row: row.id)
async def test_an_unusual_exchange_passes(row: Exchange) -> None:
    answer = dated(row.answer)
    async with recording(dated(row.response), ends=row.ends) as app, proxying(app.port) as proxy:
        async with await proxy.client() as client:
            client.writer.write(row.request)
            assert await client.exactly(len(answer)) == answer
            if row.closes:
                assert await client.rest() == b""
            else:  # both ends agree on where it ended
                client.writer.write(row.request)
                assert await client.exactly(len(answer)) == answer
        assert len(app.requests) == (1 if row.closes else 2)
        for request in app.requests:
            assert (request.body, tuple(request.trailers)) == (row.body, row.trailers)
        head = app.seen.partition(b"\r\n\r\n")[0].split(b"\r\n")
        fields = [field.partition(b":") for field in head[1:]]
        assert head[0] == row.line
        assert b"Host: " + row.host in head
        assert sorted(name for name, _, _ in fields if name in OURS) == sorted(OURS)
        assert [name + colon + value for name, colon, value in fields if name not in OURS] == list(row.sent)


async def test_ten_requests_with_bodies_in_one_piece_are_answered_in_order() -> None:
    bodies = [b"%d" % number * number * 100 for number in range(10)]
    raw = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: shop.test\r\nContent-Length: %d\r\n\r\n%b" % (number, len(body), body)
        if number % 2
        else b"PUT /%d HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n"
        % (number, b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
        for number, body in enumerate(bodies)
    )
    async with recording() as app, proxying(app.port) as proxy, await proxy.client() as client:
        client.writer.write(raw)
        assert await client.exactly(len(OK) * 10) == OK * 10
        assert sorted((request.target, request.body) for request in app.requests) == [
            (b"/%d" % number, body) for number, body in enumerate(bodies)
        ]


async def test_events_are_passed_on_one_by_one() -> None:
    event = asyncio.Event()

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            await event.wait()
            event.clear()
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
        writer.write(b"0\r\n\r\n")

    async with backend(source) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: text/event-stream\r\n\r\n")
        await client.head()
        for number in range(5):
            event.set()
            assert await client.exactly(14) == b"9\r\ndata: %d\n\n\r\n" % number
        assert await client.exactly(5) == b"0\r\n\r\n"


def test_there_are_enough_of_them() -> None:
    assert len(UNUSUAL) >= 60
    assert len({row.id for row in UNUSUAL}) == len(UNUSUAL)
