"""Sidegate in a container with a network of its own: which networks it joins, leaves, and dials over."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from sidegate.core.desired import Desired, desire
from sidegate.core.gates import Gate
from sidegate.core.guest import OwnContainer
from sidegate.core.labels import Discovery
from sidegate.core.model import Container, Endpoint, EngineState, External, HostState, Intent, Network, Pair, Rules
from sidegate.core.reconcile import Observed, places, reconcile
from sidegate.core.routes import Routes
from sidegate.core.sessions import Listening
from states import BRIDGE, app, database, ours, state

SELF = "id-sidegate"
RULES = Rules(self_id=SELF)
FRONT = Network(id="n-front", name="0front", subnets=("172.30.0.0/16",), gateway="172.30.0.1")
COMPOSE = Network(id="n-compose", name="blog_default", subnets=("172.31.0.0/16",), gateway="172.31.0.1")
HOME = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
JOINT = ours("sidegate-shop--shop-db", "10.213.0.32/27", "shop", "shop-db")
SHOP = Pair.of("shop", "shop-db")
ON_FRONT = Endpoint("0front", "172.30.0.2")
ON_BRIDGE = Endpoint("bridge", "172.17.0.8")
VISIT = Endpoint("blog_default", "172.31.0.9", frozenset({"sidegate.visitor"}), "n-compose")
BLOG = Endpoint("blog_default", "172.31.0.2")


def own(*more: Endpoint, **changes: object) -> Container:
    """Our own container, started on the network 0front."""
    made = Container(SELF, "sidegate", network_mode="0front", endpoints=(ON_FRONT, *more), pid=50)
    return replace(made, **changes)  # type: ignore[arg-type]


def seen(*containers: Container, networks: Iterable[Network] = ()) -> EngineState:
    return state(*containers, networks=(FRONT, COMPOSE, *networks))


def plan(now: EngineState, intent: Intent | None = None, rules: Rules = RULES, desired: Desired | None = None) -> str:
    """What is planned beside the routes."""
    wanted = desired or desire(intent or Intent(), now, rules)
    made, _ = reconcile(wanted, Observed(now, HostState(), routes=wanted.routes), rules)
    return str(made)


def routes(now: EngineState) -> Routes:
    return desire(Intent(), now, RULES).routes


def upstreams(now: EngineState, name: str) -> list[str]:
    return [f"{upstream.address}:{upstream.port}" for upstream in routes(now).apps[name].upstreams]


def test_it_joins_the_network_of_an_app_and_says_there_that_it_is_a_guest() -> None:
    now = seen(own(), app("blog", endpoints=(BLOG,)))
    assert plan(now) == "connect sidegate to blog_default as sidegate.visitor: apps there are reached from it"


def test_an_app_whose_network_is_about_to_be_joined_waits_and_is_not_an_error() -> None:
    """A visitor is told to come again, and no 502 comes of an address that cannot be reached yet."""
    now = seen(own(), app("blog", endpoints=(BLOG,)))
    desired = desire(Intent(), now, RULES)
    assert desired.routes.apps["blog"].unavailable == "starting"
    assert desired.waiting == {"id-blog-1": "connecting: Sidegate joins blog_default"}
    assert desired.problems == ()


def test_an_app_is_dialled_once_its_network_is_joined_and_nothing_more_is_planned() -> None:
    now = seen(own(VISIT), app("blog", endpoints=(BLOG,)))
    assert upstreams(now, "blog") == ["172.31.0.2:8080"]
    assert plan(now) == ""


def test_an_endpoint_without_an_address_yet_is_not_dialled_over() -> None:
    now = seen(own(replace(VISIT, address="")), app("blog", endpoints=(BLOG,)))
    assert upstreams(now, "blog") == []


def test_it_leaves_with_the_last_app_that_runs_there() -> None:
    blog, wiki = app("blog", endpoints=(BLOG,)), app("wiki", endpoints=(replace(BLOG, address="172.31.0.3"),))
    gone = Endpoint("blog_default")
    assert plan(seen(own(VISIT), blog, replace(wiki, state="exited", pid=0, endpoints=(gone,)))) == ""
    stopped = [replace(c, state="exited", pid=0, endpoints=(gone,)) for c in (blog, wiki)]
    assert plan(seen(own(VISIT), *stopped)) == "disconnect sidegate from blog_default: no app there runs any more"
    assert plan(seen(own(VISIT))) == "disconnect sidegate from blog_default: no app there runs any more"


def test_it_neither_leaves_nor_comes_for_what_is_about_to_end() -> None:
    """A network that was left a moment ago is not joined again while the last container there takes its time."""
    ending = app("blog", endpoints=(BLOG,), stopping=True)
    assert plan(seen(own(VISIT), ending)) == ""
    assert plan(seen(own(), ending)) == ""


def test_the_default_bridge_knows_no_aliases_and_is_a_visit_all_the_same() -> None:
    shop = app("shop", endpoints=(Endpoint("bridge", "172.17.0.3"),))
    assert plan(seen(own(), shop)) == "connect sidegate to bridge: apps there are reached from it"
    assert plan(seen(own(ON_BRIDGE), shop)) == ""
    assert plan(seen(own(ON_BRIDGE))) == "disconnect sidegate from bridge: no app there runs any more"


@pytest.mark.parametrize("mode", ["default", "bridge"])
def test_networks_that_it_was_started_on_are_never_left(mode: str) -> None:
    assert plan(seen(own())) == ""
    on_bridge = own(network_mode=mode, endpoints=(ON_BRIDGE, Endpoint("blog_default", "172.31.0.9")))
    assert plan(seen(on_bridge)) == ""


def test_an_app_on_several_networks_is_dialled_over_one_that_need_not_be_joined() -> None:
    both = app("blog", endpoints=(BLOG, Endpoint("bridge", "172.17.0.3"), Endpoint("0front", "172.30.0.7")))
    assert upstreams(seen(own(), both), "blog") == ["172.30.0.7:8080"]
    assert plan(seen(own(), both)) == ""


def test_the_choice_does_not_depend_on_what_is_joined_already() -> None:
    """Else it would go back and forth."""
    both = app("blog", endpoints=(BLOG, Endpoint("bridge", "172.17.0.3")))
    assert plan(seen(own(VISIT, ON_BRIDGE), both)) == (
        "disconnect sidegate from blog_default: no app there runs any more"
    )
    assert plan(seen(own(ON_BRIDGE), both)) == ""


def test_the_network_that_a_label_names_is_joined() -> None:
    labels = {"sidegate.network": "blog_default"}
    both = app("blog", endpoints=(BLOG, Endpoint("bridge", "172.17.0.3")), labels=labels)
    assert plan(seen(own(), both)).startswith("connect sidegate to blog_default ")


def test_it_is_a_member_of_every_home_and_of_no_connection() -> None:
    db = database("shop-db", endpoints=(Endpoint(HOME.name, "10.213.0.2"), BLOG))
    shop = app("shop", endpoints=(Endpoint("0front", "172.30.0.7"),))
    now = seen(own(), db, shop, networks=(HOME,))
    assert plan(now, Intent(connections=frozenset({SHOP}))).splitlines() == [
        "connect sidegate to sidegate-home--shop-db: shop-db is a database",
        "create network sidegate-shop--shop-db (10.213.0.32/27): shop and shop-db are connected",
        "connect shop-1 to sidegate-shop--shop-db as shop, shop.internal: shop and shop-db are connected",
        "connect shop-db-1 to sidegate-shop--shop-db as shop-db, shop-db.internal: shop and shop-db are connected",
    ]


def test_a_database_is_dialled_once_its_home_is_joined() -> None:
    db = database("shop-db", endpoints=(Endpoint(HOME.name, "10.213.0.2"),))
    assert routes(seen(own(), db, networks=(HOME,))).databases["shop-db"].address == ""
    home = own(Endpoint(HOME.name, "10.213.0.3"))
    assert routes(seen(home, db, networks=(HOME,))).databases["shop-db"].address == "10.213.0.2"


def test_an_app_that_is_on_nothing_but_its_connections_is_dialled_there() -> None:
    shop = app("shop", endpoints=(Endpoint(JOINT.name, "10.213.0.35", frozenset({"shop", "shop.internal"})),))
    db = database("shop-db", endpoints=(Endpoint(HOME.name, "10.213.0.2"),))
    now = seen(own(Endpoint(HOME.name, "10.213.0.3")), db, shop, networks=(HOME, JOINT))
    wanted = plan(now, Intent(connections=frozenset({SHOP}))).splitlines()
    assert "connect sidegate to sidegate-shop--shop-db: shop and shop-db are connected" in wanted


def test_the_clients_that_a_database_sees_come_from_our_own_address() -> None:
    """So off ends those sessions, and not ones from the bridge."""
    db = database("shop-db", endpoints=(Endpoint(HOME.name, "10.213.0.2"),))
    now = seen(own(Endpoint(HOME.name, "10.213.0.3")), db, networks=(HOME,))
    off = Intent(externals={"shop-db": External(Gate(30000), enabled=False)})
    wanted = desire(off, now, RULES)
    observed = Observed(now, forwarders={"shop-db": Listening(Gate(30000))}, routes=wanted.routes)
    made, _ = reconcile(wanted, observed, RULES)
    assert "destroy sockets of shop-db-1 with 10.213.0.3/32: the external connection is off" in str(made)
    assert places(wanted, now, RULES)["shop-db"].peer == "10.213.0.3"


def test_it_has_a_place_on_each_network_of_ours() -> None:
    assert (Rules().endpoints_per_network, RULES.endpoints_per_network) == (29, 28)


def test_wanting_nothing_it_leaves_everything_but_where_it_was_started() -> None:
    db = database("shop-db", endpoints=(Endpoint(HOME.name, "10.213.0.2"), ON_BRIDGE))
    now = seen(own(VISIT, ON_BRIDGE, Endpoint(HOME.name, "10.213.0.3")), db, networks=(HOME,))
    text = plan(now, desired=Desired(Discovery({}, {})))
    left = [line.split(":")[0] for line in text.splitlines() if line.startswith("disconnect sidegate ")]
    assert sorted(left) == [
        "disconnect sidegate from blog_default",
        "disconnect sidegate from bridge",
        "disconnect sidegate from sidegate-home--shop-db",
    ]


def test_a_network_that_was_made_anew_under_the_same_name_is_joined_anew() -> None:
    stale = own(replace(VISIT, network_id="n-earlier"))
    assert plan(seen(stale, app("blog", endpoints=(BLOG,)))).splitlines() == [
        "disconnect sidegate from blog_default: it is configured for a network that has gone",
        "connect sidegate to blog_default as sidegate.visitor: apps there are reached from it",
    ]


def test_what_has_the_hosts_network_cannot_be_reached_and_that_is_said() -> None:
    now = seen(own(), app("shop", network_mode="host", endpoints=()))
    desired = desire(Intent(), now, RULES)
    assert desired.routes.apps["shop"].unavailable == "cannot be reached"
    assert [str(p) for p in desired.problems] == [
        "shop: shop-1 uses the host's network, which a container with a network of its own does not reach: give it a "
        "bridge network, or run Sidegate in the host's (docs/container.md)"
    ]


def test_what_lives_in_the_network_of_another_is_reached_there() -> None:
    owner = app("blog", endpoints=(BLOG,))
    lodger = app("wiki", network_mode=f"container:{owner.id}", endpoints=())
    assert upstreams(seen(own(VISIT), owner, lodger), "wiki") == ["172.31.0.2:8080"]


def test_our_own_container_is_nobodys_app_and_nobodys_intruder() -> None:
    """Whatever its labels say, and although it shares a network with a database."""
    labelled = own(VISIT, labels={"sidegate.app": "sidegate"})
    db = database("shop-db", endpoints=(BLOG, Endpoint(HOME.name, "10.213.0.2")))
    desired = desire(Intent(), seen(labelled, db, networks=(HOME,)), RULES)
    assert desired.discovery.apps == {}
    assert [str(p) for p in desired.problems] == []


def test_a_container_of_another_engine_is_said() -> None:
    desired = desire(Intent(), seen(app("shop", endpoints=(BLOG,))), RULES)
    assert [str(p) for p in desired.problems] == ["sidegate: its own container id-sidegate is not one of this engine's"]
    assert desire(Intent(), seen(), RULES, engine_up=False).problems == ()


def test_a_default_route_through_somebody_elses_network_is_said() -> None:
    late = replace(FRONT, name="front")
    here = own(VISIT, network_mode="front", endpoints=(Endpoint("front", "172.30.0.2"), VISIT))
    now = EngineState((here, app("blog", endpoints=(BLOG,))), (BRIDGE, late, COMPOSE))
    assert [str(p) for p in desire(Intent(), now, RULES).problems] == [
        "sidegate: the default route of its container leads through blog_default, and so do answers to clients: start "
        "it on a network of its own that is first by name, such as 0sidegate"
    ]


def test_on_the_host_nothing_is_joined() -> None:
    now = EngineState((own(), app("blog", endpoints=(BLOG,))), (BRIDGE, FRONT, COMPOSE))
    assert plan(now, rules=Rules()) == ""


def test_a_port_that_is_not_published_is_refused_with_what_to_do() -> None:
    container = OwnContainer("id", "gate", published=frozenset({30000}))
    assert container.port_fault(30000) == ""
    assert container.port_fault(30001) == (
        "port 30001 is not published by Sidegate's container gate: start that with -p 30001:30001"
    )
