"""The userspace TCP forwarder: public port to database, with a list of its sessions. Knows no database protocol.

A database's TLS begins inside its own protocol, so bytes are passed on and nothing is wrapped.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine

from sidegate.core.routes import DatabaseTarget
from sidegate.core.sessions import Session
from sidegate.proxy.relay import RelayEnd, join
from sidegate.proxy.sockets import end_with_reset, reset, tune


class _Session:
    """A client and, once dialled, its database."""

    def __init__(self, name: str, forget: Callable[["_Session"], None]) -> None:
        self._name = name
        self._forget = forget
        self._since = time.time()
        self._client_name = ""
        self.client = RelayEnd(self._ended)
        self.database = RelayEnd(self._ended)

    def named(self, peer: tuple[str, int]) -> None:
        host = peer[0].removeprefix("::ffff:")
        self._client_name = f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}"

    def seen(self) -> Session:
        return Session(self._name, self._client_name, self._since, self.client.received, self.database.received)

    def abort(self) -> None:
        self.client.abort()
        self.database.abort()

    def _ended(self, _end: RelayEnd) -> None:
        if self.client.transport is None and self.database.transport is None:
            self._forget(self)


class Forwarder:
    """One database's forwarder in this worker. `target` is asked anew for each client."""

    def __init__(
        self,
        name: str,
        target: Callable[[], DatabaseTarget | None],
        spawn: Callable[[Coroutine[None, None, None], str], asyncio.Task[None]],
        connect: float,
    ) -> None:
        self.name = name
        self._target = target
        self._spawn = spawn
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._sessions: set[_Session] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._closed = False

    def accepted(self, sock: socket.socket) -> None:
        """Take a client; never waits. One whose database does not run is reset at once."""
        target = self._target()
        if self._closed or target is None or not target.address:
            end_with_reset(sock)
            sock.close()
            return
        task = self._spawn(self._serve(sock, target), f"session {self.name}")
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _serve(self, sock: socket.socket, target: DatabaseTarget) -> None:
        session = _Session(self.name, self._sessions.discard)
        try:
            session.named(sock.getpeername())
            await self._loop.connect_accepted_socket(lambda: session.client, sock)
        except OSError:
            sock.close()  # gone already
            return
        self._sessions.add(session)
        try:
            async with asyncio.timeout(self._connect):
                transport, _ = await self._loop.create_connection(lambda: session.database, target.address, target.port)
            tune(transport.get_extra_info("socket"))
        except OSError:  # TimeoutError is one
            session.client.abort()
            return
        except asyncio.CancelledError:
            session.abort()
            raise
        if session.client.transport is None:
            reset(transport)
        else:
            join(session.client, session.database)

    def sessions(self) -> list[Session]:
        return [session.seen() for session in self._sessions]

    def close(self) -> int:
        """Cut every session, both ends with a RST; returns how many there were."""
        self._closed = True
        count = len(self._sessions)
        for task in list(self._dials):
            task.cancel()
        for session in list(self._sessions):
            session.abort()
        return count
