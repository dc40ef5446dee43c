"""Plans as text: two small states in, a story out."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network

from sidegate.core.desired import Desired, desire
from sidegate.core.gates import Gate
from sidegate.core.labels import Discovery
from sidegate.core.model import Container, Endpoint, EngineState, External, HostState, Intent, Network, Pair, Rules
from sidegate.core.newcomers import Join, expect, joins
from sidegate.core.reconcile import Observed, reconcile
from sidegate.core.sessions import Listening
from states import app, database, ours, state

RULES = Rules()
SHOP = Pair.of("shop", "shop-db")
HOME = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
JOINT = ours("sidegate-shop--shop-db", "10.213.0.32/27", "shop", "shop-db")
DB_HOME = Endpoint("sidegate-home--shop-db", "10.213.0.2")
DB_JOINT = Endpoint("sidegate-shop--shop-db", "10.213.0.34", frozenset({"shop-db", "shop-db.internal"}))
APP_JOINT = Endpoint("sidegate-shop--shop-db", "10.213.0.35", frozenset({"shop", "shop.internal"}))
APP_BRIDGE = Endpoint("bridge", "172.17.0.3")


def plan(
    intent: Intent,
    now: EngineState,
    *,
    rules: Rules = RULES,
    published: bool = True,
    forwarders: Mapping[str, Listening] | None = None,
    host: HostState | None = None,
    engine_up: bool = True,
    bad_subnets: tuple[str, ...] = (),
) -> str:
    """The plan's text; with `published` the routes are already out, so that only the rest is planned."""
    desired = desire(intent, now, rules, engine_up=engine_up)
    routes = desired.routes if published else None
    observed = Observed(now, host or HostState(), forwarders or {}, routes, bad_subnets, engine_up)
    made, _ = reconcile(desired, observed, rules)
    return str(made)


def test_a_database_gets_its_home_before_anything_else_happens_to_it() -> None:
    assert plan(Intent(), state(database("shop-db"))) == (
        "create network sidegate-home--shop-db (10.213.0.0/27): shop-db is a database\n"
        "connect shop-db-1 to sidegate-home--shop-db: shop-db is a database"
    )


def test_once_home_it_leaves_the_default_bridge_and_clients_there_are_told() -> None:
    db = database("shop-db", endpoints=(Endpoint("bridge", "172.17.0.2"), DB_HOME))
    because = "databases do not stay on the default bridge (isolation = bridge)"
    assert plan(Intent(), state(db, app("blog"), networks=(HOME,))).splitlines() == [
        f"reset sockets of shop-db-1 with 172.17.0.0/16: {because}",
        f"disconnect shop-db-1 from bridge: {because}",
        f"destroy sockets of shop-db-1 with 172.17.0.0/16: {because}",
        f"kill sessions of shop-db with 172.17.0.0/16: {because}",
    ]


def test_a_database_that_something_needs_on_the_bridge_stays_there() -> None:
    on_bridge = (Endpoint("bridge", "172.17.0.2"), DB_HOME)
    published = database("shop-db", endpoints=on_bridge, published_ports=(3306,))
    linked = app("blog", links=("/shop-db-1:/blog-1/db",))
    assert plan(Intent(), state(published, networks=(HOME,))) == ""
    assert plan(Intent(), state(database("shop-db", endpoints=on_bridge), linked, networks=(HOME,))) == ""
    report = Rules(isolation="report")
    assert plan(Intent(), state(database("shop-db", endpoints=on_bridge), networks=(HOME,)), rules=report) == ""


def test_a_connection_is_one_network_with_a_name_for_each_end() -> None:
    intent = Intent(connections=frozenset({SHOP}))
    now = state(app("shop"), database("shop-db", endpoints=(DB_HOME,)), networks=(HOME,))
    assert plan(intent, now) == (
        "create network sidegate-shop--shop-db (10.213.0.32/27): shop and shop-db are connected\n"
        "connect shop-1 to sidegate-shop--shop-db as shop, shop.internal: shop and shop-db are connected\n"
        "connect shop-db-1 to sidegate-shop--shop-db as shop-db, shop-db.internal: shop and shop-db are connected"
    )


def test_a_connection_made_before_the_app_exists_has_its_network_ready() -> None:
    now = state(database("shop-db", endpoints=(DB_HOME,)), networks=(HOME,))
    assert plan(Intent(connections=frozenset({SHOP})), now) == (
        "create network sidegate-shop--shop-db (10.213.0.32/27): shop and shop-db are connected\n"
        "connect shop-db-1 to sidegate-shop--shop-db as shop-db, shop-db.internal: shop and shop-db are connected"
    )


def connected(*more: Container) -> EngineState:
    shop = app("shop", endpoints=(APP_BRIDGE, APP_JOINT))
    db = database("shop-db", endpoints=(DB_HOME, DB_JOINT))
    return state(shop, db, *more, networks=(HOME, JOINT))


def test_when_all_is_as_it_should_be_nothing_is_planned() -> None:
    assert plan(Intent(connections=frozenset({SHOP})), connected()) == ""


def test_a_new_replica_joins_while_it_is_only_created() -> None:
    late = app("shop", 2, state="created", pid=0, endpoints=(Endpoint("bridge"),))
    assert plan(Intent(connections=frozenset({SHOP})), connected(late)) == (
        "connect shop-2 to sidegate-shop--shop-db as shop, shop.internal: shop and shop-db are connected"
    )


def test_a_removed_connection_is_cut_at_both_ends_and_its_network_goes_last() -> None:
    stopped = app("shop", 2, state="exited", pid=0, endpoints=(Endpoint("sidegate-shop--shop-db"),))
    because = "shop and shop-db are no longer connected"
    assert plan(Intent(), connected(stopped)).splitlines() == [
        "connect shop-2 to bridge: shop-2 would be left with no network",
        f"disconnect shop-1 from sidegate-shop--shop-db: {because}",
        f"disconnect shop-db-1 from sidegate-shop--shop-db: {because}",
        f"disconnect shop-2 from sidegate-shop--shop-db: {because}",
        f"destroy sockets of shop-1 with 10.213.0.32/27: {because}",
        f"destroy sockets of shop-db-1 with 10.213.0.32/27: {because}",
        f"kill sessions of shop-db with 10.213.0.32/27: {because}",
        f"forget tracked flows of 10.213.0.32/27: {because}",
        f"remove network sidegate-shop--shop-db: {because}",
    ]


def test_a_crash_after_the_disconnect_still_leaves_the_cut_to_be_planned() -> None:
    apart = state(app("shop"), database("shop-db", endpoints=(DB_HOME,)), networks=(HOME, JOINT))
    assert [line.split(":")[0] for line in plan(Intent(), apart).splitlines()] == [
        "destroy sockets of shop-1 with 10.213.0.32/27",
        "destroy sockets of shop-db-1 with 10.213.0.32/27",
        "kill sessions of shop-db with 10.213.0.32/27",
        "forget tracked flows of 10.213.0.32/27",
        "remove network sidegate-shop--shop-db",
    ]


def test_a_stranger_on_a_private_network_is_expelled_and_the_others_stay() -> None:
    stranger = Container("id-x", "x", endpoints=(APP_BRIDGE, Endpoint(JOINT.name, "10.213.0.40")), pid=7)
    assert plan(Intent(connections=frozenset({SHOP})), connected(stranger)).splitlines() == [
        "disconnect x from sidegate-shop--shop-db: does not belong there",
        "destroy sockets of x with 10.213.0.32/27: does not belong there",
        "destroy sockets of shop-1 with 10.213.0.40/32: does not belong there",
        "destroy sockets of shop-db-1 with 10.213.0.40/32: does not belong there",
        "kill sessions of shop-db with 10.213.0.40/32: does not belong there",
    ]


def test_missing_aliases_are_given_again() -> None:
    shop = app("shop", endpoints=(APP_BRIDGE, Endpoint(JOINT.name, "10.213.0.35")))
    now = state(shop, database("shop-db", endpoints=(DB_HOME, DB_JOINT)), networks=(HOME, JOINT))
    assert plan(Intent(connections=frozenset({SHOP})), now) == (
        "disconnect shop-1 from sidegate-shop--shop-db: its aliases are missing there\n"
        "connect shop-1 to sidegate-shop--shop-db as shop, shop.internal: shop and shop-db are connected"
    )


def test_networks_of_others_and_of_other_instances_are_left_alone() -> None:
    foreign = ours("sidegate-a--b", "10.213.9.0/27", "a", "b", instance="other")
    assert plan(Intent(), state(networks=(foreign,))) == ""


def test_a_strangers_network_with_our_name_is_reported_not_touched() -> None:
    squatter = Network(id="q", name="sidegate-home--shop-db", subnets=("10.99.0.0/24",))
    now = state(database("shop-db"), networks=(squatter,))
    made, problems = reconcile(desire(Intent(), now, RULES), Observed(now), RULES)
    assert "network" not in str(made)
    assert "is not Sidegate's" in problems[0].text


def test_subnets_avoid_host_routes_other_networks_and_refused_ones() -> None:
    taken = HostState(routes=("10.213.0.0/27", "10.0.0.0/30"))
    other = ours("x", "10.213.0.64/26", "x", instance="other")
    now = state(database("db"), networks=(other,))
    text = plan(Intent(), now, host=taken, bad_subnets=("10.213.0.32/27",))
    assert "(10.213.0.128/27)" in text


def test_an_exhausted_pool_is_said_and_the_rest_goes_on() -> None:
    tiny = Rules(pool=IPv4Network("10.213.0.0/27"))
    now = state(database("a"), database("b"))
    made, problems = reconcile(desire(Intent(), now, tiny), Observed(now, routes=None), tiny)
    assert str(made).count("create network") == 1
    assert str(problems[0]) == (
        "sidegate-home--b: no /27 is left in internal_pool 10.213.0.0/27: remove connections or widen the pool"
    )


def test_external_on_opens_a_forwarder_and_off_closes_it_and_cuts_the_database_side() -> None:
    db = database("shop-db", endpoints=(DB_HOME,))
    on = Intent(externals={"shop-db": External(Gate(30000), enabled=True)})
    off = Intent(externals={"shop-db": External(Gate(30000), enabled=False)})
    now = state(db, networks=(HOME,))
    assert plan(on, now) == "open shop-db on port 30000: the external connection is on"
    assert plan(on, now, forwarders={"shop-db": Listening(Gate(30000))}) == ""
    assert plan(off, now, forwarders={"shop-db": Listening(Gate(30000))}).splitlines() == [
        "close shop-db on port 30000: the external connection is off",
        "destroy sockets of shop-db-1 with 10.213.0.1/32: the external connection is off",
        "kill sessions of shop-db with 10.213.0.1/32: the external connection is off",
    ]


def test_the_fast_path_is_put_back_when_it_is_lost() -> None:
    db = database("shop-db", endpoints=(DB_HOME,))
    assert plan(Intent(), state(db, networks=(HOME,)), host=HostState(fast_path=False)).startswith(
        "put the bridge fast path at the head of DOCKER-USER"
    )
    assert plan(Intent(), state(db, networks=(HOME,)), host=HostState(fast_path=True)) == ""
    assert plan(Intent(), state(), host=HostState(fast_path=False)) == ""


def test_routes_say_who_is_served_by_what() -> None:
    assert plan(Intent(), state(app("shop", endpoints=(APP_BRIDGE,))), published=False) == (
        "publish routes: shop is served by shop-1 (172.17.0.3:8080)"
    )


def test_while_the_engine_is_away_only_the_data_plane_is_touched() -> None:
    on = Intent(externals={"shop-db": External(Gate(30000), enabled=True)}, connections=frozenset({SHOP}))
    assert plan(on, state(database("shop-db")), engine_up=False) == (
        "open shop-db on port 30000: the external connection is on"
    )


def test_wanting_nothing_removes_everything_of_ours_and_leaves_no_container_without_a_network() -> None:
    now = connected()
    nothing = Desired(Discovery({}, {}))
    made, _ = reconcile(nothing, Observed(now, routes=nothing.routes), RULES)
    text = str(made)
    assert text.splitlines()[0] == "connect shop-db-1 to bridge: shop-db-1 would be left with no network"
    assert "remove network sidegate-home--shop-db" in text
    assert "remove network sidegate-shop--shop-db" in text


def test_a_chain_runs_disconnect_then_cut_then_kill_then_remove() -> None:
    """KILL's own login must not be among the sockets that are destroyed."""
    made, _ = reconcile(desire(Intent(), connected(), RULES), Observed(connected()), RULES)
    chain = next(c for c in made.chains() if c[0][0].chain == "network sidegate-shop--shop-db")
    steps = [{type(action).__name__ for action in rank} for rank in chain]
    assert steps == [{"DisconnectContainer"}, {"DestroySockets", "ForgetFlows"}, {"KillSessions"}, {"RemoveNetwork"}]


def test_a_newcomer_belongs_where_its_app_is_connected_and_nowhere_else() -> None:
    now = connected()
    desired = desire(Intent(connections=frozenset({SHOP})), now, RULES)

    def belongs(container: Container, seen: EngineState = now) -> tuple[Join, ...]:
        return joins(container, expect(desired, seen, RULES))

    assert belongs(app("shop", 2)) == ((JOINT.name, frozenset({"shop", "shop.internal"})),)
    assert belongs(app("shop", 2), state(networks=(HOME,))) == ()
    assert belongs(app("blog")) == ()
    assert belongs(app("shop-db")) == ()
    assert belongs(app("shop", 2, image_labels={"sidegate.app": "shop"})) == ()
    assert belongs(app("shop", 2, labels={"sidegate.phase": "build"})) == ()
    assert belongs(database("shop-db", id="rival")) == ()
    assert belongs(database("shop")) == ()


def test_a_stopped_container_is_freed_from_an_earlier_network_of_the_same_name() -> None:
    """Somebody pruned networks while the database was stopped: configured for the old one it could not start."""
    old = replace(DB_HOME, address="", network_id="old")
    stopped = database("shop-db", state="exited", pid=0, endpoints=(old,))
    gone = "disconnect shop-db-1 from sidegate-home--shop-db: it is configured for a network that has gone"
    again = "connect shop-db-1 to sidegate-home--shop-db: shop-db is a database"
    assert plan(Intent(), state(stopped)).splitlines() == [
        "create network sidegate-home--shop-db (10.213.0.0/27): shop-db is a database",
        gone,
        again,
    ]
    assert plan(Intent(), state(stopped, networks=(HOME,))).splitlines() == [gone, again]
    current = replace(old, network_id=HOME.id)
    assert plan(Intent(), state(replace(stopped, endpoints=(current,)), networks=(HOME,))) == ""


def test_a_container_is_freed_from_a_network_of_ours_that_somebody_removed() -> None:
    shop = app("shop", state="exited", pid=0, endpoints=(Endpoint("bridge"), Endpoint(JOINT.name)))
    assert plan(Intent(), state(shop)) == f"disconnect shop-1 from {JOINT.name}: that network has gone"


def test_a_network_with_containers_that_could_not_be_looked_at_is_left_alone() -> None:
    unseen = replace(state(networks=(HOME,)), unseen=frozenset({HOME.name}))
    assert plan(Intent(), unseen) == ""


def test_what_is_expelled_from_its_last_network_goes_back_to_the_bridge_first() -> None:
    stranger = Container("id-x", "x", endpoints=(Endpoint(JOINT.name, "10.213.0.40"),), pid=7)
    made, _ = reconcile(
        desire(Intent(connections=frozenset({SHOP})), connected(stranger), RULES), Observed(connected(stranger)), RULES
    )
    chain = next(c for c in made.chains() if c[0][0].chain == f"network {JOINT.name}")
    assert str(chain[0][0]) == "connect x to bridge: x would be left with no network"
    assert str(chain[1][0]) == f"disconnect x from {JOINT.name}: does not belong there"


def test_a_pool_that_runs_out_is_said_in_time() -> None:
    pool = Rules(pool=IPv4Network("10.213.0.0/21"))  # 64 subnets
    taken = tuple(ours(f"x{n}", f"10.213.{n // 8}.{n % 8 * 32}/27", "x", instance="other") for n in range(62))
    _, problems = reconcile(desire(Intent(), state(networks=taken), pool), Observed(state(networks=taken)), pool)
    assert [str(p) for p in problems] == ["internal_pool: only 2 subnets of 10.213.0.0/21 are left: widen it in time"]
    _, problems = reconcile(
        desire(Intent(), state(networks=taken[:50]), pool), Observed(state(networks=taken[:50])), pool
    )
    assert problems == []
