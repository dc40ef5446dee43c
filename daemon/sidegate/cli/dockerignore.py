"""What a .dockerignore leaves out of a build's context.

Source: https://docs.docker.com/reference/dockerfile/#dockerignore-file; the rules are those of moby's patternmatcher.
"""

import posixpath
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

WILD = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class _Pattern:
    parts: tuple[str, ...]
    regex: re.Pattern[str]
    brings_back: bool

    def may_match_below(self, directory: tuple[str, ...]) -> bool:
        """Whether it can match anything under `directory`."""
        for mine, theirs in zip(self.parts, directory, strict=False):
            if WILD.search(mine):
                return True
            if mine != theirs:
                return False
        return True


class Ignore:
    """The patterns of a .dockerignore; the last one that matches a path, or a directory above it, decides."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._patterns = [pattern for line in lines if (pattern := _parse(line))]

    def leaves_out(self, path: str) -> bool:
        """Whether a path, relative to the context and with slashes, stays out."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        out = False
        for pattern in self._patterns:
            if pattern.brings_back == out and any(pattern.regex.fullmatch(name) for name in above):
                out = not pattern.brings_back
        return out

    def may_bring_back_below(self, directory: str) -> bool:
        """Whether something under a directory that is left out may be in all the same."""
        parts = tuple(directory.split("/"))
        return any(pattern.brings_back and pattern.may_match_below(parts) for pattern in self._patterns)


def _parse(line: str) -> _Pattern | None:
    """None for a comment or an empty line. Raises ValueError for a pattern that is none."""
    if line.startswith("#"):
        return None
    text = line.strip()
    brings_back = text.startswith("!")
    text = text.removeprefix("!").strip()
    if not text:
        return None
    cleaned = posixpath.normpath("/" + text).lstrip("/")
    if not cleaned:  # "." or "/": for historical reasons it stands for nothing
        return None
    try:
        with warnings.catch_warnings():  # of what a later Python may read otherwise, such as [[]
            warnings.simplefilter("ignore", FutureWarning)
            return _Pattern(tuple(cleaned.split("/")), re.compile(_regex(cleaned), re.DOTALL), brings_back)
    except re.error:
        raise ValueError(f"{line.strip()!r} is not a pattern") from None


def _regex(pattern: str) -> str:
    """`*` and `?` stay within a name, `**` goes over any number of directories; the rest as Go's filepath.Match."""
    made, rest = "", pattern
    while rest:
        head, rest = rest[0], rest[1:]
        if head == "*" and rest.startswith("*"):
            rest = rest[1:].removeprefix("/")
            made += "(.*/)?" if rest else ".*"
        elif head == "*":
            made += "[^/]*"
        elif head == "?":
            made += "[^/]"
        elif head == "\\" and rest:
            made, rest = made + re.escape(rest[0]), rest[1:]
        elif head in "[]^-":
            made += head
        else:
            made += re.escape(head)
    return made
