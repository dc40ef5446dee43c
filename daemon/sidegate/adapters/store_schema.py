"""The tables of the state file, as ordered migrations, and how the whole intent is read from them."""

import sqlite3
from types import MappingProxyType

from sidegate.core.gates import Entry, Gate
from sidegate.core.model import DatabaseDetails, External, Intent, Pair, Variable

# Migration n brings schema n (PRAGMA user_version) to n + 1. Only ever append: files in the field hold every version.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE connections (a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY (a, b), CHECK (a < b)) WITHOUT ROWID;

    CREATE TABLE externals (
        database TEXT PRIMARY KEY NOT NULL,
        port INTEGER NOT NULL UNIQUE CHECK (port BETWEEN 1 AND 65535),
        enabled INTEGER NOT NULL CHECK (enabled IN (0, 1))
    ) WITHOUT ROWID;

    CREATE TABLE databases (
        name TEXT PRIMARY KEY NOT NULL,
        user TEXT NOT NULL,
        password TEXT NOT NULL,
        schema TEXT NOT NULL,
        root_password TEXT NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE variables (
        id INTEGER PRIMARY KEY,
        app TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        scope TEXT NOT NULL CHECK (scope IN ('build', 'runtime', 'both')),
        source TEXT NOT NULL,
        secret INTEGER NOT NULL CHECK (secret IN (0, 1))
    );
    -- A key may exist once for builds and once at run time; "both" takes both places.
    CREATE UNIQUE INDEX one_build_variable ON variables (app, key) WHERE scope IN ('build', 'both');
    CREATE UNIQUE INDEX one_runtime_variable ON variables (app, key) WHERE scope IN ('runtime', 'both');

    CREATE TABLE claims (domain TEXT PRIMARY KEY NOT NULL, app TEXT NOT NULL) WITHOUT ROWID;

    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        uid INTEGER NOT NULL,
        pid INTEGER NOT NULL,
        user TEXT NOT NULL,
        verb TEXT NOT NULL,
        target TEXT NOT NULL,
        outcome TEXT NOT NULL
    );
    """,
    """
    CREATE TABLE modes (
        app TEXT PRIMARY KEY NOT NULL,
        mode TEXT NOT NULL CHECK (mode IN ('paused', 'maintenance'))
    ) WITHOUT ROWID;

    CREATE TABLE options (
        app TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (app, name)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE externals ADD COLUMN local INTEGER NOT NULL DEFAULT 0 CHECK (local IN (0, 1));
    ALTER TABLE externals ADD COLUMN max_sessions INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE externals ADD COLUMN max_new INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE externals ADD COLUMN expires_at REAL NOT NULL DEFAULT 0;
    ALTER TABLE externals ADD COLUMN idle_off INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE externals ADD COLUMN forwarder TEXT NOT NULL DEFAULT ''
        CHECK (forwarder IN ('', 'auto', 'kernel', 'userspace'));
    ALTER TABLE externals ADD COLUMN used_at REAL NOT NULL DEFAULT 0;

    CREATE TABLE external_entries (
        id INTEGER PRIMARY KEY,
        database TEXT NOT NULL,
        list TEXT NOT NULL CHECK (list IN ('allow', 'deny')),
        cidr TEXT NOT NULL,
        description TEXT NOT NULL,
        UNIQUE (database, list, cidr)
    );
    """,
)

INTENT_TABLES = ("connections", "externals", "external_entries", "databases", "variables", "claims", "modes", "options")


def read_intent(db: sqlite3.Connection) -> Intent:
    """The whole intent as the tables have it now; an app's variables in the order in which they were added."""
    variables: dict[str, list[Variable]] = {}
    for app, key, value, scope, source, secret in db.execute(
        "SELECT app, key, value, scope, source, secret FROM variables ORDER BY id"
    ):
        variables.setdefault(app, []).append(Variable(key, value, scope, source, bool(secret)))
    options: dict[str, dict[str, str]] = {}
    for app, name, value in db.execute("SELECT app, name, value FROM options ORDER BY app, name"):
        options.setdefault(app, {})[name] = value
    return Intent(
        connections=frozenset(Pair(a, b) for a, b in db.execute("SELECT a, b FROM connections")),
        externals=MappingProxyType(_read_externals(db)),
        databases=MappingProxyType(
            {
                name: DatabaseDetails(*details)
                for name, *details in db.execute(
                    "SELECT name, user, password, schema, root_password FROM databases ORDER BY name"
                )
            }
        ),
        env=MappingProxyType({app: tuple(of_app) for app, of_app in variables.items()}),
        claims=MappingProxyType(dict(db.execute("SELECT domain, app FROM claims ORDER BY domain").fetchall())),
        modes=MappingProxyType(dict(db.execute("SELECT app, mode FROM modes ORDER BY app").fetchall())),
        options=MappingProxyType({app: MappingProxyType(of_app) for app, of_app in options.items()}),
    )


def _read_externals(db: sqlite3.Connection) -> dict[str, External]:
    """External connections with their lists, each in the order in which it was given."""
    entries: dict[tuple[str, str], list[Entry]] = {}
    for database, kind, cidr, description in db.execute(
        "SELECT database, list, cidr, description FROM external_entries ORDER BY id"
    ):
        entries.setdefault((database, kind), []).append(Entry(cidr, description))
    found = {}
    for name, port, enabled, local, max_sessions, max_new, expires_at, idle_off, forwarder, used_at in db.execute(
        "SELECT database, port, enabled, local, max_sessions, max_new, expires_at, idle_off, forwarder, used_at "
        "FROM externals ORDER BY database"
    ):
        allow, deny = (tuple(entries.get((name, kind), ())) for kind in ("allow", "deny"))
        gate = Gate(port, allow, deny, bool(local), max_sessions, max_new)
        found[name] = External(gate, bool(enabled), expires_at, idle_off, forwarder, used_at)
    return found


def write_external(db: sqlite3.Connection, database: str, external: External) -> None:
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
