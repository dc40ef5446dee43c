"""The tables of the state file, as ordered migrations, and how the whole intent is read from them."""

import sqlite3
from types import MappingProxyType

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
)

INTENT_TABLES = ("connections", "externals", "databases", "variables", "claims", "modes", "options")


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
        externals=MappingProxyType(
            {
                name: External(port, bool(enabled))
                for name, port, enabled in db.execute("SELECT database, port, enabled FROM externals ORDER BY database")
            }
        ),
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
