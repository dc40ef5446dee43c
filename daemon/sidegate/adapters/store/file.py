"""The state file itself: one SQLite file, its thread, its transactions, and how it is opened and brought up to date.

Mutations are serial, each is one transaction, and one that was acknowledged outlives a kill -9 and a power cut (WAL,
synchronous=FULL). Never makes a new file in the place of one that it cannot read. On a full disk a mutation that closes
something is made with room that is kept for it (`reserve`), and any other fails.
"""

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from sidegate.adapters.store.migrations import MIGRATIONS
from sidegate.adapters.store.reserve import Reserve
from sidegate.adapters.store.schema import read_intent
from sidegate.core.model import Intent, Problem
from sidegate.errors import DiskFullError, InvalidInputError, SidegateError, StoreError

FILE_NAME = "sidegate.db"
LOCKED_SECONDS = 2.0
LOOK_SECONDS = 10.0
"""How often it is looked whether the disk has room (again)."""

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], None]


class StateFile:
    """The state file, open. Make one with `open`; the modules beside this one add what can be done to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserve = Reserve(path.parent)
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._intent = Intent()

    @classmethod
    async def open(cls, directory: Path) -> Self:
        """Open (first: make) the state file in `directory`, bring its schema up to date and read it.

        Raises StoreError naming the file where it cannot be opened, is damaged or was written by a newer Sidegate.
        """
        store = cls(directory / FILE_NAME)
        try:
            await store._run(store._open)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Finish what is under way and close the file. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    @property
    def intent(self) -> Intent:
        """Everything that people asked for, as of the last commit."""
        return self._intent

    def problems(self) -> list[Problem]:
        """What keeps us from storing something, for the operator."""
        reserve, directory = self._reserve, self._path.parent
        if not reserve.fault:
            return []
        if not reserve.full:
            text = f"no room can be kept in {directory} for the day its disk is full: {reserve.fault}"
        elif reserve.size:
            text = (
                f"the disk of {directory} is full ({reserve.fault}): switching on and storing fail, switching off and "
                f"disconnecting still work, with {reserve.size >> 10} KiB that are kept for them: free some space there"
            )
        else:
            text = (
                f"the disk of {directory} is full ({reserve.fault}), and nothing is left of what is kept for switching "
                "off: that may not be saved any more, either: free some space there"
            )
        return [Problem("sidegate", text)]

    async def run(self, wake: Callable[[], None]) -> None:
        """Look whether the disk has room, now and then and after a write found that it has not, and `wake` when
        `problems` are others than they were; until cancelled."""
        told = self.problems()
        while True:
            self._changed.clear()
            await self.look()
            if self.problems() != told:
                told = self.problems()
                wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    async def look(self) -> None:
        """Look whether the disk has room, and do what had to wait for it."""
        with contextlib.suppress(SidegateError):
            await self._run(self._look)

    # --- on the thread

    def _look(self) -> None:
        if self._reserve.short():
            self._reserve.fill()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise self._closed_error()
        told = self.problems()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}: nothing was changed") from error
        except UnicodeEncodeError as error:
            # The whole may be a secret.
            part = error.object[error.start : error.end]
            raise InvalidInputError(f"{part!r} is not text that can be stored: {error.reason}") from None
        finally:
            if self.problems() != told:
                self._changed.set()

    async def _change(self, change: Change, *, closing: bool = False) -> Intent:
        """`closing`: it only closes something, or forgets it, and is made with the reserve where the disk is full."""

        def commit() -> Intent:
            self._intent = self._transact(change, closing=closing)
            return self._intent

        return await self._run(commit)

    def _transact(self, change: Change, *, closing: bool = False) -> Intent:
        """One transaction; returns the intent that it leaves. Raises DiskFullError."""
        tries = 0
        while True:
            try:
                intent = self._attempt(change)
            except sqlite3.OperationalError as error:
                if not _may_be_full(error):
                    raise
                # Once the log is all in the file it is written from its beginning: that may do without more room.
                if closing and (tries == 0 or self._reserve.give()):
                    tries += 1
                    with contextlib.suppress(sqlite3.Error):
                        self._connected.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    continue
                self._reserve.fill()
                if _code(error) == sqlite3.SQLITE_FULL or self._reserve.full:
                    raise self._full_error(closing=closing) from error
                raise
            if tries:
                self._reserve.fill()
            return intent

    def _attempt(self, change: Change) -> Intent:
        """One try of a transaction, whose intent is read before it commits."""
        db = self._connected
        if db.in_transaction:  # an earlier rollback failed too
            db.rollback()
        db.execute("BEGIN IMMEDIATE")
        try:
            change(db)
            intent = read_intent(db)
            db.execute("COMMIT")
        except BaseException:
            # After a full disk SQLite may have rolled back by itself.
            if db.in_transaction:
                db.rollback()
            raise
        return intent

    @property
    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            raise self._closed_error()
        return self._db

    def _open(self) -> None:
        try:
            _prepare_file(self._path)
            self._connect()
            self._reserve.fill()
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be opened: {error.strerror}") from error
        except sqlite3.OperationalError as error:  # locked, no space, no permission: the file may be well
            raise StoreError(f"{self._path}: cannot be opened: {error}") from error
        except (sqlite3.Error, UnicodeDecodeError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def _connect(self) -> None:
        while True:
            # The statements that begin and end transactions stand here, not in the module's guesses.
            self._db = sqlite3.connect(self._path, timeout=LOCKED_SECONDS, isolation_level=None)
            try:
                self._prepare_schema(self._db)
                self._intent = read_intent(self._db)
            except sqlite3.OperationalError as error:
                # A daemon that does not start would leave a full disk nobody who can close anything.
                if not _may_be_full(error) or not self._reserve.give():
                    raise
                self._db.close()
            else:
                return

    def _prepare_schema(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")  # a password that was removed is overwritten
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self._path} was written by a newer Sidegate (schema {version}; this one knows {len(MIGRATIONS)}): "
                "run that version, or restore a copy from before the upgrade"
            )
        faults = [fault for (fault,) in db.execute("PRAGMA integrity_check(1)")]
        if faults != ["ok"]:
            raise self._damaged(faults[0])
        if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            raise StoreError(f"{self._path} is a SQLite file, but not one of Sidegate's: move it away")
        db.execute("PRAGMA journal_mode = WAL")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT")

    def _full_error(self, *, closing: bool) -> DiskFullError:
        kept = ", what is kept for switching off included" if closing else " (switching off still works)"
        return DiskFullError(
            f"{self._path}: the disk of {self._path.parent} is full{kept}: free some space there and ask again: "
            "nothing was changed"
        )

    def _closed_error(self) -> StoreError:
        return StoreError(f"{self._path} is closed: the daemon is stopping; nothing was changed")

    def _damaged(self, fault: str) -> StoreError:
        return StoreError(
            f"{self._path} is damaged ({fault}): restore it from a copy, or move it and its -wal away to begin "
            "with nothing; it was left as it is"
        )

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _may_be_full(error: sqlite3.Error) -> bool:
    """SQLite tells ENOSPC, not always; a quota (EDQUOT) and a -shm file that cannot grow are I/O errors to it."""
    return _code(error) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended code; 0 where the error is the module's own."""
    return getattr(error, "sqlite_errorcode", 0)


def _prepare_file(path: Path) -> None:
    """Make the file (0600) and its directory (0700) where they are missing. Raises OSError, StoreError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_mode & stat.S_IWOTH:
        raise StoreError(f"{path.parent} can be written by everybody: give the state a directory of its own")
    # SQLite ignores a log that stands beside an empty file: what it holds would silently be lost.
    wal = Path(f"{path}-wal")
    orphaned = wal.exists() and wal.stat().st_size > 0 and not (path.exists() and path.stat().st_size > 0)
    if orphaned:
        raise StoreError(
            f"{path} is missing or empty, yet {wal.name} is there: restore both from a copy, or move it away"
        )
    # O_NOFOLLOW: as root we must not be led to another file. The -wal and -shm files take their mode from this one.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
