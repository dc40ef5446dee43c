"""How answers look on a terminal. Rows are tables by rich, imported only when there is one to show, since that takes
longer than most verbs; everything else is plain lines, never broken, so that what is printed can be pasted.

Names stand as they are, with no markup; characters that a terminal would obey do not get through.
"""

import os
import sys
import time
from collections.abc import Iterable, Sequence

import click

GOOD = frozenset({"up", "ok", "running", "serving", "on", "yes", "done"})
MARGIN = 14
WIDE = 240  # columns, where there is no terminal to fit


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Rows under headings, or the sentence `empty`."""
    shown = [[word(value) for value in row] for row in rows]
    if not shown:
        say(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for words in shown:
        grid.add_row(*(Text(word, style="green" if word in GOOD else "") for word in words))
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(grid)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Name and value, one a line; values that are not there are left out."""
    for name, value in pairs:
        if shown := word(value):
            colour = "green" if shown in GOOD else None
            click.echo(style(name.ljust(MARGIN), bold=True) + style(shown, colour))


def say(text: str) -> None:
    """A sentence."""
    click.echo(word(text))


def warn(texts: Iterable[str]) -> None:
    """Sentences that should not be missed."""
    for text in texts:
        click.echo(style(f"! {word(text)}", "yellow"))


def style(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """`text` in a colour, or bold, for a terminal that can show it and a reader who wants it (no-color.org)."""
    shown = None if os.environ.get("NO_COLOR") else colour
    if os.environ.get("TERM") == "dumb" or not (shown or bold):
        return text
    return click.style(text, fg=shown, bold=bold or None)


def word(value: object) -> str:
    """A value as people read it; empty for one that is not there."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return printable(value)
        case list() | tuple():
            return ", ".join(word(part) for part in value)
        case _:
            return str(value)


def printable(text: str) -> str:
    """`text` without characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def when(at: float | None) -> str:
    """A Unix time in this machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else ""


def ago(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
