"""The audit trail in the state file: who asked for what, and how it went."""

import sqlite3

from sidegate.adapters.store.file import StateFile
from sidegate.core.audit import AuditEntry

AUDIT_KEPT = 10_000


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

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The last `limit` entries, newest first."""

        def read() -> tuple[AuditEntry, ...]:
            rows = self._connected.execute(
                "SELECT at, uid, pid, user, verb, target, outcome FROM audit ORDER BY id DESC LIMIT ?", (limit,)
            )
            return tuple(AuditEntry(*row) for row in rows)

        return await self._run(read)
