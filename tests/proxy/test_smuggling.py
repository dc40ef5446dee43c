"""Request smuggling: what two parsers could read differently ends here, and no backend sees any of it."""

import pytest

from proxy.malformed_requests import HIDDEN, MALFORMED, Malformed
from proxy.recording import recording, spares
from proxy.wire import Client, proxying, until

VALID = b"POST /valid HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nvalid"


def ids(row: Malformed) -> str:
    return row.id


async def only_refused(client: Client, status: int) -> None:
    """The next response has this status, says that it is the last, and is."""
    found = await client.response()
    assert (found.status, found.headers["connection"], found.interim) == (status, "close", [])
    assert client._early + await client.rest() == b""


@pytest.mark.parametrize("row", MALFORMED, ids=ids)
async def test_a_malformed_request_is_refused(row: Malformed) -> None:
    async with recording() as app, proxying(app.port) as proxy, await proxy.client() as client:
        client.writer.write(row.raw + HIDDEN)
        await only_refused(client, row.status)
        assert app.requests == []
        assert b"smuggled" not in app.seen
        if not row.body:
            assert app.links == []
        await until(lambda: all(link.ended for link in app.links))
        assert spares(proxy) == 0


@pytest.mark.parametrize("row", MALFORMED, ids=ids)
async def test_what_came_before_it_is_answered(row: Malformed) -> None:
    async with recording() as app, proxying(app.port) as proxy, await proxy.client() as client:
        client.writer.write(VALID + row.raw + HIDDEN)
        first = await client.response("POST")
        assert (first.status, first.body) == (200, b"right")
        await only_refused(client, row.status)
        (request,) = app.requests
        assert (request.target, request.body) == (b"/valid", b"valid")
        assert b"smuggled" not in app.seen
        if row.body:
            await until(lambda: all(link.ended for link in app.links if link.seen.count(b"X-Request-ID") > 1))
        else:
            assert app.seen.endswith(b"\r\n\r\nvalid")
            assert app.seen.count(b"X-Request-ID") == 1


@pytest.mark.parametrize("row", [row for row in MALFORMED if row.body], ids=ids)
async def test_a_body_that_breaks_after_its_head_was_sent_on_costs_the_connection(row: Malformed) -> None:
    async with recording() as app, proxying(app.port) as proxy, await proxy.client() as client:
        head, end, body = row.raw.partition(b"\r\n\r\n")
        client.writer.write(head + end)
        await until(lambda: b"\r\n\r\n" in app.seen)
        client.writer.write(body + HIDDEN)
        await only_refused(client, row.status)
        assert app.requests == []
        assert b"smuggled" not in app.seen
        await until(lambda: all(link.ended for link in app.links))
        async with await proxy.client() as other:
            assert (await other.get("/other")).body == b"right"
        assert [request.target for request in app.requests] == [b"/other"]


def test_there_are_enough_of_them() -> None:
    assert len(MALFORMED) >= 120
    assert len({row.id for row in MALFORMED}) == len(MALFORMED)
