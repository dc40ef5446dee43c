"""From an accepted socket to a served client: admission, the refusal of one who has too many, the TLS handshake.

One per public HTTP listener of a worker. Reads no byte of HTTP.
"""

import asyncio
import collections
import contextlib
import socket
import ssl
import time

from sidegate.proxy.admission import Admission
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.http1 import ClientConnection
from sidegate.proxy.listener import Listener
from sidegate.proxy.secure import SecureConnection

_REFUSED = 32  # sockets of refused clients that wait until these have read why
_DRAINED = 65536
_SHUTDOWN = 5.0  # seconds for a client's end of TLS
_TEXT = b"Too many connections from your address.\n"
_TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
    b"Cache-Control: no-store\r\nRetry-After: 5\r\nConnection: close\r\n\r\n%b" % (len(_TEXT), _TEXT)
)


class Acceptor:
    """Serves what comes on `sock`, over TLS where there is a `context`.

    `accepted` counts connections that were let in, `refused` those of clients who had their share; `shaken` TLS
    handshakes that were made, `failed` those that came to nothing.
    """

    def __init__(
        self, sock: socket.socket, gateway: Gateway, admission: Admission, context: ssl.SSLContext | None = None
    ) -> None:
        self._gateway = gateway
        self._admission = admission
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._refused: collections.deque[tuple[float, socket.socket]] = collections.deque()
        self.secure = context is not None
        self.accepted = 0
        self.refused = 0
        self.shaken = 0
        self.failed = 0
        plain = context is None and not admission.per_client
        self._listener = Listener(
            sock,
            self._accepted,
            serve=self._serve if plain else None,
            swift=self._swift,
            full=self._full,
        )

    def __repr__(self) -> str:
        return f"<Acceptor {self._listener!r} opening={len(self._opening)} failed={self.failed} refused={self.refused}>"

    def sweep(self) -> None:
        """One second has gone by."""
        self._listener.sweep()
        now = time.monotonic()
        while self._refused and self._refused[0][0] <= now:
            self._hang_up(self._refused.popleft()[1])

    def close(self) -> None:
        """Refuse from now on, and end handshakes that are under way."""
        self._listener.close()
        for task in list(self._opening):
            task.cancel()
        while self._refused:
            self._hang_up(self._refused.popleft()[1])

    def _full(self) -> bool:
        """Whether there is no room; then idle clients are asked to leave it to others."""
        admission = self._admission
        if not admission.full:
            return False
        self._gateway.shed(admission.shed)
        return True

    def _swift(self) -> bool:
        return self._admission.ample

    def _serve(self) -> ClientConnection:
        """For a connection that the event loop accepted: no task, no address, no look at its socket."""
        admission = self._admission
        admission.enter()
        self.accepted += 1
        return ClientConnection(self._gateway, ended=admission.leave)

    def _accepted(self, sock: socket.socket) -> None:
        seat = _Seat(self._admission)
        if self._admission.per_client:
            try:
                seat.address, seat.own = sock.getpeername()[0], sock.getsockname()[0]
            except OSError:
                sock.close()  # gone already
                return
        if not self._admission.enter(seat.address, seat.own):
            self._refuse(sock)
            return
        self.accepted += 1
        task = self._gateway.spawn(self._open(sock, seat), "accept")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, sock: socket.socket, seat: "_Seat") -> None:
        secure = self._context is not None
        kind = SecureConnection if secure else ClientConnection
        try:
            await self._loop.connect_accepted_socket(
                lambda: kind(self._gateway, ended=seat.leave),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._gateway.limits.head if secure else None,
                ssl_shutdown_timeout=_SHUTDOWN if secure else None,
            )
        except OSError:  # a scanner's handshake, one that took too long, or a client that is gone already
            self.failed += secure
            self._give_up(sock, seat)
        except BaseException:
            self._give_up(sock, seat)
            raise
        else:
            self.shaken += secure

    def _give_up(self, sock: socket.socket, seat: "_Seat") -> None:
        sock.close()
        seat.leave()

    def _refuse(self, sock: socket.socket) -> None:
        """Say why and close: a moment later, since a close with unread data would take back what was said."""
        self.refused += 1
        if self._context is not None:
            sock.close()
            return
        try:
            sock.send(_TOO_MANY)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        self._refused.append((time.monotonic() + 1, sock))
        if len(self._refused) > _REFUSED:
            self._hang_up(self._refused.popleft()[1])

    def _hang_up(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.recv(_DRAINED)
        sock.close()


class _Seat:
    """One connection's place, given back once, whoever is first to see its end."""

    __slots__ = ("_admission", "_taken", "address", "own")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._taken = True
        self.address = ""
        self.own = ""

    def leave(self) -> None:
        if self._taken:
            self._taken = False
            self._admission.leave(self.address, self.own)
