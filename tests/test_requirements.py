"""Every requirement has a test."""

import requirements


def test_each_line_has_a_test_or_waits_for_the_page() -> None:
    missing = requirements.REQUIREMENTS.keys() - requirements.held().keys() - requirements.PAGE
    assert not missing


def test_no_test_names_a_line_that_is_not_there() -> None:
    assert requirements.held().keys() <= requirements.REQUIREMENTS.keys()
