"""Passwords of databases: what a new one must be, making one, and who still holds an old one.

Nothing here prints a password: errors name rules, never what was given.
"""

import json
import re
import secrets
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, unquote_plus

from sidegate.core.database_engines import DATABASE_ENGINES, DatabaseEngine
from sidegate.core.model import DatabaseDetails, Variable
from sidegate.errors import InvalidInputError

LEAST = 8
SPECIALS = ",&*[]:'$`\""
QUOTELESS = ",&*[]:$"
"""Those that stand for themselves inside of any quotes."""

TYPOGRAPHIC_QUOTES = "\u2018\u2019\u201c\u201d"
GENERATED_LENGTH = 28
SHORT = 8
"""A password with fewer characters may be part of a value by accident, so it has to stand there by itself."""

_RULES: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("a lower-case letter", str.islower),
    ("an upper-case letter", str.isupper),
    ("a digit", string.digits.__contains__),
    (
        f"one of {' '.join(SPECIALS)} (typographic quotes count too)",
        (SPECIALS + TYPOGRAPHIC_QUOTES).__contains__,
    ),
)
_URL = re.compile(
    rf"(?P<scheme>(?:{'|'.join(sorted({e.scheme for e in DATABASE_ENGINES.values()}))})://)"
    r"(?:(?P<user>[^:@]*)(?::[^@]*)?@)?"
)
"""The beginning of a database's URL, as far as its host; user and password are percent-encoded."""

_REFUSED_CATEGORIES = {
    "Cc": "control character",
    "Cs": "half of a surrogate pair",
    "Zl": "line separator",
    "Zp": "line separator",
}


def unmet_rules(password: str) -> tuple[str, ...]:
    """What `password` lacks, as words that follow "it needs"; nothing when every rule is met."""
    length = (f"{LEAST} characters (it has {len(password)})",) if len(password) < LEAST else ()
    return length + tuple(what for what, counts in _RULES if not any(map(counts, password)))


def carry_fault(password: str, engine: DatabaseEngine | None = None) -> str:
    """Why `password` could not be carried literally everywhere; empty when it can. With `engine` its limit counts.

    A line break ends a line of an env file, NUL ends an environment variable (environ(7)), and other control
    characters cannot be typed at a client's prompt.
    """
    for character in password:
        if kind := _REFUSED_CATEGORIES.get(unicodedata.category(character)):
            name = {"\n": "line break", "\r": "line break", "\0": "NUL character"}.get(character, kind)
            return f"it holds a {name} (U+{ord(character):04X}), which cannot be carried everywhere"
    if engine is not None and (size := len(password.encode())) > engine.password_bytes:
        return f"it has {size} bytes, and the clients of {engine.name} read {engine.password_bytes} at their prompt"
    return ""


def check_password(password: str, engine: DatabaseEngine | None = None) -> str:
    """Return `password`, or raise InvalidInputError naming every rule that it does not meet."""
    if fault := carry_fault(password, engine):
        raise InvalidInputError(f"this password cannot be used: {fault}")
    if unmet := unmet_rules(password):
        needs = unmet[0] if len(unmet) == 1 else f"{', '.join(unmet[:-1])} and {unmet[-1]}"
        raise InvalidInputError(f"this password cannot be used: it needs {needs}")
    return password


def generate(specials: str = SPECIALS) -> str:
    """A new password: ASCII, each that meets the rules as likely as any other (170 bits or so)."""
    alphabet = string.ascii_letters + string.digits + specials
    while True:
        password = "".join(secrets.choice(alphabet) for _ in range(GENERATED_LENGTH))
        if not unmet_rules(password):
            return password


# --- a change, and what follows from it ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PasswordChanged:
    """A database's server has a new password. `old` and `details` are the login before and after; `accounts` those
    that were changed ("shop@%"), `ended` how many sessions; `notes` what the operator should know beside."""

    engine: str
    old: DatabaseDetails
    details: DatabaseDetails
    accounts: tuple[str, ...] = ()
    ended: int = 0
    notes: tuple[str, ...] = field(default=())


def with_password(engine: DatabaseEngine, login: DatabaseDetails, given: DatabaseDetails, new: str) -> DatabaseDetails:
    """What to keep of a database once the password of `login` is `new`: the user by name, so that the password counts
    for no other, and what was `given` before."""
    root = new if login.user == engine.administrator else given.root_password
    return replace(given, user=login.user, password=new, root_password=root)


def updated_variables(
    env: Mapping[str, Iterable[Variable]], changed: PasswordChanged, database: str
) -> dict[str, tuple[Variable, ...]]:
    """App -> the variables that a connection to `database` added and that hold a password, with the new one.

    Such a variable is secret; it is the password, or the URL with it. An app whose URL names another user has that
    one's password, which stays.
    """
    details = changed.details
    found: dict[str, tuple[Variable, ...]] = {}
    for app, variables in env.items():
        ours = [v for v in variables if v.source == f"connection:{database}" and v.secret]
        if any(_user(v.value) not in (None, details.user) for v in ours):
            continue
        renewed = ((v, replace(v, value=_renewed(v.value, details.password))) for v in ours)
        if updates := tuple(after for before, after in renewed if after != before):
            found[app] = updates
    return found


def _user(value: str) -> str | None:
    """Whom a URL logs in as; None where it does not say, or where this is none."""
    url = _URL.match(value)
    return None if url is None or url["user"] is None else unquote(url["user"])


def _renewed(value: str, password: str) -> str:
    url = _URL.match(value)
    if url is None:
        return password
    if url["user"] is None:
        return value
    return f"{url['scheme']}{url['user']}:{quote(password, safe='')}@{value[url.end() :]}"


def holds(value: str, password: str) -> bool:
    """Whether a variable's value has `password` in it: as it is, percent-encoded (RFC 3986), or as JSON escapes it."""
    if not password:
        return False
    forms = {value, unquote(value), unquote_plus(value)}
    if len(password) < SHORT:
        return value == password or any(f":{password}@" in form for form in forms)
    return any(password in form for form in forms) or json.dumps(password)[1:-1] in value


def holders(env: Mapping[str, Iterable[Variable]], password: str) -> list[tuple[str, str, str]]:
    """(app, key, scope) of every variable that holds `password`, sorted."""
    return sorted(
        (app, v.key, v.scope) for app, variables in env.items() for v in variables if holds(v.value, password)
    )
