import contextlib
import io

import pytest
from dotenv import dotenv_values
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidegate.core.dotenv import parse_dotenv
from sidegate.core.env import export
from sidegate.errors import InvalidInputError

VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
NASTY = "a,b'c\"d$e${F}`g`\\n\n\r\t#h é\u2028\\"


@given(st.dictionaries(KEYS, VALUES))
@example({"A": NASTY, "B": "", "C": " x ", "D": "'", "E": '"', "F": "$HOME"})
@settings(deadline=None)
def test_what_was_exported_is_read_back_exactly(values: dict[str, str]) -> None:
    assert parse_dotenv(export(values, "dotenv")) == values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n  \n# a comment\n\r\n", {}),
        ("# the end", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\r\nB='2'\r\nC=\"3\"\r\n", {"A": "1", "B": "2", "C": "3"}),
        ("\ufeffA=1\n", {"A": "1"}),
        ("export A=1\nexport\tB=2", {"A": "1", "B": "2"}),
        ("  A = 1 2  \n", {"A": "1 2"}),
        ("A=\nB=''\nC=\"\"\n", {"A": "", "B": "", "C": ""}),
        ("A=a=b&c=d", {"A": "a=b&c=d"}),
        ("A=x#y # z\nB= #only\nC=c #\n", {"A": "x#y", "B": "", "C": "c"}),
        ("COLOUR=#fff\nB=# # c\nC =\t# c", {"COLOUR": "#fff", "B": "#", "C": ""}),
        ("A='x # y' # z\nB=\"#\" #\n", {"A": "x # y", "B": "#"}),
        ("A=$HOME ${B} $(c) `d`\n", {"A": "$HOME ${B} $(c) `d`"}),
        ('A="$HOME \\$x \\` \\"q\\" \\n\\r\\t \\\\ \\x \\\'"', {"A": '$HOME $x ` "q" \n\r\t \\ \\x \\\''}),
        (r"A='\n \" $x'", {"A": r"\n \" $x"}),
        ("A='one\n# two\nB=3'\nC=4\n", {"A": "one\n# two\nB=3", "C": "4"}),
        ('A="one\ntwo"\nB=it\'s', {"A": "one\ntwo", "B": "it's"}),
        ("_9=ü\u2028\n", {"_9": "ü\u2028"}),
    ],
)
def test_files_as_people_write_them(text: str, expected: dict[str, str]) -> None:
    assert parse_dotenv(text) == expected


@pytest.mark.parametrize(
    "text",
    ["A=1\nB='2'\n", "A = x y # z\n", "A=#fff\n", "export A=1\n#c\n\nB=\n", 'A="a\\nb"\nB=b#c\n', "A='x\ny'\n"],
)
def test_it_agrees_with_another_reader(text: str) -> None:
    assert parse_dotenv(text) == dotenv_values(stream=io.StringIO(text), interpolate=False)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A=1\n\nB\n", "line 3 is not KEY=VALUE"),
        ("A=1\nMIIEs3cretAAA\nB=2", "line 2 is not KEY=VALUE"),
        ("1A=s3cret", "line 1 is not KEY=VALUE"),
        ("A-B=s3cret", "line 1 is not KEY=VALUE"),
        ("=s3cret", "line 1 is not KEY=VALUE"),
        ("A='s3cret\n", "line 1: the quote that opens the value of A is not closed"),
        ('A="s3cret\\"\n', "line 1: the quote that opens the value of A is not closed"),
        ("A='1' s3cret\n", "line 1: there is more after the closing quote of A"),
        ("A='1's3cret\n", "line 1: there is more after the closing quote of A"),
        ("A='1\n2'\nB=1\nA=2", "A is given twice, in lines 1 and 4"),
    ],
)
def test_what_is_no_dotenv_file_is_refused_with_its_line_and_no_value(text: str, fault: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_dotenv(text)
    assert fault in str(caught.value)
    assert "s3cret" not in str(caught.value)


@given(VALUES)
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        values = parse_dotenv(text)
    except InvalidInputError:
        return
    assert parse_dotenv(export(values, "dotenv")) == values


@pytest.mark.parametrize(
    "text", ["A=x" + " " * 500_000 + "y", "\n" * 500_000, "A='" + "x" * 500_000, " " * 500_000 + "="]
)
def test_no_text_takes_long(text: str) -> None:
    """Anything worse than linear would take minutes."""
    with contextlib.suppress(InvalidInputError):
        parse_dotenv(text)
    many = "".join(f"K{number}=v\n" for number in range(50_000))
    assert len(parse_dotenv(many)) == 50_000
