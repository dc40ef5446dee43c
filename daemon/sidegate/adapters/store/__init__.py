"""What people asked for, kept in one SQLite file; also the audit trail.

The only owner of the file. Never decides what a name may be. `file` opens it and commits, `schema` and `migrations`
hold its tables, and each of the other modules what can be done to one noun.
"""

import sqlite3

from sidegate.adapters.store.apps import Apps
from sidegate.adapters.store.audit import AuditTrail
from sidegate.adapters.store.connections import Connections
from sidegate.adapters.store.databases import Databases
from sidegate.adapters.store.externals import Externals
from sidegate.adapters.store.schema import INTENT_TABLES
from sidegate.adapters.store.variables import Variables
from sidegate.core.model import Intent


class Store(Apps, Connections, Databases, Externals, Variables, AuditTrail):
    """The state file, open. Make one with `open`.

    Every mutation returns the new intent once it is on the disk, or raises StoreError (or the refusal that its own
    docstring names), and then neither the file nor `intent` has changed. Cancelling a mutation does not undo it.
    """

    async def purge(self) -> Intent:
        """Forget all that people asked for. The audit trail stays: it says who did this."""

        def change(db: sqlite3.Connection) -> None:
            for table in INTENT_TABLES:
                db.execute(f"DELETE FROM {table}")  # noqa: S608 (names of our own)

        return await self._change(change, closing=True)
