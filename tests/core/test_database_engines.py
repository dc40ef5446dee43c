"""One table of database engines: logins in containers' variables, URLs and command lines to paste."""

import shlex
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidegate.core.database_engines import (
    DATABASE_ENGINES,
    administrators,
    details_in_environment,
    effective_details,
    with_implied,
)
from sidegate.core.env import database_variables
from sidegate.core.model import DatabaseDetails

MARIADB, MYSQL, POSTGRES = (DATABASE_ENGINES[name] for name in ("mariadb", "mysql", "postgres"))
DETAILS = DatabaseDetails("shop", "p@ss, w'rd$", "shop")
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


def login(engine: str, env: Mapping[str, str], given: DatabaseDetails | None = None) -> tuple[str, str, str]:
    """User, password and schema of a container with these variables."""
    found, files = details_in_environment(DATABASE_ENGINES[engine], env)
    found = with_implied(DATABASE_ENGINES[engine], found, files)
    details = effective_details(DATABASE_ENGINES[engine], given or DatabaseDetails(), found)
    return details.user, details.password, details.schema


@pytest.mark.parametrize("engine", DATABASE_ENGINES)
def test_an_entry_says_all_that_others_ask_of_it(engine: str) -> None:
    entry = DATABASE_ENGINES[engine]
    assert entry.name == engine
    assert 0 < entry.port < 65536
    assert {"user", "password", "schema"} <= entry.variables.keys()
    variables = {v.key: v.value for v in database_variables("shop-db", DETAILS, entry)}
    assert variables["DB_PORT"] == "3306"
    assert variables["DB_CONNECTION_URL"].startswith(
        f"{entry.scheme}://shop:p%40ss%2C%20w%27rd%24@shop-db.internal:3306/"
    )


@pytest.mark.parametrize(
    ("engine", "command"),
    [
        ("mariadb", "mariadb -h db.internal -P 3306 -u shop -p shop"),
        ("mysql", "mysql -h db.internal -P 3306 -u shop -p shop"),
        ("postgres", "psql -h db.internal -p 3306 -U shop -d shop"),
    ],
)
def test_a_command_line_carries_no_password(engine: str, command: str) -> None:
    assert DATABASE_ENGINES[engine].command(DETAILS, "db.internal") == command


def test_what_is_unknown_is_left_out_of_a_command_line() -> None:
    assert MYSQL.command(DatabaseDetails(), "db", 30000) == "mysql -h db -P 30000 -u USER -p"
    assert POSTGRES.command(DatabaseDetails(), "db", 30000) == "psql -h db -p 30000 -U USER"


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ("a b", "a b"),
        ("a=b", "dbname='a=b'"),
        ("it's=\\", "dbname='it\\'s=\\\\'"),
        ("postgresql://evil/", "dbname='postgresql://evil/'"),
        ("-x", "-x"),
    ],
)
def test_psql_takes_a_schema_for_a_schema(schema: str, word: str) -> None:
    """Not for a connection string, which would send the password elsewhere."""
    assert shlex.split(POSTGRES.command(DatabaseDetails("shop", "", schema), "db"))[-2:] == ["-d", word]


def test_mysql_takes_a_schema_for_a_schema() -> None:
    assert shlex.split(MARIADB.command(DatabaseDetails("shop", "", "-e"), "db"))[-1] == "--database=-e"


@pytest.mark.parametrize("engine", DATABASE_ENGINES)
@given(user=WORDS, password=WORDS, schema=WORDS)
@example(user="a:b@c", password="/?#[]@!$&'()*+,;=%25", schema="é \\")
def test_a_url_reads_back_exactly(engine: str, user: str, password: str, schema: str) -> None:
    url = DATABASE_ENGINES[engine].url(DatabaseDetails(user, password, schema), "203.0.113.7", 30000)
    parts = urlsplit(url)
    assert url.isascii()
    assert (parts.hostname, parts.port) == ("203.0.113.7", 30000)
    assert unquote(parts.username or "") == user
    assert unquote(parts.password or "") == password
    assert unquote(parts.path[1:]) == schema


def test_an_ipv6_host_stands_in_brackets() -> None:
    assert (
        POSTGRES.url(DatabaseDetails("u", "p", "s"), "2001:db8::1", 30000) == "postgresql://u:p@[2001:db8::1]:30000/s"
    )


@pytest.mark.parametrize(
    ("engine", "env", "expected"),
    [
        ("mariadb", {"MARIADB_USER": "a", "MYSQL_USER": "b", "MYSQL_PASSWORD": "p"}, ("a", "p", "")),
        ("mariadb", {"MARIADB_ROOT_PASSWORD": "r", "MYSQL_DATABASE": "d"}, ("root", "r", "d")),
        ("mysql", {"MARIADB_USER": "a"}, ("", "", "")),
        ("postgres", {"POSTGRES_PASSWORD": "p"}, ("postgres", "p", "postgres")),
        ("postgres", {"POSTGRES_PASSWORD": "p", "POSTGRES_USER": "shop"}, ("shop", "p", "shop")),
        ("postgres", {"POSTGRES_PASSWORD": "p", "POSTGRES_DB": "d"}, ("postgres", "p", "d")),
        ("postgres", {"POSTGRES_USER": "shop"}, ("shop", "", "")),
        ("postgres", {}, ("", "", "")),
        ("postgres", {"POSTGRES_PASSWORD": "p", "POSTGRES_USER_FILE": "/gone"}, ("", "", "")),
        ("postgres", {"POSTGRES_PASSWORD": "p", "POSTGRES_DB_FILE": "/gone"}, ("postgres", "p", "")),
    ],
)
def test_a_login_is_read_from_the_containers_variables(
    engine: str, env: dict[str, str], expected: tuple[str, str, str]
) -> None:
    """What the images make of a missing variable counts; what a file says that cannot be read stays unknown."""
    user, password, schema = login(engine, env)
    assert (user, password if user else "", schema) == expected


def test_what_people_gave_wins() -> None:
    given = DatabaseDetails("app", "secret", "", "")
    assert login("postgres", {"POSTGRES_PASSWORD": "p"}, given) == ("app", "secret", "postgres")
    assert login("postgres", {"POSTGRES_PASSWORD": "p"}, DatabaseDetails("app")) == ("app", "", "postgres")


def test_those_who_may_end_everybodys_sessions_come_first() -> None:
    details = DatabaseDetails("shop", "p", "shop", "r")
    assert administrators(MARIADB, details) == (("root", "r"), ("shop", "p"))
    assert administrators(POSTGRES, details) == (("postgres", "r"), ("shop", "p"))
    assert administrators(POSTGRES, DatabaseDetails("shop", "p")) == (("shop", "p"),)
    assert administrators(MARIADB, DatabaseDetails("root", "r", "", "r")) == (("root", "r"),)
    assert administrators(MARIADB, DatabaseDetails("shop")) == ()
