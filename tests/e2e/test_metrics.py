"""A real daemon's metrics: exact under load, over workers that are killed, for the kernel's sessions and the engine's
calls. A daemon of its own, since it counts from the start."""

import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.node import Node, enter, need_engine, outside_host, run, running, wait_for
from ports import free_port

NAME, POOL, PORTS = "sgmetrics", "10.234.0.0/17", "29000-29099"
PREFIX = "198.18.34"
ECHO = """
import socket, threading
def serve(client):
    while data := client.recv(65536):
        client.sendall(data)
with socket.create_server(("", 3306)) as server:
    while True:
        threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()
"""
HOLD = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as client:
    client.sendall(b"hello")
    assert client.recv(5) == b"hello"
    print("open", flush=True)
    sys.stdin.read()
"""

Samples = Mapping[tuple[str, ...], float]


class Page:
    """One scrape. `page(name, labels…)` is a value, by the values of its labels in alphabetical order of these."""

    def __init__(self, text: str) -> None:
        self.samples: dict[tuple[str, ...], float] = {}
        self.counters: set[tuple[str, ...]] = set()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
                self.samples[key] = sample.value
                if family.type in ("counter", "histogram"):
                    self.counters.add(key)

    def __call__(self, name: str, *labels: str) -> float:
        return self.samples.get((f"sidegate_{name}", *labels), 0.0)

    def check_grown_from(self, before: "Page") -> None:
        for key in before.counters:
            assert self.samples[key] >= before.samples[key], key


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[Node]:
    """With an app, and what passes for a database: metrics do not care for its protocol."""
    need_engine()
    settings = {"workers": "2", "metrics_listen": f"127.0.0.1:{metrics_port}"}
    directory = Path(tmp_path_factory.mktemp("metrics"))
    made = Node(directory, NAME, pool=POOL, ports=PORTS, settings=settings, form="host")
    with running(made) as node:
        node.app("shop")
        node.docker_run(
            *("shop-db", "--label", "sidegate.database=shop-db", "--label", "sidegate.engine=mariadb"),
            *("--stop-signal", "KILL"),
            command=["python3", "-c", ECHO],
        )
        wait_for("the app answers", lambda: node.get("shop.localhost").status == 200)
        yield node


@pytest.fixture
def scrape(node: Node, metrics_port: int) -> "Scrape":
    return Scrape(metrics_port)


class Scrape:
    """What Prometheus does."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    def __call__(self) -> Page:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            return Page(answer.read().decode())

    def once(self, true: Callable[[Page], bool]) -> Page | None:
        """A page of which that is true."""
        page = self()
        return page if true(page) else None


def load(node: Node, clients: int, each: int) -> None:
    """Requests on connections of their own, which the kernel spreads over the workers."""

    def ask() -> None:
        for _ in range(each):
            assert node.get("shop.localhost").status == 200

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_requests_are_counted_exactly_and_no_counter_goes_back_when_workers_are_killed(
    node: Node, scrape: Scrape
) -> None:
    """Kill -9 of each worker between two scrapes: the sums go on from where they were."""

    def asked(page: Page) -> float:
        return page("http_requests_total", "shop", "2xx", "GET")

    last = scrape()
    everything = sum(last.samples[key] for key in last.counters if key[:2] == ("sidegate_http_requests_total", "shop"))
    assert everything == last("http_request_duration_seconds_count", "shop") >= 1
    for worker in node.json("status")["workers"]:
        load(node, 4, 10)
        # A worker that is kept waiting tells at the next scrape.
        page = wait_for("all are counted", lambda last=last: scrape.once(lambda p: asked(p) - asked(last) >= 40))  # type: ignore[misc]
        page.check_grown_from(last)
        assert asked(page) - asked(last) == 40
        connections = page("client_connections_total", "http") - last("client_connections_total", "http")
        assert connections == 40
        os.kill(worker["pid"], signal.SIGKILL)
        scrape().check_grown_from(page)
        slot = str(worker["slot"])
        wait_for("its end is known", lambda slot=slot: scrape()("worker_restarts_total", slot) == 1)  # type: ignore[misc]
        wait_for("it was replaced", lambda: scrape()("workers", "serving") == 2)
        last = scrape()
        last.check_grown_from(page)
        assert asked(last) == asked(page)
    assert last("worker_restarts_total", "0") == last("worker_restarts_total", "1") == 1
    load(node, 4, 10)
    page = wait_for("all are counted", lambda: scrape.once(lambda p: asked(p) - asked(last) >= 40))
    assert asked(page) - asked(last) == 40


def test_who_asks_for_nobody_makes_no_series(node: Node, scrape: Scrape) -> None:
    before = scrape()
    for host in ("stranger.test", "another.test"):
        assert node.get(host).status == 404
    page = scrape()
    assert page("http_requests_total", "", "4xx", "GET") - before("http_requests_total", "", "4xx", "GET") == 2
    assert not [key for key in page.samples if "stranger.test" in key]


def test_sessions_are_counted_whoever_carries_them(node: Node, scrape: Scrape) -> None:
    """Through the workers from this machine, through the kernel from another."""
    port = node.json("external", "on", "shop-db")["port"]
    before = scrape()
    with socket.create_connection(("127.0.0.1", port)) as client, outside_host("sgmetrics", prefix=PREFIX) as other:
        client.sendall(b"x" * 1000)
        received = b""
        while len(received) < 1000:
            received += client.recv(1000)
        page = wait_for("it is counted", lambda: scrape.once(lambda p: p("external_sent_bytes_total", "shop-db") > 0))
        assert page("external_enabled", "shop-db") == 1
        assert page("external_sessions_open", "userspace", "shop-db") == 1
        assert page("external_received_bytes_total", "shop-db") == 1000
        assert page("external_sent_bytes_total", "shop-db") == 1000
        wait_for("the kernel carries it", lambda: node.json("external", "show", "shop-db")["carrier"] == "kernel")
        assert run(*enter(other), "python3", "-c", HOLD, f"{PREFIX}.1", str(port), input="").stdout == "open\n"
        page = scrape()
        assert page("external_sessions_total", "kernel", "shop-db") == 1
    page = scrape()
    page.check_grown_from(before)
    node.cli("external", "off", "shop-db")
    page = scrape()
    assert page("external_enabled", "shop-db") == 0
    assert page("external_sessions_total", "userspace", "shop-db") == 1
    assert page("external_sessions_total", "kernel", "shop-db") == 1
    assert page("external_received_bytes_total", "shop-db") == 1000


def test_the_control_plane_counts_itself(node: Node, scrape: Scrape) -> None:
    page = scrape()
    assert page("engine_connected") == 1
    assert page("engine_calls_total", "list_containers", "done") >= 1
    assert page("engine_call_duration_seconds_count", "list_containers") >= 1
    assert page("pass_duration_seconds_count") >= 1
    assert page("actions_total", "create_network", "done") >= 1
    assert page("pool_subnets_used") >= 1
    assert page("certificates", "local_authority") >= 1
    assert page("certificate_earliest_expiry_timestamp_seconds", "local_authority") > 1.7e9
    assert page("replicas", "shop", "ready") == 1
    assert page("snapshot_version") == page("worker_snapshot_version", "0") == page("worker_snapshot_version", "1")
    for worker in ("0", "1"):
        assert page("worker_resident_memory_bytes", worker) > 1e6
        assert page("worker_open_fds", worker) > 5
        assert page("worker_cpu_seconds_total", worker) > 0
    assert page.samples["process_open_fds",] > 5
    names = {line.split(" ")[2] for line in node.cli("metrics").stdout.splitlines() if line.startswith("# TYPE")}
    assert {"sidegate_http_requests_total", "process_cpu_seconds_total"} <= names
