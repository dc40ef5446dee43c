"""Accepting on one listening socket. Survives running out of files and memory, and stops at a word."""

import asyncio
import errno
import socket
from collections.abc import Callable

_BATCH = 64  # connections taken before others get a turn
_PAUSE = 0.1  # seconds without accepting when the process is out of something
_SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Calls `accepted` with each connection of `sock`, a listening socket that it owns from now on."""

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        self._sock = sock
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._accept)

    def pause(self, seconds: float = _PAUSE) -> None:
        """Leave new connections in the backlog for a moment."""
        if self._resume is None and self._sock.fileno() != -1:
            self._loop.remove_reader(self._sock.fileno())
            self._resume = self._loop.call_later(seconds, self._go_on)

    @property
    def paused(self) -> bool:
        return self._resume is not None

    def close(self) -> None:
        """Refuse from now on. Safe to call twice."""
        if self._sock.fileno() != -1:
            if self._resume is None:
                self._loop.remove_reader(self._sock.fileno())
            else:
                self._resume.cancel()
            self._sock.close()

    def _go_on(self) -> None:
        self._resume = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_BATCH):
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
