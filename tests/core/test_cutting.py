"""How sessions end where no socket in a container can be destroyed."""

from dataclasses import replace

from sidegate.core.desired import desire
from sidegate.core.model import Endpoint, EngineState, HostState, Intent, Rules
from sidegate.core.reconcile import Observed, reconcile
from states import app, database, ours, state

HOME = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
JOINT = ours("sidegate-shop--shop-db", "10.213.0.32/27", "shop", "shop-db")
APPS = ours("sidegate-blog--shop", "10.213.0.64/27", "blog", "shop")
RULES = Rules()
NO_RIGHTS = HostState(cut_fault="the daemon needs root")
BECAUSE = "shop and shop-db are no longer connected"


def endpoint(network: str, address: str, *names: str) -> Endpoint:
    return Endpoint(network, address, frozenset({*names, *(f"{name}.internal" for name in names)}))


def plan(now: EngineState, host: HostState = NO_RIGHTS, rules: Rules = RULES) -> list[str]:
    """What is done, in order."""
    desired = desire(Intent(), now, rules)
    made, _ = reconcile(desired, Observed(now, host, {}, desired.routes), rules)
    return [str(action) for chain in made.chains() for rank in chain for action in rank]


def shop_and_its_database() -> EngineState:
    bridge = Endpoint("bridge", "172.17.0.3")
    shop = app("shop", endpoints=(bridge, endpoint(JOINT.name, "10.213.0.35", "shop")))
    home = Endpoint(HOME.name, "10.213.0.2")
    shop_db = database("shop-db", endpoints=(home, endpoint(JOINT.name, "10.213.0.34", "shop-db")))
    return state(shop, shop_db, networks=(HOME, JOINT))


def test_the_engine_ends_them_while_clients_hear_of_it_and_again_when_nobody_can_come_back() -> None:
    wanted = [
        f"end sessions of shop-db with 10.213.0.32/27: {BECAUSE}",
        f"disconnect shop-1 from sidegate-shop--shop-db: {BECAUSE}",
        f"disconnect shop-db-1 from sidegate-shop--shop-db: {BECAUSE}",
        f"kill sessions of shop-db with 10.213.0.32/27: {BECAUSE}",
        f"remove network sidegate-shop--shop-db: {BECAUSE}",
    ]
    assert plan(shop_and_its_database()) == wanted
    assert plan(shop_and_its_database(), HostState(), replace(RULES, namespaces=False)) == wanted


def test_with_the_rights_sockets_are_destroyed() -> None:
    assert f"destroy sockets of shop-1 with 10.213.0.32/27: {BECAUSE}" in plan(shop_and_its_database(), HostState())


def test_between_two_apps_nobody_is_there_to_end_them() -> None:
    bridge = Endpoint("bridge", "172.17.0.3")
    shop = app("shop", endpoints=(bridge, endpoint(APPS.name, "10.213.0.66", "shop")))
    blog = app("blog", endpoints=(bridge, endpoint(APPS.name, "10.213.0.67", "blog")))
    because = "blog and shop are no longer connected"
    assert plan(state(shop, blog, networks=(APPS,))) == [
        f"disconnect shop-1 from sidegate-blog--shop: {because}",
        f"disconnect blog-1 from sidegate-blog--shop: {because}",
        f"remove network sidegate-blog--shop: {because}",
    ]
