"""What workers count: every request once, in the right place, whatever becomes of it, of its app and of the worker."""

import asyncio
import math
import os
import signal
from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from proxy.plant import echo
from proxy.test_supervisor import connect, plane, replaced, routes
from proxy.wire import DEADLINE, HOST, Proxy, answering, backend, closed_port, proxying, until
from sidegate.core.gates import Gate
from sidegate.core.routes import MAINTENANCE, PAUSED, AppRoute, PathRoute, Policy, Routes, Upstream
from sidegate.core.tally import BOUNDS, COUNTERS, GAUGES, GRACE, Histogram, Ledger
from sidegate.proxy import reading, supervisor
from sidegate.proxy.metrics import Meters
from sidegate.proxy.reading import Rows
from sidegate.proxy.sockets import reset
from sidegate.proxy.supervisor import Supervisor

DATE = b"Date: Mon, 05 Jan 2026 10:00:00 GMT\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 5\r\n\r\nhello"
BUCKETS = len(BOUNDS) + 1


def read(proxy: Proxy) -> tuple[Rows, Rows]:
    return reading.counters(proxy.gateway, (), {}, ()), reading.gauges(proxy.gateway, ())


def requests(rows: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """What was asked: "app method code" -> how often, by the buckets of the durations."""
    return {
        key.removeprefix("requests "): int(sum(row[:BUCKETS]))
        for key, row in rows.items()
        if key.startswith("requests")
    }


def body_bytes(rows: Mapping[str, Sequence[float]], key: str) -> tuple[float, float]:
    """Of responses and of requests."""
    sent, received = rows[f"requests {key}"][-2:]
    return sent, received


async def counted(proxy: Proxy, **expected: int) -> Rows:
    """The counters, once as many requests are in them as are expected by "app_method_code"."""
    wanted = {key.replace("_", " "): count for key, count in expected.items()}
    await until(lambda: requests(read(proxy)[0]) == wanted)
    return read(proxy)[0]


# --- the proxy


async def test_every_form_of_response_counts_once_with_its_bytes() -> None:
    large = b"x" * 300_000
    answers = {
        "/same": OK,
        "/large": b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 300000\r\n\r\n" + large,
        "/chunked": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "/undated": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        "/strange": b"HTTP/1.1 799 Whatever\r\nContent-Length: 0\r\n\r\n",
    }

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(answers[head.split()[1].decode()])

    async with backend(handler) as port, proxying(port) as proxy, await proxy.client() as client:
        for _ in range(3):
            assert (await client.get("/same")).body == b"hello"
        assert (await client.get("/large")).body == large
        for target in ("/chunked", "/undated", "/strange"):
            await client.get(target)
        rows = await counted(proxy, shop_GET_2xx=5, shop_GET_4xx=1, shop_GET_other=1)
        framed = len(b"5\r\nhello\r\n0\r\n\r\n")
        assert body_bytes(rows, "shop GET 2xx") == (15 + 300_000 + framed, 0)
        assert body_bytes(rows, "shop GET 4xx") == (2, 0)
        assert rows["requests shop GET 2xx"][BUCKETS] > 0  # seconds
        assert rows["app shop"][0] == 1  # one connection did it all


async def test_methods_that_clients_make_up_are_one() -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy, await proxy.client() as client:
        for method in ("GET", "get", "PURGE", "X" * 50, "DELETE"):
            await client.get(method=method)
        await counted(proxy, shop_GET_2xx=1, shop_DELETE_2xx=1, shop_other_2xx=3)


async def test_hosts_that_clients_make_up_are_nobody() -> None:
    async with proxying() as proxy:
        for host in ("a.test", "b.test", "a" * 200 + ".test"):
            await proxy.ask(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await proxy.ask(b"no request\r\n\r\n")
        await proxy.ask(b"GET / HTTP/7.0\r\n\r\n")
        rows = read(proxy)[0]
        assert requests(rows) == {" GET 4xx": 3, " other 4xx": 1, " other 5xx": 1}
        answers = {key: row for key, row in rows.items() if key.startswith("answers")}
        assert answers == {"answers  no_app": [3], "answers  malformed": [1], "answers  unsupported": [1]}


async def test_bytes_of_a_request_body_count_also_where_it_is_refused() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1000)
        writer.write(OK)

    async with backend(handler) as port, proxying(port) as proxy:
        async with await proxy.client() as client:
            await client.get(method="POST", body=b"x" * 1000)
        upstream = Upstream("shop", "127.0.0.1", port)
        proxy.route(AppRoute((upstream,)), Policy(max_body=10))
        async with await proxy.client() as client:
            await client.get(method="POST", body=b"x" * 1000)
        rows = await counted(proxy, shop_POST_2xx=1, shop_POST_4xx=1)
        assert body_bytes(rows, "shop POST 2xx") == (5, 1000)
        assert rows["answers shop body_too_large"] == [1]


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (AppRoute(unavailable="shop is not running."), "unavailable"),
        (AppRoute(mode=MAINTENANCE), "maintenance"),
        (AppRoute((Upstream("shop", "127.0.0.1", closed_port()),)), "bad_gateway"),
    ],
)
async def test_what_the_proxy_answers_itself_has_a_reason(route: AppRoute, reason: str) -> None:
    async with proxying() as proxy:
        proxy.route(route)
        async with await proxy.client() as client:
            await client.get()
        rows = await counted(proxy, shop_GET_5xx=1)
        assert rows[f"answers shop {reason}"] == [1]


async def test_a_redirect_is_an_answer() -> None:
    async with proxying() as proxy:
        proxy.route(AppRoute(), redirect="www.shop.test")
        async with await proxy.client() as client:
            await client.get()
        rows = await counted(proxy, shop_GET_3xx=1)
        assert rows["answers shop redirect"] == [1]


async def test_a_client_that_leaves_counts_as_4xx_and_as_gone() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async with backend(silent) as port, proxying(port) as proxy:
        async with await proxy.client() as client:
            client.writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            async with asyncio.timeout(DEADLINE):
                await asked.wait()
            assert read(proxy)[1]["now shop"] == [1, 0, 0]
            reset(cast(asyncio.Transport, client.writer.transport))
        rows = await counted(proxy, shop_GET_4xx=1)
        assert rows["app shop"][3] == 1
        assert "now shop" not in read(proxy)[1]


async def test_a_response_that_breaks_off_counts_with_its_status() -> None:
    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with backend(breaking) as port, proxying(port) as proxy, await proxy.client() as client:
        client.writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            await client.rest()
        rows = await counted(proxy, shop_GET_2xx=1)
        assert body_bytes(rows, "shop GET 2xx") == (4, 0)


async def test_a_request_that_another_replica_took_is_a_failed_dial_and_a_retry() -> None:
    async with backend(answering(OK)) as port, proxying(closed_port(), port) as proxy:
        for _ in range(2):  # each is chosen first once
            async with await proxy.client() as client:
                assert (await client.get()).status == 200
        rows = await counted(proxy, shop_GET_2xx=2)
        dials, failures, retries, *_ = rows["app shop"]
        assert (failures, retries) == (1, 1)
        assert dials in (1, 2)


async def test_a_paused_app_has_parked_requests() -> None:
    async with backend(answering(OK)) as port, proxying() as proxy:
        upstream = Upstream("shop", "127.0.0.1", port)
        proxy.route(AppRoute((upstream,), mode=PAUSED))
        async with await proxy.client() as client:
            client.writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            await until(lambda: read(proxy)[1].get("now shop") == [1, 1, 0])
            proxy.route(AppRoute((upstream,)))
            await client.response()
        await counted(proxy, shop_GET_2xx=1)


async def test_a_tunnel_counts_while_it_is_open_and_its_bytes_for_good() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        await echo(reader, writer)

    upgrade = f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    async with backend(handler) as port, proxying(port) as proxy:
        async with await proxy.client() as client:
            client.writer.write(upgrade.encode())
            await client.head()
            client.writer.write(b"hello")
            await client.exactly(5)
            rows, now = read(proxy)
            assert requests(rows) == {"shop GET 1xx": 1}
            assert rows["app shop"][4:] == [1, 5, 5]
            assert now["now shop"] == [0, 0, 1]
            assert now["open http"] == [1]
        await until(lambda: not proxy.gateway.tunnels)
        rows, now = read(proxy)
        assert requests(rows) == {"shop GET 1xx": 1}
        assert rows["app shop"][4:] == [1, 5, 5]
        assert "now shop" not in now


async def test_counters_outlive_snapshots_and_an_app_that_is_gone() -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy:
        for _ in range(2):
            async with await proxy.client() as client:
                await client.get()
            proxy.gateway.publish(Routes())
            await counted(proxy, shop_GET_2xx=_ + 1)
            proxy.publish(port)
        await counted(proxy, shop_GET_2xx=2)


def test_an_app_is_forgotten_an_hour_after_it_has_gone() -> None:
    meters = Meters()
    shop = meters.of("shop")
    meters.retain({"shop"}, 5)
    for tick in (10, GRACE + 10):
        meters.retain((), tick)
        assert meters.of("shop") is shop
    meters.retain((), GRACE + 11)
    assert meters.of("shop") is not shop


def test_rows_are_what_the_ledger_takes() -> None:
    """Each kind has as many numbers as it says."""
    meter = Meters().of("shop")
    meter.rows(b"GET")[2][0] += 1
    meter.answers["no_app"] += 1
    meter.dials += 1
    kinds = {key.split(" ")[0]: len(row) for key, row in meter.counted()}
    assert kinds == {kind: COUNTERS[kind][0] for kind in ("requests", "answers", "app")}


# --- adding up


def ledger(*names: str) -> Ledger:
    made = Ledger()
    made.publish(names, 0.0)
    return made


def test_workers_add_up_and_what_a_dead_one_has_counted_stays() -> None:
    counts = ledger("shop")
    counts.take(0, {"answers shop paused": [3]}, {"now shop": [1, 0, 0]})
    counts.take(1, {"answers shop paused": [4], "shed": [1]}, {"now shop": [2, 1, 0]})
    assert counts.total(0).counters == {"answers shop paused": [7], "shed": [1]}
    assert counts.total(0).gauges == {"now shop": [3, 1, 0]}
    counts.lost(0)
    assert counts.total(0).counters["answers shop paused"] == [7]
    assert counts.total(0).gauges == {"now shop": [2, 1, 0]}
    counts.take(0, {"answers shop paused": [1]}, {})
    assert counts.total(0).counters["answers shop paused"] == [8]


def test_each_worker_has_its_own_process() -> None:
    counts = ledger()
    counts.take(0, {"cpu": [2.5]}, {"process": [1000, 10]})
    counts.take(1, {"cpu": [1.5]}, {"process": [2000, 20]})
    counts.lost(1)
    counts.take(1, {"cpu": [0.25]}, {})
    assert counts.total(0).counters == {"cpu 0": [2.5], "cpu 1": [1.75]}
    assert counts.total(0).gauges == {"process 0": [1000, 10]}


def test_a_counter_never_goes_backwards() -> None:
    counts = ledger("shop")
    for row in ([5], [2], [-1], [math.inf], [6]):
        (before,) = counts.total(0).counters.get("answers shop paused", [0])
        counts.take(0, {"answers shop paused": row}, {})
        assert counts.total(0).counters["answers shop paused"][0] >= before
    assert counts.total(0).counters["answers shop paused"] == [11]  # 5, then left out as nonsense, then 6 anew


@pytest.mark.parametrize(
    "key",
    [
        "answers stranger paused",
        "answers shop because",
        "answers shop",
        "answers shop paused now",
        "requests shop BREW 2xx",
        "cpu 7",
        "secrets shop",
        "",
    ],
)
def test_a_worker_in_strange_hands_makes_up_no_series(key: str) -> None:
    counts = ledger("shop")
    counts.take(0, {key: [1], "answers shop paused": [1, 2]}, {key: [1], "now shop": [1]})
    assert counts.total(0).counters == {}
    assert counts.total(0).gauges == {}


def test_who_has_gone_keeps_his_series_for_an_hour() -> None:
    counts = ledger("http", "blog")
    counts.take(0, {"connections http": [5, 0], "app http": [1] * 7}, {})
    counts.publish((), 0.0)
    assert counts.total(1.0 + GRACE).counters == {"connections http": [5, 0]}  # which is no app's
    counts = ledger("shop", "blog")
    for worker in (0, 1):
        counts.take(worker, {"answers shop paused": [1], "answers blog paused": [1]}, {})
    counts.lost(1)
    counts.publish(("blog",), 100.0)
    counts.take(0, {"answers shop paused": [2], "answers blog paused": [1]}, {})
    assert counts.total(100.0 + GRACE).counters == {"answers shop paused": [3], "answers blog paused": [2]}
    assert counts.total(101.0 + GRACE).counters == {"answers blog paused": [2]}
    counts.take(0, {"answers shop paused": [2]}, {})
    assert "answers shop paused" not in counts.total(102.0 + GRACE).counters


def test_a_histogram_counts_each_up_to_the_end_of_its_bucket() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 1]
    assert histogram.seconds == pytest.approx(8.65)


def test_every_kind_has_a_shape() -> None:
    assert all(size > 0 for size, _ in (*COUNTERS.values(), *GAUGES.values()))


# --- real workers


async def load(port: int, connections: int, each: int) -> None:
    """That many requests, on connections that the kernel spreads over the workers."""

    async def one() -> None:
        async with await connect(port) as client:
            for _ in range(each):
                assert (await client.get()).status == 200

    await asyncio.gather(*(one() for _ in range(connections)))


def total(rows: Mapping[str, Sequence[float]], key: str) -> int:
    return requests(rows).get(key, 0)


async def test_two_workers_count_exactly_what_was_sent() -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        await supervised.publish(routes(port))
        for rounds in (1, 2):
            await load(supervised.http_port, 20, 25)
            tally = await supervised.tally()
            assert requests(tally.counters) == {"shop GET 2xx": 500 * rounds}
            assert body_bytes(tally.counters, "shop GET 2xx") == (2500 * rounds, 0)
            assert tally.counters["connections http"] == [20 * rounds, 0]
        assert {"cpu 0", "cpu 1"} <= tally.counters.keys()
        assert {"process 0", "process 1"} <= tally.gauges.keys()
        assert all(tally.gauges[f"process {worker}"][0] > 1_000_000 for worker in (0, 1))


async def test_no_counter_goes_backwards_when_a_worker_is_killed() -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        await supervised.publish(routes(port))
        await load(supervised.http_port, 20, 5)
        before = (await supervised.tally()).counters
        for slot in (0, 1):
            pid = supervised.workers()[slot].pid
            os.kill(pid, signal.SIGKILL)
            after = (await supervised.tally()).counters
            assert_grown(before, after)
            await replaced(supervised, slot, pid)
            await load(supervised.http_port, 20, 5)
            before, after = after, (await supervised.tally()).counters
            assert_grown(before, after)
            assert total(after, "shop GET 2xx") == 100 * (slot + 2)
            before = after


def assert_grown(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> None:
    for key, row in before.items():
        assert all(was <= now for was, now in zip(row, after[key], strict=True)), key


async def test_a_worker_that_hangs_keeps_back_its_own_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        await supervised.publish(routes(port))
        await load(supervised.http_port, 20, 5)
        before = await supervised.tally()
        monkeypatch.setattr(supervisor, "_REPORT", 1.0)
        pid = supervised.workers()[0].pid
        os.kill(pid, signal.SIGSTOP)
        tally = await supervised.tally()
        assert requests(tally.counters) == requests(before.counters)
        assert total(tally.counters, "shop GET 2xx") == 100
        os.kill(pid, signal.SIGCONT)


async def refused(port: int) -> None:
    """A client who is reset, maybe before it knows that it was connected."""
    with pytest.raises(ConnectionResetError):
        async with await connect(port) as client:
            await client.rest()


async def sessions_of(supervised: Supervisor) -> Sequence[float]:
    return (await supervised.tally()).counters.get("forwarder db", (0, 0, 0))


async def test_a_forwarder_counts_its_sessions_and_their_bytes_also_after_it_was_closed() -> None:
    async with backend(echo) as port, plane() as supervised:
        await supervised.publish(routes(port))
        for rounds in (1, 2):
            await supervised.open_forwarder("db", Gate(0))
            public = supervised.listeners()["db"].gate.port
            for _ in range(3):
                async with await connect(public) as client:
                    client.writer.write(b"x" * 1000)
                    await client.exactly(1000)
            async with await connect(public) as client:
                client.writer.write(b"x" * 10)
                await client.exactly(10)
                async with asyncio.timeout(DEADLINE):
                    while (await supervised.tally()).gauges["sessions db"][0] > 1:
                        await asyncio.sleep(0.01)
                assert list(await sessions_of(supervised)) == [4 * rounds, 3010 * rounds, 3010 * rounds]
                await supervised.close_forwarder("db")  # which cuts it
            assert "sessions db" not in (await supervised.tally()).gauges
        assert list(await sessions_of(supervised)) == [8, 6020, 6020]


async def test_a_forwarder_counts_whom_it_refuses_by_reason() -> None:
    async with backend(echo) as port, plane(workers=1) as supervised:
        await supervised.publish(Routes(hosts={HOST: (PathRoute("", "shop"),)}, databases=routes(port).databases))
        await supervised.open_forwarder("db", Gate(0, local=True))
        public = supervised.listeners()["db"].gate.port
        await supervised.publish(routes(closed_port()))
        for _ in range(2):
            await refused(public)
        await supervised.publish(Routes())
        await refused(public)
        rows = (await supervised.tally()).counters
        assert rows["refusals db unreachable"] == [2]
        assert rows["refusals db not_running"] == [1]
