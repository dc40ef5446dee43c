"""Every database at 3306: plans as text."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from sidegate.core.database_ports import DatabasePort, PortState, plan_redirects, with_other_ports
from sidegate.core.labels import Discovery, discover
from sidegate.core.model import Container, Rules
from states import app, database

POSTGRES = database("shop-pg", labels={"sidegate.engine": "postgres"}, pid=50)
MARIADB = database("shop-db", pid=60)
ABSENT, GONE, UNKNOWN = DatabasePort(PortState.ABSENT), DatabasePort(PortState.GONE), DatabasePort(PortState.UNKNOWN)
IN_PLACE = DatabasePort(PortState.REDIRECTED, 5432)


def plan(*containers: Container, ports: Mapping[int, DatabasePort], purging: bool = False) -> str:
    discovery = Discovery({}, {}) if purging else discover(containers, Rules())
    return "\n".join(map(str, plan_redirects(discovery, containers, ports)))


@pytest.mark.parametrize("found", [ABSENT, UNKNOWN, DatabasePort(PortState.REDIRECTED, 6000)])
def test_postgresql_is_redirected(found: DatabasePort) -> None:
    """Also where nothing could be seen: the attempt says why not."""
    assert plan(POSTGRES, MARIADB, app("shop"), ports={50: found}) == (
        "redirect port 3306 of shop-pg-1 to 5432: shop-pg answers at 3306 like every database"
    )


@pytest.mark.parametrize("found", [IN_PLACE, GONE, DatabasePort(PortState.OWN)])
def test_what_is_in_place_gone_or_there_by_itself_is_left_alone(found: DatabasePort) -> None:
    assert plan(POSTGRES, ports={50: found}) == ""


def test_a_container_with_a_new_pid_is_redirected_again() -> None:
    assert plan(replace(POSTGRES, pid=51), ports={50: IN_PLACE, 51: ABSENT}).startswith("redirect port 3306")


def test_a_redirect_that_takes_a_port_away_is_removed() -> None:
    assert plan(POSTGRES, ports={50: DatabasePort(PortState.OWN, 5432)}) == (
        "remove the redirect from port 3306 of shop-pg-1 to 5432: it listens there itself"
    )


def test_a_purge_leaves_none_behind() -> None:
    assert plan(POSTGRES, ports={50: IN_PLACE}, purging=True) == (
        "remove the redirect from port 3306 of shop-pg-1 to 5432: it is no longer a database"
    )
    assert plan(POSTGRES, ports={50: ABSENT}, purging=True) == ""


def test_only_running_databases_with_another_port_and_a_namespace_of_their_own_are_looked_at() -> None:
    stopped = database("stopped", labels={"sidegate.engine": "postgres"}, pid=0)
    hosted = database("hosted", labels={"sidegate.engine": "postgres"}, pid=70, network_mode="host")
    shared = database("shared", labels={"sidegate.engine": "postgres"}, pid=80, network_mode="container:abc")
    discovery = discover([POSTGRES, MARIADB, stopped, hosted, shared, app("shop")], Rules())
    assert [container.name for container in with_other_ports(discovery)] == ["shop-pg-1"]
