"""The tables that hold the intent, and how the whole of it is read from them."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from sidegate.core.gates import Entry, Gate
from sidegate.core.model import (
    DatabaseDetails,
    Deployment,
    External,
    Intent,
    OwnDatabase,
    Pair,
    PasswordChange,
    Rollout,
    Variable,
)

V = TypeVar("V")

INTENT_TABLES = (
    "connections",
    "externals",
    "external_entries",
    "databases",
    "variables",
    "claims",
    "modes",
    "options",
    "deployments",
    "deployments_before",
    "rollouts",
    "ports",
    "domains",
    "retired",
    "passwords",
    "own_databases",
)


def read_intent(db: sqlite3.Connection) -> Intent:
    """The whole intent as the tables have it now; variables and domains of an app in the order in which they came."""
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
        env=_read_variables(db),
        claims=_mapping(db.execute("SELECT domain, app FROM claims ORDER BY domain")),
        modes=_mapping(db.execute("SELECT app, mode FROM modes ORDER BY app")),
        options=_read_options(db),
        deployments=MappingProxyType(_read_deployments(db, "deployments")),
        ports=_mapping(db.execute("SELECT app, port FROM ports ORDER BY app")),
        domains=_read_domains(db),
        retired=_read_retired(db),
        rollouts=_read_rollouts(db),
        passwords=MappingProxyType(
            {
                database: PasswordChange(password, bool(update_env), bool(disconnect), began)
                for database, password, update_env, disconnect, began in db.execute(
                    "SELECT database, password, update_env, disconnect, began FROM passwords ORDER BY database"
                )
            }
        ),
        own_databases=MappingProxyType(
            {
                name: OwnDatabase(*own)
                for name, *own in db.execute("SELECT name, engine, image, volume FROM own_databases ORDER BY name")
            }
        ),
    )


def _mapping(rows: Iterable[tuple[str, V]]) -> Mapping[str, V]:
    return MappingProxyType(dict(rows))


def _read_variables(db: sqlite3.Connection) -> Mapping[str, tuple[Variable, ...]]:
    variables: dict[str, list[Variable]] = {}
    for app, key, value, scope, source, secret in db.execute(
        "SELECT app, key, value, scope, source, secret FROM variables ORDER BY id"
    ):
        variables.setdefault(app, []).append(Variable(key, value, scope, source, bool(secret)))
    return MappingProxyType({app: tuple(of_app) for app, of_app in variables.items()})


def _read_options(db: sqlite3.Connection) -> Mapping[str, Mapping[str, str]]:
    options: dict[str, dict[str, str]] = {}
    for app, name, value in db.execute("SELECT app, name, value FROM options ORDER BY app, name"):
        options.setdefault(app, {})[name] = value
    return MappingProxyType({app: MappingProxyType(of_app) for app, of_app in options.items()})


def _read_domains(db: sqlite3.Connection) -> Mapping[str, tuple[str, ...]]:
    domains: dict[str, list[str]] = {}
    for app, domain in db.execute("SELECT app, domain FROM domains ORDER BY id"):
        domains.setdefault(app, []).append(domain)
    return MappingProxyType({app: tuple(of_app) for app, of_app in domains.items()})


def _read_retired(db: sqlite3.Connection) -> Mapping[str, frozenset[tuple[str, str]]]:
    retired: dict[str, set[tuple[str, str]]] = {}
    for app, key, digest in db.execute("SELECT app, key, sha256 FROM retired"):
        retired.setdefault(app, set()).add((key, digest))
    return MappingProxyType({app: frozenset(of_app) for app, of_app in retired.items()})


def _read_deployments(db: sqlite3.Connection, table: str) -> dict[str, Deployment]:
    rows = db.execute(f"SELECT app, image, image_id, replicas, command FROM {table} ORDER BY app")  # noqa: S608
    return {
        app: Deployment(image, image_id, replicas, tuple(json.loads(command)))
        for app, image, image_id, replicas, command in rows
    }


def _read_rollouts(db: sqlite3.Connection) -> Mapping[str, Rollout]:
    before = _read_deployments(db, "deployments_before")
    rows = db.execute("SELECT app, began, port_before, replaces, health FROM rollouts ORDER BY app")
    return MappingProxyType(
        {
            app: Rollout(began, before.get(app), port, tuple(json.loads(ids)), health)
            for app, began, port, ids, health in rows
        }
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
