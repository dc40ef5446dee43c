"""Variables of apps in the state file, and which values they had that containers may still have."""

import sqlite3
from collections.abc import Sequence

from sidegate.adapters.store.file import StateFile
from sidegate.core.env import check_clashes
from sidegate.core.environment import digest
from sidegate.core.model import Intent, Variable
from sidegate.errors import NotFoundError

RETIRED_KEPT = 16
"""Earlier values of one key of an app that are known by their hashes: the last ones. A container that has one of before
them keeps it when it is recreated."""


class Variables(StateFile):
    """What can be done to variables."""

    async def set_variables(self, app: str, variables: Sequence[Variable], gone: Sequence[Variable] = ()) -> Intent:
        """Add variables to an app, in the place of those with the same key and scope, and remove those `gone`.

        Raises KeyClashError where a key is there for an overlapping scope that is not the same.
        """

        def change(db: sqlite3.Connection) -> None:
            put_variables(db, self.intent, app, variables, gone)

        return await self._change(change)

    async def unset_variable(self, app: str, key: str, scope: str | None = None) -> Intent:
        """Remove a variable of `scope`, or of every scope. Raises NotFoundError."""

        def change(db: sqlite3.Connection) -> None:
            put_variables(db, self.intent, app, (), _require(self.intent, app, key, scope))

        return await self._change(change)

    async def rename_variable(
        self, app: str, old: str, new: str, scope: str | None = None, *, new_scope: str | None = None
    ) -> Intent:
        """Give a variable of `scope`, or of every scope, another key; `new_scope` None leaves it in its own.

        Its value, its place among the others and where it came from stay. Raises NotFoundError, and KeyClashError
        where the app has the new key for an overlapping scope.
        """

        def change(db: sqlite3.Connection) -> None:
            moved = _require(self.intent, app, old, scope)
            others = [v for v in self.intent.env[app] if v not in moved]
            check_clashes(app, others, [Variable(new, "", new_scope or v.scope) for v in moved])
            db.executemany(
                "UPDATE variables SET key = ?, scope = ? WHERE app = ? AND key = ? AND scope = ?",
                [(new, new_scope or v.scope, app, old, v.scope) for v in moved],
            )
            retire(db, self.intent, app)

        return await self._change(change)


def put_variables(
    db: sqlite3.Connection, before: Intent, app: str, variables: Sequence[Variable], gone: Sequence[Variable] = ()
) -> None:
    """`variables` in the place of those with the same key and scope, and none of those `gone`. Raises KeyClashError."""
    replaced = {(v.key, v.scope) for v in (*variables, *gone)}
    present = [v for v in before.env.get(app, ()) if (v.key, v.scope) not in replaced]
    check_clashes(app, present, variables)
    db.executemany(
        "DELETE FROM variables WHERE app = ? AND key = ? AND scope = ?", [(app, *r) for r in sorted(replaced)]
    )
    insert_variables(db, app, variables)
    retire(db, before, app)


def insert_variables(db: sqlite3.Connection, app: str, variables: Sequence[Variable]) -> None:
    """Add variables that do not clash with any."""
    db.executemany(
        "INSERT INTO variables (app, key, value, scope, source, secret) VALUES (?, ?, ?, ?, ?, ?)",
        [(app, v.key, v.value, v.scope, v.source, v.secret) for v in variables],
    )


def drop_brought(db: sqlite3.Connection, before: Intent, app: str, partner: str) -> None:
    """Remove the variables that a connection to `partner` brought to `app`."""
    db.execute("DELETE FROM variables WHERE app = ? AND source = ?", (app, f"connection:{partner}"))
    retire(db, before, app)


def retire(db: sqlite3.Connection, before: Intent, app: str) -> None:
    """Note the values that running containers of `app` were given `before` and are no longer given."""
    rows = db.execute("SELECT key, value FROM variables WHERE app = ? AND scope IN ('runtime', 'both')", (app,))
    given = set(rows)
    were = {(v.key, v.value) for v in before.env.get(app, ()) if v.scope != "build"}
    for key, value in sorted(were - given):
        db.execute("INSERT OR REPLACE INTO retired (app, key, sha256) VALUES (?, ?, ?)", (app, key, digest(value)))
        db.execute(
            "DELETE FROM retired WHERE app = ? AND key = ? AND id NOT IN "
            "(SELECT id FROM retired WHERE app = ? AND key = ? ORDER BY id DESC LIMIT ?)",
            (app, key, app, key, RETIRED_KEPT),
        )


def _require(intent: Intent, app: str, key: str, scope: str | None) -> list[Variable]:
    found = [v for v in intent.env.get(app, ()) if v.key == key and scope in (None, v.scope)]
    if not found:
        raise NotFoundError(f"{app} has no variable {key}" + (f" for {scope}" if scope else ""))
    return found
