"""Database engines, one entry each: their port, which variables hold the login, how URLs and command lines read.

A third engine extends `DATABASE_ENGINES` by one entry. Whatever the engine, its internal port is 3306.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from sidegate.core.model import DATABASE_PORT, DatabaseDetails


@dataclass(frozen=True, slots=True)
class Signs:
    """What gives a container without labels away as a database.

    `images`: names that its images go by, without what stands before the last slash. `base`: variables that its images
    set; `server`: those that only a server is given.
    """

    images: frozenset[str] = frozenset()
    base: tuple[str, ...] = ()
    server: tuple[str, ...] = ()


CLIENT_TOOL_HOSTS = ("MYSQL_HOST", "PGHOST")
"""Variables that the engines' own command lines log in by."""

CLIENT_HOSTS = (*CLIENT_TOOL_HOSTS, "MARIADB_HOST", "POSTGRES_HOST", "POSTGRESQL_HOST", "DB_HOST")
"""Those that apps, backups, poolers and web consoles do."""


@dataclass(frozen=True, slots=True)
class DatabaseEngine:
    """What differs between database engines.

    `protocol` names the adapter that logs in; `scheme` begins URLs; `port` is the engine's own, `administrator` who may
    end everybody's sessions. `variables`: part of the login -> the container's variables that hold it, the preferred
    one first. `command_line`: the words that its people type, without a password, which the client asks for.
    `implied`: a container that is given only a password has the administrator as its user, and without a schema one of
    its user's name. `password_bytes`: as many its own client reads at the prompt, in UTF-8.
    `image` runs it where nobody names another, and keeps its data in `data`. By `signs` it is known without labels.
    """

    name: str
    protocol: str
    scheme: str
    port: int
    administrator: str
    variables: Mapping[str, tuple[str, ...]]
    command_line: Callable[[DatabaseDetails, str, int], list[str]]
    implied: bool = False
    password_bytes: int = 79
    image: str = ""
    data: str = "/var/lib/mysql"
    signs: Signs = field(default_factory=Signs)

    def url(self, details: DatabaseDetails, host: str, port: int = DATABASE_PORT) -> str:
        """The connection URL, percent-encoded (RFC 3986 sections 2.1 and 3.2.2); unknown parts are left out."""
        user = quote(details.user, safe="")
        login = f"{user}:{quote(details.password, safe='')}@" if details.user else ""
        literal = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{login}{literal}:{port}/{quote(details.schema, safe='')}"

    def command(self, details: DatabaseDetails, host: str, port: int = DATABASE_PORT) -> str:
        """A command line to paste into a shell. It carries no password: the client asks for it."""
        return shlex.join(self.command_line(details, host, port))


def _mysql(client: str) -> Callable[[DatabaseDetails, str, int], list[str]]:
    def words(details: DatabaseDetails, host: str, port: int) -> list[str]:
        login = [client, "-h", host, "-P", str(port), "-u", details.user or "USER", "-p"]
        if details.schema.startswith("-"):
            return [*login, f"--database={details.schema}"]
        return [*login, details.schema] if details.schema else login

    return words


def _psql(details: DatabaseDetails, host: str, port: int) -> list[str]:
    words = ["psql", "-h", host, "-p", str(port), "-U", details.user or "USER"]
    return [*words, "-d", _conninfo(details.schema)] if details.schema else words


def _conninfo(schema: str) -> str:
    """A name for -d, which takes what has an equals sign or begins like a URL for a whole connection string."""
    if "=" in schema or schema.startswith(("postgresql://", "postgres://")):
        return "dbname='" + re.sub(r"(['\\])", r"\\\1", schema) + "'"
    return schema


def _of_mysql(*prefixes: str) -> Mapping[str, tuple[str, ...]]:
    parts = {"user": "USER", "password": "PASSWORD", "schema": "DATABASE", "root_password": "ROOT_PASSWORD"}
    return {part: tuple(f"{prefix}_{word}" for prefix in prefixes) for part, word in parts.items()}


def _servers(prefix: str, *words: str) -> tuple[str, ...]:
    """Variables and their `_FILE` forms."""
    return tuple(f"{prefix}_{word}{form}" for word in words for form in ("", "_FILE"))


_ENGINES = (
    DatabaseEngine(
        "mariadb",
        "mysql",
        "mysql",
        3306,
        "root",
        _of_mysql("MARIADB", "MYSQL"),
        _mysql("mariadb"),
        image="mariadb",
        signs=Signs(
            images=frozenset({"mariadb", "mariadb-server", "mariadb-galera"}),
            base=("MARIADB_VERSION", "MARIADB_MAJOR"),
            server=_servers(
                "MARIADB", "ROOT_PASSWORD", "ROOT_PASSWORD_HASH", "ALLOW_EMPTY_ROOT_PASSWORD", "RANDOM_ROOT_PASSWORD"
            ),
        ),
    ),
    DatabaseEngine(
        "mysql",
        "mysql",
        "mysql",
        3306,
        "root",
        _of_mysql("MYSQL"),
        _mysql("mysql"),
        image="mysql",
        signs=Signs(
            images=frozenset({"mysql", "mysql-server", "percona", "percona-server", "percona-xtradb-cluster"}),
            base=("MYSQL_VERSION", "MYSQL_MAJOR", "PERCONA_TELEMETRY_URL"),
            server=_servers("MYSQL", "ROOT_PASSWORD", "ALLOW_EMPTY_PASSWORD", "RANDOM_ROOT_PASSWORD"),
        ),
    ),
    DatabaseEngine(
        name="postgres",
        protocol="postgres",
        scheme="postgresql",
        port=5432,
        administrator="postgres",
        variables={"user": ("POSTGRES_USER",), "password": ("POSTGRES_PASSWORD",), "schema": ("POSTGRES_DB",)},
        command_line=_psql,
        implied=True,
        password_bytes=99,
        image="postgres",
        data="/var/lib/postgresql/data",
        signs=Signs(
            images=frozenset(
                {
                    "postgres",
                    "postgresql",
                    "postgis",
                    "pgvector",
                    "pgvecto-rs",
                    "timescaledb",
                    "timescaledb-ha",
                    "citus",
                }
            ),
            base=("PGDATA", "PG_MAJOR"),
            server=(*_servers("POSTGRES", "PASSWORD"), "POSTGRES_HOST_AUTH_METHOD", "POSTGRES_INITDB_ARGS", "PGDATA"),
        ),
    ),
)

DATABASE_ENGINES: Mapping[str, DatabaseEngine] = {engine.name: engine for engine in _ENGINES}


@dataclass(frozen=True, slots=True)
class SecretFiles:
    """Paths inside the container that hold a login's parts (the `_FILE` forms); empty where there is none."""

    user: str = ""
    password: str = ""
    schema: str = ""
    root_password: str = ""


def details_in_environment(engine: DatabaseEngine, env: Mapping[str, str]) -> tuple[DatabaseDetails, SecretFiles]:
    """What a database container's own variables say of its login, and which files say the rest."""

    def find(form: str) -> dict[str, str]:
        return {
            part: next((value for name in names if (value := env.get(name + form))), "")
            for part, names in engine.variables.items()
        }

    return DatabaseDetails(**find("")), SecretFiles(**find("_FILE"))


def with_implied(engine: DatabaseEngine, found: DatabaseDetails, files: SecretFiles) -> DatabaseDetails:
    """What a container was given (files read), with what the engine's images make of a missing variable. A part whose
    file could not be read stays unknown, and so does everything where there is no password."""
    if not engine.implied or not found.password:
        return found
    user = found.user or ("" if files.user else engine.administrator)
    return replace(found, user=user, schema=found.schema or ("" if files.schema else user))


def effective_details(engine: DatabaseEngine, given: DatabaseDetails, found: DatabaseDetails) -> DatabaseDetails:
    """The login to use: what people gave wins over what the container says; with no user at all it is the
    administrator."""
    user = given.user or found.user
    password = given.password or (found.password if user == found.user else "")
    root_password = given.root_password or found.root_password
    if not user and root_password:
        user, password = engine.administrator, root_password
    if user == engine.administrator and not password:
        password = root_password
    return DatabaseDetails(user, password, given.schema or found.schema, root_password)


def administrators(engine: DatabaseEngine, details: DatabaseDetails) -> tuple[tuple[str, str], ...]:
    """Logins (user, password) that end sessions, those who may end everybody's first."""
    logins = [(engine.administrator, details.root_password), (details.user, details.password)]
    found = dict.fromkeys(login for login in logins if all(login))
    return tuple(found)
