"""What the data plane tells about itself: live forwarder sessions and worker processes. Values only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Session:
    """One client of a forwarder. Bytes as the client counts them; `since` is a Unix time in seconds."""

    database: str
    client: str
    since: float
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker process. `state` is starting, serving or draining; `version` the routes it acknowledged last."""

    slot: int
    pid: int
    state: str
    version: int
    restarts: int
