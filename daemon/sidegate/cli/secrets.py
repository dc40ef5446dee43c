"""Passwords on their way in: never words of a command line."""

import sys

import click


def read_secrets(whose: list[str]) -> dict[str, str]:
    """Asked for on a terminal; else one line each, or everything where there is only one to read."""
    if not whose:
        return {}
    if sys.stdin.isatty():
        return {who: click.prompt(f"Password of {who}", hide_input=True, err=True) for who in whose}
    text = sys.stdin.buffer.read().decode().removesuffix("\n")  # bytes: text mode would turn \r into \n
    lines = [text] if len(whose) == 1 else text.split("\n")
    if len(lines) != len(whose) or not all(lines):
        raise click.UsageError("standard input holds no password" if len(whose) == 1 else "give two lines: user, root")
    return dict(zip(whose, lines, strict=True))


def read_new_password(whose: str) -> str:
    """One that is to be: asked for twice on a terminal, else all of standard input."""
    if sys.stdin.isatty():
        given: str = click.prompt(f"New password of {whose}", hide_input=True, confirmation_prompt=True, err=True)
        return given
    return read_secrets(["user"])["user"]
