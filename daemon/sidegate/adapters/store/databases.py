"""Databases in the state file: their logins, passwords that are being changed, and those that Sidegate made."""

import sqlite3
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sidegate.adapters.store.connections import drop_connections
from sidegate.adapters.store.file import StateFile
from sidegate.adapters.store.variables import put_variables
from sidegate.core.model import DatabaseDetails, Intent, OwnDatabase, PasswordChange, Variable
from sidegate.errors import NotFoundError

NOTHING: Mapping[str, Sequence[Variable]] = MappingProxyType({})


class Databases(StateFile):
    """What can be done to databases, their external connections aside."""

    async def set_database_details(self, name: str, details: DatabaseDetails) -> Intent:
        """Keep `details` as the whole of what people said of a database's login."""

        def change(db: sqlite3.Connection) -> None:
            _put_details(db, name, details)

        return await self._change(change)

    async def set_own_database(self, name: str, own: OwnDatabase | None) -> Intent:
        """A database whose container Sidegate makes; None: it no longer does."""

        def change(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM own_databases WHERE name = ?", (name,))
            if own is not None:
                db.execute("INSERT INTO own_databases VALUES (?, ?, ?, ?)", (name, own.engine, own.image, own.volume))

        return await self._change(change)

    async def begin_password(self, database: str, change: PasswordChange) -> Intent:
        """Keep a password that is about to be changed, in the place of one that is under way."""
        row = (database, change.password, change.update_env, change.disconnect, change.began)

        def begin(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO passwords VALUES (?, ?, ?, ?, ?)", row)

        return await self._change(begin)

    async def end_password(
        self,
        database: str,
        details: DatabaseDetails | None,
        updates: Mapping[str, Sequence[Variable]] = NOTHING,
    ) -> Intent:
        """A change of a password is over: keep the details and the apps' variables that come of it, all at once.

        `details` None: it was taken back, and nothing else changes. `updates`, by app, take the place of variables with
        the same key and scope. Raises NotFoundError where none was under way, and KeyClashError.
        """

        def change(db: sqlite3.Connection) -> None:
            if not db.execute("DELETE FROM passwords WHERE database = ?", (database,)).rowcount:
                raise NotFoundError(f"no change of {database}'s password is under way")
            if details is None:
                return
            _put_details(db, database, details)
            for app, variables in updates.items():
                put_variables(db, self.intent, app, variables)

        return await self._change(change)

    async def forget_database(self, name: str) -> Intent:
        """As if nobody had ever said anything of a database: its connections go, with the variables they brought."""

        def change(db: sqlite3.Connection) -> None:
            drop_connections(db, self.intent, name)
            for table in ("databases", "own_databases"):
                db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))  # noqa: S608 (names of our own)
            for table in ("externals", "external_entries", "passwords"):
                db.execute(f"DELETE FROM {table} WHERE database = ?", (name,))  # noqa: S608 (names of our own)

        return await self._change(change, closing=True)


def _put_details(db: sqlite3.Connection, name: str, details: DatabaseDetails) -> None:
    values = (name, details.user, details.password, details.schema, details.root_password)
    db.execute("INSERT OR REPLACE INTO databases VALUES (?, ?, ?, ?, ?)", values)
