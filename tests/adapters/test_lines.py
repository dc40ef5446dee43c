"""Lines of a stream that comes in pieces."""

import itertools
import json

import pytest

from sidegate.adapters.docker.lines import whole_lines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_are_the_same_however_they_come(size: int) -> None:
    sent = b"one\n\nthree and more\nfo\rur\nwithout an end"
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert list(whole_lines(pieces)) == [b"one", b"", b"three and more", b"fo\rur"]


def test_a_line_is_given_as_soon_as_it_has_ended() -> None:
    lines = whole_lines(itertools.chain([b"on", b"e\ntw"], iter(lambda: pytest.fail("asked for more"), None)))
    assert next(lines) == b"one"


def test_a_line_of_megabytes() -> None:
    """As many pieces as the engine makes of it; copying it for each would take minutes."""
    event = json.dumps({"labels": "x" * (64 << 20)}).encode() + b"\n"
    pieces = (event[start : start + 4096] for start in range(0, len(event), 4096))
    assert [len(line) for line in whole_lines(pieces)] == [len(event) - 1]
