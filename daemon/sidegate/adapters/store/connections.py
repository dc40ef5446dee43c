"""Internal connections in the state file."""

import sqlite3
from collections.abc import Sequence

from sidegate.adapters.store.file import StateFile
from sidegate.adapters.store.variables import drop_brought, insert_variables
from sidegate.core.env import check_clashes
from sidegate.core.model import Intent, Pair, Variable
from sidegate.errors import DuplicateConnectionError, NotFoundError


class Connections(StateFile):
    """What can be done to internal connections."""

    async def add_connection(self, pair: Pair, app: str, variables: Sequence[Variable] = ()) -> Intent:
        """Add a connection and the variables that it brings to `app`, together or not at all.

        Raises DuplicateConnectionError, or KeyClashError listing the keys that `app` already has.
        """

        def change(db: sqlite3.Connection) -> None:
            if pair in self.intent.connections:
                raise DuplicateConnectionError(f"{pair} are connected already")
            check_clashes(app, self.intent.env.get(app, ()), variables)
            db.execute("INSERT INTO connections VALUES (?, ?)", (pair.a, pair.b))
            insert_variables(db, app, variables)

        return await self._change(change)

    async def take_back_connection(self, pair: Pair, app: str, variables: Sequence[Variable] = ()) -> Intent:
        """Undo `add_connection`, which nothing has come of: everything is as it was before it."""

        def change(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM connections WHERE a = ? AND b = ?", (pair.a, pair.b))
            db.executemany(
                "DELETE FROM variables WHERE app = ? AND key = ? AND scope = ? AND value = ? AND source = ?",
                [(app, v.key, v.scope, v.value, v.source) for v in variables],
            )

        return await self._change(change, closing=True)

    async def remove_connection(self, pair: Pair, *, keep_variables: bool) -> Intent:
        """Remove a connection and, unless they shall stay, the variables that it brought to either end.

        Raises NotFoundError.
        """

        def change(db: sqlite3.Connection) -> None:
            if pair not in self.intent.connections:
                raise NotFoundError(f"{pair} are not connected")
            drop_connection(db, self.intent, pair, keep_variables=keep_variables)

        return await self._change(change, closing=True)


def drop_connection(db: sqlite3.Connection, before: Intent, pair: Pair, *, keep_variables: bool = False) -> None:
    """Remove a connection and, unless they shall stay, the variables that it brought to either end."""
    db.execute("DELETE FROM connections WHERE a = ? AND b = ?", (pair.a, pair.b))
    if not keep_variables:
        for end in (pair.a, pair.b):
            drop_brought(db, before, end, pair.other(end))


def drop_connections(db: sqlite3.Connection, before: Intent, name: str) -> None:
    """Remove every connection of an app or a database, with the variables that they brought to their other ends."""
    for pair in sorted(before.connections):
        if name in (pair.a, pair.b):
            drop_connection(db, before, pair)
