"""The HTTP/1.1 proxy on real sockets: requests, bodies, connections, and what is answered when there is no answer."""

import asyncio
import re
import time
from email.utils import parsedate_to_datetime

import pytest

from proxy.wire import DEADLINE, HOST, answering, backend, closed_port, proxying, until

OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"
GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


async def test_a_request_reaches_the_app_with_who_asked_and_without_hop_by_hop_fields() -> None:
    heads: list[bytes] = []
    async with backend(answering(OK, heads)) as port, proxying(port) as proxy, await proxy.client() as client:
        response = await client.get(
            "/a?b=c",
            "Connection: x-private, keep-alive",
            "X-Private: 1",
            "X-Forwarded-For: 6.6.6.6",
            "X_Forwarded_For: 6.6.6.6",
            "X-Real-IP: 6.6.6.6",
            "Forwarded: for=6.6.6.6",
            "TE: trailers",
            "Cookie: a=b",
        )
        assert (response.status, response.body) == (200, b"hello")
    *lines, request_id = heads[0].removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert re.fullmatch(rb"X-Request-ID: [0-9a-f]{17,}", request_id)
    assert lines[0] == b"GET /a?b=c HTTP/1.1"
    assert sorted(lines[1:]) == sorted(
        [
            b"Host: shop.test",
            b"X-Forwarded-For: 127.0.0.1",
            b"X-Real-IP: 127.0.0.1",
            b"X-Forwarded-Proto: http",
            b"X-Forwarded-Port: %d" % proxy.port,
            b"X-Forwarded-Host: shop.test",
            b'Forwarded: for=127.0.0.1;host="shop.test";proto=http',
            b"Cookie: a=b",
        ]
    )


async def test_connections_are_kept_alive_on_both_sides() -> None:
    backends: list[object] = []
    answer = answering(OK)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        backends.append(writer)
        await answer(reader, writer)

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        for path in ("/", "/", "/other", "/"):
            assert (await client.get(path)).body == b"hello"
        assert len(backends) == 1
        assert len(proxy.gateway.table.backends["", "127.0.0.1", port].spare) == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(
            b"".join(b"GET /%d HTTP/1.1\r\nHost: shop.test\r\n\r\n" % number for number in range(200))
            + b"GET /none HTTP/1.1\r\nHost: other.test\r\n\r\n" * 200
        )
        assert [(await client.response()).body for _ in range(200)] == [b"/%d" % number for number in range(200)]
        assert {(await client.response()).status for _ in range(200)} == {404}


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_streamed_up_and_down(chunked: bool) -> None:
    size = 3_000_000

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if chunked:
            assert b"transfer-encoding: chunked" in head.lower()
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while (line := await reader.readline()) != b"0\r\n":
                data = await reader.readexactly(int(line.partition(b";")[0], 16) + 2)
                writer.write(line + data)
                await writer.drain()
            await reader.readline()
            writer.write(b"0\r\n\r\n")
        else:
            assert b"Content-Length: %d\r\n" % size in head
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 1000):
                writer.write(await reader.readexactly(1000))
                await writer.drain()

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        if chunked:
            client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(size // 1000):
                client.writer.write(b"3e8;a=b\r\n" + b"u" * 1000 + b"\r\n")
            client.writer.write(b"0\r\n\r\n")
            response = await client.response("POST")
        else:
            response = await client.get(method="POST", body=b"u" * size)
        assert response.body == b"u" * size


async def test_a_response_without_length_ends_with_the_connection() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nDate: now\r\n\r\nall ")
        await writer.drain()
        writer.write(b"of it")

    async with backend(handler) as port, proxying(port) as proxy:
        answer = await proxy.ask(GET)
    assert answer == b"HTTP/1.1 200 OK\r\nDate: now\r\nConnection: close\r\n\r\nall of it"


async def test_an_empty_line_after_a_request_does_not_begin_the_next() -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(20):
            client.writer.write(GET + b"\r\n")
            assert (await client.response()).status == 200
            await until(lambda: all("idle" in repr(one) for one in proxy.gateway.clients))
        proxy.pass_time(proxy.gateway.limits.head + 2)
        assert (await client.get()).status == 200


async def test_a_response_without_a_date_gets_one() -> None:
    undated = answering(b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n")
    async with backend(undated) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(2):
            begun = int(time.time())
            date = (await client.get()).headers["date"]
            assert begun <= parsedate_to_datetime(date).timestamp() <= time.time()


async def test_an_answer_before_the_end_of_an_upload_arrives_though_the_app_resets_the_connection() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")

    async with backend(handler) as port, proxying(port) as proxy:
        for _ in range(20):
            async with await proxy.client() as client:
                client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9000000\r\n\r\n")
                client.writer.write(b"x" * 5_000_000)
                found = await client.response("POST")
                assert (found.status, found.headers["connection"], found.body) == (413, "close", b"no")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"HEAD / HTTP/1.1\r\n\r\n", b"400"),
        (b"HEAD / HTTP/1.1\nHost: shop.test\n", b"400"),
        (b"HEAD / HTTP/2.0\r\n", b"505"),
        (b"HEAD /" + b"a" * 20_000, b"414"),
    ],
)
async def test_a_head_request_that_is_refused_gets_no_body(raw: bytes, status: bytes) -> None:
    async with proxying() as proxy:
        answer = await proxy.ask(raw)
    assert answer.startswith(b"HTTP/1.1 %b " % status)
    assert answer.endswith(b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_responses_that_have_no_body_end_with_their_head(status: bytes) -> None:
    response = b"HTTP/1.1 %b\r\nETag: x\r\n\r\n" % status
    async with backend(answering(response)) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(3):
            assert (await client.get()).status == int(status[:3])


async def test_a_head_response_has_a_length_and_no_body() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    async with backend(answering(response)) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(2):
            found = await client.get(method="HEAD")
            assert (found.status, found.headers["content-length"], found.body) == (200, "5", b"")


async def test_100_continue_goes_end_to_end() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + await reader.readexactly(4))

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(b"PUT / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"body")
        assert (await client.response()).body == b"body"


async def test_early_hints_pass_before_the_response() -> None:
    response = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + OK
    async with backend(answering(response)) as port, proxying(port) as proxy, await proxy.client() as client:
        found = await client.get()
        assert (found.interim, found.status, found.body) == ([103], 200, b"hello")
        assert (await client.get()).body == b"hello"


async def test_http_1_0_clients_are_closed_unless_they_ask_otherwise() -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy:
        assert (await proxy.ask(b"GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")).endswith(
            b"\r\nConnection: close\r\n\r\nhello"
        )
        async with await proxy.client() as client:
            for _ in range(2):
                client.writer.write(b"GET / HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n")
                assert b"Connection: keep-alive\r\n" in await client.head()
                assert await client.exactly(5) == b"hello"


async def test_a_chunked_response_reaches_http_1_0_clients_without_chunks() -> None:
    response = (
        b"HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x\r\nlo\r\n0\r\nT: 1\r\n\r\n"
    )
    async with backend(answering(response)) as port, proxying(port) as proxy:
        answer = await proxy.ask(b"GET / HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nDate: now\r\nConnection: close\r\n\r\nhello"


async def test_a_spare_connection_that_the_app_closed_costs_no_request() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")  # the second request on a connection is never answered

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(5):
            assert (await client.get()).body == b"hello"


async def test_a_post_is_never_sent_twice() -> None:
    posts: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        posts.append(await reader.readuntil(b"\r\n\r\n"))

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        assert (await client.get()).status == 200
        assert (await client.get(method="POST")).status == 502
        assert len(posts) == 1


async def test_an_early_response_to_a_large_upload_arrives() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 500_000)
        found = await client.response("POST")
        assert (found.status, found.headers["connection"], found.body) == (413, "close", b"big")


async def test_a_client_that_has_closed_its_half_is_answered() -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(GET)
        client.writer.write_eof()
        assert (await client.rest()).endswith(b"hello")


async def test_replicas_take_turns_and_a_dead_one_is_passed_over() -> None:
    def named(name: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name

    async with (
        backend(answering(named(b"a"))) as a,
        backend(answering(named(b"b"))) as b,
        proxying(a, b, closed_port()) as proxy,
        await proxy.client() as client,
    ):
        seen = [(await client.get()).body for _ in range(12)]
        assert {b"a", b"b"} == set(seen)


async def test_a_new_snapshot_drops_nothing() -> None:
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await go_on.wait()
        writer.write(OK)

    other = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew"
    async with (
        backend(slow) as before,
        backend(answering(other)) as after,
        proxying(before) as proxy,
        await proxy.client() as client,
    ):
        client.writer.write(GET)
        await asked.wait()
        proxy.publish(after)
        go_on.set()
        assert (await client.response()).body == b"hello"
        assert (await client.get()).body == b"new"


# --- when there is no answer ------------------------------------------------------------------------------------------


async def test_an_unknown_host_is_404_in_the_form_that_was_asked_for() -> None:
    async with proxying() as proxy, await proxy.client() as client:
        for accept, kind in (
            ("text/html,*/*", "text/html; charset=utf-8"),
            ("application/json", "application/problem+json"),
            ("*/*", "text/plain; charset=utf-8"),
        ):
            client.writer.write(f"GET / HTTP/1.1\r\nHost: b.test\r\nAccept: {accept}\r\n\r\n".encode())
            found = await client.response()
            assert (found.status, found.headers["content-type"]) == (404, kind)
        assert (await client.get("/", method="HEAD")).body == b""


async def test_an_app_without_replicas_is_503_with_the_reason() -> None:
    async with proxying() as proxy, await proxy.client() as client:
        proxy.publish(unavailable="shop is stopped.")
        found = await client.get()
        assert (found.status, found.headers["retry-after"]) == (503, "5")
        assert b"shop is stopped." in found.body


async def test_an_app_that_refuses_is_502_and_503_while_the_engine_is_away() -> None:
    async with proxying(closed_port()) as proxy, await proxy.client() as client:
        assert (await client.get()).status == 502
        assert (await client.get(method="POST", body=b"x" * 100_000)).status == 502
        proxy.publish(closed_port(), engine_up=False)
        async with await proxy.client() as other:
            assert (await other.get()).status == 503


async def test_an_app_that_is_silent_is_504() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async with backend(silent) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(GET)
        await asked.wait()
        proxy.pass_time(60)
        assert client.reader._buffer == b""  # type: ignore[attr-defined]
        proxy.pass_time(1)
        assert (await client.response()).status == 504


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"hello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"x" * 100_000,
    ],
)
async def test_an_app_that_closes_or_talks_nonsense_is_502(garbage: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(garbage)

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        assert (await client.get()).status == 502


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", b"X: y\r\n\r\nhalf"]
)
async def test_a_response_cut_short_looks_cut_short(framing: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
        await writer.drain()
        await reader.read(1)  # until the client has seen the beginning
        sock = writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1\r\n\r\n")
        await client.head()
        client.writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await client.rest()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\nHost: shop.test\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: shop.test\r\nA: b\nC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: shop.test\r\n\r\n", 505),
        (b"CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: shop.test\r\nX: " + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: shop.test\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
    ],
)
async def test_what_cannot_be_trusted_is_refused_and_the_connection_closed(raw: bytes, status: int) -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy:
        answer = await proxy.ask(raw)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_head_that_does_not_end_is_408_and_an_idle_client_is_closed() -> None:
    async with proxying() as proxy, await proxy.client() as slow, await proxy.client() as idle:
        slow.writer.write(b"GET / HT")
        await until(lambda: len(proxy.gateway.clients) == 2 and "n head" in repr(proxy.gateway.clients))
        proxy.pass_time(11)
        assert (await slow.response()).status == 408
        proxy.pass_time(70)
        assert await idle.rest() == b""


# --- back-pressure ----------------------------------------------------------------------------------------------------


async def test_a_client_that_stops_reading_stops_the_app() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            sent += 100_000
            await writer.drain()

    async with backend(flood) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(GET)
        await client.head()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        (served,) = proxy.gateway.clients
        await until(lambda: served.transport.get_write_buffer_size() > 0)
        before = -1
        while before != sent:  # as long as socket buffers fill
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 20_000_000
        assert served.transport.get_write_buffer_size() < 1_000_000
        proxy.pass_time(60)
        assert proxy.gateway.clients
        proxy.pass_time(2)  # it has taken nothing for a minute
        await until(lambda: not proxy.gateway.clients)


async def test_an_app_that_stops_reading_stops_the_client() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with backend(deaf) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                client.writer.write(b"x" * 100_000)
                sent += 100_000
                async with asyncio.timeout(0.5):
                    await client.writer.drain()
        assert sent < 20_000_000


async def test_a_client_that_pipelines_without_reading_is_not_buffered_for() -> None:
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    heads: list[bytes] = []
    async with backend(answering(big, heads)) as port, proxying(port) as proxy, await proxy.client() as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(GET * 1000)
        before = -1
        while before != len(heads):
            before = len(heads)
            await asyncio.sleep(0.1)
        assert len(heads) < 200
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(1000):
            assert len((await client.response()).body) == 100_000


async def test_draining_finishes_requests_and_closes_idle_clients() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await go_on.wait()
        writer.write(OK)

    async with backend(slow) as port, proxying(port) as proxy:
        async with await proxy.client() as busy, await proxy.client() as idle:
            busy.writer.write(GET)
            await asked.wait()
            await until(lambda: len(proxy.gateway.clients) == 2)
            proxy.gateway.drain()
            assert await idle.rest() == b""
            go_on.set()
            found = await busy.response()
            assert (found.body, found.headers["connection"]) == (b"hello", "close")
        async with asyncio.timeout(DEADLINE):
            await proxy.gateway.quiet()
