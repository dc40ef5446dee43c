"""From apps to routes, and who answers for a host and a path."""

from dataclasses import replace

import pytest

from sidegate.core.desired import desire
from sidegate.core.model import Container, Endpoint, EngineState, Intent, Network, Pair, Rules
from sidegate.core.routes import MAINTENANCE, AppRoute, PathRoute, Policy, Routes, find_route
from states import app, database, ours, state

RULES = Rules()
CHECKED = {"sidegate.health": "/healthz"}


def routes(*containers: Container, intent: Intent | None = None, networks: tuple[Network, ...] = ()) -> Routes:
    return desire(intent or Intent(), state(*containers, networks=networks), RULES).routes


def upstreams(*containers: Container, networks: tuple[Network, ...] = (), intent: Intent | None = None) -> list[str]:
    return [
        f"{u.replica} {u.address}:{u.port}"
        for u in routes(*containers, networks=networks, intent=intent).apps["shop"].upstreams
    ]


def who_answers(made: Routes, host: str, path: str, *, local_client: bool) -> str | None:
    found = find_route(made, host, path, local_client=local_client)
    return found.app if found else None


def test_every_app_answers_at_its_name_under_the_base_domain() -> None:
    assert who_answers(routes(app("shop")), "shop.localhost", "/", local_client=True) == "shop"


def test_names_under_localhost_are_for_this_machine_only() -> None:
    assert who_answers(routes(app("shop")), "shop.localhost", "/", local_client=False) is None


def test_exact_beats_wildcard_and_the_longest_path_wins() -> None:
    made = routes(
        app("any", labels={"sidegate.domains": "*.example.com"}),
        app("deep", labels={"sidegate.domains": "*.a.example.com"}),
        app("www", labels={"sidegate.domains": "www.example.com"}),
        app("api", labels={"sidegate.domains": "www.example.com/api"}),
        app("v2", labels={"sidegate.domains": "www.example.com/api/v2"}),
    )

    def who(host: str, path: str = "/") -> str | None:
        return who_answers(made, host, path, local_client=False)

    assert who("www.example.com") == "www"
    assert who("www.example.com", "/api") == "api"
    assert who("www.example.com", "/api?x=1") == "api"
    assert who("www.example.com", "/apis") == "www"
    assert who("www.example.com", "/api/v2/x") == "v2"
    assert who("x.example.com") == "any"
    assert who("x.a.example.com") == "deep"
    assert who("example.com") is None
    assert who("unknown.test") is None


def test_a_path_of_a_host_nobody_has_in_whole_is_still_404_elsewhere() -> None:
    made = routes(app("api", labels={"sidegate.domains": "example.com/api"}))
    assert who_answers(made, "example.com", "/", local_client=False) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "exited"}, "stopped"),
        ({"state": "created"}, "starting"),
        ({"state": "restarting"}, "starting"),
        ({"state": "paused"}, "paused"),
        ({"health": "starting"}, "starting"),
        ({"health": "unhealthy"}, "unhealthy"),
        ({"stopping": True}, "stopping"),
        ({"network_mode": "none", "endpoints": ()}, "cannot be reached"),
    ],
)
def test_an_app_without_a_ready_replica_says_why(changes: dict[str, object], reason: str) -> None:
    found = routes(app("shop", 1, **changes)).apps["shop"]
    assert (found.upstreams, found.unavailable) == ((), reason)


def test_an_app_that_is_only_connected_is_known_and_has_no_containers() -> None:
    intent = Intent(connections=frozenset({Pair.of("shop", "db")}))
    made = routes(database("db"), intent=intent)
    assert made.apps["shop"].unavailable == "has no containers"
    assert "db" not in made.apps


def test_only_bridges_are_dialled_the_default_one_first_and_ours_last() -> None:
    joint = ours("sidegate-shop--x", "10.213.0.0/27", "shop", "x")
    nets = (
        Network("1", "web"),
        Network("2", "overlay", driver="overlay"),
        Network("3", "lan", driver="macvlan"),
        joint,
    )
    everywhere = (
        Endpoint("lan", "192.168.0.2"),
        Endpoint("overlay", "10.0.0.2"),
        Endpoint(joint.name, "10.213.0.2"),
        Endpoint("web", "172.18.0.2"),
    )
    assert upstreams(app("shop", endpoints=everywhere), networks=nets) == ["shop-1 172.18.0.2:8080"]
    bridged = (*everywhere, Endpoint("bridge", "172.17.0.2"))
    assert upstreams(app("shop", endpoints=bridged), networks=nets) == ["shop-1 172.17.0.2:8080"]
    assert upstreams(app("shop", endpoints=everywhere[:3]), networks=nets) == ["shop-1 10.213.0.2:8080"]
    label = {"sidegate.network": "web"}
    assert upstreams(app("shop", endpoints=bridged, labels=label), networks=nets) == ["shop-1 172.18.0.2:8080"]


def test_the_hosts_network_is_dialled_on_loopback_and_a_shared_one_at_its_owner() -> None:
    assert upstreams(app("shop", network_mode="host", endpoints=())) == ["shop-1 127.0.0.1:8080"]
    owner = Container("owner", "owner", endpoints=(Endpoint("bridge", "172.17.0.7"),))
    sidecar = app("shop", network_mode="container:owner", endpoints=())
    assert upstreams(sidecar, owner) == ["shop-1 172.17.0.7:8080"]


def test_a_new_replica_takes_traffic_only_once_it_is_connected() -> None:
    pair = Pair.of("shop", "db")
    joint = ours("sidegate-db--shop", "10.213.0.0/27", "db", "shop")
    attached = app("shop", endpoints=(Endpoint("bridge", "172.17.0.3"), Endpoint(joint.name, "10.213.0.3")))
    late = app("shop", 2, endpoints=(Endpoint("bridge", "172.17.0.4"),))
    intent = Intent(connections=frozenset({pair}))
    assert upstreams(attached, late, networks=(joint,), intent=intent) == ["shop-1 172.17.0.3:8080"]


def test_a_replica_whose_connections_are_missing_rests_rather_than_being_cut() -> None:
    joint = ours("sidegate-db--shop", "10.213.0.0/27", "db", "shop")
    attached = app("shop", endpoints=(Endpoint("bridge", "172.17.0.3"), Endpoint(joint.name, "10.213.0.3")))
    late = app("shop", 2, endpoints=(Endpoint("bridge", "172.17.0.4"),))
    made = desire(
        Intent(connections=frozenset({Pair.of("shop", "db")})), state(attached, late, networks=(joint,)), RULES
    )
    assert [u.replica for u in made.routes.apps["shop"].resting] == ["shop-2"]
    assert made.waiting == {late.id: "connecting"}


def test_a_connection_added_to_running_replicas_does_not_interrupt_them() -> None:
    intent = Intent(connections=frozenset({Pair.of("shop", "db")}))
    assert len(upstreams(app("shop"), app("shop", 2), intent=intent)) == 2


def test_of_two_apps_that_claim_a_domain_the_earlier_keeps_it_even_when_its_containers_are_new() -> None:
    claim = {"sidegate.domains": "shop.example"}
    old, rival = app("old", labels=claim, created="2026-01-01"), app("rival", labels=claim, created="2026-01-02")
    first = desire(Intent(), state(old, rival), RULES)
    assert first.claims == {"shop.example": "old"}
    assert str(first.problems[0]).startswith("rival: does not get shop.example: it belongs to the app old")
    renewed = replace(old, created="2026-02-01", id="new")
    second = desire(Intent(claims=first.claims), state(renewed, rival), RULES)
    assert second.claims == {"shop.example": "old"}


def test_an_app_keeps_its_domain_while_it_is_away_until_it_is_gone() -> None:
    rival = app("rival", labels={"sidegate.domains": "shop.example"})
    held = Intent(claims={"shop.example": "old"})
    assert desire(held, state(rival), RULES).claims == {"shop.example": "old"}
    assert desire(held, state(rival), RULES, gone={"old"}).claims == {"shop.example": "rival"}


def test_nobody_can_claim_another_apps_own_name() -> None:
    evil = app("evil", labels={"sidegate.domains": "shop.localhost, shop.localhost/pay"}, created="2025-01-01")
    made = desire(Intent(), state(evil, app("shop")), RULES)
    assert who_answers(made.routes, "shop.localhost", "/pay", local_client=True) == "shop"
    assert len(made.problems) == 2


def test_a_database_is_dialled_at_home_and_nowhere_else() -> None:
    home = ours("sidegate-home--db", "10.213.0.0/27", "db")
    away = database("db")
    at_home = database("db", endpoints=(Endpoint("bridge", "172.17.0.2"), Endpoint(home.name, "10.213.0.2")))
    assert routes(away).databases["db"].address == ""
    assert routes(at_home, networks=(home,)).databases["db"].address == "10.213.0.2"
    assert routes(replace(at_home, state="exited"), networks=(home,)).databases["db"].address == ""


def test_problems_name_who_reaches_a_database_unconnected_and_published_ports() -> None:
    found = desire(Intent(), state(database("db", published_ports=(3307,)), app("blog")), RULES).problems
    assert [str(p) for p in found] == [
        "db: can be reached through bridge without a connection, by blog-1",
        "db: publishes port 3307 itself, past Sidegate's switch: run db-1 without -p",
    ]


def test_the_port_of_a_compose_service_is_taken_out_of_its_file() -> None:
    labels = {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "mysql",
        "com.docker.compose.container-number": "1",
    }
    found = desire(Intent(), state(database("db", labels=labels, published_ports=(3307,))), RULES).problems
    text = (
        "publishes port 3307 itself, past Sidegate's switch: take it out of `ports:` of the service mysql, project shop"
    )
    assert text in [problem.text for problem in found]
    many = desire(Intent(), state(database("db", published_ports=tuple(range(10_000, 20_000)))), RULES).problems
    assert "10009 and 9990 more itself" in next(p.text for p in many if "itself" in p.text)


def test_a_container_that_cannot_join_a_network_is_reported() -> None:
    intent = Intent(connections=frozenset({Pair.of("shop", "db")}))
    found = desire(intent, state(app("shop", network_mode="host", endpoints=())), RULES).problems
    assert [str(p) for p in found] == [
        "shop: shop-1 uses the host's network: it cannot be connected; use a bridge network"
    ]


def test_an_empty_node_has_empty_routes() -> None:
    assert desire(Intent(), EngineState(), RULES).routes == Routes()


# --- draining and health --------------------


def served(*containers: Container, health: dict[str, str] | None = None) -> tuple[list[str], list[str], str]:
    """Who takes requests, who rests, and what is said when nobody takes any."""
    route = desire(Intent(), state(*containers), RULES, health=health).routes.apps["shop"]
    return [u.replica for u in route.upstreams], [u.replica for u in route.resting], route.unavailable


def test_a_replica_that_was_told_to_stop_is_let_go_of_and_does_not_rest() -> None:
    assert served(app("shop", stopping=True), app("shop", 2)) == (["shop-2"], [], "")
    assert served(app("shop", stopping=True), app("shop", 2, state="exited")) == ([], [], "stopping")


def test_an_upstream_carries_its_containers_id() -> None:
    assert [u.id for u in routes(app("shop")).apps["shop"].upstreams] == ["id-shop-1"]


def test_the_containers_own_health_check_makes_a_replica_rest() -> None:
    made = desire(Intent(), state(app("shop", health="unhealthy"), app("shop", 2, health="healthy")), RULES)
    assert [u.replica for u in made.routes.apps["shop"].resting] == ["shop-1"]
    assert [str(p) for p in made.problems] == [
        "shop: shop-1 takes no requests: unhealthy: the container's own health check fails"
    ]


def test_a_replica_that_fails_its_checks_rests_and_status_says_why() -> None:
    made = desire(
        Intent(),
        state(app("shop", labels=CHECKED), app("shop", 2, labels=CHECKED)),
        RULES,
        health={"id-shop-1": "", "id-shop-2": "answered 500 to /healthz"},
    )
    route = made.routes.apps["shop"]
    assert ([u.replica for u in route.upstreams], [u.replica for u in route.resting]) == (["shop-1"], ["shop-2"])
    assert made.waiting == {"id-shop-2": "unhealthy: answered 500 to /healthz"}
    assert [str(p) for p in made.problems] == ["shop: shop-2 takes no requests: unhealthy: answered 500 to /healthz"]


def test_visitors_are_not_told_what_is_wrong_inside() -> None:
    found = served(app("shop", labels=CHECKED), health={"id-shop-1": "secret detail"})
    assert found == ([], ["shop-1"], "unhealthy")


def test_a_replica_that_was_not_checked_yet_waits_while_another_is_known_to_be_well() -> None:
    both = app("shop", labels=CHECKED), app("shop", 2, labels=CHECKED)
    assert served(*both, health={"id-shop-1": ""}) == (["shop-1"], ["shop-2"], "")
    assert served(*both, health={}) == (["shop-1", "shop-2"], [], "")
    assert served(*both, health={"id-shop-1": "refused"}) == (["shop-2"], ["shop-1"], "")


def test_when_the_well_one_is_told_to_stop_those_not_checked_yet_serve() -> None:
    old, new = app("shop", labels=CHECKED, stopping=True), app("shop", 2, labels=CHECKED)
    assert served(old, new, health={"id-shop-1": ""}) == (["shop-2"], [], "")


def test_checks_of_an_app_without_a_health_path_count_for_nothing() -> None:
    assert served(app("shop"), app("shop", 2), health={"id-shop-1": "old news"}) == (["shop-1", "shop-2"], [], "")


# --- options, modes, redirects --------------------


def test_options_make_a_policy_and_equal_ones_share_it() -> None:
    made = routes(
        app("plain"),
        app("one", labels={"sidegate.max-body": "10m"}),
        app("two", labels={"sidegate.max-body": "10240k"}),
        app("same", labels={"sidegate.max-body": "off"}),
    )
    assert made.policies == (Policy(), Policy(max_body=10 << 20))
    assert {name: route.policy for name, route in made.apps.items()} == {"plain": 0, "same": 0, "one": 1, "two": 1}


def test_the_first_policy_is_the_settings() -> None:
    own = Policy(response=7, body=8)
    made = desire(
        Intent(), state(app("shop", labels={"sidegate.body-timeout": "1m"})), replace(RULES, policy=own)
    ).routes
    assert made.policies == (own, Policy(response=7, body=60))


def test_a_command_wins_over_a_label_and_what_this_version_does_not_know_is_said() -> None:
    intent = Intent(options={"shop": {"max-body": "1m", "colour": "red", "hsts": "never"}})
    made = desire(intent, state(app("shop", labels={"sidegate.max-body": "2m", "sidegate.access-log": "off"})), RULES)
    assert made.routes.policies[made.routes.apps["shop"].policy] == Policy(max_body=1 << 20, access_log=False)
    assert [str(p) for p in made.problems] == [
        "shop: the option colour=red means nothing to this version: sidegate app unset shop colour",
        "shop: the option hsts=never means nothing to this version: sidegate app unset shop hsts",
    ]


def test_a_redirect_to_https_needs_https() -> None:
    labelled = state(app("shop", labels={"sidegate.https": "redirect"}))
    assert desire(Intent(), labelled, RULES).routes.policies[1].https_redirect
    without = desire(Intent(), labelled, replace(RULES, tls=False))
    assert without.routes.policies == (Policy(),)
    assert "set https_port" in str(without.problems[0])


def test_a_mode_is_kept_for_an_app_without_containers() -> None:
    made = routes(intent=Intent(modes={"shop": MAINTENANCE}))
    assert made.apps["shop"] == AppRoute((), "has no containers", mode=MAINTENANCE)


@pytest.mark.parametrize(
    ("www", "domains", "redirects"),
    [
        ("remove", "shop.example", {"www.shop.example": "shop.example"}),
        ("remove", "shop.example/api", {"www.shop.example/api": "shop.example"}),
        ("remove", "shop.example,www.shop.example", {"www.shop.example": "shop.example"}),
        ("remove", "www.shop.example", {}),
        ("remove", "*.shop.example,localhost,a.localhost", {}),
        ("add", "www.shop.example", {"shop.example": "www.shop.example"}),
        ("add", "shop.example,www.shop.example", {"shop.example": "www.shop.example"}),
        ("add", "shop.example", {}),
        ("add", "www.localhost,*.example", {}),
        ("keep", "shop.example,www.two.example", {}),
    ],
)
def test_www_is_taken_off_or_put_before(www: str, domains: str, redirects: dict[str, str]) -> None:
    made = routes(app("shop", labels={"sidegate.domains": domains, "sidegate.www": www}))
    found = {host + r.path: r.redirect for host, paths in made.hosts.items() for r in paths if r.redirect}
    assert found == redirects


def test_adding_www_where_no_domain_has_it_is_said() -> None:
    labels = {"sidegate.domains": "shop.example", "sidegate.www": "add"}
    (problem,) = desire(Intent(), state(app("shop", labels=labels)), RULES).problems
    assert str(problem) == "shop: www=add does nothing: add a domain that begins with www. to its labels"


@pytest.mark.parametrize("claim", ["www.shop.example", "*.shop.example", "*.example"])
def test_a_name_that_another_app_claims_is_not_redirected(claim: str) -> None:
    shop = app("shop", labels={"sidegate.domains": "shop.example", "sidegate.www": "remove"})
    rival = app("rival", labels={"sidegate.domains": claim})
    found = find_route(routes(shop, rival), "www.shop.example", "/", local_client=False)
    assert found == PathRoute("", "rival")


def test_a_redirect_leaves_another_apps_path_alone() -> None:
    shop = app("shop", labels={"sidegate.domains": "shop.example", "sidegate.www": "remove"})
    api = app("api", labels={"sidegate.domains": "www.shop.example/api"})
    made = routes(shop, api)
    assert find_route(made, "www.shop.example", "/api/1", local_client=False) == PathRoute("/api", "api")
    assert find_route(made, "www.shop.example", "/a", local_client=False) == PathRoute("", "shop", "shop.example")


def test_the_default_app_answers_where_nobody_else_does() -> None:
    rules = replace(RULES, default_app="shop")
    made = desire(Intent(), state(app("shop")), rules)
    assert find_route(made.routes, "nobody.example", "/", local_client=False) == PathRoute("", "shop")
    missing = desire(Intent(), EngineState(), rules)
    assert missing.routes.default_app == ""
    assert [str(p) for p in missing.problems] == [
        "shop: is default_app in the settings, but there is no app of that name"
    ]
