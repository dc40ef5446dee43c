"""Database engines, one entry each: which variables hold the login, how URLs and command lines read.

A third engine extends `DATABASE_ENGINES` by one entry. Whatever the engine, its internal port is 3306.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from sidegate.core.model import DATABASE_PORT, DatabaseDetails


@dataclass(frozen=True, slots=True)
class DatabaseEngine:
    """`prefixes` begin the container's variables (MARIADB_USER, ...), the preferred one first; `client` is the
    command that its people type; `scheme` begins its URLs."""

    name: str
    prefixes: tuple[str, ...]
    client: str
    scheme: str
    root_user: str = "root"

    def url(self, details: DatabaseDetails, host: str, port: int = DATABASE_PORT) -> str:
        """The connection URL, percent-encoded (RFC 3986 section 2.1); unknown parts are left out."""
        user = quote(details.user, safe="")
        login = f"{user}:{quote(details.password, safe='')}@" if details.user else ""
        return f"{self.scheme}://{login}{host}:{port}/{quote(details.schema, safe='')}"

    def command(self, details: DatabaseDetails, host: str, port: int = DATABASE_PORT) -> str:
        """A command line to paste into a shell. It carries no password: `-p` asks for it."""
        words = [self.client, "-h", host, "-P", str(port), "-u", details.user or "USER", "-p"]
        return shlex.join([*words, details.schema] if details.schema else words)


DATABASE_ENGINES: Mapping[str, DatabaseEngine] = {
    "mariadb": DatabaseEngine("mariadb", ("MARIADB", "MYSQL"), "mariadb", "mysql"),
    "mysql": DatabaseEngine("mysql", ("MYSQL",), "mysql", "mysql"),
}


@dataclass(frozen=True, slots=True)
class SecretFiles:
    """Paths inside the container that hold a login's parts (the `_FILE` forms); empty where there is none."""

    user: str = ""
    password: str = ""
    schema: str = ""
    root_password: str = ""


def details_in_environment(engine: DatabaseEngine, env: Mapping[str, str]) -> tuple[DatabaseDetails, SecretFiles]:
    """What a database container's own variables say of its login, and which files say the rest."""

    def find(part: str, form: str) -> str:
        return next((value for prefix in engine.prefixes if (value := env.get(f"{prefix}_{part}{form}"))), "")

    parts = {"user": "USER", "password": "PASSWORD", "schema": "DATABASE", "root_password": "ROOT_PASSWORD"}
    details = DatabaseDetails(**{name: find(part, "") for name, part in parts.items()})
    files = SecretFiles(**{name: find(part, "_FILE") for name, part in parts.items()})
    return details, files


def effective_details(engine: DatabaseEngine, given: DatabaseDetails, found: DatabaseDetails) -> DatabaseDetails:
    """The login to use: what people gave wins over what the container says; with no user at all it is root."""
    user = given.user or found.user
    password = given.password or (found.password if user == found.user else "")
    root_password = given.root_password or found.root_password
    if not user and root_password:
        user, password = engine.root_user, root_password
    if user == engine.root_user and not password:
        password = root_password
    return DatabaseDetails(user, password, given.schema or found.schema, root_password)
