"""The file that the access log goes to, as the control plane sees it: it alone may open files.

Rotation by rename or removal shows in the path's inode; by copying and truncating needs nothing, since workers append.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from sidegate.errors import SettingsError

STDERR = "stderr"
_STDERR = 2
_MODE = 0o640
_LOOK = 1.0  # seconds between looks at the path


class LogFile:
    """`descriptor` is what workers are given; it is ours, and each of them gets a duplicate."""

    def __init__(self, path: str) -> None:
        """`path` is absolute, or "stderr". Raises SettingsError when it cannot be written."""
        self._path = path
        try:
            self.descriptor = os.dup(_STDERR) if path == STDERR else _open(path)
        except OSError as error:
            raise SettingsError(
                f'access_log = "{path}": cannot be opened ({error.strerror}): make its directory or choose another'
            ) from error

    def rotated(self) -> bool:
        """Whether the path stands for another file by now, or for none. Raises OSError."""
        if self._path == STDERR:
            return False
        ours = os.fstat(self.descriptor)
        try:
            there = Path(self._path).stat()
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    async def follow(
        self, stopping: asyncio.Event, changed: Callable[[], Awaitable[None]], warn: Callable[[str], None]
    ) -> None:
        """Go on in what the path stands for, and call `changed`, whenever it was rotated, until `stopping` is set.

        Where that cannot be opened the former file stays, and it is tried again.
        """
        told = ""
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await stopping.wait()
            try:
                if not await asyncio.to_thread(self.rotated):
                    continue
                descriptor = await asyncio.to_thread(_open, self._path)
                told = ""
            except OSError as error:
                if told != str(error):
                    told = str(error)
                    warn(told)
                continue
            if stopping.is_set():
                os.close(descriptor)
                return
            os.close(self.descriptor)
            self.descriptor = descriptor
            await changed()

    def close(self) -> None:
        os.close(self.descriptor)


def _open(path: str) -> int:
    """Append to a file, or to a pipe that somebody reads."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags, _MODE)
