"""The thread that writes a worker's access log. A disk that is full or hangs keeps this thread waiting and nobody else.

Lines are whole, whoever else writes to the same file: every write to a file is made under a lock that all writers take
(fcntl(2), F_SETLKW), and the torn end of one that was cut short by a full disk is taken back, to be written again.
"""

import collections
import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
import threading
import time

_RETRY = 1.0  # seconds between attempts to write
_PIPE = 4096  # bytes that a pipe takes whole (PIPE_BUF)
_SHARE = 4  # of so many parts of a pipe one is for us: the rest is for the log of the daemon, which must not wait
_WAITS = (0.001, 0.1)  # seconds between looks at whether somebody has read, at first and at most


class LogWriter:
    """`waiting` counts the bytes that are yet to be written; `fault` says why they cannot be.

    `busy_since` is when the present attempt began (monotonic), 0 while there is none.
    """

    def __init__(self, descriptor: int) -> None:
        """Owns `descriptor` from now on: a file opened with O_APPEND, a pipe, a socket or a terminal."""
        self.waiting = 0
        self.fault = ""
        self.busy_since = 0.0
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._work: collections.deque[bytes | int | None] = collections.deque()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until everything up to the end is written, so long at most."""
        self._thread.join(seconds)

    def put(self, work: bytes | int | None) -> None:
        """Whole lines to write, a descriptor to go on with, owned from now on, or None: the end."""
        with self._lock:
            self._work.append(work)
            if isinstance(work, bytes):
                self.waiting += len(work)
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._work:
                with self._lock:
                    work = self._work.popleft()
                if work is None:
                    os.close(self._descriptor)
                    return
                if isinstance(work, int):
                    self._change_to(work)
                else:
                    self._write(work)
                    with self._lock:
                        self.waiting -= len(work)

    def _change_to(self, descriptor: int) -> None:
        os.close(self._descriptor)
        self._descriptor = descriptor

    def _write(self, lines: bytes) -> None:
        """All of these, however long it takes; to a newer file if the present one does not take them."""
        rest = memoryview(lines)
        while rest:
            self.busy_since = time.monotonic()
            try:
                if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                    rest = rest[self._append(rest) :]
                else:
                    rest = rest[self._pass_on(rest) :]
                self.fault = ""
            except OSError as error:
                self.fault = error.strerror or str(error)
                self.busy_since = 0.0
                if not self._newer():
                    time.sleep(_RETRY)
        self.busy_since = 0.0

    def _newer(self) -> bool:
        """Change to the next descriptor that waits behind lines, if there is one."""
        with self._lock:
            found = next((work for work in self._work if isinstance(work, int)), None)
            if found is None:
                return False
            self._work.remove(found)
        self._change_to(found)
        return True

    def _append(self, lines: memoryview) -> int:
        """Write whole lines to a file; returns how many bytes of these are in it. Raises OSError."""
        descriptor = self._descriptor
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            written = os.write(descriptor, lines)
            if written == len(lines):
                return written
            whole = bytes(lines[:written]).rfind(b"\n") + 1
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - (written - whole)))
            if not whole:  # the last bytes of a page may be free, always the same
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(descriptor, fcntl.LOCK_UN)

    def _pass_on(self, lines: memoryview) -> int:
        """Write some lines to what is no file, as many as a pipe takes whole, or one; returns how many bytes."""
        wait, longest = _WAITS
        while self._is_busy():
            time.sleep(wait)
            wait = min(wait * 2, longest)
        head = bytes(lines[:_PIPE])
        size = head.rfind(b"\n") + 1 or bytes(lines).index(b"\n") + 1
        written = 0
        while written < size:
            try:
                written += os.write(self._descriptor, lines[written:size])
            except BlockingIOError:  # whoever shares it may have made it so
                select.select((), (self._descriptor,), (), _RETRY)
        return size

    def _is_busy(self) -> bool:
        """Whether our share of a pipe or a socket is full."""
        descriptor, answer = self._descriptor, bytearray(4)
        mode = os.fstat(descriptor).st_mode
        try:
            if stat.S_ISFIFO(mode):
                fcntl.ioctl(descriptor, termios.FIONREAD, answer)
                size = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
            elif stat.S_ISSOCK(mode):
                fcntl.ioctl(descriptor, termios.TIOCOUTQ, answer)
                with socket.socket(fileno=os.dup(descriptor)) as sock:
                    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            else:
                return False
        except OSError:
            return False
        unread: int = struct.unpack("i", answer)[0]
        return unread > size // _SHARE
