"""The audit trail in the state file: who asked for what, and how it went."""

import sqlite3

from sidegate.adapters.store.file import StateFile
from sidegate.core.audit import AuditEntry

AUDIT_KEPT = 10_000
_COLUMNS = "at, uid, pid, user, verb, target, outcome"


class AuditTrail(StateFile):
    """What can be done to the audit trail."""

    async def append_audit(self, entry: AuditEntry) -> None:
        """Add an entry; the oldest beyond AUDIT_KEPT go."""

        def append(db: sqlite3.Connection) -> None:
            row = (entry.at, entry.uid, entry.pid, entry.user, entry.verb, entry.target, entry.outcome)
            added = db.execute(
                "INSERT INTO audit (at, uid, pid, user, verb, target, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )
            db.execute("DELETE FROM audit WHERE id <= ?", ((added.lastrowid or 0) - AUDIT_KEPT,))

        await self._run(lambda: self._transact(append))

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
