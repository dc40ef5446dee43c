"""An app's own rules: redirects, sizes, time-outs, HSTS, modes, and a client that waits for a paused app."""

import asyncio
from dataclasses import replace

import pytest

from proxy.recording import recording
from proxy.wire import HOST, Client, Proxy, answering, backend, proxying, until
from sidegate.core.routes import MAINTENANCE, PAUSED, AppRoute, PathRoute, Policy, Routes, Upstream
from sidegate.proxy.limits import Limits

OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"
GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def app(*ports: int, mode: str = "serving") -> AppRoute:
    return AppRoute(tuple(Upstream(f"shop-{port}", "127.0.0.1", port) for port in ports), mode=mode)


# --- request ids ------------------------------------------------------------------------------------------------------


async def test_every_request_has_an_id_of_its_own_also_where_its_head_is_the_last_one_again() -> None:
    heads: list[bytes] = []
    async with backend(answering(OK, heads)) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(20):
            await client.get()
    ids = [head.partition(b"X-Request-ID: ")[2].split(b"\r\n")[0] for head in heads]
    assert len(set(ids)) == 20
    assert all(len(one) > 16 for one in ids)


async def test_a_page_of_ours_shows_the_id_that_its_header_field_carries() -> None:
    async with proxying() as proxy, await proxy.client() as client:
        found = await client.get()
        assert found.headers["x-request-id"].encode() in found.body
        client.writer.write(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
        refused = await client.response()
        assert refused.headers["x-request-id"].encode() in refused.body
        assert refused.headers["x-request-id"] != found.headers["x-request-id"]


@pytest.mark.parametrize(("trusted", "kept"), [(("127.0.0.0/8",), True), ((), False)])
async def test_only_a_trusted_peer_may_give_the_id(trusted: tuple[str, ...], kept: bool) -> None:
    heads: list[bytes] = []
    async with (
        backend(answering(OK, heads)) as port,
        proxying(port, limits=Limits(trusted_proxies=trusted)) as proxy,
        await proxy.client() as client,
    ):
        await client.get("/", "X-Request-ID: theirs")
        assert (b"\r\nX-Request-ID: theirs\r\n" in heads[0]) is kept
        assert heads[0].count(b"X-Request-ID") == 1
        proxy.route(AppRoute())
        found = await client.get("/", "X-Request-ID: theirs")
        assert (found.headers["x-request-id"] == "theirs") is kept


# --- redirects --------------------------------------------------------------------------------------------------------


async def test_plain_requests_are_redirected_to_https_where_there_is_tls() -> None:
    heads: list[bytes] = []
    policy = Policy(https_redirect=True, hsts=60)
    limits = Limits(https_port=8443, trusted_proxies=("127.0.0.1/32",))
    async with (
        backend(answering(OK, heads)) as port,
        proxying(limits=limits) as proxy,
        await proxy.client() as client,
    ):
        proxy.route(app(port), policy)
        found = await client.get("/a?b=%0d%0a", method="POST", body=b"x")
        assert (found.status, found.headers["location"]) == (308, f"https://{HOST}:8443/a?b=%0d%0a")
        assert "strict-transport-security" not in found.headers
        proxy.gateway.limits = replace(limits, https_port=443)
        client.writer.write(f"GET /c HTTP/1.1\r\nHost: {HOST}:8080\r\n\r\n".encode())
        assert (await client.response()).headers["location"] == f"https://{HOST}/c"
        assert not heads
        secure = await client.get("/", "X-Forwarded-Proto: https")
        assert (secure.status, secure.headers["strict-transport-security"]) == (200, "max-age=60")
        proxy.gateway.limits = replace(limits, https_port=0)
        assert (await client.get("/x")).status == 200


async def test_a_route_that_only_redirects_keeps_scheme_port_and_target() -> None:
    async with backend(answering(OK)) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port), redirect="www.shop.test")
        assert (await client.get("/a/?b")).headers["location"] == "http://www.shop.test/a/?b"
        for host, place in ((f"{HOST}:8080", "www.shop.test:8080"), (f"{HOST}:80", "www.shop.test")):
            client.writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            found = await client.response()
            assert (found.status, found.headers["location"]) == (308, f"http://{place}/")


# --- sizes ------------------------------------------------------------------------------------------------------------


async def test_a_body_that_is_announced_too_large_is_413_before_any_replica_is_asked() -> None:
    heads: list[bytes] = []
    async with backend(answering(OK, heads)) as port, proxying() as proxy:
        proxy.route(app(port), Policy(max_body=10))
        head = f"POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        answer = await proxy.ask((head % 11).encode())
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert not heads
        async with await proxy.client() as client:
            client.writer.write((head % 10).encode() + b"x" * 10)
            assert (await client.response()).status == 200


async def test_a_chunked_body_is_limited_without_its_framing() -> None:
    async with recording() as recorder, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(recorder.port), Policy(max_body=100))
        for size, status in ((100, 200), (101, 413)):
            client.writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            client.writer.write(b"1;a=b\r\nx\r\n" * size + b"0\r\n\r\n")
            assert (await client.response()).status == status
        assert [len(request.body) for request in recorder.requests] == [100]


async def test_a_chunked_body_that_outgrows_the_limit_is_413_and_the_replica_is_cut_off() -> None:
    cut = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1000):
                pass
        finally:
            cut.set()

    async with backend(swallow) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port), Policy(max_body=100))
        client.writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        client.writer.write(b"20\r\n" + b"x" * 32 + b"\r\n")
        await until(lambda: any("waiting" in repr(one) for one in proxy.gateway.clients))
        for _ in range(3):
            client.writer.write(b"20\r\n" + b"x" * 32 + b"\r\n")
        assert (await client.response()).status == 413
        async with asyncio.timeout(30):
            await cut.wait()
        assert proxy.gateway.table.apps["shop"].backends[0].active == 0


# --- time-outs --------------------------------------------------------------------------------------------------------


async def asked(proxy: Proxy, client: Client, raw: bytes = GET) -> None:
    """The request has reached its replica."""
    client.writer.write(raw)
    await until(lambda: any("waiting" in repr(one) for one in proxy.gateway.clients))


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await reader.read()


@pytest.mark.parametrize(("policy", "status"), [(Policy(response=3), 504), (Policy(response=0), 0)])
async def test_how_long_an_app_may_think_is_its_own_setting(policy: Policy, status: int) -> None:
    async with backend(silent) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port), policy)
        await asked(proxy, client)
        proxy.pass_time(4 if status else 1000)
        if status:
            assert (await client.response()).status == status
        else:
            assert "waiting" in repr(proxy.gateway.clients)


async def test_a_body_that_stalls_is_408() -> None:
    async with backend(silent) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port), Policy(body=3))
        await asked(proxy, client, b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9\r\n\r\nx")
        proxy.pass_time(3)
        client.writer.write(b"x")
        await until(lambda: any(one._taken == 2 for one in proxy.gateway.clients))  # type: ignore[attr-defined]
        proxy.pass_time(3)
        assert "waiting" in repr(proxy.gateway.clients)
        proxy.pass_time(1)
        assert (await client.response()).status == 408


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked", b"X: until-close"])
async def test_a_response_that_began_may_be_silent_unless_it_said_how_much_would_come(framing: bytes) -> None:
    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")
        await reader.read()

    async with backend(begin) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port), Policy(response=3))
        client.writer.write(GET)
        await client.head()
        assert await client.exactly(10) == b"5\r\nhello\r\n"
        proxy.pass_time(4)
        if framing.startswith(b"Content-Length"):
            with pytest.raises(ConnectionResetError):
                await client.rest()
        else:
            proxy.pass_time(1000)
            assert "answering" in repr(proxy.gateway.clients)


async def test_interim_responses_are_counted() -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for count in (64, 64, 65):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * count + OK)
        await reader.read()

    async with backend(chatty) as port, proxying(port) as proxy, await proxy.client() as client:
        assert [len((await client.get()).interim) for _ in range(2)] == [64, 64]
        assert (await client.get()).status == 502


# --- modes ------------------------------------------------------------------------------------------------------------


async def test_maintenance_is_503_with_a_page_that_says_so() -> None:
    async with backend(answering(OK)) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port, mode=MAINTENANCE))
        found = await client.get("/", "Accept: text/html")
        assert (found.status, found.headers["retry-after"]) == (503, "5")
        assert b"Back in a moment" in found.body
        proxy.route(app(port))
        assert (await client.get()).body == b"hello"


async def test_requests_for_a_paused_app_wait_and_go_on_when_it_serves() -> None:
    seen: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head.split()[1])
            if b"Content-Length: 4" in head:
                assert await reader.readexactly(4) == b"body"
            writer.write(OK)

    async with backend(note) as port, proxying() as proxy:
        proxy.route(app(port, mode=PAUSED))
        clients = []
        for number in range(5):
            client = await proxy.client()
            clients.append(client)
            body = b"Content-Length: 4\r\n\r\nbo" if number == 3 else b"\r\n"
            client.writer.write(b"POST /%d HTTP/1.1\r\nHost: shop.test\r\n" % number + body)
            await until(lambda number=number: len(proxy.gateway.parking) == number + 1)  # type: ignore[misc]
        clients[3].writer.write(b"dy")
        for _ in range(100):
            proxy.route(app(port, mode=PAUSED))
        proxy.pass_time(30)
        assert not seen
        proxy.route(app(port))
        for client in clients:
            assert (await client.response()).body == b"hello"
            assert (await client.get("/again")).body == b"hello"
            client.writer.transport.abort()
        assert sorted(seen[:5]) == sorted(b"/%d" % number for number in range(5))
        assert len(proxy.gateway.parking) == 0


async def test_an_app_has_all_its_time_to_answer_what_waited_for_it() -> None:
    async with backend(silent) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port, mode=PAUSED))
        client.writer.write(GET)
        await until(lambda: len(proxy.gateway.parking) == 1)
        proxy.pass_time(50)
        proxy.route(app(port), Policy(response=20))
        await until(lambda: any("waiting" in repr(one) for one in proxy.gateway.clients))
        proxy.pass_time(20)
        assert "waiting" in repr(proxy.gateway.clients)
        proxy.pass_time(1)
        assert (await client.response()).status == 504


@pytest.mark.parametrize("upload", [b"", b"Content-Length: 1000\r\n"])
async def test_a_client_that_leaves_while_it_waits_is_forgotten(upload: bytes) -> None:
    heads: list[bytes] = []
    async with backend(answering(OK, heads)) as port, proxying() as proxy:
        proxy.route(app(port, mode=PAUSED))
        async with await proxy.client() as client:
            client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\n" + upload + b"\r\n")
            await until(lambda: len(proxy.gateway.parking) == 1)
            client.writer.close()
            await until(lambda: len(proxy.gateway.parking) == 0)
        proxy.route(app(port))
        assert not heads
        await until(lambda: not proxy.gateway.clients)


async def test_only_so_many_wait_and_only_so_long() -> None:
    async with (
        backend(answering(OK)) as port,
        proxying(limits=Limits(pause_requests=2, pause=5)) as proxy,
        await proxy.client() as one,
        await proxy.client() as two,
        await proxy.client() as three,
    ):
        proxy.route(app(port, mode=PAUSED))
        for client in (one, two):
            client.writer.write(GET * 2)
        await until(lambda: len(proxy.gateway.parking) == 2)
        assert (await three.get()).status == 503
        proxy.pass_time(6)
        for client in (one, two):
            found = await client.response()
            assert (found.status, found.headers["retry-after"]) == (503, "5")
        await until(lambda: len(proxy.gateway.parking) == 2)  # their next requests
        proxy.route(app(port))
        assert [(await client.response()).body for client in (one, two)] == [b"hello"] * 2


@pytest.mark.parametrize(("then", "status"), [(AppRoute(), 503), (AppRoute(mode=MAINTENANCE), 503), (None, 404)])
async def test_what_waits_is_told_when_its_app_will_not_be_back(then: AppRoute | None, status: int) -> None:
    async with proxying() as proxy, await proxy.client() as client:
        proxy.route(AppRoute(mode=PAUSED))
        client.writer.write(GET)
        await until(lambda: len(proxy.gateway.parking) == 1)
        proxy.gateway.publish(Routes()) if then is None else proxy.route(then)
        assert (await client.response()).status == status


async def test_a_worker_that_ends_does_not_keep_them_waiting() -> None:
    async with proxying() as proxy, await proxy.client() as client:
        proxy.route(AppRoute(mode=PAUSED))
        client.writer.write(GET)
        await until(lambda: len(proxy.gateway.parking) == 1)
        proxy.gateway.drain()
        assert (await client.response()).status == 503
        assert await client.rest() == b""


async def test_an_upload_to_a_paused_app_is_not_buffered_without_end() -> None:
    size = 5_000_000
    received = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        while received < size:
            received += len(await reader.read(65536))
        writer.write(OK)

    async with backend(count) as port, proxying() as proxy, await proxy.client() as client:
        proxy.route(app(port, mode=PAUSED))
        client.writer.write(b"PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await until(lambda: len(proxy.gateway.parking) == 1)
        (served,) = proxy.gateway.clients
        await until(lambda: served._holds != 0)  # type: ignore[attr-defined]
        assert len(served._first) < 1_000_000  # type: ignore[attr-defined]
        proxy.route(app(port))
        assert (await client.response()).body == b"hello"
        assert received == size


async def test_a_chunked_body_that_grew_too_large_while_it_waited_is_413() -> None:
    async with proxying() as proxy, await proxy.client() as client:
        proxy.route(AppRoute(mode=PAUSED), Policy(max_body=10))
        client.writer.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        await until(lambda: len(proxy.gateway.parking) == 1)
        client.writer.write(b"20\r\n" + b"x" * 32 + b"\r\n0\r\n\r\n")
        assert (await client.response()).status == 413
        assert len(proxy.gateway.parking) == 0


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("TRACE", 501)])
async def test_a_request_that_may_go_no_further_is_answered_here(method: str, status: int) -> None:
    heads: list[bytes] = []
    async with backend(answering(OK, heads)) as port, proxying(port) as proxy, await proxy.client() as client:
        assert (await client.get("/", "Max-Forwards: 0", method=method)).status == status
        assert not heads
        assert (await client.get("/", "Max-Forwards: 1", method=method)).status == 200


async def test_the_default_app_answers_for_hosts_that_nobody_else_does() -> None:
    async with backend(answering(OK)) as port, proxying() as proxy, await proxy.client() as client:
        hosts = {"other.test": (PathRoute("", "gone"),)}
        proxy.gateway.publish(Routes(hosts=hosts, apps={"shop": app(port)}, default_app="shop"))
        assert (await client.get()).body == b"hello"
