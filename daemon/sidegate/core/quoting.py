"""Words that somebody else chose, in a sentence for the operator: never long, never with a line's end in them.

Labels, names and values come from whoever starts containers; a sentence about them is kept, sent and shown again and
again.
"""

from collections.abc import Iterable

LONGEST = 80
"""Characters of a word that are shown."""

MOST = 10
"""Words that are shown of several."""


def quoted(text: str) -> str:
    """`text` in quotes, with what is not printable escaped; of one that is long the beginning."""
    return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}…"


def plain(text: str) -> str:
    """`text` as it stands where nothing can be mistaken in it, else in quotes."""
    return text if len(text) <= LONGEST and text.isprintable() else quoted(text)


def listed(words: Iterable[str]) -> str:
    """Words in order, the first MOST of them, and how many more there are."""
    found = sorted(words)
    more = len(found) - MOST
    return ", ".join(map(plain, found[:MOST])) + (f" and {more} more" if more > 0 else "")
