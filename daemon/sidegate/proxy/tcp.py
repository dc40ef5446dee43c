"""The userspace TCP forwarder: public port to database, with a list of its sessions. Knows no database protocol.

A database's TLS begins inside its own protocol, so bytes are passed on and nothing is wrapped. To the database all
clients are one address, which it may lock out for what a few of them do; so nobody reaches it who may not come in, or
is gone before it is dialled.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine

from sidegate.core.gates import ALLOWED, OVER_A_LIMIT, OVER_THE_RATE, AccessList, Gate, Verdict, parse_address
from sidegate.core.routes import DatabaseTarget
from sidegate.core.sessions import Cut, Listening, Session
from sidegate.proxy.address_limits import AddressLimits
from sidegate.proxy.metrics import ForwarderMeter
from sidegate.proxy.refusals import Refusals
from sidegate.proxy.relay import join
from sidegate.proxy.session import ForwardedSession
from sidegate.proxy.sockets import end_with_reset, reset, tune_dialled

NOT_RUNNING = "the database does not run"
NO_ANSWER = "the database does not answer"
GONE = "it left before its session began"
UNREACHABLE = "the database cannot be reached"

_COUNTED_AS = {
    NOT_RUNNING: "not_running",
    NO_ANSWER: "no_answer",
    GONE: "client_left",
    UNREACHABLE: "unreachable",
    OVER_A_LIMIT.reason: "limit",
    OVER_THE_RATE.reason: "limit",
}


class Forwarder:
    """One database's forwarder in this worker. `target` is asked anew for each client."""

    def __init__(
        self,
        name: str,
        terms: Listening,
        *,
        target: Callable[[], DatabaseTarget | None],
        spawn: Callable[[Coroutine[None, None, None], str], asyncio.Task[None]],
        connect: float,
        refusals: Refusals,
        meter: ForwarderMeter | None = None,
    ) -> None:
        """`terms` hold this worker's part of the gate's limits. `connect`: seconds for a dial, which `sweep` ends.
        `meter` goes on counting where an earlier forwarder of this database left off."""
        self.name = name
        self._terms = terms
        self._access = AccessList(terms.gate)
        self._for_all = _for_all(terms.gate)
        self._limits = AddressLimits(terms.gate)
        self._target = target
        self._spawn = spawn
        self._connect = connect
        self._refusals = refusals
        self._meter = meter or ForwarderMeter()
        self._loop = asyncio.get_running_loop()
        self._sessions: set[ForwardedSession] = set()
        self._dialling: dict[ForwardedSession, tuple[float, DatabaseTarget]] = {}  # until when, and whom
        self._used = False  # since it was asked last
        self._closed = False

    def __repr__(self) -> str:
        return f"<Forwarder {self.name} sessions={len(self._sessions)}{' closed' if self._closed else ''}>"

    @property
    def count(self) -> int:
        """Sessions that are there, and those on their way to the database."""
        return len(self._sessions)

    def accepted(self, sock: socket.socket) -> None:
        """Take a client; never waits. One that may not come in, or whose database does not run, is reset at once."""
        try:
            peer = sock.getpeername()
            own = _plain(sock.getsockname()[0]) if self._terms.kernel else ""
        except OSError:
            sock.close()  # gone already
            return
        address, target = _plain(peer[0]), self._target()
        if self._closed:
            _refuse(sock)
            return
        reason = self._fault(address, own)
        if not reason and (target is None or not target.address):
            reason = NOT_RUNNING
        if not reason and _gone(sock):
            reason = GONE
        if not reason:
            reason = self._limits.enter(address, self._loop.time()).reason
        if reason or target is None:
            self._refused(address, reason)
            _refuse(sock)
            return
        session = ForwardedSession(self.name, address, peer[1], self._forget)
        self._sessions.add(session)
        self._spawn(self._serve(session, sock, target), f"session {self.name}")

    def admit(self, terms: Listening) -> Cut:
        """Go by other terms: sessions that they do not admit are cut, the rest go on; returns which were cut.

        Who has more sessions than a new limit lets him have keeps them.
        """
        if terms.gate != self._terms.gate:
            self._access = AccessList(terms.gate)
            self._for_all = _for_all(terms.gate)
            self._limits = AddressLimits(terms.gate, (session.address for session in self._sessions))
        self._terms = terms
        strangers = self._access.refused({session.address for session in self._sessions})
        return self._cut(lambda session: session.address in strangers)

    def kick(self, client: str) -> Cut:
        """Cut the sessions of an address, or the one of an address and port; returns which there were."""
        address = parse_address(client)
        return self._cut(lambda session: session.name == client or parse_address(session.address) == address)

    def bytes(self) -> tuple[int, int]:
        """From the clients that are there now, and to them."""
        both = [session.bytes for session in self._sessions]
        return sum(received for received, _ in both), sum(sent for _, sent in both)

    def sessions(self) -> list[Session]:
        return [session.seen() for session in self._sessions if not session.cut]

    def sweep(self) -> bool:
        """One second has gone by: give up dials that took too long, or whose database has gone from there meanwhile.

        Returns whether a session has begun or ended since the last time.
        """
        now, target = self._loop.time(), self._target()
        for session, (until, dialled) in list(self._dialling.items()):
            if not session.cut and (until <= now or dialled != target):
                self._refused(session.address, NO_ANSWER)
                session.abort()
        self._limits.sweep(now)
        used, self._used = self._used, False
        return used

    def close(self) -> int:
        """Cut every session, both ends with a RST; returns how many there were."""
        self._closed = True
        sessions = self._going(lambda _: True)
        for session in sessions:
            session.abort()
        return len(sessions)

    def _fault(self, address: str, own: str) -> str:
        """Why this client may not come in by the gate; empty when it may."""
        verdict = ALLOWED if self._for_all else self._access.admits(address)
        if verdict.allowed and self._terms.kernel and (limited := self._limited_by_kernel(address, own)) is not None:
            verdict = limited
        return verdict.reason

    def _limited_by_kernel(self, address: str, own: str) -> Verdict | None:
        """A client whom the kernel would have carried, had it not been one too many.

        It carries IPv4 from elsewhere. Where nothing is limited such a client comes only while its rules are missing.
        """
        gate = self._terms.gate
        if ":" in address or address.startswith("127.") or address == own:
            return None
        if gate.max_sessions:
            return OVER_A_LIMIT
        return OVER_THE_RATE if gate.max_new else None

    async def _serve(self, session: ForwardedSession, sock: socket.socket, target: DatabaseTarget) -> None:
        try:
            if session.cut:
                _refuse(sock)
            else:
                await self._open(session, sock, target)
        finally:
            session.settle()

    async def _open(self, session: ForwardedSession, sock: socket.socket, target: DatabaseTarget) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: session.client, sock)
        except OSError:
            sock.close()  # gone already
            return
        if session.cut:
            session.client.abort()
            return
        session.dialling = asyncio.current_task()
        self._dialling[session] = self._loop.time() + self._connect, target
        try:
            transport, _ = await self._loop.create_connection(lambda: session.server, target.address, target.port)
        except OSError as error:
            self._refused(session.address, f"{UNREACHABLE}: {os.strerror(error.errno or errno.EIO).lower()}")
            session.unreached()
            return
        except asyncio.CancelledError:
            session.unreached()
            raise
        finally:
            session.dialling = None
            self._dialling.pop(session, None)
        tune_dialled(transport)
        if session.client.transport is None:
            reset(transport)
            return
        self._used = True
        self._meter.sessions += 1
        join(session.client, session.server)

    def _refused(self, address: str, reason: str) -> None:
        self._meter.refused[_COUNTED_AS.get(reason.partition(":")[0], "denied")] += 1
        self._refusals.note(self.name, address, reason)

    def _cut(self, chosen: Callable[[ForwardedSession], bool]) -> Cut:
        sessions = self._going(chosen)
        clients = frozenset(masked for session in sessions if (masked := session.masked))
        for session in sessions:
            session.abort()
        return Cut(len(sessions), clients)

    def _going(self, chosen: Callable[[ForwardedSession], bool]) -> list[ForwardedSession]:
        return [session for session in self._sessions if not session.cut and chosen(session)]

    def _forget(self, session: ForwardedSession) -> None:
        self._sessions.discard(session)
        self._limits.leave(session.address)
        received, sent = session.bytes
        self._meter.received += received
        self._meter.sent += sent
        self._used = True


def _for_all(gate: Gate) -> bool:
    return gate.open_to_anybody and not gate.deny


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def _refuse(sock: socket.socket) -> None:
    end_with_reset(sock)
    sock.close()


def _gone(sock: socket.socket) -> bool:
    """Whether the client has ended already without a word, as one that only looks for open ports does."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
