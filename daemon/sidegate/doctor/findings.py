"""What a check says, and how checks are run. Pure."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sidegate.core.model import Network
from sidegate.doctor.snapshot import NotSeenError, Snapshot

FAULT, WARNING, UNKNOWN, OK = "fault", "warning", "unknown", "ok"
LEVELS = (FAULT, WARNING, UNKNOWN, OK)
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that a check has to say. `command` mends it when it is pasted into a shell; `advice` says in a sentence
    what to do, where no command can, or what to know before."""

    level: str
    text: str
    command: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check said, and which. Every fault and warning has a command or an advice."""

    check: str
    group: str
    level: str
    text: str
    command: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """`about` says what is so when nothing is wrong, and names what was looked at."""

    name: str
    about: str
    examine: Callable[[Snapshot], Iterable[Told]]


@dataclass(frozen=True, slots=True)
class Group:
    """Checks of one subject."""

    name: str
    checks: tuple[Check, ...]


def fault(text: str, *, command: str = "", advice: str = "") -> Told:
    """Something does not work, or lets in whom it should not."""
    return Told(FAULT, text, command, advice)


def warning(text: str, *, command: str = "", advice: str = "") -> Told:
    """It works, less well than it could or not for long."""
    return Told(WARNING, text, command, advice)


def quoted(word: object) -> str:
    """One word of a command, on one line whatever is in it: strangers choose names, and lines are pasted."""
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(c if c.isprintable() and c not in "\\'" else _escaped(c) for c in text) + "'"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))


def reference(network: Network) -> str:
    """A network in a command: Docker lets whoever makes one call it anything, such as an option or another line."""
    return network.name if PLAIN.fullmatch(network.name) else network.id


def findings(group: Group, seen: Snapshot) -> Iterator[Finding]:
    """What the checks of a group find; one that finds nothing is ok, one that could not look is unknown."""
    for check in group.checks:
        said = 0
        try:
            for told in check.examine(seen):
                said += 1
                yield Finding(check.name, group.name, told.level, told.text, told.command, told.advice)
        except NotSeenError as error:
            yield Finding(check.name, group.name, UNKNOWN, error.unseen.why, "", error.unseen.advice)
        else:
            if not said:
                yield Finding(check.name, group.name, OK, check.about)
