"""What a database that Sidegate runs itself is made of."""

import pytest

from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.model import DatabaseDetails, OwnDatabase, Rules
from sidegate.core.own_databases import container_name, container_spec, data_directory, first_login
from sidegate.core.passwords import unmet_rules
from sidegate.core.workloads import ImageInfo
from sidegate.errors import InvalidInputError


@pytest.mark.parametrize("engine", DATABASE_ENGINES)
def test_a_login_is_named_after_the_database_and_its_passwords_pass(engine: str) -> None:
    made = first_login("shop-db", DATABASE_ENGINES[engine], None, None)
    assert (made.user, made.schema) == ("shop_db", "shop_db")
    assert unmet_rules(made.password) == ()
    assert not set(made.password + made.root_password) & set("'\"`\\")
    assert bool(made.root_password) == (engine != "postgres")
    assert made.root_password != made.password


def test_names_that_the_server_has_are_left_to_it() -> None:
    mariadb, postgres = DATABASE_ENGINES["mariadb"], DATABASE_ENGINES["postgres"]
    assert first_login("mysql", mariadb, None, None).schema == "mysql_db"
    assert first_login("template1", postgres, None, None).schema == "template1_db"
    assert first_login("postgres", postgres, None, None).user == "postgres"
    for user, schema in (("root", None), (None, "mysql"), ("a b", None), (None, "x'y"), ("1a", None), ("x" * 33, None)):
        with pytest.raises(InvalidInputError):
            first_login("shop-db", mariadb, user, schema)


def test_a_long_name_makes_a_user_that_mysql_takes() -> None:
    made = first_login("a" * 31 + "-" + "b" * 8, DATABASE_ENGINES["mysql"], None, None)
    assert made.user == "a" * 31
    assert len(made.schema) == 40


@pytest.mark.parametrize(
    ("engine", "env"),
    [
        (
            "mariadb",
            {"MARIADB_USER": "u", "MARIADB_PASSWORD": "p", "MARIADB_DATABASE": "s", "MARIADB_ROOT_PASSWORD": "r"},
        ),
        ("mysql", {"MYSQL_USER": "u", "MYSQL_PASSWORD": "p", "MYSQL_DATABASE": "s", "MYSQL_ROOT_PASSWORD": "r"}),
        ("postgres", {"POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p", "POSTGRES_DB": "s"}),
    ],
)
def test_its_container_is_told_by_the_images_own_variables(engine: str, env: dict[str, str]) -> None:
    kind = DATABASE_ENGINES[engine]
    own = OwnDatabase(engine, f"{engine}:x", "volume")
    details = DatabaseDetails("u", "p", "s", "r")
    spec = container_spec("shop-db", own, kind, ImageInfo("sha256:1"), details, Rules(instance="other"), "home")
    assert dict(spec.env) == env
    assert spec.labels == {
        "sidegate.database": "shop-db",
        "sidegate.engine": engine,
        "sidegate.instance": "other",
    }
    assert (spec.network, dict(spec.volumes), spec.stop_timeout) == ("home", {"volume": kind.data}, 60)


def test_its_name_is_no_apps_container() -> None:
    assert container_name("shop-1", Rules()) == "sidegate-db--shop-1"


@pytest.mark.parametrize(
    ("pgdata", "mounted"),
    [
        ("", "/var/lib/postgresql/data"),
        ("/var/lib/postgresql/data", "/var/lib/postgresql/data"),
        ("/var/lib/postgresql/data/pgdata", "/var/lib/postgresql/data"),
        ("/var/lib/postgresql/18/docker", "/var/lib/postgresql"),
    ],
)
def test_the_volume_is_where_the_image_keeps_its_data(pgdata: str, mounted: str) -> None:
    image = ImageInfo("sha256:1", env={"PGDATA": pgdata} if pgdata else {})
    assert data_directory(DATABASE_ENGINES["postgres"], image) == mounted
    assert data_directory(DATABASE_ENGINES["mariadb"], ImageInfo("sha256:1")) == "/var/lib/mysql"
