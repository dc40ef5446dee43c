"""What the OpenAPI document says beyond the types: limits, meanings of parameters, examples, and how calls fail.

The daemon checks its input itself, with sentences that say what to do; the tests hold what stands here to what it does.
"""

from collections.abc import Mapping
from typing import Any

NAME = {"pattern": "^[a-z](-?[a-z0-9])*$", "minLength": 1, "maxLength": 40}
KEY = {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "minLength": 1}
PORT = {"minimum": 1, "maximum": 65535}
SCOPES = {"enum": ["build", "runtime", "both"]}
ONE_SCOPE = {"enum": ["build", "runtime"]}
LIMIT = {"minimum": 0, "maximum": 65535}
FORWARDERS = {"enum": ["auto", "kernel", "userspace", ""]}
DURATION = {"examples": ["2h", "1d12h", "30m", "never"]}
TEXT = {"minLength": 1}
ID = {"minimum": 0, "maximum": 2**63 - 1}

PATHS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "app": ("an app's name", NAME | {"examples": ["shop"]}),
    "db": ("a database's name", NAME | {"examples": ["shop-db"]}),
    "a": ("one end of a connection", NAME | {"examples": ["shop"]}),
    "b": ("its other end", NAME | {"examples": ["shop-db"]}),
    "key": ("a variable's key", KEY | {"examples": ["LOG_LEVEL"]}),
    "name": (
        "what people call the certificate",
        {"pattern": r"^[a-z0-9]([a-z0-9_-]|\.[a-z0-9_-])*$", "minLength": 1, "maxLength": 100, "examples": ["shop"]},
    ),
}
"""Parts of paths."""

QUERIES: Mapping[str, Mapping[str, str]] = {
    "EventsQuery": {
        "since": "only what came after the event of this id; 0: all that is kept",
        "kind": "only these: a kind (external.on), all about something (app), or several with commas",
        "limit": "how many of the last at first; 100 in a list where it is left out, none in a stream",
    },
    "AuditQuery": {
        "limit": "how many entries at most",
        "verb": "only this verb of the command line, or all that begin with its words",
        "user": "only what this user did: a name or a uid",
        "within": "only what is not older than this",
        "before": "only entries before the one of this id: the next page",
    },
    "EnvQuery": {
        "scope": "only variables that count for builds, or at run time",
        "format": "export them as text in this form; without it they are listed",
        "reveal": "show secret values in the list, too; this is written to the audit trail",
    },
    "ScopeQuery": {"scope": "only the variable of this scope; without it that of every scope"},
    "LogsQuery": {
        "tail": "the last lines of each container at first",
        "follow": "go on with what is written, until the caller leaves",
    },
    "BuildQuery": {
        "tag": "the image's name; sidegate/APP:latest where it is left out",
        "file": "the Dockerfile's path in the context",
        "build_args": "a JSON object of texts, over the app's variables",
        "no_cache": "run every step anew",
        "pull": "fetch newer base images",
    },
    "DatabasesQuery": {"login": "try to log in to each database"},
    "RemoveDatabaseQuery": {"volume": "remove its data, too, for good"},
    "DisconnectQuery": {
        "env": "whether the variables that the connection added stay",
        "redeploy": "then replace the containers of the app that lost them, if they are out of date",
    },
    "KickQuery": {"client": "an address, or one session's address and port"},
}
"""Parameters, by the type of the query."""

LIMITS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "EventsQuery": {"since": ID, "limit": {"minimum": 1, "maximum": 1000}},
    "AuditQuery": {"limit": {"minimum": 1, "maximum": 1000}, "within": DURATION, "before": ID},
    "EnvQuery": {"scope": ONE_SCOPE, "format": {"enum": ["dotenv", "shell", "json", "docker", "build-args"]}},
    "ScopeQuery": {"scope": SCOPES},
    "LogsQuery": {"tail": {"minimum": 0, "maximum": 10000}},
    "DisconnectQuery": {"env": {"enum": ["keep", "remove"]}},
    "KickQuery": {"client": TEXT},
    "AppRequest": {"mode": {"enum": ["serving", "paused", "maintenance"]}},
    "DeployRequest": {"image": TEXT, "port": PORT, "replicas": {"minimum": 0, "maximum": 16}},
    "PortRequest": {"port": PORT},
    "EnvRequest": {"scope": SCOPES},
    "VariableRequest": {"scope": SCOPES},
    "VariableEdit": {"key": KEY, "scope": SCOPES},
    "DatabaseRequest": {"port": {"const": 3306}},
    "CreateDatabaseRequest": {"name": NAME, "engine": {"enum": ["mariadb", "mysql", "postgres"]}},
    "ExternalRequest": {
        "port": PORT,
        "allow": {"maxItems": 1000},
        "deny": {"maxItems": 1000},
        "expires_in": DURATION,
        "idle_off": DURATION,
        "max_sessions": LIMIT,
        "max_new": LIMIT,
        "forwarder": FORWARDERS,
    },
    "ExternalEdit": {"expires_in": DURATION},
    "ConnectRequest": {"app": NAME, "target": NAME, "scope": SCOPES},
}
"""What values of fields may be, where the type says too little; by the type of a query or a body."""

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "AppRequest": {"options": {"https": "redirect", "max-body": "10m", "hsts": None}},
    "DeployRequest": {"image": "shop:1.4", "replicas": 2, "domains": ["shop.example.com"], "health": "/healthz"},
    "PortRequest": {"port": 3000},
    "DomainsRequest": {"add": ["shop.example.com"], "remove": ["old.example.com"]},
    "EnvRequest": {"variables": {"LOG_LEVEL": "debug", "API_URL": None}, "scope": "runtime"},
    "VariableRequest": {"value": "debug", "scope": "runtime"},
    "VariableEdit": {"key": "MYSQL_HOST"},
    "DatabaseRequest": {"user": "shop", "schema": "shop"},
    "CreateDatabaseRequest": {"name": "shop-db", "engine": "mariadb"},
    "PasswordRequest": {"generate": True, "update_env": True},
    "ExternalRequest": {"enabled": True, "allow": ["203.0.113.0/24=the office"], "expires_in": "2h"},
    "ExternalEdit": {"allow": ["198.51.100.7"], "remove_allow": ["203.0.113.0/24"]},
    "ConnectRequest": {"app": "shop", "target": "shop-db", "env": True, "renames": {"DB_HOST": "MYSQL_HOST"}},
    "CertificateRequest": {"chain": "-----BEGIN CERTIFICATE-----\n…", "key": "-----BEGIN PRIVATE KEY-----\n…"},
}
"""A body of each kind."""

ENGINE = ("engine-unavailable", "engine-error")
CHANGES = ("store",)
PROBLEMS: Mapping[str, tuple[str, ...]] = {
    "GET /v1/apps/{app}": ("not-found",),
    "PATCH /v1/apps/{app}": ("not-found", *CHANGES, "data-plane"),
    "PUT /v1/apps/{app}/deployment": (
        *("not-found", "refused", "key-clash", "pool-exhausted", "rollout-failed", *ENGINE, *CHANGES),
    ),
    "POST /v1/apps/{app}/rollouts": ("not-found", "refused", "rollout-failed", *ENGINE, *CHANGES),
    "PUT /v1/apps/{app}/port": ("not-found", "refused", "rollout-failed", *ENGINE, *CHANGES),
    "PATCH /v1/apps/{app}/domains": ("not-found", "refused", *CHANGES),
    "DELETE /v1/apps/{app}": ("not-found", "refused", *ENGINE, *CHANGES),
    "GET /v1/apps/{app}/logs": ("not-found", *ENGINE),
    "GET /v1/apps/{app}/env": ("not-found", "refused"),
    "PATCH /v1/apps/{app}/env": ("not-found", "refused", "key-clash", *CHANGES),
    "PUT /v1/apps/{app}/env/{key}": ("not-found", "refused", "key-clash", *CHANGES),
    "PATCH /v1/apps/{app}/env/{key}": ("not-found", "refused", "key-clash", *CHANGES),
    "DELETE /v1/apps/{app}/env/{key}": ("not-found", *CHANGES),
    "POST /v1/apps/{app}/builds": ("not-found", "refused", "build-failed", *ENGINE),
    "POST /v1/databases": ("refused", "pool-exhausted", "login-failed", "not-found", *ENGINE, *CHANGES),
    "DELETE /v1/databases/{db}": ("not-found", "refused", *ENGINE, *CHANGES),
    "GET /v1/databases/{db}": ("not-found",),
    "PUT /v1/databases/{db}": ("not-found", "refused", "fixed-port", *CHANGES),
    "GET /v1/databases/{db}/credentials": ("not-found",),
    "PUT /v1/databases/{db}/password": (
        *("not-found", "refused", "key-clash", "login-failed", "password-refused", "password-uncertain"),
        *("engine-unavailable", *CHANGES),
    ),
    "GET /v1/databases/{db}/external": ("not-found",),
    "PUT /v1/databases/{db}/external": ("not-found", "refused", "port-in-use", "data-plane", "host-tool", *CHANGES),
    "PATCH /v1/databases/{db}/external": ("not-found", "refused", "port-in-use", "data-plane", "host-tool", *CHANGES),
    "DELETE /v1/databases/{db}/sessions": ("not-found", "host-tool"),
    "GET /v1/databases/{db}/sessions": ("not-found", "host-tool"),
    "POST /v1/connections": (
        *("not-found", "refused", "duplicate-connection", "key-clash", "pool-exhausted", "rollout-failed"),
        *(*ENGINE, *CHANGES),
    ),
    "DELETE /v1/connections/{a}/{b}": ("not-found", "refused", "rollout-failed", *ENGINE, *CHANGES),
    "GET /v1/certificates": ("refused",),
    "GET /v1/certificates/authority": ("refused", "certificate"),
    "PUT /v1/certificates/{name}": ("refused", *CHANGES),
    "DELETE /v1/certificates/{name}": ("not-found", "refused", *CHANGES),
    "POST /v1/purge": ("refused", *ENGINE, *CHANGES),
}
"""Codes of problems that a call may answer with, beside those that every call may: invalid, failed, internal."""
