"""What the control plane and a worker say to each other. Every request carries a number and gets one reply with it."""

from collections.abc import Mapping, Sequence

import msgspec

from sidegate.core.sessions import Client, Listening, Session
from sidegate.proxy.limits import Limits

HTTP, HTTPS = "", ":https"
"""The listeners that are no database's; a name never looks like these."""


class Start(msgspec.Struct, tag=True, frozen=True):
    """The first message to a worker. One worker of all, the one with `probes`, asks replicas how they are.

    `limits` hold its share. `health` is what its predecessor found: replica id -> fault.
    """

    number: int
    limits: Limits
    probes: bool = False
    health: Mapping[str, str] = {}


class Publish(msgspec.Struct, tag=True, frozen=True):
    """Swap the routing snapshot; `routes` is a core.routes.Routes, encoded once for all workers."""

    number: int
    version: int
    routes: msgspec.Raw


class Certify(msgspec.Struct, tag=True, frozen=True):
    """Swap the certificates; connections that are there keep theirs. A core.certificates.CertificateSet, in JSON."""

    number: int
    certificates: msgspec.Raw


class Listen(msgspec.Struct, tag=True, frozen=True):
    """Accept on the socket that comes with this message; `listener` is HTTP, HTTPS or a database's name.

    `terms` are there for a database's, with this worker's part of its limits.
    """

    number: int
    listener: str
    terms: Listening | None = None


class Admit(msgspec.Struct, tag=True, frozen=True):
    """Other terms for a forwarder: sessions that they do not admit are cut, and the reply names them."""

    number: int
    database: str
    terms: Listening


class Kick(msgspec.Struct, tag=True, frozen=True):
    """Cut a client's sessions, all of an address or the one of an address and port; the reply names them."""

    number: int
    database: str
    client: str


class Close(msgspec.Struct, tag=True, frozen=True):
    """Stop a forwarder and cut its sessions; the reply counts them."""

    number: int
    database: str


class WriteLog(msgspec.Struct, tag=True, frozen=True):
    """Write the access log to the descriptor that comes with this message from now on; `on` False: none comes."""

    number: int
    on: bool


class ListSessions(msgspec.Struct, tag=True, frozen=True):
    number: int
    database: str


class Report(msgspec.Struct, tag=True, frozen=True):
    """Tell what was counted, before the reply."""

    number: int


class Ping(msgspec.Struct, tag=True, frozen=True):
    number: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """The reply to everything but ListSessions; `count` where there is something to count.

    `clients`: as whom the database knew those who were cut.
    """

    number: int
    count: int = 0
    clients: frozenset[Client] = frozenset()


class SessionList(msgspec.Struct, tag=True, frozen=True):
    number: int
    sessions: tuple[Session, ...]


class Note(msgspec.Struct, tag=True, frozen=True):
    """Something for the log; workers do not load a logger (it would double the time they take to start)."""

    event: str
    level: str
    detail: str = ""


class Health(msgspec.Struct, tag=True, frozen=True):
    """What the probing worker thinks of a replica from now on; `fault` is empty while it is well."""

    replica_id: str
    fault: str


class Refusal(msgspec.Struct, frozen=True):
    """A client that a forwarder refused, so many times for the same reason."""

    client: str
    reason: str
    times: int


class Refused(msgspec.Struct, tag=True, frozen=True):
    """Whom a forwarder refused since this was said last: how many for which reason.

    For the log some of them are in `seen`, and `others` counts those since it was last said that are not.
    """

    database: str
    reasons: Mapping[str, int]
    seen: tuple[Refusal, ...] = ()
    others: int = 0


class Used(msgspec.Struct, tag=True, frozen=True):
    """A forwarder's sessions in this worker: said again when one has begun or ended, at most once a second."""

    database: str
    sessions: int


class Counted(msgspec.Struct, tag=True, frozen=True):
    """What this worker has counted since it began, and how things stand: rows of core.tally. Also told unasked."""

    counters: Mapping[str, Sequence[float]]
    gauges: Mapping[str, Sequence[float]]


Request = Start | Publish | Certify | Listen | Admit | Kick | Close | WriteLog | ListSessions | Report | Ping
Reply = Done | SessionList
Told = Note | Health | Refused | Used | Counted
FromWorker = Reply | Told
