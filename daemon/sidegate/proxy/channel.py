"""The control channel: one end of a UNIX stream socketpair that carries messages and descriptors (SCM_RIGHTS).

Frames are a length (4 bytes, big endian) and that many bytes. Knows nothing of what the messages mean; never blocks.
"""

import array
import asyncio
import collections
import contextlib
import os
import socket
from collections.abc import Callable

_MAX_DESCRIPTORS = 16
_READ = 262144


class Channel:
    """Calls `received` with each frame's payload and `closed` once, when the other side is gone or breaks the rules.

    Descriptors that arrive are kept in order until `take_descriptor` asks for them: a frame's descriptors have always
    arrived when the frame has. The other side may be in a stranger's hands: a frame over `largest` bytes breaks the
    rules, and so does a descriptor unless they are `welcome`.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[bytes], None],
        closed: Callable[[], None],
        *,
        largest: int,
        welcome: bool,
    ) -> None:
        self._sock = sock
        self._largest = largest
        self._room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4) if welcome else 0
        self._received = received
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._outgoing: collections.deque[tuple[memoryview, list[int]]] = collections.deque()
        self._descriptors: collections.deque[int] = collections.deque()
        self._writing = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, payload: bytes, descriptor: int | None = None) -> None:
        """Queue one frame; `descriptor` is duplicated at once, the caller's own stays its own."""
        if self._sock.fileno() == -1:
            return
        frame = memoryview(len(payload).to_bytes(4, "big") + payload)
        self._outgoing.append((frame, [] if descriptor is None else [os.dup(descriptor)]))
        if not self._writing:
            self._flush()

    def take_descriptor(self) -> int:
        """The oldest descriptor not taken yet; raises IndexError when none came."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close without calling `closed`. Safe to call twice."""
        if self._sock.fileno() == -1:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        for _, attached in self._outgoing:
            for descriptor in attached:
                os.close(descriptor)
        self._descriptors.clear()
        self._outgoing.clear()

    def _flush(self) -> None:
        while self._outgoing:
            frame, attached = self._outgoing[0]
            try:
                if attached:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", attached).tobytes())]
                    sent = self._sock.sendmsg([frame], rights)
                    for descriptor in attached:
                        os.close(descriptor)
                else:
                    sent = self._sock.send(frame)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._break()
                return
            if sent < len(frame):
                self._outgoing[0] = (frame[sent:], [])
            else:
                self._outgoing.popleft()
        wanted = bool(self._outgoing)
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._sock.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_READ, self._room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._break()
            return
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._descriptors.extend(received)
        if not data or flags & socket.MSG_CTRUNC:
            self._break()
            return
        self._incoming += data
        while len(self._incoming) >= 4:
            size = int.from_bytes(self._incoming[:4], "big")
            if size > self._largest:
                self._break()
                return
            if len(self._incoming) < 4 + size:
                return
            payload = bytes(self._incoming[4 : 4 + size])
            del self._incoming[: 4 + size]
            self._received(payload)
            if self._sock.fileno() == -1:
                return

    def _break(self) -> None:
        with contextlib.suppress(OSError):
            self.close()
        self._closed()
