"""Accepting on one listening socket. Survives running out of files and memory, and stops at a word."""

import asyncio
import errno
import socket
from collections.abc import Callable

_BATCH = 64  # connections taken before others get a turn
_BACKLOG = 4096
_PAUSE = 0.1  # seconds without accepting when the process is out of something
_SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _never() -> bool:
    return False


class Listener:
    """Calls `accepted` with each connection of `sock`, a listening socket that it owns from now on.

    With `serve` it lets the event loop accept while `swift()` holds, which costs a fifth of it: `serve` makes the
    protocol of each connection. The loop's own way closes clients that it has no files left for and cannot see that
    its socket was shut down, so `swift` must be False where files may run out, and `sweep` be called now and then.
    While `full()`, new connections are left in the backlog.
    """

    def __init__(
        self,
        sock: socket.socket,
        accepted: Callable[[socket.socket], None],
        *,
        serve: Callable[[], asyncio.BaseProtocol] | None = None,
        swift: Callable[[], bool] = _never,
        full: Callable[[], bool] = _never,
    ) -> None:
        self._sock = sock
        self._accepted = accepted
        self._serve = serve
        self._swift = swift
        self._full = full
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._changing: asyncio.Handle | None = None
        sock.setblocking(False)
        self._begin()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "paused" if self.paused else "swift" if self._server else "listening"
        return f"<Listener {state}>"

    @property
    def paused(self) -> bool:
        return self._resume is not None

    @property
    def swift(self) -> bool:
        return self._server is not None

    @property
    def closed(self) -> bool:
        return self._sock.fileno() == -1

    def pause(self, seconds: float = _PAUSE) -> None:
        """Leave new connections in the backlog for a moment."""
        if self._resume is None and not self.closed:
            self._halt()
            self._resume = self._loop.call_later(seconds, self._go_on)

    def take(self) -> None:
        """Accept at once who waits in the backlog; only while it does the accepting."""
        if self._resume is None and self._server is None and not self.closed:
            self._accept()

    def sweep(self) -> None:
        """Notice a socket that its parent shut down, and return to the swift way; call it about once a second."""
        if self.closed:
            return
        if not self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self.close()
        elif self._resume is None and (self._server is None) == self._may_be_swift():
            self._halt()
            self._begin()

    def close(self) -> None:
        """Refuse from now on. Safe to call twice."""
        if not self.closed:
            self._halt()
            self._sock.close()

    def _may_be_swift(self) -> bool:
        return self._serve is not None and self._swift()

    def _begin(self) -> None:
        if not self._may_be_swift() or not self._let_loop_accept():
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _let_loop_accept(self) -> bool:
        """False: there is no file left for it."""
        try:
            sock = self._sock.dup()
        except OSError:
            return False
        # With a socket there is nothing to wait for: the coroutine ends at its first step.
        opening = self._loop.create_server(self._protocol, sock=sock, backlog=_BACKLOG)
        try:
            opening.send(None)
        except StopIteration as opened:
            self._server = opened.value
        except OSError:
            sock.close()
            return False
        return True

    def _halt(self) -> None:
        for waiting in (self._resume, self._changing):
            if waiting is not None:
                waiting.cancel()
        self._changing = None
        if self._resume is not None:
            self._resume = None
        elif self._server is not None:
            self._server.close()
            self._server = None
        else:
            self._loop.remove_reader(self._sock.fileno())

    def _go_on(self) -> None:
        if self._full():
            self._resume = self._loop.call_later(_PAUSE, self._go_on)
        else:
            self._resume = None
            self._begin()

    def _protocol(self) -> asyncio.BaseProtocol:
        assert self._serve is not None
        protocol = self._serve()
        if self._changing is None and not self._swift():
            self._changing = self._loop.call_soon(self._change)  # not before the loop is done with this one
        return protocol

    def _change(self) -> None:
        self._changing = None
        if self._full():
            self.pause()
        elif self._server is not None:
            self._halt()
            self._begin()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            if self._full():
                self.pause()
                return
            try:
                connection, _address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORT_OF:
                    self.pause()
                elif error.errno == errno.EINVAL:
                    self.close()  # shut down by the parent
                    return
                else:
                    continue  # that client is gone already
                return
            connection.setblocking(False)
            self._accepted(connection)
            if self._resume is not None:
                return
