"""`GET /metrics`: everything that is counted here, gathered from where it is and written down for Prometheus.

Gathering waits for nobody longer than a second; writing it down, which takes a quarter of a second where there are a
thousand apps, happens in a thread.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from sidegate.api.certificates import AUTHORITY, FILE
from sidegate.api.metric_names import COUNTER, FAMILIES, GAUGE, Family
from sidegate.api.node import NodeVerbs
from sidegate.api.stale import stale_apps
from sidegate.api.world import World
from sidegate.core.tally import BOUNDS, CODES, Histogram, Tally
from sidegate.errors import SidegateError

KERNEL_SECONDS = 1.0
"""What a look at the kernel's sessions may take; after that their series are missing from this scrape."""

CONTENT_TYPE = "text/plain; version=0.0.4"

_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")

Value = float | Histogram


@dataclass(slots=True)
class Samples:
    """Values by the name of their family, and then by their labels."""

    values: dict[str, dict[tuple[str, ...], Value]] = field(default_factory=dict)

    def put(self, name: str, value: Value, *labels: str) -> None:
        self.values.setdefault(name, {})[labels] = value

    def add(self, name: str, value: float, *labels: str) -> None:
        """To what is there already."""
        found = self.values.setdefault(name, {})
        before = found.get(labels, 0.0)
        assert not isinstance(before, Histogram)
        found[labels] = before + value

    def collect(self) -> Iterator[Metric]:
        """Every family in its order, and the control plane's own process, for generate_latest."""
        for family in FAMILIES:
            yield _metric(family, self.values.get(family.name, {}))
        yield from ProcessCollector(registry=None).collect()


class MetricsVerbs:
    """One scrape at a time; whoever comes meanwhile waits for his turn."""

    def __init__(self, world: World, node: NodeVerbs) -> None:
        self._world = world
        self._node = node
        self._turn = asyncio.Lock()
        self._came: dict[int, int] = {}  # public port -> the kernel's sessions as of the last scrape
        self._carried: dict[str, int] = {}  # database -> how many of them were its own, whatever its port was then

    async def scrape(self) -> str:
        """The text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
        async with self._turn:
            samples = Samples()
            tally = await self._world.data_plane.tally()
            await self._put_kernel(samples)
            self._put_node(samples)
            return await asyncio.to_thread(_written, samples, tally)

    async def _put_kernel(self, samples: Samples) -> None:
        """What the kernel carries."""
        world = self._world
        if world.kernel is None:
            return
        try:
            async with asyncio.timeout(KERNEL_SECONDS):
                traffic = await world.kernel.traffic()
        except (SidegateError, TimeoutError):
            return
        carried = {}
        for database, external in world.intent.externals.items():
            if external.port in traffic or database in self._carried:
                live, came = traffic.get(external.port, (0, 0))
                carried[database] = self._carried.get(database, 0) + came - self._came.get(external.port, 0)
                samples.put("sidegate_external_sessions_open", live, database, "kernel")
                samples.put("sidegate_external_sessions_total", carried[database], database, "kernel")
        self._carried, self._came = carried, {port: came for port, (_, came) in traffic.items()}

    def _put_node(self, samples: Samples) -> None:
        """What the control plane knows by itself."""
        world, last = self._world, self._world.loop.last
        put = samples.put
        put("sidegate_build_info", 1, world.version)
        put("sidegate_pass_duration_seconds", world.loop.passes.copy())
        put("sidegate_last_pass_timestamp_seconds", last.finished)
        put("sidegate_problems", len(last.problems))
        for (kind, done), count in world.loop.actions.items():
            put("sidegate_actions_total", count, _snake(kind.__name__), "done" if done else "failed")
        put("sidegate_engine_connected", last.engine_up)
        if world.engine_calls is not None:
            for (operation, outcome), count in world.engine_calls.outcomes.items():
                put("sidegate_engine_calls_total", count, operation, outcome)
            for operation, histogram in world.engine_calls.seconds.items():
                put("sidegate_engine_call_duration_seconds", histogram, operation)
        put("sidegate_apps", len(world.apps))
        put("sidegate_stale_apps", len(stale_apps(world)))
        put("sidegate_databases", len(world.databases))
        put("sidegate_internal_connections", len(world.intent.connections))
        pool = self._node.pool()
        put("sidegate_pool_subnets", pool.total)
        put("sidegate_pool_subnets_used", pool.in_use)
        put("sidegate_events_total", world.events.emitted)
        put("sidegate_event_followers_lost_total", world.events.lost)
        self._put_certificates(samples)
        self._put_workers(samples)
        routes = world.data_plane.published()
        for app, route in routes.apps.items() if routes else ():
            put("sidegate_replicas", len(route.upstreams), app, "ready")
            put("sidegate_replicas", len(route.resting), app, "resting")
            _put_zeros(samples, app)
        for database in world.databases:
            external = world.intent.externals.get(database)
            put("sidegate_external_enabled", external is not None and external.enabled, database)
            if external is not None:
                put("sidegate_external_sessions_total", 0, database, "userspace")
                put("sidegate_external_sessions_open", 0, database, "userspace")
                put("sidegate_external_received_bytes_total", 0, database)
                put("sidegate_external_sent_bytes_total", 0, database)

    def _put_certificates(self, samples: Samples) -> None:
        assignment = self._world.loop.last.desired.certificates
        if assignment is None:
            return
        issued = [c for c in assignment.state.issued.values() if c.id in assignment.presented.pairs]
        for source, certificates in ((FILE, list(assignment.state.files)), (AUTHORITY, issued)):
            label = source.replace(" ", "_")
            samples.put("sidegate_certificates", len(certificates), label)
            if certificates:
                earliest = min(certificate.not_after for certificate in certificates)
                samples.put("sidegate_certificate_earliest_expiry_timestamp_seconds", earliest, label)

    def _put_workers(self, samples: Samples) -> None:
        workers = self._world.data_plane.workers()
        for state in ("starting", "serving", "draining"):
            samples.put("sidegate_workers", sum(worker.state == state for worker in workers), state)
        for worker in workers:
            samples.put("sidegate_worker_restarts_total", worker.restarts, str(worker.slot))
            samples.put("sidegate_worker_snapshot_version", worker.version, str(worker.slot))
        samples.put("sidegate_snapshot_version", max((worker.version for worker in workers), default=0))


def _written(samples: Samples, tally: Tally) -> str:
    _put_tally(samples, tally)
    return generate_latest(samples).decode()


def _put_zeros(samples: Samples, app: str) -> None:
    """What an app has from the start: of a series that appears with its first failure no rate can be told."""
    for name in (
        "sidegate_http_requests_in_flight",
        "sidegate_http_requests_parked",
        "sidegate_http_requests_abandoned_total",
        "sidegate_http_request_bytes_total",
        "sidegate_http_response_bytes_total",
        "sidegate_http_tunnels_total",
        "sidegate_http_tunnels_open",
        "sidegate_upstream_connections_total",
        "sidegate_upstream_connect_failures_total",
        "sidegate_upstream_retries_total",
    ):
        samples.put(name, 0, app)


def _put_tally(samples: Samples, tally: Tally) -> None:
    """What the workers have counted; see core.tally for the rows."""
    add, put = samples.add, samples.put
    durations: dict[str, Histogram] = {}
    for key, row in tally.counters.items():
        match key.split(" "):
            case ["requests", app, method, code]:
                *buckets, seconds, sent, received = row
                for other in CODES[1:]:
                    add("sidegate_http_requests_total", 0, app, other, method)
                add("sidegate_http_requests_total", sum(buckets), app, code, method)
                add("sidegate_http_response_bytes_total", sent, app)
                add("sidegate_http_request_bytes_total", received, app)
                histogram = durations.setdefault(app, Histogram(BOUNDS))
                histogram.counts = [int(a + b) for a, b in zip(histogram.counts, buckets, strict=True)]
                histogram.seconds += seconds
            case ["app", app]:
                dials, failures, retries, left, tunnels, sent, received = row
                put("sidegate_upstream_connections_total", dials, app)
                put("sidegate_upstream_connect_failures_total", failures, app)
                put("sidegate_upstream_retries_total", retries, app)
                put("sidegate_http_requests_abandoned_total", left, app)
                put("sidegate_http_tunnels_total", tunnels, app)
                add("sidegate_http_response_bytes_total", sent, app)
                add("sidegate_http_request_bytes_total", received, app)
            case ["answers", app, reason]:
                put("sidegate_http_answers_total", row[0], app, reason)
            case ["connections", scheme]:
                put("sidegate_client_connections_total", row[0], scheme)
                put("sidegate_client_connections_refused_total", row[1], scheme)
            case ["handshakes"]:
                put("sidegate_tls_handshakes_total", row[0], "done")
                put("sidegate_tls_handshakes_total", row[1], "failed")
            case ["shed"]:
                put("sidegate_client_connections_shed_total", row[0])
            case ["forwarder", database]:
                put("sidegate_external_sessions_total", row[0], database, "userspace")
                put("sidegate_external_received_bytes_total", row[1], database)
                put("sidegate_external_sent_bytes_total", row[2], database)
            case ["refusals", database, reason]:
                put("sidegate_external_refused_total", row[0], database, reason)
            case ["cpu", worker]:
                put("sidegate_worker_cpu_seconds_total", row[0], worker)
    for app, histogram in durations.items():
        put("sidegate_http_request_duration_seconds", histogram, app)
    for key, row in tally.gauges.items():
        match key.split(" "):
            case ["now", app]:
                put("sidegate_http_requests_in_flight", row[0], app)
                put("sidegate_http_requests_parked", row[1], app)
                put("sidegate_http_tunnels_open", row[2], app)
            case ["open", scheme]:
                put("sidegate_client_connections_open", row[0], scheme)
            case ["sessions", database]:
                put("sidegate_external_sessions_open", row[0], database, "userspace")
            case ["process", worker]:
                put("sidegate_worker_resident_memory_bytes", row[0], worker)
                put("sidegate_worker_open_fds", row[1], worker)


def _metric(family: Family, values: Mapping[tuple[str, ...], Value]) -> Metric:
    if family.kind == COUNTER:
        counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in values.items():
            assert not isinstance(value, Histogram)
            counter.add_metric(labels, value)
        return counter
    if family.kind == GAUGE:
        gauge = GaugeMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in values.items():
            assert not isinstance(value, Histogram)
            gauge.add_metric(labels, value)
        return gauge
    made = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        assert isinstance(value, Histogram)
        made.add_metric(labels, list(_cumulative(value)), value.seconds)
    return made


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Each bucket of Prometheus holds all that are before it."""
    total = 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        yield bound, total


def _snake(name: str) -> str:
    return _WORD_START.sub("_", name).lower()
