"""What containers of an app are given, and which keys of theirs are out of date."""

from dataclasses import replace

from sidegate.core.environment import digest, environment, given, stale_keys
from sidegate.core.model import Container, Intent, Variable

INTENT = Intent(
    env={"shop": (Variable("A", "1"), Variable("B", "2", "both"), Variable("C", "3", "build"))},
    ports={"shop": 5000},
    retired={"shop": frozenset({("OLD", digest("gone")), ("A", digest("0"))})},
)


def test_variables_for_run_time_and_the_port_are_given() -> None:
    assert given("shop", INTENT) == {"A": "1", "B": "2", "PORT": "5000"}
    assert given("other", INTENT) == {}


def test_a_port_wins_over_a_variable_of_that_name() -> None:
    intent = Intent(env={"shop": (Variable("PORT", "1"),)}, ports={"shop": 2})
    assert given("shop", intent) == {"PORT": "2"}


def test_what_a_container_has_of_its_own_stays() -> None:
    present = {"PATH": "/bin", "A": "0", "OLD": "gone", "PORT": "8080"}
    assert environment(present, "shop", INTENT) == {"PATH": "/bin", "A": "1", "B": "2", "PORT": "5000"}


def test_a_retired_variable_goes_only_with_the_value_that_was_given() -> None:
    assert environment({"OLD": "mine"}, "shop", INTENT)["OLD"] == "mine"


def test_stale_keys() -> None:
    """B5."""
    fresh = {"PATH": "/bin", "A": "1", "B": "2", "PORT": "5000"}
    assert stale_keys(Container("c", "shop-1", env=fresh), "shop", INTENT) == ()
    stale = {"A": "0", "B": "2", "PORT": "8080", "OLD": "gone"}
    assert stale_keys(Container("c", "shop-1", env=stale), "shop", INTENT) == ("A", "OLD", "PORT")
    assert stale_keys(Container("c", "shop-1", env=stale), "other", INTENT) == ()


def test_what_comes_back_from_the_image_is_not_stale_for_ever() -> None:
    """B5: it was set to what the image says anyhow, and unset."""
    left = Container("c", "shop-1", env={"A": "1", "B": "2", "PORT": "5000", "OLD": "gone"}, image_env={"OLD": "gone"})
    assert stale_keys(left, "shop", INTENT) == ()
    assert stale_keys(replace(left, image_env={"OLD": "other"}), "shop", INTENT) == ("OLD",)
    assert stale_keys(replace(left, image_env={"OLD": "gone", "TAKEN_AWAY": "1", "A": "0"}), "shop", INTENT) == ()


def test_values_that_are_no_unicode_have_a_digest() -> None:
    assert len(digest("\udcff")) == 64
