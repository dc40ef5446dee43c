"""External connections of databases in the state file."""

import sqlite3
from dataclasses import replace

from sidegate.adapters.store.file import StateFile
from sidegate.core.model import External, Intent
from sidegate.errors import RefusedError


class Externals(StateFile):
    """What can be done to external connections."""

    async def set_external(self, database: str, external: External) -> Intent:
        """Keep `external` as a database's external connection. Raises RefusedError for another's port."""

        def change(db: sqlite3.Connection) -> None:
            holder = next((name for name, e in self.intent.externals.items() if e.port == external.port), database)
            if holder != database:
                raise RefusedError(f"port {external.port} belongs to {holder}")
            _write(db, database, external)

        before = self.intent.externals.get(database)
        if before == external:
            return self.intent
        return await self._change(change, closing=closes(before, external))

    async def replace_external(self, database: str, seen: External, external: External) -> Intent:
        """The same, unless it is no longer as it was `seen`: then nothing is changed."""

        def change(db: sqlite3.Connection) -> None:
            if self.intent.externals.get(database) == seen:
                _write(db, database, external)

        return await self._change(change, closing=closes(seen, external))

    async def forget_external(self, database: str) -> Intent:
        """As if it had never been switched on: its port is free again."""

        def change(db: sqlite3.Connection) -> None:
            for table in ("externals", "external_entries"):
                db.execute(f"DELETE FROM {table} WHERE database = ?", (database,))  # noqa: S608 (names of our own)

        return await self._change(change, closing=True)


def closes(before: External | None, after: External) -> bool:
    """Whether `after` lets nobody in whom `before` did not."""
    if not after.enabled:
        return True
    if before is None or replace(after, gate=replace(after.gate, allow=(), deny=())) != replace(
        before, gate=replace(before.gate, allow=(), deny=())
    ):
        return False
    old, new = before.gate, after.gate
    anybody = not old.allow and not old.local  # could come in
    some = set(new.allow) <= set(old.allow) and (new.local or bool(new.allow))
    return (anybody or some or new.allow == old.allow) and set(old.deny) <= set(new.deny)


def _write(db: sqlite3.Connection, database: str, external: External) -> None:
    """Put a database's external connection in the place of the one that is there."""
    gate = external.gate
    db.execute("DELETE FROM externals WHERE database = ?", (database,))
    db.execute("DELETE FROM external_entries WHERE database = ?", (database,))
    db.execute(
        "INSERT INTO externals (database, port, enabled, local, max_sessions, max_new, expires_at, idle_off, "
        "forwarder, used_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            database,
            gate.port,
            external.enabled,
            gate.local,
            gate.max_sessions,
            gate.max_new,
            external.expires_at,
            external.idle_off,
            external.forwarder,
            external.used_at,
        ),
    )
    lists = {"allow": gate.allow, "deny": gate.deny}
    db.executemany(
        "INSERT INTO external_entries (database, list, cidr, description) VALUES (?, ?, ?, ?)",
        [(database, kind, entry.cidr, entry.description) for kind, entries in lists.items() for entry in entries],
    )
