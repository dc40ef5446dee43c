"""Who gets which certificate, and the plan that brings it to the workers before the routes."""

from dataclasses import replace

import pytest

from pairs import DAY, certificate
from sidegate.core.certificates import Assignment, Certificate, CertificateSet, CertificateState, assign, choose
from sidegate.core.desired import Desired
from sidegate.core.labels import Discovery
from sidegate.core.model import EngineState, HostState, Rules
from sidegate.core.plan import PublishCertificates, PublishRoutes
from sidegate.core.reconcile import Observed, reconcile
from sidegate.core.routes import PathRoute, Routes

SHOP = (PathRoute("", "shop"),)
ROUTES = Routes(hosts={"shop.example": SHOP, "www.shop.example": SHOP}, wildcards={".shops.example": SHOP})
NOW = 50 * DAY


def leaf(host: str) -> Certificate:
    """The authority's for `host`; "" is the default."""
    return replace(certificate(f"local-{host}", host or "localhost"), name="")


def given(*files: Certificate, issued: tuple[str, ...] = ("",), **changes: object) -> Assignment:
    state = CertificateState(files, {host: leaf(host) for host in issued}, now=NOW, ticket_key="5a" * 80)
    return assign(ROUTES, replace(state, **changes))  # type: ignore[arg-type]


def test_files_come_before_the_authority_and_it_is_asked_for_the_rest() -> None:
    own = certificate("own", "shop.example")
    found = given(own, issued=("", "www.shop.example"))
    assert found.presented.hosts == {"shop.example": own.id, "www.shop.example": leaf("www.shop.example").id}
    assert found.missing == ("*.shops.example",)
    assert found.presented.default == leaf("").id
    assert found.used[own.id] == ("shop.example",)
    assert set(found.presented.pairs) == {own.id, leaf("").id, leaf("www.shop.example").id}


def test_everything_is_asked_for_where_there_is_nothing() -> None:
    found = given(issued=())
    assert found.missing == ("*.shops.example", "shop.example", "www.shop.example", "")
    assert found.presented == CertificateSet(ticket_key="5a" * 80)


def test_leafs_that_are_due_are_asked_for_and_presented_until_then() -> None:
    names = ("", "*.shops.example", "shop.example", "www.shop.example")
    found = given(issued=names, due=frozenset({"shop.example", ""}))
    assert found.missing == ("shop.example", "")
    assert found.presented.hosts["shop.example"] == leaf("shop.example").id


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (certificate("exact", "www.shop.example"), certificate("wild", "*.shop.example", until=200 * DAY)),
        (certificate("wild", "*.shop.example"), certificate("expired", "www.shop.example", until=NOW)),
        (certificate("valid", "www.shop.example"), certificate("expired", "www.shop.example", until=NOW)),
        (
            certificate("longer", "www.shop.example", until=99 * DAY),
            certificate("x", "www.shop.example", until=98 * DAY),
        ),
        (certificate("now", "www.shop.example"), certificate("later", "www.shop.example", since=NOW + 1, until=9e9)),
        (
            certificate("expired", "www.shop.example", until=NOW - 1),
            certificate("wild", "*.shop.example", until=NOW - 2),
        ),
    ],
    ids=["exact", "a valid wildcard", "valid", "longer", "begun", "exact though expired"],
)
def test_the_better_of_two(better: Certificate, worse: Certificate) -> None:
    for files in ((better, worse), (worse, better)):
        assert given(*files).presented.hosts["www.shop.example"] == better.id


def test_a_wildcard_stands_for_one_label() -> None:
    wild = certificate("wild", "*.example", "*.shops.example")
    found = given(wild)
    assert found.presented.hosts == {"shop.example": wild.id}
    assert found.presented.wildcards == {".example": wild.id, ".shops.example": wild.id}
    assert found.missing == ("www.shop.example",)


def test_names_that_nothing_is_routed_to_are_presented_too() -> None:
    other = certificate("other", "other.example", "192.0.2.1")
    found = given(other)
    assert choose(found.presented, "other.example") == other.id
    assert other.id not in found.used


def test_without_the_authority_a_file_is_the_default() -> None:
    own = certificate("own", "shop.example")
    assert given(own, issued=(), fault="no space left").presented.default == own.id


@pytest.mark.parametrize(
    ("until", "since", "text"),
    [
        (NOW, 0.0, "expired on 1970-02-20 00:00 UTC: clients refuse it; put a new one in its place"),
        (NOW + 13 * DAY, 0.0, "expires on 1970-03-05 00:00 UTC: see that what renews it runs"),
        (NOW + 90 * DAY, NOW + DAY, "is not valid before 1970-02-21 00:00 UTC: check this machine's clock"),
    ],
)
def test_what_is_in_use_and_will_not_do_is_a_problem(until: float, since: float, text: str) -> None:
    (problem,) = given(certificate("own", "shop.example", until=until, since=since)).problems
    assert (problem.subject, problem.text) == ("certificate own", text)


def test_what_a_better_one_has_replaced_is_none() -> None:
    assert given(certificate("old", "shop.example", until=NOW), certificate("new", "shop.example")).problems == ()


def test_the_authoritys_fault_is_a_problem() -> None:
    (problem,) = given(issued=(), fault="the disk is full").problems
    assert str(problem) == "certificates: the disk is full"


# --- plans


def plan(wanted: Assignment | None, certified: CertificateSet | None = None, routes: Routes | None = None) -> str:
    desired = Desired(Discovery({}, {}), routes=ROUTES, certificates=wanted)
    observed = Observed(EngineState(), HostState(), routes=routes, certified=certified)
    return str(reconcile(desired, observed, Rules())[0])


ALL = ("", "*.shops.example", "shop.example", "www.shop.example")


def test_the_authority_is_asked_first_and_routes_wait_for_it() -> None:
    assert plan(given(issued=("",))) == (
        "issue 3 certificates: no file has one for *.shops.example, shop.example, www.shop.example"
    )
    assert plan(given(issued=ALL[1:])) == "issue a certificate: no file has one for unknown names"


def test_then_certificates_come_before_routes_in_one_chain() -> None:
    wanted = given(issued=ALL)
    assert plan(wanted).splitlines() == [
        "publish certificates: 4 new, a new ticket key",
        "publish routes: domains changed",
    ]
    made, _ = reconcile(
        Desired(Discovery({}, {}), routes=ROUTES, certificates=wanted), Observed(EngineState(), HostState()), Rules()
    )
    ((first, second),) = made.chains()
    assert isinstance(first[0], PublishCertificates)
    assert isinstance(second[0], PublishRoutes)
    assert "5a5a" not in repr(first[0])


def test_once_published_nothing_is_left_to_do() -> None:
    wanted = given(issued=ALL)
    assert plan(wanted, wanted.presented, ROUTES) == ""


def test_routes_do_not_wait_for_an_authority_that_is_at_work_or_broken() -> None:
    for changes in ({"issuing": True}, {"fault": "the disk is full"}):
        assert plan(given(issued=("",), **changes)).splitlines() == [
            "publish certificates: 1 new, a new ticket key",
            "publish routes: domains changed",
        ]


def test_a_new_ticket_key_alone_is_published() -> None:
    wanted = given(issued=ALL)
    old = replace(wanted.presented, ticket_key="00" * 80)
    assert plan(wanted, old, ROUTES) == "publish certificates: a new ticket key"


def test_without_tls_there_are_only_routes() -> None:
    assert plan(None) == "publish routes: domains changed"
