"""What others do to the kernel's rules and to the engine: external connections work again, and stay closed if off.

In a network namespace of its own, where flushing everything and restarting the engine harm nobody.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from e2e import forms
from e2e.conftest import PRIVATE
from e2e.node import Node, run, wait_for
from e2e.outside import GREETED, REFUSED, RESET, Outside, Switch, another_host
from e2e.private_engine import PrivateEngine

GREETER = """
import socket
with socket.create_server(("", 3306)) as server:
    while True:
        client = server.accept()[0]
        client.sendall(b"\\x0b\\0\\0\\0\\xff\\x10\\4too many")  # as MariaDB greets one too many
        client.close()
"""
pytestmark = pytest.mark.needs("the kernel's forwarder")

BLOWS = [
    "iptables -F DOCKER-USER",
    "nft delete table ip sidegate-{node}",
    "nft flush chain ip sidegate-{node} prerouting",
    "iptables -t nat -F",
    "nft flush ruleset",
]


@pytest.fixture(scope="module")
def beyond() -> Iterator[Outside]:
    """Another host, for a node that lives in a namespace."""
    with another_host(forms.other_name("sgbeyond"), forms.other_prefix("203.0.113"), within=PRIVATE) as made:
        yield made


@pytest.fixture(scope="module")
def databases(private: tuple[Node, PrivateEngine]) -> tuple[Switch, Switch]:
    """Two that greet: one whose external connection is on, and one whose is off and has a port."""
    node, _ = private
    for name in ("open-db", "shut-db"):
        labels = ["--label", f"sidegate.database={name}", "--label", "sidegate.engine=mariadb"]
        node.docker_run(
            name, *labels, "--restart", "always", "--stop-signal", "KILL", command=["python3", "-c", GREETER]
        )
    wait_for("they are known", lambda: len(node.json("db", "ls")) == 2)
    opened, shut = Switch(node, "open-db"), Switch(node, "shut-db")
    shut.on()
    shut.off()
    return opened, shut


def in_kernel(node: Node, port: int) -> bool:
    """Whether its rules forward a port, whatever it says itself."""
    table = run(*node.inside, "nft", "list", "table", "ip", f"sidegate-{node.name}", check=False).stdout
    accepts = run(*node.inside, "iptables", "-S", "DOCKER-USER", check=False)
    stand = f"sidegate:{node.name}:external" in accepts.stdout or accepts.returncode != 0  # without Docker's chain
    return f"goto port-{port}" in table and stand


def settled(node: Node, switch: Switch) -> int:
    """Its port, once the kernel carries it."""
    port = switch.show().port
    assert port is not None
    wait_for("the kernel carries it", lambda: in_kernel(node, port) and switch.show().carrier == "kernel")
    return port


@pytest.mark.parametrize("blow", BLOWS)
def test_flushed_rules_come_back_by_themselves(
    private: tuple[Node, PrivateEngine], databases: tuple[Switch, Switch], beyond: Outside, blow: str
) -> None:
    """Whoever has lost the kernel's way in meets the workers' meanwhile; what is off stays off all the time."""
    node, _ = private
    opened, shut = databases
    opened.change(forwarder="kernel", allow=[beyond.there[0]])
    port = settled(node, opened)
    closed = shut.show().port or 0
    with during(lambda: beyond.attempt(closed)) as outcomes:
        run(*node.inside, *blow.format(node=node.name).split())
        assert settled(node, opened) == port
        assert [beyond.attempt(port, a) for a in beyond.there[:2]] == [GREETED, RESET]
    assert outcomes == {REFUSED}


@contextlib.contextmanager
def during(attempt: Callable[[], str]) -> Iterator[set[str]]:
    """Attempts without a pause beside what is done; all their outcomes."""
    outcomes: set[str] = set()
    ended = threading.Event()

    def attempts() -> None:
        while not ended.wait(0.005):
            outcomes.add(attempt())

    thread = threading.Thread(target=attempts)
    thread.start()
    try:
        yield outcomes
    finally:
        ended.set()
        thread.join()


@pytest.mark.needs("an engine that restarts")
def test_an_engine_that_is_away_and_comes_back(
    private: tuple[Node, PrivateEngine], databases: tuple[Switch, Switch], beyond: Outside
) -> None:
    """With live-restore clients do not even notice. Without it every container stops with the engine, and the database
    is back with it, at whatever address."""
    node, engine = private
    opened, shut = databases
    opened.change(forwarder="kernel", allow=[])
    port, closed = settled(node, opened), shut.show().port or 0
    with during(lambda: beyond.attempt(closed)) as outcomes:
        engine.stop()
        wait_for("the loss is noticed", lambda: not node.json("status")["engine"]["connected"])
        assert beyond.attempt(port) == GREETED
        engine.start(live_restore=False)
        wait_for("it is connected again", lambda: node.json("status")["engine"]["connected"])
        wait_for("it serves", lambda: beyond.attempt(port) == GREETED)
        assert settled(node, opened) == port
        engine.stop()
        wait_for("it is refused at once", lambda: beyond.attempt(port) == RESET)
        engine.start(live_restore=True)
        wait_for("it serves again", lambda: beyond.attempt(port) == GREETED, 60)
        assert settled(node, opened) == port
    assert outcomes == {REFUSED}
    opened.off()
    assert beyond.attempt(port) == REFUSED
