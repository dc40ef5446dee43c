"""The names of all metrics, with what each says and its labels. docs/metrics.md is held to this table.

Every label has a closed set of values, or the names of apps, databases and workers: nothing that strangers choose.
"""

from dataclasses import dataclass

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` as it is in the text: a counter's ends with _total."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: tuple[Family, ...] = (
    # --- requests
    Family(
        "sidegate_http_requests_total",
        COUNTER,
        "Requests that are over, by the app they were for (empty: none), the first digit of the status and the method.",
        ("app", "code", "method"),
    ),
    Family(
        "sidegate_http_request_duration_seconds",
        HISTOGRAM,
        "From a request's head to the end of its response; up to the switch where it asked for a WebSocket.",
        ("app",),
    ),
    Family("sidegate_http_requests_in_flight", GAUGE, "Requests in hand, those that wait included.", ("app",)),
    Family("sidegate_http_requests_parked", GAUGE, "Requests that wait for a paused app.", ("app",)),
    Family(
        "sidegate_http_requests_abandoned_total",
        COUNTER,
        "Requests whose client left before a response had begun; they count as 4xx too.",
        ("app",),
    ),
    Family(
        "sidegate_http_request_bytes_total",
        COUNTER,
        "Bytes of the bodies of requests, with their framing, and from clients through tunnels.",
        ("app",),
    ),
    Family(
        "sidegate_http_response_bytes_total",
        COUNTER,
        "Bytes of the bodies of responses, with their framing, and to clients through tunnels.",
        ("app",),
    ),
    Family(
        "sidegate_http_answers_total",
        COUNTER,
        "Requests that Sidegate answered itself instead of an app, by the reason.",
        ("app", "reason"),
    ),
    Family("sidegate_http_tunnels_total", COUNTER, "WebSockets and other tunnels that were opened.", ("app",)),
    Family("sidegate_http_tunnels_open", GAUGE, "WebSockets and other tunnels that are open.", ("app",)),
    # --- replicas
    Family("sidegate_replicas", GAUGE, "Replicas that take requests (ready), or that rest for now.", ("app", "state")),
    Family("sidegate_upstream_connections_total", COUNTER, "Connections that were made to replicas.", ("app",)),
    Family(
        "sidegate_upstream_connect_failures_total",
        COUNTER,
        "Connections to replicas that could not be made.",
        ("app",),
    ),
    Family("sidegate_upstream_retries_total", COUNTER, "Requests that were given to another replica.", ("app",)),
    # --- clients
    Family("sidegate_client_connections_total", COUNTER, "Clients that were let in.", ("scheme",)),
    Family("sidegate_client_connections_open", GAUGE, "Clients that are connected, tunnels included.", ("scheme",)),
    Family(
        "sidegate_client_connections_refused_total",
        COUNTER,
        "Clients that were turned away because their address had its share of connections.",
        ("scheme",),
    ),
    Family(
        "sidegate_client_connections_shed_total",
        COUNTER,
        "Idle clients that were closed because there was no room for new ones.",
    ),
    Family("sidegate_tls_handshakes_total", COUNTER, "TLS handshakes, by how they ended.", ("outcome",)),
    # --- external connections
    Family(
        "sidegate_external_enabled",
        GAUGE,
        "Whether a database's external connection is switched on (1) or off (0).",
        ("database",),
    ),
    Family(
        "sidegate_external_sessions_total",
        COUNTER,
        "Sessions that came in through external connections, by what carried them.",
        ("database", "carrier"),
    ),
    Family(
        "sidegate_external_sessions_open",
        GAUGE,
        "Sessions through external connections now, by what carries them.",
        ("database", "carrier"),
    ),
    Family(
        "sidegate_external_refused_total",
        COUNTER,
        "Clients of external connections that were refused, by the reason.",
        ("database", "reason"),
    ),
    Family(
        "sidegate_external_received_bytes_total",
        COUNTER,
        "Bytes from clients of external connections, as far as workers carry them.",
        ("database",),
    ),
    Family(
        "sidegate_external_sent_bytes_total",
        COUNTER,
        "Bytes to clients of external connections, as far as workers carry them.",
        ("database",),
    ),
    # --- the reconciler
    Family("sidegate_pass_duration_seconds", HISTOGRAM, "How long passes took: a look, a plan, what it asked for."),
    Family("sidegate_last_pass_timestamp_seconds", GAUGE, "When the last pass ended, in Unix time."),
    Family("sidegate_actions_total", COUNTER, "Actions of passes, by kind and outcome.", ("action", "outcome")),
    Family("sidegate_problems", GAUGE, "Problems that `sidegate status` lists."),
    # --- the engine
    Family("sidegate_engine_connected", GAUGE, "Whether the Docker engine answered the last time (1) or not (0)."),
    Family(
        "sidegate_engine_calls_total",
        COUNTER,
        "Calls to the Docker engine: done, refused by it, or unavailable when no answer came.",
        ("operation", "outcome"),
    ),
    Family("sidegate_engine_call_duration_seconds", HISTOGRAM, "How long calls to the engine took.", ("operation",)),
    # --- what there is
    Family("sidegate_apps", GAUGE, "Apps that are known."),
    Family("sidegate_stale_apps", GAUGE, "Apps with running containers whose environment is out of date."),
    Family("sidegate_databases", GAUGE, "Databases that are known."),
    Family("sidegate_internal_connections", GAUGE, "Internal connections."),
    Family("sidegate_pool_subnets", GAUGE, "Subnets that the pool of internal networks has room for."),
    Family("sidegate_pool_subnets_used", GAUGE, "Subnets of the pool that networks use, of whoever's."),
    Family("sidegate_certificates", GAUGE, "Certificates that can be presented, by where they come from.", ("source",)),
    Family(
        "sidegate_certificate_earliest_expiry_timestamp_seconds",
        GAUGE,
        "When the first of these certificates expires, in Unix time.",
        ("source",),
    ),
    Family("sidegate_events_total", COUNTER, "Events that happened, as in `sidegate events`."),
    Family(
        "sidegate_event_followers_lost_total",
        COUNTER,
        "Followers of events that missed some because they read too slowly.",
    ),
    # --- processes
    Family("sidegate_workers", GAUGE, "Worker processes, by state.", ("state",)),
    Family("sidegate_worker_restarts_total", COUNTER, "Worker processes that had to be replaced.", ("worker",)),
    Family("sidegate_worker_snapshot_version", GAUGE, "The routing snapshot that a worker serves.", ("worker",)),
    Family("sidegate_snapshot_version", GAUGE, "The newest routing snapshot that a worker serves."),
    Family("sidegate_worker_cpu_seconds_total", COUNTER, "Processor time of workers, user and system.", ("worker",)),
    Family("sidegate_worker_resident_memory_bytes", GAUGE, "Resident memory of workers.", ("worker",)),
    Family("sidegate_worker_open_fds", GAUGE, "Open file descriptors of workers.", ("worker",)),
    Family("sidegate_build_info", GAUGE, "Always 1; the version is a label.", ("version",)),
)
