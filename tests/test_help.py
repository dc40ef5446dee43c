"""Help texts: each verb says what it does, with which options, and shows how; all of it in a terminal's width."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from sidegate.cli import sidegate
from sidegate.cli.related import RELATED
from sidegate.cli.verbs import SECTIONS, VERBS

WIDTH = 100


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Every command and every group, with the words that lead to it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from contexts(click.Context(command, parent=context, info_name=name, terminal_width=WIDTH))


ROOT = click.Context(sidegate, info_name="sidegate", terminal_width=WIDTH, max_content_width=WIDTH)
ALL = {context.command_path: context for context in contexts(ROOT)}
VERB_PATHS = sorted(path for path, context in ALL.items() if not isinstance(context.command, click.Group))


@pytest.mark.parametrize("path", sorted(ALL))
def test_each_option_and_each_verb_is_explained(path: str) -> None:
    context = ALL[path]
    text = context.get_help()
    assert context.command.help
    assert max(map(len, text.splitlines())) <= WIDTH
    for parameter in context.command.get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts} says nothing"
    assert "Example" in text
    assert "See also: " in text


@pytest.mark.parametrize("path", VERB_PATHS)
def test_examples_are_of_the_verb_and_name_options_that_it_has(path: str) -> None:
    """Each line that begins with the verb is parsed by click, less what a shell does with it."""
    context = ALL[path]
    shown = [line.strip() for line in (context.command.help or "").split("Example", 1)[1].splitlines()[1:]]
    examples = [line for line in shown if path in line]
    assert examples
    known = {option for parameter in context.command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for example in examples:
        words = example.split(path, 1)[1].split(" | ")[0].split(" > ")[0].split("&&")[0].split("$(")[0].split(")")[0]
        given = {word.partition("=")[0] for word in words.split() if word.startswith("-") and word != "-"}
        assert given <= known, example


@pytest.mark.parametrize("path", VERB_PATHS)
def test_what_see_also_names_is_there(path: str) -> None:
    epilog = ALL[path].command.epilog or ""
    for named in epilog.partition("See also: ")[2].rstrip(".").split(", "):
        assert named in ALL
        assert named != path
    assert "Exit status: " in epilog + (ALL[path].command.help or "")


def test_every_verb_has_company() -> None:
    assert {f"sidegate {path}" for path in RELATED} == ALL.keys() - {"sidegate"}


def test_verbs_are_listed_by_subject() -> None:
    text = CliRunner().invoke(sidegate, ["--help"], terminal_width=WIDTH).output
    places = [text.index(f"{title}:") for title in SECTIONS]
    assert places == sorted(places)
    for name, verb in VERBS.items():
        assert f"  {name} " in text
        assert verb.purpose in text
        assert sidegate.commands[name].name == name


@pytest.mark.parametrize("words", [[], ["external"], ["external", "on"], ["status"]])
def test_help_says_the_same_as_the_option(words: list[str]) -> None:
    by_verb = CliRunner().invoke(sidegate, ["help", *words], prog_name="sidegate")
    by_option = CliRunner().invoke(sidegate, [*words, "--help"], prog_name="sidegate")
    assert (by_verb.exit_code, by_verb.output) == (0, by_option.output)


def test_help_of_what_is_not_there() -> None:
    done = CliRunner().invoke(sidegate, ["help", "external", "of"])
    assert done.exit_code == 2
    assert "there is no verb external of" in done.output


def test_the_manual_page_holds_every_verb_and_no_stray_macro() -> None:
    done = CliRunner().invoke(sidegate, ["man"], prog_name="sidegate")
    assert done.exit_code == 0
    page = done.output
    for path in VERB_PATHS:
        assert f".SS {path}".replace("-", r"\-") in page
    macros = {line.split()[0] for line in page.splitlines() if line.startswith(".")}
    assert macros <= {".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi", ".B"}
    assert not any(line.startswith("'") for line in page.splitlines())


def test_a_list_of_verbs_needs_none_of_their_modules() -> None:
    """What a shell asks at `sidegate <TAB>`."""
    code = "import sys, sidegate.cli; print(*(m for m in sys.modules if m.startswith('sidegate.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [m for m in loaded if m.startswith(("sidegate.core.model", "sidegate.cli.apps", "sidegate.main"))]
