"""From labels to apps and databases."""

import pytest

from sidegate.core.desired import desire
from sidegate.core.labels import Domain, discover, parse_domain, parse_port
from sidegate.core.model import Container, EngineState, Intent, Rules
from states import app, database

RULES = Rules()


def problems(*containers: Container, rules: Rules = RULES) -> list[str]:
    return [str(p) for p in discover(containers, rules).problems]


def test_containers_with_one_name_are_replicas_in_order_of_creation() -> None:
    found = discover([app("shop", 2, created="2026-01-02"), app("shop", 1, created="2026-01-01")], RULES)
    assert [r.container.name for r in found.apps["shop"].replicas] == ["shop-1", "shop-2"]
    assert found.problems == ()


def test_an_unlabelled_container_is_nobody() -> None:
    found = discover([Container("1", "redis", labels={"other": "x"})], RULES)
    assert not found.apps and not found.databases and not found.problems


@pytest.mark.parametrize("name", ["a", "shop", "shop-db", "a" * 40, "a1-2b"])
def test_good_names(name: str) -> None:
    assert name in discover([app(name)], RULES).apps


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a--b", "a" * 41, "a_b", "home", "internal", "a.b", "ä"])
def test_bad_names_are_rejected_with_a_reason(name: str) -> None:
    found = discover([app(name)], RULES)
    assert not found.apps
    assert len(found.problems) == 1
    assert "sidegate.app" in found.problems[0].text


def test_labels_that_the_image_carries_are_ignored_and_reported() -> None:
    evil = app("shop", image_labels={"sidegate.app": "shop", "sidegate.domains": "bank.example"})
    found = discover([evil], RULES)
    assert not found.apps
    assert str(found.problems[0]) == (
        "shop-1: ignored sidegate.app: an image cannot say who its containers are; "
        "label the container, or set trust_image_labels"
    )


def test_image_labels_count_where_they_are_trusted() -> None:
    trusted = Rules(trust_image_labels=True)
    assert "shop" in discover([app("shop", image_labels={"sidegate.app": "shop"})], trusted).apps


def test_a_domain_in_the_image_does_not_ride_along_with_a_container_label() -> None:
    labels = {"sidegate.domains": "bank.example"}
    found = discover([app("shop", labels=labels, image_labels=labels)], RULES)
    assert found.apps["shop"].domains == ()


def test_the_older_of_two_databases_keeps_the_name() -> None:
    old = database("db", created="2026-01-01")
    new = database("db", id="new", name="db-new", created="2026-01-02")
    found = discover([new, old], RULES)
    assert found.databases["db"].container.name == "db-1"
    assert problems(new, old) == [
        "db-new: the name 'db' is taken by container db-1, which is older: choose another name"
    ]


def test_apps_and_databases_share_one_namespace() -> None:
    found = discover([app("x", created="2026-01-01"), database("x", created="2026-01-02", name="late")], RULES)
    assert "x" in found.apps and not found.databases
    assert str(found.problems[0]) == "late: the name 'x' is taken by an app, which is older: choose another name"


def test_both_kinds_at_once_is_refused() -> None:
    found = problems(app("x", labels={"sidegate.database": "y"}))
    assert found == ["x-1: labelled both sidegate.app and sidegate.database: keep one"]


def test_a_build_container_and_a_switched_off_one_are_left_out() -> None:
    found = discover(
        [app("a", labels={"sidegate.phase": "build"}), app("b", labels={"sidegate.enable": "false"})], RULES
    )
    assert not found.apps and not found.problems


@pytest.mark.parametrize(
    ("labels", "env", "exposed", "port"),
    [
        ({"sidegate.port": "3000"}, {"PORT": "4000"}, (5000,), 3000),
        ({}, {"PORT": "4000"}, (5000,), 4000),
        ({}, {"PORT": "none"}, (5000,), 5000),
        ({}, {}, (5000,), 5000),
        ({}, {}, (5000, 5001), 8080),
        ({}, {}, (), 8080),
    ],
)
def test_the_port_comes_from_label_then_environment_then_exposed_then_8080(
    labels: dict[str, str], env: dict[str, str], exposed: tuple[int, ...], port: int
) -> None:
    found = discover([app("shop", labels=labels, env=env, exposed_ports=exposed)], RULES)
    assert found.apps["shop"].replicas[0].port == port


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "", "80.0", "٨٠"])
def test_a_bad_port_label_rejects_the_container_and_names_it(port: str) -> None:
    assert "is not a port: use a number from 1 to 65535" in problems(app("shop", labels={"sidegate.port": port}))[0]


def test_a_database_port_label_is_refused_with_the_sentence() -> None:
    found = discover([database("db", labels={"sidegate.port": "5432"})], RULES)
    assert "db" in found.databases
    assert str(found.problems[0]).endswith("the internal port is 3306 and cannot be changed")


def test_a_database_needs_a_known_engine() -> None:
    assert (
        "known database engines are mariadb, mysql"
        in problems(Container("1", "x", labels={"sidegate.database": "db"}))[0]
    )
    assert (
        "'oracle' is not a known database engine" in problems(database("db", labels={"sidegate.engine": "oracle"}))[0]
    )


def test_a_misspelt_label_is_reported_with_a_guess() -> None:
    assert problems(app("shop", labels={"sidegate.domain": "a.b"})) == [
        "shop-1: unknown label sidegate.domain, did you mean sidegate.domains?"
    ]


def test_of_thousands_of_unknown_labels_the_first_are_told() -> None:
    labels = {f"sidegate.domain-{number:04}": "x" for number in range(5000)}
    found = problems(app("shop", labels=labels))
    assert len(found) == 11
    assert found[0] == "shop-1: unknown label sidegate.domain-0000, did you mean sidegate.domains?"
    assert found[-1] == "shop-1: unknown labels: 4990 more"


def test_of_hundreds_of_wrong_domains_the_first_are_told() -> None:
    found = problems(app("shop", labels={"sidegate.domains": "good.example" + ",a b" * 500}))
    assert len(found) == 11
    assert found[-1] == "shop-1: sidegate.domains: 490 more are not domains"


def test_an_app_has_so_many_domains_and_no_more() -> None:
    """Whoever runs a container writes its labels, and each domain costs everybody something."""
    names = [f"d{number}.example.com" for number in range(40_000)]
    too_many = "sidegate.domains: an app has 1,000 domains at most; shop keeps the first ones"
    found = discover([app("shop", labels={"sidegate.domains": ",".join(names)})], RULES)
    assert [str(domain) for domain in found.apps["shop"].domains] == names[:1000]
    assert [str(problem) for problem in found.problems] == [f"shop-1: {too_many}"]

    def replica(number: int, first: int, last: int) -> Container:
        listed = ", ".join(names[first:last])
        return app("shop", number, labels={"sidegate.domains": f"{listed}, ,"})

    found = discover([replica(1, 0, 1000), replica(2, 0, 1000)], RULES)
    assert len(found.apps["shop"].domains) == 1000
    assert not found.problems
    found = discover([replica(1, 0, 600), replica(2, 500, 1100)], RULES)
    assert [str(domain) for domain in found.apps["shop"].domains] == names[:1000]
    assert [str(problem) for problem in found.problems] == [f"shop-2: {too_many}"]


def test_thousands_of_labels_of_an_image_are_looked_at_once_each() -> None:
    """Each against each would take minutes here."""
    labels = {f"sidegate.x{number}": "x" for number in range(100_000)}
    (found,) = problems(app("shop", labels=labels, image_labels=labels))
    assert "and 99990 more: an image cannot say who its containers are" in found


def test_what_is_longer_than_any_request_is_no_domain_and_no_path() -> None:
    assert parse_domain("shop.example.com/" + "a" * 1900)
    assert parse_domain("shop.example.com/" + "a" * 2000) is None
    found = problems(app("shop", labels={"sidegate.health": "/" + "a" * 2000}))
    assert len(found) == 1
    assert found[0].startswith("shop-1: ignored sidegate.health: '/aaa")


@pytest.mark.parametrize(
    "labels",
    [
        {"sidegate.app": "x" * 10**6},
        {"sidegate.app": "shop", "sidegate.port": "1" * 10**6},
        {"sidegate.app": "shop", "sidegate.domains": "a b" * 10**6},
        {"sidegate.app": "shop", "sidegate.strategy": "x\n! status: all is well\x1b[2J"},
        {"sidegate.app": "shop", "sidegate.max-body": "1" * 10**6},
        {"sidegate.app": "shop", "sidegate." + "x" * 10**6: "x"},
        {"sidegate.app": "shop", "sidegate.x\n! status: all is well": "x"},
        {"sidegate.database": "db", "sidegate.engine": "x" * 10**6},
        {"sidegate.database": "db", "sidegate.engine": "mariadb", "sidegate.port": "1\n" * 10**6},
        {f"sidegate.x{number}\n": "x" for number in range(5000)},
    ],
    ids=lambda labels: next(reversed(labels))[:20].replace("\n", " "),
)
def test_whatever_a_label_holds_problems_are_short_and_one_line_each(labels: dict[str, str]) -> None:
    found = problems(Container("1", "x", labels=labels))
    assert found
    assert all(text.isprintable() and len(text) < 600 for text in found), found


def test_the_network_that_a_label_names_is_quoted_where_it_is_strange() -> None:
    shop = app("shop", labels={"sidegate.network": "x\n! status: all is well\x1b[2J"})
    found = desire(Intent(), EngineState((shop,)), RULES).problems
    assert [problem.text for problem in found] == [
        r"shop-1 is not on 'x\n! status: all is well\x1b[2J', the network its label sidegate.network names"
    ]


def test_a_port_of_thousands_of_digits_is_none() -> None:
    """int() refuses more than 4,300 digits, and an image's PORT is its builder's word."""
    found = discover([app("shop", env={"PORT": "1" * 5000}, exposed_ports=(3000,))], RULES)
    assert found.apps["shop"].replicas[0].port == 3000
    assert parse_port("0" * 5000 + "80") is None


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("shop.example.com", Domain("shop.example.com")),
        ("Shop.Example.com.", Domain("shop.example.com")),
        ("*.shop.example.com", Domain("*.shop.example.com")),
        ("example.com/api/", Domain("example.com", "/api")),
        ("bücher.example", Domain("xn--bcher-kva.example")),
    ],
)
def test_domains(text: str, domain: Domain) -> None:
    assert parse_domain(text) == domain


@pytest.mark.parametrize(
    "text", ["http://a.b", "a b", "a.b:80", "*", "a.*.b", "-a.b", "a..b", "", "/", "a.b/ c", "a.b//c"]
)
def test_what_is_no_domain(text: str) -> None:
    assert parse_domain(text) is None


def test_a_bad_domain_is_reported_and_the_good_one_next_to_it_stays() -> None:
    found = discover([app("shop", labels={"sidegate.domains": "http://x, shop.example"})], RULES)
    assert found.apps["shop"].domains == (Domain("shop.example"),)
    assert "'http://x' is not a domain" in found.problems[0].text


def test_swarm_tasks_are_said_to_be_unsupported() -> None:
    assert "swarm" in problems(app("shop", labels={"com.docker.swarm.task.id": "t"}))[0]


def test_a_container_belongs_to_one_daemon() -> None:
    """Two daemons on one engine never fight over a container; without the label it is the default instance's."""
    theirs = app("shop", labels={"sidegate.instance": "other"})
    assert not discover([theirs], RULES).apps
    assert discover([theirs], Rules(instance="other")).apps
    assert not discover([app("shop")], Rules(instance="other")).apps


def test_an_image_cannot_hide_a_container_from_its_daemon() -> None:
    hidden = app("shop", labels={"sidegate.instance": "other"}, image_labels={"sidegate.instance": "other"})
    assert "shop" in discover([hidden], RULES).apps
    assert not discover([hidden], Rules(instance="other")).apps


def test_options_come_from_labels_and_the_youngest_replica_decides() -> None:
    found = discover(
        [
            app("shop", labels={"sidegate.max-body": "1m", "sidegate.hsts": "30d"}, created="2026-01-01"),
            app("shop", 2, labels={"sidegate.max-body": "2m"}, created="2026-01-02"),
        ],
        RULES,
    )
    assert found.apps["shop"].options == {"max-body": "2m", "hsts": "30d"}


def test_a_bad_option_counts_as_absent_and_says_what_is_allowed() -> None:
    labels = {"sidegate.https": "yes", "sidegate.health": "healthz", "sidegate.max-body": "", "sidegate.hsts": "1d"}
    found = discover([app("shop", labels=labels)], RULES)
    assert found.apps["shop"].options == {"hsts": "1d"}
    assert [str(p) for p in found.problems] == [
        "shop-1: ignored sidegate.https: 'yes' is not both or redirect",
        "shop-1: ignored sidegate.health: 'healthz' is not a path that begins with /, or off",
    ]


def test_an_option_in_the_image_counts_for_nothing() -> None:
    labels = {"sidegate.https": "redirect"}
    assert discover([app("shop", labels=labels, image_labels=labels)], RULES).apps["shop"].options == {}
