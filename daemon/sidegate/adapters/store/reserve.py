"""Room on the disk that is kept for writes that close something: a file that is really allocated, and shrinks for them.

Knows nothing of SQLite. Not for two threads at once.
"""

import errno
import os
from pathlib import Path

FILE_NAME = "sidegate.reserve"
SIZE = 1 << 20  # bytes
SLICE = SIZE // 8  # what is given up at a time, and has to be free beside the whole
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """The reserve in `directory`. `size` is what is left of it, in bytes; `fault` why it is not whole, or why there is
    no room beside it; `full`: since the disk is full."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self.size = 0
        self.fault = ""
        self.full = False

    def __repr__(self) -> str:
        return f"<Reserve {self._path} size={self.size}{f' {self.fault}' if self.fault else ''}>"

    def fill(self) -> bool:
        """Have the whole of it, and see that there is room beside it; False where one is not so."""
        try:
            descriptor = self._opened(os.O_CREAT)
            try:
                self.size = os.fstat(descriptor).st_size
                try:
                    os.posix_fallocate(descriptor, 0, SIZE + SLICE)
                except OSError:
                    # What was allocated before it failed would fill the disk even more.
                    os.ftruncate(descriptor, self.size)
                    raise
                os.ftruncate(descriptor, SIZE)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.fault = error.strerror or str(error)
            self.full = error.errno in _FULL
        else:
            self.size, self.fault, self.full = SIZE, "", False
        return not self.fault

    def give(self) -> bool:
        """Free a part of it for a write that closes something; False where nothing is left."""
        try:
            descriptor = self._opened()
            try:
                size = os.fstat(descriptor).st_size
                self.size = max(0, size - SLICE)
                os.ftruncate(descriptor, self.size)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return size > 0

    def short(self) -> bool:
        """Whether it is worth a try to fill it: it is not whole, or little room is left beside it."""
        try:
            room = os.statvfs(self._path.parent)
        except OSError:
            return True
        free = room.f_bfree if os.geteuid() == 0 else room.f_bavail
        return bool(self.fault) or free * room.f_frsize < SLICE

    def _opened(self, flags: int = 0) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
