"""Response smuggling: no client is ever answered with what an app sent for somebody else, or for nobody."""

import asyncio

import pytest

from proxy.malformed_responses import CUT, MALFORMED, Malformed
from proxy.recording import OK, spares
from proxy.wire import DEADLINE, Handler, backend, proxying, until


class Script:
    """Answers the first connection's first request as the row says, and everything else well."""

    def __init__(self, row: Malformed) -> None:
        self.row = row
        self.heads: list[bytes] = []
        self.go_on = asyncio.Event()
        self.closed = asyncio.Event()
        self._first = True

    @property
    def handler(self) -> Handler:
        return self._serve

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._first:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
        self._first = False
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.row.first)
            if self.row.then:
                await self.go_on.wait()
                writer.write(self.row.then)
            if self.row.end:
                writer.write_eof()
            while more := await reader.read(65536):
                self.heads.append(more)
        finally:
            self.closed.set()


@pytest.mark.parametrize("row", MALFORMED, ids=lambda row: row.id)
async def test_a_malformed_response_harms_its_own_request_only(row: Malformed) -> None:
    app = Script(row)
    async with backend(app.handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(f"{row.method} /first HTTP/1.1\r\nHost: shop.test\r\n\r\n".encode())
        if row.status == CUT:
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
            app.go_on.set()
            with pytest.raises(ConnectionResetError):
                await client.rest()
        else:
            if row.then:
                await until(lambda: b"\r\n\r\n" in client.reader._buffer)  # type: ignore[attr-defined]
                app.go_on.set()
            found = await client.response(row.method)
            assert found.status == row.status
            assert b"poison" not in found.body
            if row.status == 200:
                bodiless = row.method == "HEAD" or found.headers.get("content-length") == "0"
                assert found.body == (b"" if bodiless else b"right")
            async with asyncio.timeout(DEADLINE):
                await app.closed.wait()
            if found.headers.get("connection") != "close":
                assert (await client.get("/again")).body == b"right"
        async with asyncio.timeout(DEADLINE):
            await app.closed.wait()
        assert len(app.heads) == 1  # it never got another request
        async with await proxy.client() as other:
            assert (await other.get("/other")).body == b"right"


async def test_what_an_app_sends_unasked_reaches_nobody() -> None:
    unasked = Malformed("unasked", OK, then=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    app = Script(unasked)
    async with backend(app.handler) as port, proxying(port) as proxy, await proxy.client() as client:
        assert (await client.get()).body == b"right"
        assert spares(proxy) == 1
        app.go_on.set()
        async with asyncio.timeout(DEADLINE):
            await app.closed.wait()
        assert spares(proxy) == 0
        assert (await client.get()).body == b"right"
        assert len(app.heads) == 1


def test_there_are_enough_of_them() -> None:
    assert len(MALFORMED) >= 40
    assert len({row.id for row in MALFORMED}) == len(MALFORMED)
