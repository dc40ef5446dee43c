import io
import json
import shlex
import subprocess

import pytest
from dotenv import dotenv_values
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.env import (
    app_variables,
    check_clashes,
    check_key,
    check_not_port,
    check_value,
    clashes,
    database_variables,
    export,
    overlap,
    parse_renames,
    rename,
    select,
)
from sidegate.core.model import DatabaseDetails, Variable
from sidegate.errors import InvalidInputError, KeyClashError, RefusedError

VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NASTY = "a,b'c\"d$e${F}`g`\\n\n\r\t#h é\u2028\\"
DETAILS = DatabaseDetails("shop", "p@ss, w'rd$", "shop")
SIX = database_variables("shop-db", DETAILS, DATABASE_ENGINES["mariadb"])


def by_key(variables: tuple[Variable, ...]) -> dict[str, str]:
    return {v.key: v.value for v in variables}


def test_a_database_brings_six_variables_with_internal_details() -> None:
    assert by_key(SIX) == {
        "DB_HOST": "shop-db.internal",
        "DB_PORT": "3306",
        "DB_NAME": "shop",
        "DB_USER": "shop",
        "DB_PASSWORD": "p@ss, w'rd$",
        "DB_CONNECTION_URL": "mysql://shop:p%40ss%2C%20w%27rd%24@shop-db.internal:3306/shop",
    }
    assert [v.key for v in SIX if v.secret] == ["DB_PASSWORD", "DB_CONNECTION_URL"]
    assert "w'rd" not in repr(SIX)


def test_an_app_brings_three_named_after_it() -> None:
    assert by_key(app_variables("my-api", 9000)) == {
        "MY_API_HOST": "my-api.internal",
        "MY_API_PORT": "9000",
        "MY_API_URL": "http://my-api.internal:9000",
    }


def test_a_rename_changes_the_key_and_nothing_else() -> None:
    renamed = rename(SIX, {"DB_HOST": "MYSQL_HOST"})
    assert renamed[0].key == "MYSQL_HOST"
    assert renamed[0].value == "shop-db.internal"
    assert renamed[1:] == SIX[1:]


def test_two_keys_may_swap_their_names() -> None:
    renamed = by_key(rename(SIX, {"DB_NAME": "DB_USER", "DB_USER": "DB_NAME"}))
    assert len(renamed) == 6


@pytest.mark.parametrize(
    ("renames", "parts"),
    [
        ({"DB_HOTS": "X"}, ["DB_HOTS", "DB_HOST", "DB_CONNECTION_URL"]),
        ({"DB_HOST": "DB_PORT"}, ["two variables", "DB_PORT"]),
        ({"DB_HOST": "X", "DB_PORT": "X"}, ["two variables", "X"]),
        ({"DB_HOST": "9"}, ["'9'", "digit"]),
        ({"DB_HOST": "A-B"}, ["'A-B'"]),
    ],
)
def test_a_wrong_rename_is_refused_with_what_is_known(renames: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        rename(SIX, renames)
    assert all(part in str(caught.value) for part in parts)


def test_renames_are_read_from_words() -> None:
    assert parse_renames(["DB_HOST=A", "DB_PORT=B"]) == {"DB_HOST": "A", "DB_PORT": "B"}


@pytest.mark.parametrize("words", [["DB_HOST"], ["=A"], ["DB_HOST="], ["DB_HOST=A", "DB_HOST=B"], ["A=b c"]])
def test_words_that_are_no_renames_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        parse_renames(words)


@pytest.mark.parametrize("key", ["", "1A", "A-B", "A B", "Ä", "A\n", "A="])
def test_only_portable_names_are_keys(key: str) -> None:
    with pytest.raises(InvalidInputError, match="not a variable's name"):
        check_key(key)


def test_a_nul_character_is_no_value() -> None:
    with pytest.raises(InvalidInputError, match="NUL"):
        check_value("KEY", "a\0b")


def test_no_value_is_longer_than_a_process_can_be_given() -> None:
    """execve(2): MAX_ARG_STRLEN; a real process is given the longest."""
    longest = "é" * ((131_071 - len("KEY=")) // 2)
    done = subprocess.run(["/usr/bin/env"], env={"KEY": check_value("KEY", longest)}, capture_output=True, check=True)
    assert done.stdout.decode() == f"KEY={longest}\n"
    with pytest.raises(InvalidInputError, match="KEY and its value are longer than 128 KiB"):
        check_value("KEY", longest + "é")
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/usr/bin/env"], env={"KEY": longest + "é"}, capture_output=True, check=True)


def test_clashes_are_listed_with_their_scopes_and_what_to_do() -> None:
    present = [Variable("A", "1", "build"), Variable("A", "1", "runtime"), Variable("B", "2", "both")]
    with pytest.raises(KeyClashError) as caught:
        check_clashes("shop", present, [Variable("A", "x"), Variable("B", "x"), Variable("C", "x")], "unset them")
    assert str(caught.value) == "shop already has A for runtime, B for both: nothing was changed; unset them"
    check_clashes("shop", present, [Variable("C", "x", "build"), Variable("C", "x")])


def test_the_port_of_containers_is_no_variable() -> None:
    """R29."""
    check_not_port("shop", [Variable("PORT", "1", "build"), Variable("APP_PORT", "1")])
    for scope in ("runtime", "both"):
        with pytest.raises(RefusedError, match="`sidegate app port shop NUMBER`"):
            check_not_port("shop", [Variable("PORT", "1", scope)])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("build", "runtime", False), ("runtime", "build", False), ("both", "build", True), ("runtime", "runtime", True)],
)
def test_only_build_and_runtime_do_not_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected


def test_clashes_are_keys_in_overlapping_scopes() -> None:
    present = [Variable("A", "1", "build"), Variable("B", "2", "both"), Variable("C", "3", "runtime")]
    added = [Variable(key, "x", "runtime") for key in ("A", "B", "C", "D")]
    assert clashes(present, added) == ("B", "C")


def test_a_stage_has_its_own_variables_and_those_of_both() -> None:
    variables = [Variable("C", "3", "runtime"), Variable("B", "2", "both"), Variable("A", "1", "build")]
    assert [v.key for v in select(variables, "build")] == ["A", "B"]
    assert [v.key for v in select(variables, "runtime")] == ["B", "C"]
    with pytest.raises(InvalidInputError, match="build or runtime"):
        select(variables, "both")


@given(VALUES)
@example(NASTY)
@settings(deadline=None)
def test_dotenv_reads_back_exactly(value: str) -> None:
    """python-dotenv, its expansion of ${…} switched off: it has no way to escape that."""
    text = export({"KEY": value, "AFTER": "x"}, "dotenv")
    assert dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False) == {"KEY": value, "AFTER": "x"}


@given(VALUES.filter(lambda value: "${" not in value))
@example("a$b$(c)`d`")
@settings(deadline=None)
def test_dotenv_reads_back_exactly_with_expansion_too(value: str) -> None:
    text = export({"KEY": value}, "dotenv")
    assert dotenv_values(stream=io.StringIO(text, newline="")) == {"KEY": value}


@given(st.lists(VALUES, min_size=1, max_size=20))
@example([NASTY, "", "'", "''", "\\'"])
@settings(deadline=None, max_examples=25)
def test_a_real_shell_reads_back_exactly(values: list[str]) -> None:
    named = {f"KEY_{number}": value for number, value in enumerate(values)}
    prints = "".join(f'printf "%s\\0" "$KEY_{number}"\n' for number in range(len(values)))
    script = (export(named, "shell") + prints).encode()
    done = subprocess.run(["/bin/sh", "-s"], input=script, capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [value.encode() for value in values]


@given(VALUES)
def test_json_reads_back_exactly(value: str) -> None:
    assert json.loads(export({"KEY": value}, "json")) == {"KEY": value}


@given(st.dictionaries(st.sampled_from("ABCDEF"), VALUES, min_size=1))
@example({"A": NASTY, "B": "", "C": " x ", "D": "'", "E": "''"})
@settings(deadline=None, max_examples=25)
def test_build_arguments_are_words_for_a_shell(values: dict[str, str]) -> None:
    text = export(values, "build-args")
    words = [word for key, value in values.items() for word in ("--build-arg", f"{key}={value}")]
    assert shlex.split(text) == words
    script = "eval \"printf '%s\\\\0' $1\""
    done = subprocess.run(["/bin/sh", "-c", script, "sh", text], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_no_build_arguments_are_no_words() -> None:
    assert export({}, "build-args") == ""


def test_docker_takes_values_raw() -> None:
    assert export({"A": "b c'd\"e$f#", "G": ""}, "docker") == "A=b c'd\"e$f#\nG=\n"


@pytest.mark.parametrize("value", ["a\nb", "a\r", "x" * 70_000])
def test_docker_refuses_by_name_what_an_env_file_cannot_carry(value: str) -> None:
    with pytest.raises(RefusedError, match=r"KEY .* use --format json, or -e KEY"):
        export({"FINE": "1", "KEY": value}, "docker")


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInputError, match="dotenv, shell, json, docker or build-args"):
        export({}, "yaml")
