"""The parent side of the TCP forwarders: their ports, their terms, what the workers tell of them."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from structlog.typing import FilteringBoundLogger

from sidegate.core.gates import Gate
from sidegate.core.sessions import Cut, Listening, Session, Usage
from sidegate.proxy import messages
from sidegate.proxy.child import Slot, WorkerLostError
from sidegate.proxy.crew import Crew, together
from sidegate.proxy.ports import shut
from sidegate.proxy.steering import release, steer


@dataclass(slots=True)
class _Open:
    """`steered`: an address's connections all come to one worker, so that it alone can count them."""

    terms: Listening
    sockets: list[socket.socket]
    steered: bool
    active: float  # when a session was seen last
    refused: Counter[str] = field(default_factory=Counter)
    sessions: dict[int, int] = field(default_factory=dict)  # by worker


class Forwarders:
    """All open forwarders, by database. `bind` gives a socket for each of the crew; see ports.bind_group."""

    def __init__(
        self, crew: Crew, bind: Callable[[int], Awaitable[list[socket.socket]]], log: FilteringBoundLogger
    ) -> None:
        self._crew = crew
        self._bind = bind
        self._log = log
        self._open: dict[str, _Open] = {}

    def __repr__(self) -> str:
        return f"<Forwarders {sorted(self._open)}>"

    def listeners(self) -> Mapping[str, Listening]:
        return {name: forwarder.terms for name, forwarder in self._open.items()}

    def listen(self, database: str) -> Callable[[int], messages.Request]:
        """What tells a worker to accept its clients, on the terms of the moment when it is told."""
        return lambda number: messages.Listen(number, database, self._part(self._open[database]))

    async def open(self, database: str, gate: Gate, kernel: bool) -> Cut:
        """As DataPlane.open_forwarder. Raises PortInUseError or DataPlaneError; then nothing is open."""
        present = self._open.get(database)
        if present is not None and present.terms.gate.port == gate.port:
            if present.terms == (wanted := Listening(gate, kernel)):
                return Cut()
            return await self._swap(database, present, wanted)
        await self.close(database)
        sockets = await self._bind(gate.port)
        gate = replace(gate, port=sockets[0].getsockname()[1])
        now = asyncio.get_running_loop().time()
        self._open[database] = _Open(Listening(gate, kernel), sockets, _steered(sockets, gate), now)
        for slot, sock in zip(self._crew.slots, sockets, strict=True):
            slot.sockets[database] = sock
        try:
            await self._crew.bring(self.listen(database))
        except BaseException:
            await self.close(database)
            raise
        return Cut()

    async def close(self, database: str) -> int:
        """As DataPlane.close_forwarder."""
        forwarder = self._open.pop(database, None)
        if forwarder is None:
            return 0
        for slot in self._crew.slots:
            slot.sockets.pop(database, None)
        shut(forwarder.sockets)
        return _cut(await self._ask(lambda number: messages.Close(number, database))).count

    async def sessions(self, database: str) -> tuple[Session, ...]:
        """Live sessions over all workers, oldest first. A worker that was just lost has none."""
        replies = await self._ask(lambda number: messages.ListSessions(number, database))
        found = [session for reply in replies if isinstance(reply, messages.SessionList) for session in reply.sessions]
        return tuple(sorted(found, key=lambda session: session.since))

    async def kick(self, database: str, client: str) -> Cut:
        """As DataPlane.kick."""
        if database not in self._open:
            return Cut()
        return _cut(await self._ask(lambda number: messages.Kick(number, database, client)))

    def refusals(self, database: str) -> Mapping[str, int]:
        forwarder = self._open.get(database)
        return dict(forwarder.refused) if forwarder is not None else {}

    def usage(self, database: str) -> Usage:
        forwarder = self._open.get(database)
        if forwarder is None:
            return Usage(0, 0.0)
        sessions = sum(forwarder.sessions.values())
        return Usage(sessions, 0.0 if sessions else asyncio.get_running_loop().time() - forwarder.active)

    def used(self, worker: int, database: str, sessions: int) -> None:
        """A worker tells how many sessions it has."""
        if (forwarder := self._open.get(database)) is not None:
            forwarder.sessions[worker] = sessions
            forwarder.active = asyncio.get_running_loop().time()

    def refused(self, worker: int, told: messages.Refused) -> None:
        """A worker tells whom it refused."""
        if (forwarder := self._open.get(told.database)) is not None:
            forwarder.refused.update(told.reasons)
        for one in told.seen:
            self._log.info(
                "external connection refused",
                database=told.database,
                client=one.client,
                reason=one.reason,
                times=one.times,
                worker=worker,
            )
        if told.others:
            self._log.info(
                "other external connections refused", database=told.database, times=told.others, worker=worker
            )

    def lost(self, worker: int) -> None:
        """A worker is gone, and its sessions with it."""
        for name, forwarder in self._open.items():
            if forwarder.sessions.get(worker):
                self.used(worker, name, 0)

    def clear(self) -> None:
        """Forget all; their sockets are whoever's that stops the crew."""
        self._open.clear()

    async def _swap(self, database: str, forwarder: _Open, wanted: Listening) -> Cut:
        forwarder.terms = wanted  # first, for a worker that starts meanwhile
        if _limited(wanted.gate) != forwarder.steered:
            release(forwarder.sockets)
            forwarder.steered = _steered(forwarder.sockets, wanted.gate)
        terms = self._part(forwarder)
        return _cut(await self._crew.bring(lambda number: messages.Admit(number, database, terms)))

    def _part(self, forwarder: _Open) -> Listening:
        """The terms for one worker: an even part of the limits where any worker may get any connection."""
        terms = forwarder.terms
        if forwarder.steered or not _limited(terms.gate):
            return terms
        workers = len(self._crew.slots)
        gate = replace(
            terms.gate, max_sessions=-(-terms.gate.max_sessions // workers), max_new=-(-terms.gate.max_new // workers)
        )
        return replace(terms, gate=gate)

    async def _ask(self, make: Callable[[int], messages.Request]) -> list[messages.Reply | None]:
        """Each worker's reply; None for one that is gone, or goes because it does not answer."""

        async def ask(slot: Slot) -> messages.Reply | None:
            if slot.gone.is_set():
                return None
            try:
                return await slot.call(make)
            except WorkerLostError:
                return None

        return await together(ask(slot) for slot in self._crew.slots)


def _cut(replies: Iterable[messages.Reply | None]) -> Cut:
    """What the workers cut, together."""
    done = (reply for reply in replies if isinstance(reply, messages.Done))
    return sum((Cut(reply.count, reply.clients) for reply in done), Cut())


def _limited(gate: Gate) -> bool:
    return bool(gate.max_sessions or gate.max_new)


def _steered(sockets: list[socket.socket], gate: Gate) -> bool:
    return _limited(gate) and steer(sockets)
