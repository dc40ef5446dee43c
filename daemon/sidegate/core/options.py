"""The options of apps: how an app's requests are treated, beyond where they go.

One table; labels (`sidegate.<option>`), `sidegate app set` and the help texts follow it. A value is text as people
write it; reading it gives what a Policy holds. What nobody says is as the node's settings have it.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from sidegate.core.quoting import quoted
from sidegate.core.routes import Policy
from sidegate.errors import InvalidInputError

T = TypeVar("T")

KEEP, ADD, REMOVE = "keep", "add", "remove"
WWW = "www"
MOST_BODY = 1 << 50
LONGEST_PATH = 2000  # characters

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}
_SIZE = re.compile(r"([0-9]{1,16})(?:([kmgt]?)i?b?)", re.ASCII | re.IGNORECASE)
_PATH = re.compile(r"/[!\"$-~]*")
"""Printable ASCII less "#": it is sent as a request's target."""


@dataclass(frozen=True, slots=True)
class Option:
    """`read` takes what people wrote and gives the value, or None for what is not `allowed`; `field` is Policy's, empty
    for what the proxy need not know."""

    name: str
    purpose: str
    allowed: str
    read: Callable[[str], object]
    field: str = ""


def _choice(values: Mapping[str, T]) -> Callable[[str], T | None]:
    return values.get


def _duration(low: int, high: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        seconds = _seconds("0" if text == "off" else text)
        return int(seconds) if seconds is not None and seconds == int(seconds) and low <= seconds <= high else None

    return read


def _connect(text: str) -> float | None:
    seconds = _seconds(text)
    return seconds if seconds is not None and 0.01 <= seconds <= 600 else None


def _seconds(text: str) -> float | None:
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _SECONDS[match[2]] if match else None


def _size(text: str) -> int | None:
    match = _SIZE.fullmatch("0" if text == "off" else text)
    if match is None:
        return None
    size = int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")
    return size if size <= MOST_BODY else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= 100 else None


def _path(text: str) -> str | None:
    return "" if text == "off" else text if len(text) <= LONGEST_PATH and _PATH.fullmatch(text) else None


_SWITCH = _choice({"on": True, "off": False})
_TIME = "a time such as 30s, 2m or 1h, a plain number being seconds"

OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option(
            "https",
            "whether plain HTTP is served too, or redirected to HTTPS",
            "both or redirect",
            _choice({"both": False, "redirect": True}),
            "https_redirect",
        ),
        Option(
            WWW,
            "whether www.HOST is redirected to HOST (remove), or HOST to www.HOST (add)",
            "keep, add or remove",
            _choice({KEEP: KEEP, ADD: ADD, REMOVE: REMOVE}),
        ),
        Option(
            "hsts",
            "how long browsers are told to use HTTPS alone (Strict-Transport-Security)",
            f"{_TIME} (365d), up to ten years, or off",
            _duration(0, 315_360_000),
            "hsts",
        ),
        Option(
            "max-body",
            "the largest body of a request",
            "a size such as 512k, 10m or 1g, a plain number being bytes, or off for no limit",
            _size,
            "max_body",
        ),
        Option(
            "connect-timeout",
            "for a replica to accept a connection",
            f"{_TIME}, 10ms to 10m",
            _connect,
            "connect",
        ),
        Option(
            "response-timeout",
            "from the end of a request to the head of its response",
            f"{_TIME}, up to a day, or off",
            _duration(0, 86400),
            "response",
        ),
        Option(
            "body-timeout",
            "between two pieces of a request's body",
            f"{_TIME}, up to a day, or off",
            _duration(0, 86400),
            "body",
        ),
        Option(
            "websocket-idle",
            "how long a WebSocket may be silent both ways",
            f"{_TIME}, up to a day, or off",
            _duration(0, 86400),
            "websocket_idle",
        ),
        Option("access-log", "whether its requests are in the access log", "on or off", _SWITCH, "access_log"),
        Option(
            "health",
            "a path that answers 2xx or 3xx while a replica is well",
            "a path that begins with /, or off",
            _path,
            "health",
        ),
        Option(
            "health-interval",
            "between two checks of a replica's health",
            f"{_TIME}, 1s to 1h",
            _duration(1, 3600),
            "health_interval",
        ),
        Option(
            "health-timeout",
            "for a replica to answer a check",
            f"{_TIME}, 1s to 10m",
            _duration(1, 600),
            "health_timeout",
        ),
        Option(
            "health-rise",
            "good answers in a row that make a replica well",
            "a number from 1 to 100",
            _count,
            "health_rise",
        ),
        Option("health-fall", "bad answers in a row that take it out", "a number from 1 to 100", _count, "health_fall"),
    )
}


def option_fault(name: str, text: str) -> str:
    """Why `text` cannot be the value of the option `name`; empty when it can."""
    option = OPTIONS[name]
    return "" if option.read(text) is not None else f"{quoted(text)} is not {option.allowed}"


def check_options(changes: Mapping[str, str | None], kept: Collection[str] = ()) -> None:
    """Raises InvalidInputError naming every unknown option and every value that is wrong.

    None unsets an option, also one that is `kept` although this version does not know it.
    """
    if faults := list(_faults(changes, kept)):
        raise InvalidInputError("; ".join(faults))


def _faults(changes: Mapping[str, str | None], kept: Collection[str]) -> Iterator[str]:
    for name, text in changes.items():
        if text is None and name in kept:
            continue
        if name not in OPTIONS:
            close = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPTIONS)}"
            yield f"there is no option {name!r}: {hint}"
        elif text is not None and (why := option_fault(name, text)):
            yield f"{name}: {why}"


def policy_of(given: Mapping[str, str], default: Policy) -> Policy:
    """How an app is treated for which `given` was said; every value must be one that can be read."""
    values = {o.field: o.read(text) for name, text in given.items() if (o := OPTIONS[name]).field}
    return replace(default, **values)  # type: ignore[arg-type]
