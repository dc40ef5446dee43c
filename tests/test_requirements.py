"""Every requirement has a test."""

import requirements
from sidegate.api.calls import CALLS
from sidegate.cli import sidegate


def test_each_line_is_held_by_something() -> None:
    missing = requirements.REQUIREMENTS.keys() - requirements.held().keys() - requirements.ELSEWHERE.keys()
    assert not missing


def test_no_test_names_a_line_that_is_not_there() -> None:
    assert requirements.held().keys() <= requirements.REQUIREMENTS.keys()


def test_the_words_for_connections_are_the_same_everywhere() -> None:
    """R1: in the calls, their descriptions and the helps."""
    for call in CALLS:
        if call.path.endswith("/external"):
            assert "external connection" in call.summary
    assert [c.summary for c in CALLS if c.method == "GET" and c.path == "/v1/connections"] == [
        "Every internal connection"
    ]
    for verb, words in {"connect": "internal", "disconnect": "internal", "external": "external"}.items():
        assert f"{words} connection" in (sidegate.commands[verb].help or "").lower()
