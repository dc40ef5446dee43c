"""One daemon per instance: abstract unix sockets (unix(7)), held for as long as the process lives.

What an instance has on an engine, its networks above all, is told by the instance's name alone, and so is what it has
in a host's firewall: two daemons of one name would undo each other's work for ever, whatever directories they have. The
kernel lets such a socket go with its process, so nothing is ever left of one. Abstract names are those of a network
namespace: who is in another one is not met.

Anybody may bind them. So root believes root alone, others believe root and themselves (SO_PEERCRED); whoever else holds
a name keeps nobody from starting. A daemon that is not root's yields to one that is.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import pwd
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sidegate.core.model import Problem
from sidegate.errors import AlreadyRunningError
from sidegate.log import get_logger

PATIENCE = 1.0
"""Seconds that a holder may take to listen and to have room, and as many to say which directories it has."""
RETRY_SECONDS = 5.0
"""How often a name that a stranger holds is tried again."""
BACKLOG = 64
SAID_MOST = 1000
CREDENTIALS = "3i"
HOST, ENGINE = "host", "engine"
WHERE = {HOST: "on this host", ENGINE: "on this Docker engine"}
APART = (
    "start this one with SIDEGATE_INSTANCE=NAME (the setting `instance`): it then has the containers with the label "
    "sidegate.instance=NAME, and leaves all others to that one"
)

log = get_logger("sidegate.instance")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a name. `pid` 0: it cannot be seen from here; `uid` -1: neither can this. `said` is what it answers."""

    pid: int = 0
    uid: int = -1
    said: str = ""

    def __str__(self) -> str:
        words = (f"pid {self.pid}" if self.pid else "", f"user {_user(self.uid)}" if self.uid >= 0 else "", self.said)
        return ", ".join(filter(None, words))


class Instance:
    """The right to be an instance's daemon. `directories`: what others are told, by the names of the settings."""

    def __init__(self, name: str, directories: Mapping[str, object] | None = None) -> None:
        self._name = name
        self._says = ", ".join(f"{key} {value}" for key, value in (directories or {}).items())
        self._believed = frozenset({0, os.geteuid()})
        self._held: dict[str, socket.socket] = {}
        self._wanted: dict[str, str] = {}
        self._faults: dict[str, str] = {}
        self._ousted: asyncio.Future[Holder] = asyncio.get_running_loop().create_future()
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Instance {self._name} held={sorted(self._held)} faults={len(self._faults)}>"

    async def hold_host(self) -> None:
        """Be the only one that has this instance's rules in the host's firewall. Raises AlreadyRunningError."""
        async with self._turn:
            await self._take(HOST, "")

    async def hold_engine(self, identity: str) -> None:
        """Be the only one that has this instance's networks on the engine of that id. Holding it already is success;
        that of another engine is let go of. Raises AlreadyRunningError."""
        digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
        async with self._turn:
            if self._wanted.get(ENGINE) != digest:
                self._release(ENGINE)
                await self._take(ENGINE, digest)

    def problems(self) -> list[Problem]:
        """What keeps this daemon from knowing that it is the only one."""
        return [Problem("host", text) for text in self._faults.values()]

    async def run(self, wake: Callable[[], None] = lambda: None) -> None:
        """Try again what somebody else holds, until cancelled, and `wake` when it is this daemon's. Raises
        AlreadyRunningError where it has become another daemon's, and where this one is to give way."""
        while True:
            await asyncio.wait((self._ousted,), timeout=RETRY_SECONDS)
            if self._ousted.done():
                raise AlreadyRunningError(
                    f"a sidegate daemon of root's ({self._ousted.result()}) has come up with the instance "
                    f"{self._name!r}, and this one gives way: stop that one, or {APART}"
                )
            async with self._turn:
                for scope in list(self._faults):
                    await self._take(scope, self._wanted[scope])
                    if scope in self._held:
                        wake()

    def close(self) -> None:
        """Let go of everything. Safe to call twice."""
        for scope in list(self._held):
            self._release(scope)

    async def _take(self, scope: str, detail: str) -> None:
        name = f"\0sidegate/{self._name}/{scope}/{detail}"
        try:
            found = await asyncio.to_thread(_claim, name)
        except OSError as error:
            self._wanted[scope] = detail
            self._doubt(scope, f"whether another daemon of the instance {self._name!r} runs cannot be told: {error}")
            return
        if isinstance(found, Holder) and found.uid in self._believed:
            raise AlreadyRunningError(
                f"another sidegate daemon ({found}) has the instance {self._name!r} {WHERE[scope]}, and two would undo "
                f"each other's work: stop that one, or {APART}"
            )
        self._wanted[scope] = detail
        if isinstance(found, socket.socket):
            self._held[scope] = found
            if self._faults.pop(scope, ""):
                log.info("instance held", instance=self._name, scope=scope)
            asyncio.get_running_loop().add_reader(found, self._answer, found)
        else:
            believed = " nor ".join(map(_user, sorted(self._believed)))
            seen = str(Holder(found.pid, found.uid)) or "not seen from here"  # what a stranger says is not repeated
            self._doubt(
                scope,
                f"somebody ({seen}) who is not {believed} holds the name by which "
                f"daemons of the instance {self._name!r} {WHERE[scope]} know of each other; this one runs all the "
                "same. Should that be a sidegate daemon, the two undo each other's work: stop it, or give it an "
                "instance of its own",
            )

    def _doubt(self, scope: str, text: str) -> None:
        if self._faults.get(scope) != text:
            log.warning("instance not held", instance=self._name, scope=scope, reason=text)
        self._faults[scope] = text

    def _release(self, scope: str) -> None:
        self._faults.pop(scope, None)
        if held := self._held.pop(scope, None):
            asyncio.get_running_loop().remove_reader(held)
            held.close()

    def _answer(self, listener: socket.socket) -> None:
        """Somebody asks who we are: another daemon that would start."""
        try:
            asking, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # the name is held all the same, and says less
            asyncio.get_running_loop().remove_reader(listener)
            log.warning("instance not told any more", error=str(error))
            return
        with asking:
            asking.setblocking(False)
            holder = _peer(asking)
            with contextlib.suppress(OSError):  # whoever does not wait for it knows pid and user
                asking.send(self._says.encode(errors="replace")[:SAID_MOST])
        if holder.uid == 0 and os.geteuid() != 0 and not self._ousted.done():
            self._ousted.set_result(holder)


def _claim(name: str) -> socket.socket | Holder:
    """Blocks, for twice PATIENCE at most. The listening socket of that name, or who has it. Raises OSError."""
    until = time.monotonic() + PATIENCE
    while True:
        if (bound := _bind(name)) is not None:
            return bound
        if (holder := _ask(name)) is not None:
            return holder
        if time.monotonic() > until:
            return Holder()
        time.sleep(0.01)  # bound and not listening yet, too busy, or gone meanwhile


def _bind(name: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return sock


def _ask(name: str) -> Holder | None:
    """Who listens there; None where nobody does now, or has room for us (connect never waits: unix(7))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(name)
        except OSError:
            return None
        holder = _peer(sock)
        try:
            said = sock.recv(SAID_MOST).decode(errors="replace")
        except OSError:
            return holder
    return Holder(holder.pid, holder.uid, "".join(c if c.isprintable() else "?" for c in said))


def _peer(sock: socket.socket) -> Holder:
    """Who listened, or who connected, when that was done (unix(7), SO_PEERCRED)."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(CREDENTIALS))
    pid, uid, _ = struct.unpack(CREDENTIALS, found)
    return Holder(pid, uid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)
