"""What people asked for, kept in one SQLite file; also the audit trail.

The only owner of the file, which it touches on a single thread of its own: mutations are serial, each is one
transaction, and a mutation that was acknowledged outlives a kill -9 and a power cut (WAL, synchronous=FULL). Never
decides what a name may be, and never makes a new file in the place of one that it cannot read.
"""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from sidegate.adapters.store_schema import INTENT_TABLES, MIGRATIONS, read_intent, write_external
from sidegate.core.audit import AuditEntry
from sidegate.core.env import clashes
from sidegate.core.model import DatabaseDetails, External, Intent, Pair, Variable
from sidegate.core.routes import SERVING
from sidegate.errors import (
    DuplicateConnectionError,
    InvalidInputError,
    KeyClashError,
    NotFoundError,
    RefusedError,
    StoreError,
)

FILE_NAME = "sidegate.db"
AUDIT_KEPT = 10_000
LOCKED_SECONDS = 2.0

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], None]


class Store:
    """The state file, open. Make one with `open`.

    Every mutation returns the new intent once it is on the disk, or raises StoreError (or the refusal that its own
    docstring names), and then neither the file nor `intent` has changed. Cancelling a mutation does not undo it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
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

    # --- connections

    async def add_connection(self, pair: Pair, app: str, variables: Sequence[Variable] = ()) -> Intent:
        """Add a connection and the variables that it brings to `app`, together or not at all.

        Raises DuplicateConnectionError, or KeyClashError listing the keys that `app` already has.
        """

        def change(db: sqlite3.Connection) -> None:
            if pair in self._intent.connections:
                raise DuplicateConnectionError(f"{pair} are connected already")
            _refuse_clashes(app, self._intent.env.get(app, ()), variables)
            db.execute("INSERT INTO connections VALUES (?, ?)", (pair.a, pair.b))
            _insert_variables(db, app, variables)

        return await self._change(change)

    async def remove_connection(self, pair: Pair, *, keep_variables: bool) -> Intent:
        """Remove a connection and, unless they shall stay, the variables that it brought to either end.

        Raises NotFoundError.
        """

        def change(db: sqlite3.Connection) -> None:
            if pair not in self._intent.connections:
                raise NotFoundError(f"{pair} are not connected")
            db.execute("DELETE FROM connections WHERE a = ? AND b = ?", (pair.a, pair.b))
            if not keep_variables:
                brought = [(end, f"connection:{pair.other(end)}") for end in (pair.a, pair.b)]
                db.executemany("DELETE FROM variables WHERE app = ? AND source = ?", brought)

        return await self._change(change)

    # --- databases

    async def set_external(self, database: str, external: External) -> Intent:
        """Keep `external` as a database's external connection. Raises RefusedError for another's port."""

        def change(db: sqlite3.Connection) -> None:
            holder = next((name for name, e in self._intent.externals.items() if e.port == external.port), database)
            if holder != database:
                raise RefusedError(f"port {external.port} belongs to {holder}")
            write_external(db, database, external)

        if self._intent.externals.get(database) == external:
            return self._intent
        return await self._change(change)

    async def replace_external(self, database: str, seen: External, external: External) -> Intent:
        """The same, unless it is no longer as it was `seen`: then nothing is changed."""

        def change(db: sqlite3.Connection) -> None:
            if self._intent.externals.get(database) == seen:
                write_external(db, database, external)

        return await self._change(change)

    async def forget_external(self, database: str) -> Intent:
        """As if it had never been switched on: its port is free again."""

        def change(db: sqlite3.Connection) -> None:
            for table in ("externals", "external_entries"):
                db.execute(f"DELETE FROM {table} WHERE database = ?", (database,))  # noqa: S608 (names of our own)

        return await self._change(change)

    async def set_database_details(self, name: str, details: DatabaseDetails) -> Intent:
        """Keep `details` as the whole of what people said of a database's login."""

        def change(db: sqlite3.Connection) -> None:
            values = (name, details.user, details.password, details.schema, details.root_password)
            db.execute("INSERT OR REPLACE INTO databases VALUES (?, ?, ?, ?, ?)", values)

        return await self._change(change)

    # --- variables

    async def set_variables(self, app: str, variables: Sequence[Variable]) -> Intent:
        """Add variables to an app, in the place of those with the same key and scope.

        Raises KeyClashError where a key is there for an overlapping scope that is not the same.
        """

        def change(db: sqlite3.Connection) -> None:
            replaced = {(v.key, v.scope) for v in variables}
            present = [v for v in self._intent.env.get(app, ()) if (v.key, v.scope) not in replaced]
            _refuse_clashes(app, present, variables)
            db.executemany(
                "DELETE FROM variables WHERE app = ? AND key = ? AND scope = ?", [(app, *r) for r in sorted(replaced)]
            )
            _insert_variables(db, app, variables)

        return await self._change(change)

    async def unset_variable(self, app: str, key: str, scope: str | None = None) -> Intent:
        """Remove a variable of `scope`, or of every scope. Raises NotFoundError."""

        def change(db: sqlite3.Connection) -> None:
            gone = db.execute(
                "DELETE FROM variables WHERE app = ? AND key = ? AND coalesce(scope = ?, 1)", (app, key, scope)
            )
            if not gone.rowcount:
                raise NotFoundError(f"{app} has no variable {key}" + (f" for {scope}" if scope else ""))

        return await self._change(change)

    # --- how apps are served

    async def set_app(
        self, app: str, mode: str | None = None, options: Mapping[str, str | None] | None = None
    ) -> Intent:
        """Set an app's mode (None: as it is) and some of its options (None unsets one), together or not at all."""

        def change(db: sqlite3.Connection) -> None:
            if mode is not None:
                db.execute("DELETE FROM modes WHERE app = ?", (app,))
            if mode is not None and mode != SERVING:
                db.execute("INSERT INTO modes VALUES (?, ?)", (app, mode))
            for name, value in (options or {}).items():
                db.execute("DELETE FROM options WHERE app = ? AND name = ?", (app, name))
                if value is not None:
                    db.execute("INSERT INTO options VALUES (?, ?, ?)", (app, name, value))

        return await self._change(change)

    # --- claims, and everything

    async def replace_claims(self, claims: Mapping[str, str]) -> Intent:
        """Remember `claims` (domain -> the app that holds it), and no others."""

        def change(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM claims")
            db.executemany("INSERT INTO claims VALUES (?, ?)", claims.items())

        if dict(self._intent.claims) == dict(claims):
            return self._intent
        return await self._change(change)

    async def purge(self) -> Intent:
        """Forget all that people asked for. The audit trail stays: it says who did this."""

        def change(db: sqlite3.Connection) -> None:
            for table in INTENT_TABLES:
                db.execute(f"DELETE FROM {table}")  # noqa: S608 (names of our own)

        return await self._change(change)

    # --- the audit trail

    async def append_audit(self, entry: AuditEntry) -> None:
        """Add an entry; the oldest beyond AUDIT_KEPT go."""

        def append(db: sqlite3.Connection) -> None:
            row = (entry.at, entry.uid, entry.pid, entry.user, entry.verb, entry.target, entry.outcome)
            added = db.execute(
                "INSERT INTO audit (at, uid, pid, user, verb, target, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )
            db.execute("DELETE FROM audit WHERE id <= ?", ((added.lastrowid or 0) - AUDIT_KEPT,))

        await self._run(lambda: self._transact(append))

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The last `limit` entries, newest first."""

        def read() -> tuple[AuditEntry, ...]:
            rows = self._connected.execute(
                "SELECT at, uid, pid, user, verb, target, outcome FROM audit ORDER BY id DESC LIMIT ?", (limit,)
            )
            return tuple(AuditEntry(*row) for row in rows)

        return await self._run(read)

    # --- on the thread

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise self._closed_error()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}: nothing was changed") from error
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"{error.object!r} is not text that can be stored: {error.reason}") from error

    async def _change(self, change: Change) -> Intent:
        def commit() -> Intent:
            self._intent = self._transact(change)
            return self._intent

        return await self._run(commit)

    def _transact(self, change: Change) -> Intent:
        """One transaction; returns the intent that it leaves, which is read before it commits."""
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
            # The statements that begin and end transactions stand here, not in the module's guesses.
            self._db = sqlite3.connect(self._path, timeout=LOCKED_SECONDS, isolation_level=None)
            self._prepare_schema(self._db)
            self._intent = read_intent(self._db)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be opened: {error.strerror}") from error
        except sqlite3.OperationalError as error:  # locked, no space, no permission: the file may be well
            raise StoreError(f"{self._path}: cannot be opened: {error}") from error
        except (sqlite3.Error, UnicodeDecodeError, ValueError) as error:
            raise self._damaged(str(error)) from error

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


def _refuse_clashes(app: str, present: Sequence[Variable], added: Sequence[Variable]) -> None:
    if keys := clashes(present, added):
        raise KeyClashError(f"{app} already has {', '.join(keys)} in that scope: nothing was added")
    if twice := [v.key for i, v in enumerate(added) if clashes(added[:i], [v])]:
        raise KeyClashError(f"{', '.join(twice)} is given twice for one scope: nothing was added")


def _insert_variables(db: sqlite3.Connection, app: str, variables: Sequence[Variable]) -> None:
    db.executemany(
        "INSERT INTO variables (app, key, value, scope, source, secret) VALUES (?, ?, ?, ?, ?, ?)",
        [(app, v.key, v.value, v.scope, v.source, v.secret) for v in variables],
    )
