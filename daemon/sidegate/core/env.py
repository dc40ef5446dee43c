"""Environment variables of apps: what a connection adds, under which names and scope, and how they are written out.

Values are literal, whatever they hold; only keys and scopes have rules, and each export format escapes by its own.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sidegate.core.database_engines import DatabaseEngine
from sidegate.core.model import DATABASE_PORT, DatabaseDetails, Variable
from sidegate.errors import InvalidInputError, KeyClashError, RefusedError

SCOPES = ("build", "runtime", "both")
STAGES = ("build", "runtime")
"""What can be exported: a container or a build has one environment, and `both` is a scope of variables, not a place."""

FORMATS = ("dotenv", "shell", "json", "docker", "build-args")
KEY_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PORT = "PORT"
ENTRY_MOST = 131_071  # bytes of KEY=VALUE: execve(2) takes no longer string (MAX_ARG_STRLEN, less its NUL)
DOCKER_LINE_MAX = 65_535  # bytes: the docker command reads env files with Go's bufio.Scanner and its default buffer


def check_key(key: str) -> str:
    """Return `key`, or raise InvalidInputError saying what a key looks like."""
    if not KEY_PATTERN.fullmatch(key):
        raise InvalidInputError(
            f"{key!r} is not a variable's name: use letters, digits and _, and do not begin with a digit"
        )
    return key


def check_value(key: str, value: str) -> str:
    """Return `value`: any text that a process can be given (environ(7), execve(2)). Raises InvalidInputError."""
    if "\0" in value:
        raise InvalidInputError(f"the value of {key} holds a NUL character, which no environment can carry")
    if len(f"{key}={value}".encode(errors="surrogatepass")) > ENTRY_MOST:
        raise InvalidInputError(f"{key} and its value are longer than 128 KiB, which no process can be given")
    return value


def check_not_port(app: str, variables: Iterable[Variable]) -> None:
    """Raise RefusedError where containers would be told another PORT than the one that requests go to."""
    if any(v.key == PORT and v.scope != "build" for v in variables):
        raise RefusedError(
            f"PORT is given to {app} by Sidegate, which sends requests there: use `sidegate app port {app} NUMBER`"
        )


def check_scope(scope: str, among: Sequence[str] = SCOPES) -> str:
    """Return `scope`, or raise InvalidInputError naming those there are."""
    if scope not in among:
        raise InvalidInputError(f"{scope!r} is not a scope: use {_either(among)}")
    return scope


def overlap(one: str, other: str) -> bool:
    """Whether two scopes share a place where a key may be only once: only build and runtime do not."""
    return {one, other} != {"build", "runtime"}


def clashes(present: Iterable[Variable], added: Iterable[Variable]) -> tuple[str, ...]:
    """Keys of `added` that `present` already has in an overlapping scope, sorted."""
    scopes: dict[str, list[str]] = {}
    for variable in present:
        scopes.setdefault(variable.key, []).append(variable.scope)
    return tuple(sorted({v.key for v in added if any(overlap(v.scope, s) for s in scopes.get(v.key, ()))}))


def check_clashes(app: str, present: Iterable[Variable], added: Sequence[Variable], advice: str = "") -> None:
    """Raise KeyClashError, listing every key and what it clashes with, unless `added` can join `present`.

    `advice` says what to do about a key that is there already.
    """
    held = sorted({f"{v.key} for {v.scope}" for v in present if clashes([v], added)})
    if held:
        text = f"{app} already has {', '.join(held)}: nothing was changed"
        raise KeyClashError(f"{text}; {advice}" if advice else text)
    if twice := [v.key for i, v in enumerate(added) if clashes(added[:i], [v])]:
        raise KeyClashError(f"{', '.join(twice)} is given twice for one scope: nothing was changed")


def select(variables: Iterable[Variable], stage: str) -> tuple[Variable, ...]:
    """The variables that a build, or a running container, has; sorted by key."""
    check_scope(stage, STAGES)
    return tuple(sorted((v for v in variables if v.scope in (stage, "both")), key=lambda v: v.key))


# --- what a connection adds ----------------------------------------------------------------------------------------


def database_variables(name: str, details: DatabaseDetails, engine: DatabaseEngine) -> tuple[Variable, ...]:
    """The six variables of a connection to a database, internal details throughout."""
    host = f"{name}.internal"
    return (
        Variable("DB_HOST", host),
        Variable("DB_PORT", str(DATABASE_PORT)),
        Variable("DB_NAME", details.schema),
        Variable("DB_USER", details.user),
        Variable("DB_PASSWORD", details.password, secret=True),
        Variable("DB_CONNECTION_URL", engine.url(details, host), secret=True),
    )


def app_variables(name: str, port: int) -> tuple[Variable, ...]:
    """The three variables of a connection to another app, named after it."""
    host, prefix = f"{name}.internal", name.upper().replace("-", "_")
    return (
        Variable(f"{prefix}_HOST", host),
        Variable(f"{prefix}_PORT", str(port)),
        Variable(f"{prefix}_URL", f"http://{host}:{port}"),
    )


def rename(variables: Sequence[Variable], renames: Mapping[str, str]) -> tuple[Variable, ...]:
    """`variables` under their new keys (old -> new).

    Raises InvalidInputError for an old key that is not there, a new one that is no key, and two that become one.
    """
    known = [v.key for v in variables]
    if unknown := sorted(set(renames) - set(known)):
        raise InvalidInputError(f"cannot rename {', '.join(unknown)}: this connection adds {', '.join(known)}")
    renamed = tuple(replace(v, key=check_key(renames.get(v.key, v.key))) for v in variables)
    keys = [v.key for v in renamed]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InvalidInputError(f"two variables would be called {', '.join(twice)}: give each a name of its own")
    return renamed


def parse_renames(texts: Iterable[str]) -> dict[str, str]:
    """`OLD=NEW` words as a mapping. Raises InvalidInputError for any other form and for an old key given twice."""
    renames: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise InvalidInputError(f"{text!r} is not a rename: write OLD=NEW, for example DB_HOST=MYSQL_HOST")
        if old in renames:
            raise InvalidInputError(f"{old} is renamed twice, to {renames[old]} and to {new}: keep one")
        renames[old] = check_key(new)
    return renames


# --- writing out ---------------------------------------------------------------------------------------------------


def export(values: Mapping[str, str], form: str) -> str:
    """`values` as text in one of FORMATS: one variable a line (dotenv, shell, docker), one object (json), or options of
    `docker build` as words for a POSIX shell on one line (build-args), since `eval` would take a line's end as a
    command's.

    Raises InvalidInputError for an unknown format, RefusedError for a value that the format cannot carry.
    """
    match form:
        case "dotenv":
            return "".join(f"{key}={_dotenv(value)}\n" for key, value in values.items())
        case "shell":
            return "".join(f"export {key}={_shell(value)}\n" for key, value in values.items())
        case "json":
            return json.dumps(dict(values), ensure_ascii=False, indent=2) + "\n"
        case "docker":
            return "".join(_docker(key, value) for key, value in values.items())
        case "build-args":
            words = " ".join(f"--build-arg {_shell(f'{key}={value}')}" for key, value in values.items())
            return f"{words}\n" if words else ""
        case _:
            raise InvalidInputError(f"{form!r} is not a format: use {_either(FORMATS)}")


def _dotenv(value: str) -> str:
    """Double quotes with escapes. A value with `$` stands in single quotes where it can, since most readers (not
    python-dotenv) expand variables in double ones."""
    if "$" in value and not re.search(r"['\\\r\n]", value):
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _shell(value: str) -> str:
    """Single quotes take everything literally but themselves (POSIX.1-2017, XCU 2.2.2)."""
    return "'" + value.replace("'", "'\\''") + "'"


def _docker(key: str, value: str) -> str:
    """A line of `docker run --env-file`: raw, with no way to escape anything."""
    line = f"{key}={value}\n"
    if "\n" in value or "\r" in value:
        fault = "holds a line break"
    elif len(line.encode()) > DOCKER_LINE_MAX:
        fault = "is longer than 64 KiB"
    else:
        return line
    raise RefusedError(f"{key} {fault}, which an env file of docker cannot carry: use --format json, or -e {key}")


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
