"""What a password must be, and who holds one."""

import string
from collections import Counter
from dataclasses import replace
from urllib.parse import quote

import pytest

from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.env import database_variables
from sidegate.core.model import DatabaseDetails, Variable
from sidegate.core.passwords import (
    SPECIALS,
    TYPOGRAPHIC_QUOTES,
    PasswordChanged,
    carry_fault,
    check_password,
    generate,
    holders,
    holds,
    unmet_rules,
    updated_variables,
    with_password,
)
from sidegate.errors import InvalidInputError

MARIADB, POSTGRES = DATABASE_ENGINES["mariadb"], DATABASE_ENGINES["postgres"]
OLD, NEW = "Old,pa'$s\"w1", "New:pa&s[w]2"


@pytest.mark.parametrize("special", SPECIALS + TYPOGRAPHIC_QUOTES)
def test_each_special_character_counts(special: str) -> None:
    """R43."""
    assert unmet_rules(f"Abcdef1{special}") == ()
    assert unmet_rules("Abcdefg1") == ("one of , & * [ ] : ' $ ` \" (typographic quotes count too)",)


@pytest.mark.parametrize("other", "!#%()+-./;<=>?@\\^_{|}~ «»„é")
def test_no_other_character_counts_as_one(other: str) -> None:
    assert unmet_rules(f"Abcdef1{other}")


@pytest.mark.parametrize(
    ("password", "unmet"),
    [
        ("", ["8 characters (it has 0)", "a lower-case letter", "an upper-case letter", "a digit", "one of"]),
        ("Abc1,ef", ["8 characters (it has 7)"]),
        ("ABC1,EFG", ["a lower-case letter"]),
        ("abc1,efg", ["an upper-case letter"]),
        ("Abcd,efg", ["a digit"]),
        ("Abc1defg", ["one of"]),
        ("abcdefgh", ["an upper-case letter", "a digit", "one of"]),
        ("Äbcdef\u0661,", ["a digit"]),
        ("äÖüßÄ1,x", []),
    ],
)
def test_every_unmet_rule_is_named(password: str, unmet: list[str]) -> None:
    """R43."""
    found = unmet_rules(password)
    assert len(found) == len(unmet)
    assert all(text.startswith(start) for text, start in zip(found, unmet, strict=True))


def test_the_refusal_is_one_sentence_without_the_password() -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_password("abcdefgh")
    assert str(caught.value) == (
        "this password cannot be used: it needs an upper-case letter, a digit "
        "and one of , & * [ ] : ' $ ` \" (typographic quotes count too)"
    )


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\n", "line break (U+000A)"),
        ("\r", "line break (U+000D)"),
        ("\0", "NUL character (U+0000)"),
        ("\t", "control character (U+0009)"),
        ("\x1b", "control character (U+001B)"),
        ("\x7f", "control character (U+007F)"),
        ("\x85", "control character (U+0085)"),
        ("\u2028", "line separator (U+2028)"),
        ("\ud800", "half of a surrogate pair (U+D800)"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_the_reason(character: str, name: str) -> None:
    password = f"Abcdef1,{character}x"
    assert carry_fault(password) == f"it holds a {name}, which cannot be carried everywhere"
    with pytest.raises(InvalidInputError, match="cannot be used") as caught:
        check_password(password)
    assert "Abcdef" not in str(caught.value)


def test_a_password_may_be_as_long_as_the_clients_prompt_reads() -> None:
    for engine, most in ((MARIADB, 79), (POSTGRES, 99)):
        assert check_password("Aa1," + "x" * (most - 4), engine)
        with pytest.raises(InvalidInputError, match=f"it has {most + 1} bytes, and the clients of {engine.name} read"):
            check_password("Aa1," + "x" * (most - 3), engine)
        with pytest.raises(InvalidInputError, match="bytes, and the clients of"):
            check_password("Aa1," + "é" * (most // 2), engine)


def test_generated_ones_always_pass() -> None:
    """R44."""
    made = [generate() for _ in range(200)]
    assert len(set(made)) == 200
    for password in made:
        assert check_password(password, MARIADB) == check_password(password, POSTGRES) == password
        assert password.isascii()
        assert len(password) >= 24
    seen = Counter("".join(made))
    assert set(seen) == set(string.ascii_letters + string.digits + SPECIALS)


# --- who holds one


@pytest.mark.parametrize(
    "value",
    [
        OLD,
        f"mysql://shop:{quote(OLD, safe='')}@shop-db.internal:3306/shop",
        f"mysql://shop:{quote(OLD, safe='').replace('%2C', '%2c')}@shop-db.internal:3306/shop",
        f"host=x&password={quote(OLD)}",
        f"user=shop password={OLD} host=shop-db.internal",
        '{"password": "Old,pa\'$s\\"w1"}',
    ],
)
def test_a_password_is_found_as_it_is_and_inside_of_urls(value: str) -> None:
    """R46."""
    assert holds(value, OLD)
    assert not holds(value, NEW)


def test_a_short_password_is_not_found_by_accident() -> None:
    assert holds("shop", "shop")
    assert holds("mysql://shop:shop@shop-db.internal/x", "shop")
    assert not holds("https://shop.example.com", "shop")
    assert not holds("anything", "")


def test_holders_are_named_by_app_key_and_scope() -> None:
    env = {
        "shop": (Variable("DB_PASSWORD", OLD, secret=True), Variable("X", "y"), Variable("URL", f"x:{OLD}", "build")),
        "blog": (Variable("PW", OLD, "both"),),
    }
    assert holders(env, OLD) == [("blog", "PW", "both"), ("shop", "DB_PASSWORD", "runtime"), ("shop", "URL", "build")]


# --- a change


def changed(engine: str = "mariadb") -> PasswordChanged:
    old = DatabaseDetails("sh op", OLD, "shop")
    return PasswordChanged(engine, old, with_password(DATABASE_ENGINES[engine], old, DatabaseDetails(), NEW))


@pytest.mark.parametrize("engine", ["mariadb", "postgres"])
def test_variables_that_a_connection_added_get_the_new_one(engine: str) -> None:
    """B6: under whatever names, in whatever scope; the URL keeps its host."""
    change = changed(engine)
    added = database_variables("shop-db", change.old, DATABASE_ENGINES[engine])
    ours = [Variable(f"X_{v.key}", v.value, "both", "connection:shop-db", v.secret) for v in added]
    elsewhere = DATABASE_ENGINES[engine].url(change.old, "203.0.113.7", 30000)
    ours.append(Variable("EXTERNAL", elsewhere, "build", "connection:shop-db", secret=True))
    manual = [Variable("MINE", OLD), Variable("OTHER", OLD, source="connection:other-db", secret=True)]
    found = updated_variables({"shop": (*ours, *manual), "blog": tuple(manual)}, change, "shop-db")
    assert list(found) == ["shop"]
    new = DatabaseDetails("sh op", NEW, "shop")
    assert {v.key: v.value for v in found["shop"]} == {
        "X_DB_PASSWORD": NEW,
        "X_DB_CONNECTION_URL": DATABASE_ENGINES[engine].url(new, "shop-db.internal"),
        "EXTERNAL": DATABASE_ENGINES[engine].url(new, "203.0.113.7", 30000),
    }
    assert {(v.key, v.scope) for v in found["shop"]} >= {("X_DB_PASSWORD", "both"), ("EXTERNAL", "build")}


def test_one_that_is_older_still_gets_the_new_one_too() -> None:
    """An earlier change was not passed on."""
    older = Variable("DB_PASSWORD", "older still", source="connection:shop-db", secret=True)
    found = updated_variables({"shop": (older,)}, changed(), "shop-db")
    assert [v.value for v in found["shop"]] == [NEW]


def test_an_app_that_logs_in_as_another_user_keeps_that_ones_password() -> None:
    """`db set --user` came after it was connected."""
    other = DatabaseDetails("other", OLD, "shop")
    added = [replace(v, source="connection:shop-db") for v in database_variables("shop-db", other, MARIADB)]
    assert updated_variables({"shop": added}, changed(), "shop-db") == {}


def test_a_url_of_the_engine_that_was_there_before_stays_a_url() -> None:
    url = Variable("URL", "postgresql://sh%20op:x@shop-db.internal:3306/shop", source="connection:shop-db", secret=True)
    (found,) = updated_variables({"shop": (url,)}, changed(), "shop-db")["shop"]
    assert found.value.startswith("postgresql://sh%20op:New")
    assert found.value.endswith("@shop-db.internal:3306/shop")


def test_what_is_kept_names_the_user_and_the_administrators_password_only_where_it_is_that() -> None:
    given = DatabaseDetails(schema="shop", root_password="Root")
    shop = with_password(MARIADB, DatabaseDetails("shop", OLD), given, NEW)
    assert shop == DatabaseDetails("shop", NEW, "shop", "Root")
    root = with_password(MARIADB, DatabaseDetails("root", OLD), given, NEW)
    assert root == DatabaseDetails("root", NEW, "shop", NEW)


def test_nothing_prints_a_password() -> None:
    assert OLD not in repr(changed())
    assert NEW not in repr(changed())
