"""One daemon, one MariaDB and one other host for all end-to-end tests of a run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import forms_table
from e2e import forms
from e2e.node import Node, need_engine, running
from e2e.outside import Outside, Switch, another_host
from e2e.private_engine import PrivateEngine, private_engine

PRIVATE = forms.other_name("sgengine")
SECOND_RUN = bool(os.environ.get("SIDEGATE_SECOND_RUN"))
FIRST = "sgtest", "10.215.0.0/17", "31000-31099"
SECOND = "sgtest2", "10.220.0.0/17", "31900-31999"
"""Name, pool and ports of the daemon; scripts/test has runs side by side, each with a daemon of its own, and another
form of it may be under test at the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.engine)
            for what in (word for marker in item.iter_markers("needs") for word in marker.args):
                if not forms.has(forms.FORM, what):
                    item.add_marker(pytest.mark.skip(f"{what}: {forms.LACKS[forms.FORM][what]}"))


_outcomes = forms_table.Outcomes()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        _outcomes.add(report.nodeid, report.outcome, reason)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What passes in which form is written down by runs of whole files that say so."""
    chosen = session.config.option.keyword or any("::" in word for word in session.config.args)
    whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not session.shouldfail
    if os.environ.get("SIDEGATE_RECORD_FORM") and whole and not chosen:
        forms_table.record(forms.FORM, _outcomes)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running daemon. Tests that stop it start it again."""
    need_engine()
    name, pool, ports = SECOND if SECOND_RUN else FIRST
    if forms.FORM != "host":
        name, pool, ports = forms.OWN[forms.FORM]
    directory = Path(tmp_path_factory.mktemp("node"))
    with running(Node(directory, name, pool=pool, ports=ports, form=forms.FORM)) as node:
        yield node


@pytest.fixture(scope="session", autouse=True)
def _reachable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The directories of nodes are in one that is closed to others."""
    if forms.FORM == "dev":
        tmp_path_factory.getbasetemp().chmod(0o711)


@pytest.fixture(autouse=True)
def _daemon_runs(request: pytest.FixtureRequest) -> None:
    """One test that fails with the daemon stopped is one test that fails."""
    if "node" in request.fixturenames:
        request.getfixturevalue("node").revive()


@pytest.fixture(scope="session")
def shop_db(node: Node) -> str:
    """The container of the database shop-db, with one greeting in a table."""
    container = node.database("shop-db")
    node.sql(
        container, "CREATE TABLE shop.greetings (word VARCHAR(20)); INSERT INTO shop.greetings VALUES ('good morning')"
    )
    return container


@pytest.fixture(scope="session")
def other_host() -> Iterator[Outside]:
    name, prefix = ("sgoutside2", "198.18.9") if SECOND_RUN else ("sgoutside", "198.18.7")
    with another_host(forms.other_name(name), forms.other_prefix(prefix)) as made:
        yield made


@pytest.fixture
def outside(other_host: Outside) -> Iterator[Outside]:
    """Another host; its connections end with the test."""
    yield other_host
    other_host.hang_up()


@pytest.fixture
def switch(node: Node, shop_db: str) -> Iterator[Switch]:
    """The external connection of shop-db: off before the test and after it."""
    assert shop_db
    switch = Switch(node, "shop-db")
    switch.off()
    yield switch
    node.revive()
    switch.off()


@pytest.fixture(params=[pytest.param("kernel", marks=pytest.mark.needs("the kernel's forwarder")), "userspace"])
def forwarder(request: pytest.FixtureRequest) -> str:
    """What carries external connections: a test that asks for it runs for each."""
    return str(request.param)


@pytest.fixture(scope="session")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, PrivateEngine]]:
    """A daemon beside an engine that can be restarted, both in a namespace of their own."""
    directory = Path(tmp_path_factory.mktemp("engine"))
    with private_engine(directory, PRIVATE) as engine:
        if forms.FORM in ("image", "bridge"):
            engine.load(forms.IMAGE)
        node = Node(
            directory, "sgpriv", pool="10.216.0.0/20", ports="31300-31399", docker=engine.url, namespace=PRIVATE
        )
        with running(node):
            yield node, engine
