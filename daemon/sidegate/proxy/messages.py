"""What the control plane and a worker say to each other. Every request carries a number and gets one reply with it."""

from collections.abc import Mapping

import msgspec

from sidegate.core.sessions import Session
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
    """Accept on the socket that comes with this message; `listener` is HTTP, HTTPS or a database's name."""

    number: int
    listener: str


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


class Ping(msgspec.Struct, tag=True, frozen=True):
    number: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """The reply to everything but ListSessions; `count` where there is something to count."""

    number: int
    count: int = 0


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


Request = Start | Publish | Certify | Listen | Close | WriteLog | ListSessions | Ping
Reply = Done | SessionList
FromWorker = Reply | Note | Health
