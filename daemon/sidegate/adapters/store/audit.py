"""The audit trail in the state file: who asked for what, and how it went. What finds the disk full waits for room."""

import contextlib
import os
import sqlite3
from collections import deque
from pathlib import Path

from sidegate.adapters.store.file import StateFile
from sidegate.core.audit import AuditEntry
from sidegate.core.model import Problem
from sidegate.errors import DiskFullError, StoreError

AUDIT_KEPT = 10_000
WAITING_MOST = 1000  # entries in memory while the disk is full
_COLUMNS = "at, uid, pid, user, verb, target, outcome"


class AuditTrail(StateFile):
    """What can be done to the audit trail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._waiting: deque[AuditEntry] = deque()
        self._lost = 0  # that found no place among those that wait

    async def append_audit(self, entry: AuditEntry) -> None:
        """Add an entry; the oldest beyond AUDIT_KEPT go.

        Raises DiskFullError where it has to wait in memory until there is room. Of more than WAITING_MOST only the
        number is kept, and becomes an entry of its own.
        """
        await self._run(lambda: self._append(entry))

    def problems(self) -> list[Problem]:
        """What keeps us from storing something, and what of the trail has to wait for that."""
        waiting = len(self._waiting)
        lost = f", and {self._lost} are lost" if self._lost else ""
        text = f"the audit trail waits for room on the disk, in memory: {waiting} of its entries{lost}"
        return [*super().problems(), *([Problem("sidegate", text)] if waiting else [])]

    def _append(self, entry: AuditEntry) -> None:
        try:
            self._write_waiting()
            self._transact(lambda db: _insert(db, entry))
        except DiskFullError as error:
            if len(self._waiting) < WAITING_MOST:
                self._waiting.append(entry)
                raise DiskFullError(f"the disk of {self._path} is full: kept in memory until there is room") from error
            self._lost += 1
            raise

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        entries = [*self._waiting]
        if self._lost:
            at, target = entries[-1].at, f"{self._lost} entries after this one"
            entries.append(AuditEntry(at, os.geteuid(), os.getpid(), "sidegate", "audit lost", target, "disk-full"))

        def write(db: sqlite3.Connection) -> None:
            for entry in entries:
                _insert(db, entry)

        self._transact(write)
        self._waiting.clear()
        self._lost = 0

    def _look(self) -> None:
        super()._look()
        self._write_waiting()

    def _close(self) -> None:
        with contextlib.suppress(StoreError, sqlite3.Error):
            self._write_waiting()
        super()._close()

    async def audit(
        self, limit: int, *, verb: str = "", user: str = "", since: float = 0.0, before: int | None = None
    ) -> tuple[AuditEntry, ...]:
        """The last `limit` entries, newest first: of `verb`, or all that begin with its words; of `user`, a name or a
        uid; not from before `since`, a Unix time; with an id below `before`."""
        wanted = ["at >= ?"]
        given: list[object] = [since]
        if verb:
            wanted.append("(verb = ? OR substr(verb, 1, length(?) + 1) = ? || ' ')")
            given += [verb] * 3
        if user:
            wanted.append("(user = ? OR uid = CAST(? AS INTEGER) AND CAST(CAST(? AS INTEGER) AS TEXT) = ?)")
            given += [user] * 4
        if before is not None:
            wanted.append("id < ?")
            given.append(before)

        where = " AND ".join(wanted)
        query = f"SELECT {_COLUMNS}, id FROM audit WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608 (our own texts)

        def read() -> tuple[AuditEntry, ...]:
            return tuple(AuditEntry(*row) for row in self._connected.execute(query, (*given, limit)))

        return await self._run(read)


def _insert(db: sqlite3.Connection, entry: AuditEntry) -> None:
    row = (entry.at, entry.uid, entry.pid, entry.user, entry.verb, entry.target, entry.outcome)
    added = db.execute(
        "INSERT INTO audit (at, uid, pid, user, verb, target, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)", row
    )
    db.execute("DELETE FROM audit WHERE id <= ?", ((added.lastrowid or 0) - AUDIT_KEPT,))
