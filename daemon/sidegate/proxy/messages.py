"""What the control plane and a worker say to each other. Every request carries a number and gets one reply with it."""

import msgspec

from sidegate.core.sessions import Session
from sidegate.proxy.limits import Limits


class Start(msgspec.Struct, tag=True, frozen=True):
    """The first message to a worker."""

    number: int
    limits: Limits


class Publish(msgspec.Struct, tag=True, frozen=True):
    """Swap the routing snapshot; `routes` is a core.routes.Routes, encoded once for all workers."""

    number: int
    version: int
    routes: msgspec.Raw


class Listen(msgspec.Struct, tag=True, frozen=True):
    """Accept on the socket that comes with this message; `database` empty: HTTP."""

    number: int
    database: str


class Close(msgspec.Struct, tag=True, frozen=True):
    """Stop a forwarder and cut its sessions; the reply counts them."""

    number: int
    database: str


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


Request = Start | Publish | Listen | Close | ListSessions | Ping
Reply = Done | SessionList
FromWorker = Reply | Note
