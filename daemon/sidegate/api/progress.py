"""How a verb that takes long says how it gets on."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""Takes a line for people; never waits and never raises."""


def unheard(_: str) -> None:
    """The progress of a verb whose caller asked for the result only."""
