"""Each value of `isolation` does what its line in config/sidegate.toml says."""

import pytest

from sidegate.core.desired import desire
from sidegate.core.labels import discover
from sidegate.core.model import Container, Endpoint, Intent, Network, Rules
from sidegate.core.reconcile import Observed, reconcile
from states import app, database, ours, state

HOME = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
COMPOSE = Network(id="n9", name="shop_default", subnets=("172.20.0.0/16",), gateway="172.20.0.1")
AT_HOME = Endpoint(HOME.name, "10.213.0.2")
ON_BRIDGE = Endpoint("bridge", "172.17.0.2")
ON_COMPOSE = Endpoint("shop_default", "172.20.0.2")


def left(isolation: str, *containers: Container) -> list[str]:
    """The networks that containers are taken off."""
    now, rules = state(*containers, networks=(HOME, COMPOSE)), Rules(isolation=isolation)
    desired = desire(Intent(), now, rules)
    plan, _ = reconcile(desired, Observed(now, routes=desired.routes), rules)
    return [a.what for a in plan.actions if a.what.startswith("disconnect")]


def problems(isolation: str, *containers: Container) -> list[str]:
    now = state(*containers, networks=(HOME, COMPOSE))
    return [str(problem) for problem in desire(Intent(), now, Rules(isolation=isolation)).problems]


PLAIN = database("shop-db", endpoints=(AT_HOME, ON_BRIDGE, ON_COMPOSE))
PUBLISHED = database("shop-db", endpoints=(AT_HOME, ON_BRIDGE), published_ports=(3306,))
CLIENT = app("blog", endpoints=(ON_BRIDGE, ON_COMPOSE))


@pytest.mark.parametrize(
    ("isolation", "networks"),
    [("report", []), ("bridge", ["bridge"]), ("strict", ["bridge", "shop_default"])],
)
def test_what_a_database_leaves(isolation: str, networks: list[str]) -> None:
    assert left(isolation, PLAIN, CLIENT) == [f"disconnect shop-db-1 from {network}" for network in networks]


def test_published_ports_and_links_keep_it_on_the_bridge_unless_strict() -> None:
    linked = app("blog", links=("/shop-db-1:/blog-1/db",))
    assert left("bridge", PUBLISHED) == []
    assert left("bridge", database("shop-db", endpoints=(AT_HOME, ON_BRIDGE)), linked) == []
    assert left("strict", PUBLISHED) == ["disconnect shop-db-1 from bridge"]
    assert left("strict", database("shop-db", endpoints=(AT_HOME, ON_BRIDGE)), linked) == [
        "disconnect shop-db-1 from bridge"
    ]


@pytest.mark.parametrize("isolation", ["bridge", "strict"])
def test_nothing_is_left_before_the_database_is_home(isolation: str) -> None:
    assert left(isolation, database("shop-db", endpoints=(ON_BRIDGE, ON_COMPOSE))) == []


@pytest.mark.parametrize("isolation", ["report", "bridge", "strict"])
def test_apps_stay_where_they_are(isolation: str) -> None:
    assert left(isolation, CLIENT) == []


@pytest.mark.parametrize("isolation", ["report", "bridge", "strict"])
def test_who_can_still_reach_it_is_reported(isolation: str) -> None:
    found = problems(isolation, PLAIN, CLIENT)
    assert "shop-db: can be reached through shop_default without a connection, by blog-1" in found


@pytest.mark.parametrize(
    ("mode", "why"),
    [("host", "uses the host's network"), ("container:abc", "shares another container's network")],
)
def test_strict_says_what_it_cannot_do(mode: str, why: str) -> None:
    stuck = database("shop-db", endpoints=(), network_mode=mode)
    assert any(f"shop-db-1 {why}: isolation = strict cannot" in text for text in problems("strict", stuck))
    assert not any("isolation" in text for text in problems("bridge", stuck))


def test_a_container_that_would_be_left_on_no_network_goes_back_to_the_one_it_was_started_on() -> None:
    """Else it had none after its next start either."""
    alone = database("shop-db", endpoints=(AT_HOME,), network_mode="shop_default")
    now, rules = state(alone, networks=(HOME, COMPOSE)), Rules(isolation="strict")
    nothing = desire(Intent(), state(), rules)
    plan, _ = reconcile(nothing, Observed(now, routes=nothing.routes), rules)
    assert discover(now.containers, rules).databases
    assert str(plan).splitlines()[0].startswith("connect shop-db-1 to shop_default")
