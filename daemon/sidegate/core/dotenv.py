"""Reading dotenv files. There is no standard; this takes what its readers agree on, and values literally: nothing is
expanded, a `$` is a `$`.

A line is empty, a comment, or `KEY=VALUE`, `export` in front or not. A value without quotes ends at the line's end or
at a `#` after a space. In single quotes everything is literal; in double ones backslash escapes n, r, t, the quote,
`$`, a backtick and itself, and stands for itself before anything else. A value in quotes may have several lines.
"""

import re

from sidegate.errors import InvalidInputError

ASSIGNMENT = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
SINGLE = re.compile(r"'([^']*)'")
DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
REST = re.compile(r"[ \t\r]*(?:[ \t]#[^\n]*)?(?:\n|\Z)")
COMMENT = re.compile(r"(?:^|[ \t])#")
LATER_COMMENT = re.compile(r"[ \t]#")
EMPTY = re.compile(r"(?:[ \t\r]*(?:#[^\n]*)?\n)*[ \t\r]*(?:#[^\n]*\Z)?")
ESCAPE = re.compile(r'\\([nrt"$`\\])')
ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


def parse_dotenv(text: str) -> dict[str, str]:
    """The variables of a dotenv file, in its order.

    Raises InvalidInputError naming the line that is wrong, and a key that is there twice. It quotes nothing else of the
    file: part of a secret may look like a key.
    """
    text = text.removeprefix("\ufeff")
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    line, counted, position = 1, 0, _past_empty(text, 0)
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        key, value, end = _assignment(text, position, line)
        if key in values:
            raise InvalidInputError(f"{key} is given twice, in lines {lines[key]} and {line}: keep one")
        values[key], lines[key] = value, line
        position = _past_empty(text, end)
    return values


def _assignment(text: str, start: int, line: int) -> tuple[str, str, int]:
    """Key, value and where the next line begins."""
    begin = ASSIGNMENT.match(text, start)
    if begin is None:
        raise InvalidInputError(
            f"line {line} is not KEY=VALUE with a key of letters, digits and _ (a value of several lines needs quotes)"
        )
    key, position = begin[1], begin.end()
    quote = text[position : position + 1]
    if quote not in ("'", '"'):
        end = text.find("\n", position)
        plain = text[position:] if end < 0 else text[position:end]
        if comment := (COMMENT if begin[0][-1] in " \t" else LATER_COMMENT).search(plain):
            plain = plain[: comment.start()]
        return key, plain.rstrip(" \t\r"), len(text) if end < 0 else end + 1
    quoted = (SINGLE if quote == "'" else DOUBLE).match(text, position)
    if quoted is None:
        raise InvalidInputError(f"line {line}: the quote that opens the value of {key} is not closed")
    rest = REST.match(text, quoted.end())
    if rest is None:
        raise InvalidInputError(f"line {line}: there is more after the closing quote of {key}")
    value = quoted[1] if quote == "'" else ESCAPE.sub(lambda found: ESCAPED.get(found[1], found[1]), quoted[1])
    return key, value, rest.end()


def _past_empty(text: str, position: int) -> int:
    found = EMPTY.match(text, position)
    return found.end() if found else position
