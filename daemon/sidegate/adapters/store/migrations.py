"""The tables of the state file, as ordered migrations."""

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
    """
    CREATE TABLE deployments (
        app TEXT PRIMARY KEY NOT NULL,
        image TEXT NOT NULL,
        image_id TEXT NOT NULL,
        replicas INTEGER NOT NULL CHECK (replicas >= 0),
        command TEXT NOT NULL  -- a list of words, as JSON
    ) WITHOUT ROWID;

    CREATE TABLE rollouts (
        app TEXT PRIMARY KEY NOT NULL,
        began REAL NOT NULL,
        port_before INTEGER NOT NULL,
        replaces TEXT NOT NULL,  -- a list of container ids, as JSON
        health TEXT NOT NULL
    ) WITHOUT ROWID;

    -- What was deployed when the rollout began; an app of which nothing was is not there.
    CREATE TABLE deployments_before (
        app TEXT PRIMARY KEY NOT NULL,
        image TEXT NOT NULL,
        image_id TEXT NOT NULL,
        replicas INTEGER NOT NULL,
        command TEXT NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE ports (
        app TEXT PRIMARY KEY NOT NULL,
        port INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535)
    ) WITHOUT ROWID;

    CREATE TABLE domains (
        id INTEGER PRIMARY KEY,
        app TEXT NOT NULL,
        domain TEXT NOT NULL,
        UNIQUE (app, domain)
    );

    CREATE TABLE retired (
        id INTEGER PRIMARY KEY,
        app TEXT NOT NULL,
        key TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        UNIQUE (app, key, sha256)
    );

    CREATE TABLE passwords (
        database TEXT PRIMARY KEY NOT NULL,
        password TEXT NOT NULL,
        update_env INTEGER NOT NULL CHECK (update_env IN (0, 1)),
        disconnect INTEGER NOT NULL CHECK (disconnect IN (0, 1)),
        began REAL NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE own_databases (
        name TEXT PRIMARY KEY NOT NULL,
        engine TEXT NOT NULL,
        image TEXT NOT NULL,
        volume TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
)
