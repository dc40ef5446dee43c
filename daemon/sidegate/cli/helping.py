"""The verbs help and man: the same texts as --help, by words, and as one manual page."""

import inspect
import sys
from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem

from sidegate import __version__
from sidegate.cli.verbs import SECTIONS

WIDTH = 100
"""Columns that a text has at most, where the terminal has more."""


def _complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    command: click.Command | None = context.find_root().command
    for word in context.params.get("words") or ():
        command = command.get_command(context, word) if isinstance(command, click.Group) else None
    if not isinstance(command, click.Group):
        return []
    return [CompletionItem(name) for name in command.commands if name.startswith(incomplete)]


@click.command("help")
@click.argument("words", metavar="[VERB]...", nargs=-1, shell_complete=_complete)
@click.pass_context
def help_(context: click.Context, words: tuple[str, ...]) -> None:
    """What a verb does, and with which options: the same as VERB --help.

    \b
    Examples:
      sidegate help
      sidegate help external on
    """
    current = context.find_root()
    for word in words:
        command = current.command.get_command(current, word) if isinstance(current.command, click.Group) else None
        if command is None:
            raise click.UsageError(f"there is no verb {' '.join(words)}: see `sidegate help`")
        current = click.Context(command, parent=current, info_name=word)
    click.echo(current.get_help())


@click.command()
def man() -> None:
    """Print the manual page sidegate(1), all verbs in it, as roff for man(1).

    \b
    Examples:
      sidegate man | man -l -
      sidegate man > /usr/local/share/man/man1/sidegate.1
    """
    root = click.get_current_context().find_root()
    sys.stdout.write("\n".join(_page(root)) + "\n")


def _page(root: click.Context) -> Iterator[str]:
    """Source: man-pages(7) for the sections, groff_man(7) for the macros."""
    yield f'.TH SIDEGATE 1 "" "sidegate {__version__}" "Sidegate"'
    yield ".SH NAME"
    yield r"sidegate \- connections for the containers of one Docker node"
    yield ".SH SYNOPSIS"
    yield r".B sidegate"
    yield r"[\fIoptions\fR] \fIverb\fR [\fIarguments\fR]"
    yield ".SH DESCRIPTION"
    yield from _text(root.command)
    yield ".SH OPTIONS"
    yield from _options(root)
    assert isinstance(root.command, click.Group)
    for title, verbs in SECTIONS.items():
        yield f".SH {title.upper()}"
        for verb in verbs:
            command = root.command.get_command(root, verb.name)
            assert command is not None
            yield from _verb(click.Context(command, parent=root, info_name=verb.name))


def _verb(context: click.Context) -> Iterator[str]:
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _verb(click.Context(command, parent=context, info_name=name))
        return
    pieces = " ".join(context.command.collect_usage_pieces(context))
    yield f".SS {_roff(f'{context.command_path} {pieces}')}"
    yield from _text(context.command)
    yield from _options(context)


def _text(command: click.Command) -> Iterator[str]:
    """Paragraphs; one that begins with \\b stands as it is written."""
    for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0] == "\b":
            yield from (".PP", ".nf", *map(_roff, lines[1:]), ".fi")
        else:
            yield from ([".PP"] if number else [])
            yield _roff(" ".join(line.strip() for line in lines))


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        if record := parameter.get_help_record(context):
            yield from (".TP", rf"\fB{_roff(record[0])}\fR", _roff(record[1]))


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


COMMANDS = (help_, man)
