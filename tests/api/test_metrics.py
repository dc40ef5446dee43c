"""`GET /metrics`: what promtool would say of it, where the numbers come from, and who gets to see them."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import structlog
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from memory_daemon import MemoryDaemon, running
from ports import free_port
from sidegate.adapters.docker.tally import EngineTally, operation
from sidegate.api import metrics, metrics_listener
from sidegate.api.metric_names import COUNTER, FAMILIES, GAUGE, HISTOGRAM
from sidegate.core.model import Rules
from sidegate.core.tally import ANSWERS, BOUNDS, CODES, METHODS, OTHER, REFUSALS, Tally
from sidegate.errors import EngineError, EngineUnavailableError, PortInUseError, SettingsError
from sidegate.settings import load, metrics_address

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
DEADLINE = 60.0
FULL = Tally(
    {
        "requests shop GET 2xx": [3, 2, 1, *[0] * 12, 0.25, 900, 10],
        "requests shop GET 5xx": [0, 0, 1, *[0] * 12, 0.5, 100, 0],
        "requests shop POST 2xx": [1, *[0] * 14, 0.25, 10, 1000],
        "requests  GET 4xx": [7, *[0] * 14, 0.001, 700, 0],
        "app shop": [4, 1, 2, 3, 5, 50, 60],
        "answers shop bad_gateway": [1],
        "connections http": [20, 2],
        "connections https": [10, 0],
        "handshakes": [10, 6],
        "shed": [9],
        "forwarder shop-db": [4, 1000, 2000],
        "refusals shop-db denied": [8],
        "cpu 0": [1.5],
    },
    {
        "now shop": [2, 1, 1],
        "open http": [5],
        "sessions shop-db": [1],
        "process 0": [30_000_000, 40],
    },
)


async def scrape(daemon: MemoryDaemon) -> dict[str, Metric]:
    """The families by name, a counter's without its _total."""
    text = (await daemon.call("GET", "/metrics", bytes)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(families: Mapping[str, Metric], name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name, by the values of their labels in alphabetical order of these."""
    samples = [s for family in families.values() for s in family.samples if s.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    """An app, a database that is open to the outside, and workers that have counted something of everything."""
    async with running(tmp_path, Rules(forwarder="auto")) as daemon:
        daemon.app("shop")
        daemon.database("shop-db")
        await daemon.settled()
        await daemon.commands.externals.on("shop-db")
        daemon.data_plane.counted = FULL
        yield daemon


# --- the text


async def test_the_text_keeps_to_the_conventions(full: MemoryDaemon) -> None:
    """As `promtool check metrics` looks at it: help, types, names, units, no series twice."""
    text = (await full.call("GET", "/metrics", bytes)).decode()
    assert text.endswith("\n")
    lines = text.splitlines()
    helped = [line.split()[2] for line in lines if line.startswith("# HELP ")]
    typed = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE ")}
    assert len(helped) == len(set(helped)) == len(typed)
    assert all(re.fullmatch(r"# HELP \S+ \S.*\.", line) for line in lines if line.startswith("# HELP "))
    series = [line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))
    for name, kind in typed.items():
        assert re.fullmatch(r"(sidegate|process)(_[a-z]+)+", name), name
        assert (kind == COUNTER) == name.endswith("_total"), name
        assert kind in (COUNTER, GAUGE, HISTOGRAM)
        assert not re.search(r"_(milliseconds|ms|minutes|kilobytes|percent|count|sum|bucket)(_|$)", name), name
        assert "seconds" in name if kind == HISTOGRAM else True
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.name.startswith(family.name)
            assert sample.value >= 0, sample
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)


async def test_histograms_are_whole(full: MemoryDaemon) -> None:
    families = await scrape(full)
    for family in families.values():
        if family.type != HISTOGRAM:
            continue
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        counts = {
            tuple(sorted(sample.labels.items())): sample.value
            for sample in family.samples
            if sample.name.endswith("_count")
        }
        assert counts.keys() == series.keys()
        for labels, buckets in series.items():
            assert buckets == sorted(buckets)
            assert [value for _, value in buckets] == sorted(value for _, value in buckets)
            assert buckets[-1] == (float("inf"), counts[labels])


async def test_every_family_is_there_and_nothing_else(full: MemoryDaemon) -> None:
    families = await scrape(full)
    named = {family.name.removesuffix("_total") for family in FAMILIES}
    assert {name for name in families if name.startswith("sidegate_")} == named
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= families.keys()
    for family in FAMILIES:
        for sample in families[family.name.removesuffix("_total")].samples:
            assert sample.labels.keys() - {"le"} == set(family.labels), sample


def test_the_docs_have_every_metric_and_every_word() -> None:
    text = DOCS.read_text()
    rows = re.findall(r"^\| `(sidegate_\w+)` \| (\w+) \| ([\w, ]*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(f.name, f.kind, ", ".join(f.labels), f.help) for f in FAMILIES]
    words = (*ANSWERS, *REFUSALS, *METHODS, *CODES, OTHER)
    assert [word for word in words if f"`{word}`" not in text] == []
    alerts = text[text.index("## Alerts") :]
    named = set(re.findall(r"\bsidegate_\w+", alerts)) - {"sidegate_rules"}
    assert named <= {f.name for f in FAMILIES} | {f"{f.name}_bucket" for f in FAMILIES if f.kind == HISTOGRAM}


# --- where the numbers come from


async def test_what_workers_have_counted_is_told_by_app(full: MemoryDaemon) -> None:
    families = await scrape(full)

    def value(name: str, *labels: str) -> float:
        return values(families, name)[labels]

    assert value("sidegate_http_requests_total", "shop", "2xx", "GET") == 6
    assert value("sidegate_http_requests_total", "shop", "5xx", "GET") == 1
    assert value("sidegate_http_requests_total", "shop", "5xx", "POST") == 0  # there before the first failure
    assert value("sidegate_http_requests_total", "", "4xx", "GET") == 7
    assert value("sidegate_http_request_duration_seconds_count", "shop") == 8
    assert value("sidegate_http_request_duration_seconds_sum", "shop") == 1.0
    assert value("sidegate_http_request_duration_seconds_bucket", "shop", "0.001") == 4
    assert value("sidegate_http_request_duration_seconds_bucket", "shop", "0.005") == 8
    assert value("sidegate_http_response_bytes_total", "shop") == 900 + 100 + 10 + 50
    assert value("sidegate_http_request_bytes_total", "shop") == 10 + 1000 + 60
    assert value("sidegate_upstream_connections_total", "shop") == 4
    assert value("sidegate_upstream_connect_failures_total", "shop") == 1
    assert value("sidegate_upstream_retries_total", "shop") == 2
    assert value("sidegate_http_requests_abandoned_total", "shop") == 3
    assert value("sidegate_http_tunnels_total", "shop") == 5
    assert value("sidegate_http_requests_in_flight", "shop") == 2
    assert value("sidegate_http_requests_parked", "shop") == 1
    assert value("sidegate_http_tunnels_open", "shop") == 1
    assert value("sidegate_http_answers_total", "shop", "bad_gateway") == 1
    assert value("sidegate_client_connections_total", "https") == 10
    assert value("sidegate_client_connections_refused_total", "http") == 2
    assert value("sidegate_client_connections_shed_total") == 9
    assert value("sidegate_tls_handshakes_total", "failed") == 6
    assert value("sidegate_external_sessions_total", "userspace", "shop-db") == 4
    assert value("sidegate_external_received_bytes_total", "shop-db") == 1000
    assert value("sidegate_external_sent_bytes_total", "shop-db") == 2000
    assert value("sidegate_external_refused_total", "shop-db", "denied") == 8
    assert value("sidegate_worker_cpu_seconds_total", "0") == 1.5
    assert value("sidegate_worker_resident_memory_bytes", "0") == 30_000_000


async def test_what_the_control_plane_knows_is_told(full: MemoryDaemon) -> None:
    families = await scrape(full)
    assert values(families, "sidegate_build_info") == {("0.0.0-test",): 1}
    assert values(families, "sidegate_engine_connected") == {(): 1}
    assert values(families, "sidegate_apps") == {(): 1}
    assert values(families, "sidegate_databases") == {(): 1}
    assert values(families, "sidegate_pool_subnets") == {(): 2048}
    assert values(families, "sidegate_pool_subnets_used") == {(): 1}
    assert values(families, "sidegate_external_enabled") == {("shop-db",): 1}
    assert values(families, "sidegate_replicas") == {("shop", "ready"): 1, ("shop", "resting"): 0}
    assert values(families, "sidegate_workers") == {("starting",): 0, ("serving",): 1, ("draining",): 0}
    assert values(families, "sidegate_actions_total")["create_network", "done"] == 1
    assert values(families, "sidegate_pass_duration_seconds_count")[()] >= 1
    (version,) = values(families, "sidegate_snapshot_version").values()
    assert version >= 1


async def test_an_app_is_counted_from_the_start(daemon: MemoryDaemon) -> None:
    """Else its first failed request would be no change of anything."""
    daemon.app("shop")
    await daemon.settled()
    families = await scrape(daemon)
    for name in ("sidegate_upstream_connect_failures_total", "sidegate_http_requests_abandoned_total"):
        assert values(families, name) == {("shop",): 0}


async def test_the_kernel_is_asked_for_its_sessions(full: MemoryDaemon) -> None:
    port = full.store.intent.externals["shop-db"].port
    for client in ("203.0.113.7", "203.0.113.8"):
        full.kernel.connect(port, client)
    families = await scrape(full)
    assert values(families, "sidegate_external_sessions_open")["kernel", "shop-db"] == 2
    assert values(families, "sidegate_external_sessions_total")["kernel", "shop-db"] == 2
    full.kernel.live.clear()
    full.kernel.taken[port] = 1  # it has begun to count anew, and one has come since
    families = await scrape(full)
    assert values(families, "sidegate_external_sessions_open")["kernel", "shop-db"] == 0
    assert values(families, "sidegate_external_sessions_total")["kernel", "shop-db"] == 3


async def test_what_the_kernel_carried_stays_the_databases_own_when_its_port_changes(full: MemoryDaemon) -> None:
    port = full.store.intent.externals["shop-db"].port
    for client in ("203.0.113.7", "203.0.113.8"):
        full.kernel.connect(port, client)
    await scrape(full)
    await full.commands.externals.on("shop-db", port=port + 1)
    families = await scrape(full)
    assert values(families, "sidegate_external_sessions_total")["kernel", "shop-db"] == 2
    full.kernel.connect(port + 1, "203.0.113.9")
    families = await scrape(full)
    assert values(families, "sidegate_external_sessions_total")["kernel", "shop-db"] == 3


async def test_a_kernel_that_does_not_tell_delays_nothing_else(
    full: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> Mapping[int, int]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(metrics, "KERNEL_SECONDS", 0.01)
    monkeypatch.setattr(full.kernel, "carried", never)
    families = await scrape(full)
    assert values(families, "sidegate_http_requests_total")["shop", "2xx", "GET"] == 6
    assert not [labels for labels in values(families, "sidegate_external_sessions_open") if "kernel" in labels]


@pytest.mark.parametrize(
    ("doing", "name"),
    [
        ("list the containers on sidegate-home--shop-db", "list_containers"),
        ("inspect container 0123456789ab", "inspect_container"),
        ("read /etc/passwd in container 0123456789ab", "read_file"),
        ("read the log of container 0123456789ab", "read_log"),
        ("disconnect container 0123456789ab from network x", "disconnect"),
        ("fly to the moon", "other"),
    ],
)
def test_calls_to_the_engine_are_told_apart_without_names(doing: str, name: str) -> None:
    assert operation(doing) == name


def test_calls_to_the_engine_count_by_how_they_end() -> None:
    tally = EngineTally()
    for error in (None, EngineError("no"), EngineUnavailableError("away")):
        with (
            contextlib.suppress(EngineError, EngineUnavailableError),
            tally.timed("list networks", (EngineUnavailableError,)),
        ):
            if error:
                raise error
    assert tally.outcomes == {("list_networks", outcome): 1 for outcome in ("done", "refused", "unavailable")}
    assert sum(tally.seconds["list_networks"].counts) == 3


# --- who gets to see them


async def test_the_verb_prints_what_the_socket_serves(full: MemoryDaemon) -> None:
    printed = await full.sidegate("metrics")
    assert printed.returncode == 0
    assert printed.stdout.startswith("# HELP sidegate_http_requests_total ")
    reply = await full.raw(b"GET /metrics HTTP/1.1\r\nHost: sidegate\r\nConnection: close\r\n\r\n")
    assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in reply


@contextlib.asynccontextmanager
async def listening(daemon: MemoryDaemon, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The page on a free port."""
    port = free_port()
    async with metrics_listener.serve(daemon.commands.metrics, (host, port)):
        yield port


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE):
            return await reader.read()
    finally:
        writer.close()


async def test_the_port_has_metrics_and_nothing_else(full: MemoryDaemon) -> None:
    async with listening(full) as port:
        page = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert page.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in page
        assert b'\nsidegate_http_requests_total{app="shop",code="2xx",method="GET"} 6.0\n' in page
        for path in ("/", "/v1/status", "/v1/databases/shop-db/credentials", "/metrics/", "/v1/openapi.json"):
            reply = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert reply.startswith(b"HTTP/1.1 404 "), path
        for method in ("POST", "PUT", "DELETE"):
            head = f"{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            assert (await ask(port, head.encode())).startswith(b"HTTP/1.1 405 ")


async def test_clients_that_say_nothing_take_no_more_than_their_share(
    full: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_listener, "SECONDS", 0.5)
    async with listening(full) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(metrics_listener.MOST)]
        async with asyncio.timeout(DEADLINE):
            for reader, writer in silent:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""  # by their deadline
                writer.close()
        monkeypatch.undo()
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_one_too_many_is_closed_at_once(full: MemoryDaemon) -> None:
    async with listening(full) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(metrics_listener.MOST)]
        with contextlib.suppress(ConnectionResetError):
            assert await ask(port, b"") == b""
        for _, writer in silent:
            writer.close()


async def test_a_port_that_is_taken_stops_the_start(full: MemoryDaemon) -> None:
    async with listening(full) as port:
        with pytest.raises(PortInUseError, match=f"metrics_listen: port {port} "):
            async with metrics_listener.serve(full.commands.metrics, ("127.0.0.1", port)):
                pass


@pytest.mark.parametrize(("host", "warnings"), [("127.0.0.1", 0), ("0.0.0.0", 1)])
async def test_every_address_is_one_too_many_and_said(full: MemoryDaemon, host: str, warnings: int) -> None:
    with structlog.testing.capture_logs() as logs:
        async with listening(full, host):
            pass
    assert [entry["log_level"] for entry in logs].count("warning") == warnings


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9913", ("127.0.0.1", 9913)), ("[::1]:9913", ("::1", 9913)), ("0.0.0.0:1", ("0.0.0.0", 1))],
)
def test_an_address_and_a_port_can_be_set(text: str, address: tuple[str, int]) -> None:
    assert metrics_address(load(None, {"SIDEGATE_METRICS_LISTEN": text}).metrics_listen) == address


@pytest.mark.parametrize("text", ["9913", ":9913", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "::1:99", "host:1"])
def test_less_than_an_address_and_a_port_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"metrics_listen = .*must be an address and a port"):
        load(None, {"SIDEGATE_METRICS_LISTEN": text})


def test_there_is_no_port_unless_one_is_set() -> None:
    assert metrics_address(load(None, {}).metrics_listen) is None
    assert len(BOUNDS) == 14  # the docs name them
