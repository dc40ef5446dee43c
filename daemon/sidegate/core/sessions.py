"""What the data plane tells about itself: forwarders, their live sessions, worker processes. Values only."""

from dataclasses import dataclass

from sidegate.core.gates import Gate

Client = tuple[str, int]
"""A client's address and port."""


@dataclass(frozen=True, slots=True)
class Listening:
    """An open forwarder. `kernel`: the kernel carries whom it can, and what is left comes here."""

    gate: Gate
    kernel: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """How much an open forwarder is used: `sessions` now, and for how many seconds there has been none (0: some)."""

    sessions: int
    idle: float


@dataclass(frozen=True, slots=True)
class Session:
    """One client of a forwarder. Bytes as the client counts them; `since` is a Unix time in seconds.

    `masked` and `masked_port` are what the database sees as its client; empty until it is reached.
    """

    database: str
    client: str
    since: float
    bytes_sent: int
    bytes_received: int
    masked: str = ""
    masked_port: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Sessions that were cut: how many, and as whom their database knew those that had reached it."""

    count: int = 0
    clients: frozenset[Client] = frozenset()

    def __add__(self, other: "Cut") -> "Cut":
        return Cut(self.count + other.count, self.clients | other.clients)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker process. `state` is starting, serving or draining; `version` the routes it acknowledged last."""

    slot: int
    pid: int
    state: str
    version: int
    restarts: int
