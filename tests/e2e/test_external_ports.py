"""Public ports: asked for by number, held by somebody else, and a database that publishes one itself."""

import pytest

from e2e.node import PASSWORD, Node, holding, wait_for
from e2e.outside import GREETED, REFUSED, Outside, Switch
from ports import free_port


def test_a_port_is_asked_for_by_number_and_stays(node: Node, switch: Switch, outside: Outside, forwarder: str) -> None:
    first, last = node.ports[0], node.ports[-1]
    before = switch.on(forwarder=forwarder)
    shown = node.json("external", "on", "shop-db", "--port", str(last))
    assert shown["port"] == last
    assert [outside.attempt(port) for port in (before, last)] == [REFUSED, GREETED]
    switch.off()
    assert switch.on(forwarder=forwarder) == last
    status, text = node.refusal("external", "on", "shop-db", "--port", "80")
    assert (status, f"use one of {first}-{last}" in text) == (2, True), text
    assert outside.attempt(last) == GREETED
    switch.change(port=before)
    assert [outside.attempt(port) for port in (before, last)] == [GREETED, REFUSED]


@pytest.mark.needs("the host's ports")
def test_a_port_that_somebody_else_holds_is_named_with_its_holder(
    node: Node, switch: Switch, outside: Outside, forwarder: str
) -> None:
    """And what was on is on as it was."""
    port, other = switch.on(forwarder=forwarder), node.ports[-2]
    with holding(node, other) as pid:
        status, text = node.refusal("external", "on", "shop-db", "--port", str(other))
        assert status == 1, text
        assert f"port {other} is held by" in text
        assert f"(pid {pid})" in text
        assert (switch.show().port, switch.show().carrier) == (port, forwarder)
        assert outside.attempt(port) == GREETED
    switch.off()
    with holding(node, port):
        status, text = node.refusal("external", "on", "shop-db")
        assert (status, f"port {port} is held by" in text) == (1, True), text
        assert switch.show().enabled is False
    assert switch.on(forwarder=forwarder) == port


def test_a_database_that_publishes_its_own_port_is_reported_as_going_round_the_switch(
    node: Node, outside: Outside
) -> None:
    """No switch of ours closes that port."""
    published = free_port()
    labels = ["--label", "sidegate.database=own-db", "--label", "sidegate.engine=mariadb"]
    container = node.docker_run(
        "own-db",
        *labels,
        "-p",
        f"{published}:3306",
        "-e",
        f"MARIADB_ROOT_PASSWORD={PASSWORD}",
        image="sidegate-mariadb",
    )
    try:
        said = f"publishes port {published} itself, which no switch of ours closes"
        wait_for("it is known", lambda: "own-db" in node.cli("db", "ls").stdout)
        switch = Switch(node, "own-db")
        switch.on()
        assert any(said in warning for warning in switch.show().warnings), switch.show().warnings
        wait_for("it is a problem", lambda: any(f"publishes port {published}" in text for text in node.problems()))
        switch.off()
        wait_for("its own port answers all the same", lambda: outside.attempt(published) == GREETED, 60)
    finally:
        node.docker("rm", "-f", "-v", container)
