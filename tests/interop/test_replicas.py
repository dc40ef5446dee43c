"""Replicas of the sample app that go and come under load, through a real daemon."""

import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from websockets.sync.client import connect

from e2e.node import APP_IMAGE, Node, run, wait_for
from interop.plane import wrk_faults
from sidegate.api.client import Client
from sidegate.api.schemas import AppRequest, AppView

pytestmark = pytest.mark.engine
APP, HOST = "shop", "shop.localhost"
GRACEFUL: tuple[str, ...] = ()
CLIENTS = 40
ABRUPT = ("-e", "ON_SIGTERM=exit")


@pytest.fixture
def replicas(node: Node) -> Iterator[Callable[..., list[str]]]:
    """Start replicas that serve when this returns; they go after the test."""
    made: list[str] = []

    def start(count: int, *options: str) -> list[str]:
        names = [f"{APP}-{number}" for number in range(1, count + 1)]
        made.extend(names)
        for name in names:
            node.app(APP, *options, name=name)
        for name in names:
            wait_for(f"{name} answers", lambda name=name: answers(node, name))  # type: ignore[misc]
        wait_for("all take requests", lambda: serving(node) == count)
        return names

    yield start
    for name in made:
        node.docker("rm", "-f", node.container(name), check=False)


def answers(node: Node, name: str) -> bool:
    fetch = "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"
    return not run("docker", "exec", node.container(name), "python3", "-c", fetch, check=False).returncode


def serving(node: Node) -> int:
    """How many replicas the daemon names as taking requests."""
    return int(node.json("app", "show", APP)["serving"])


@contextlib.contextmanager
def load(node: Node, *, halves: bool = False) -> Iterator[None]:
    """wrk at full rate for as long as the body takes; it must have met no error at all.

    `halves`: but for responses that had begun. Nobody can finish those when the replica dies between head and body.
    """
    url = f"http://127.0.0.1:{node.http_port}/healthz"
    command = ["wrk", "-t2", f"-c{CLIENTS}", "-d600s", "--latency", "--timeout", "20s", "-H", f"Host: {HOST}", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        try:
            time.sleep(1)  # wrk says nothing when it has begun
            yield
            time.sleep(1)  # for what the last change may have broken
            wrk.send_signal(signal.SIGINT)  # it reports then
            report, _ = wrk.communicate(timeout=60)
        finally:
            wrk.kill()
    print(report)
    faults = wrk_faults(report)
    if halves and faults:
        [fault] = faults
        begun = re.fullmatch(r"Socket errors: connect 0, read (\d+), write 0, timeout 0", fault)
        assert begun, report
        assert int(begun[1]) <= CLIENTS // 3, report
    else:
        assert not faults, report


def replace(node: Node, name: str, *options: str) -> None:
    """`docker stop`, `docker run`; returns when the new one answers."""
    node.docker("stop", node.container(name))
    node.docker("rm", node.container(name))
    node.app(APP, *options, name=name)
    wait_for(f"{name} answers", lambda: answers(node, name))


@pytest.mark.parametrize(("options", "seconds"), [(GRACEFUL, 60), (ABRUPT, 5)], ids=["graceful", "abrupt"])
def test_three_replicas_replaced_one_by_one_under_load(
    node: Node, replicas: Callable[..., list[str]], options: tuple[str, ...], seconds: int
) -> None:
    names = replicas(3, *options)
    replaced = 0
    with load(node):
        begun = time.monotonic()
        while replaced < 3 or time.monotonic() - begun < seconds:
            replace(node, names[replaced % 3], *options)
            replaced += 1
    print(f"{replaced} replicas replaced")


def restart(node: Node, name: str) -> None:
    node.docker("restart", node.container(name))


def kill(node: Node, name: str) -> None:
    node.docker("kill", node.container(name))
    node.docker("start", node.container(name))


def recreate(node: Node, name: str) -> None:
    """As compose does: the new one is made beside the old one, which then goes; in the end it has its name."""
    full = node.container(name)
    node.docker("rename", full, f"{full}-old")
    try:
        node.docker("create", "--name", full, "--label", f"sidegate.app={APP}", *node.ours, APP_IMAGE)
        node.docker("stop", f"{full}-old")
    finally:
        node.docker("rm", "-f", f"{full}-old", check=False)
    node.docker("start", full)


@pytest.mark.parametrize("what", [restart, kill, recreate])
def test_a_replica_that_goes_and_comes_back_under_load(
    node: Node, replicas: Callable[..., list[str]], what: Callable[[Node, str], None]
) -> None:
    name = replicas(3)[0]
    with load(node, halves=what is kill):
        what(node, name)
        wait_for(f"{name} is back", lambda: answers(node, name))


def test_a_replica_taken_off_its_network_under_load(node: Node, replicas: Callable[..., list[str]]) -> None:
    name = node.container(replicas(3)[0])
    with load(node):
        node.docker("network", "disconnect", "bridge", name)
        time.sleep(2)
        node.docker("network", "connect", "bridge", name)


def test_options_and_labels_changed_as_fast_as_they_can_be(node: Node, replicas: Callable[..., list[str]]) -> None:
    """Each option is a pass and a snapshot of its own; a second app that comes and goes changes routes as well."""
    replicas(2)
    control = Client(node.directory / "run" / "control.sock")
    address = ("127.0.0.1", node.http_port)
    url = f"ws://{HOST}:{node.http_port}/ws"
    changes = 0
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(connect(url, sock=socket.create_connection(address), ping_interval=None))
            for _ in range(10)
        ]
        with load(node):
            begun = time.monotonic()
            while time.monotonic() - begun < 10:
                options: dict[str, str | None] = {"max-body": str(1_000_000 + changes)}
                control.call("PATCH", f"/v1/apps/{APP}", AppView, body=AppRequest(options=options))
                changes += 1
                if changes % 50 == 0:
                    node.docker("rm", "-f", node.app("other", "--label", f"sidegate.domains=o{changes}.example.com"))
            print(f"{changes / (time.monotonic() - begun):.0f} changes a second")
        for ws in sockets:
            ws.send("still there")
            assert ws.recv(10) == "still there"
