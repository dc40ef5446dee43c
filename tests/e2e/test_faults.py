"""Right after any fault: restarts with new addresses, lost events, killed processes, an engine that goes away."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from e2e.engine_relay import EngineRelay
from e2e.node import Node, Reply, run, wait_for
from e2e.private_engine import PrivateEngine


def serves(node: Node, host: str) -> bool:
    return node.get(host, "/healthz") == Reply(200, "ok")


def listens(address: str, port: int = 8080) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((address, port)) == 0


def test_a_restarted_app_with_a_new_address_is_served_within_a_second(node: Node) -> None:
    """Must show 6: stale routes are why people leave the others."""
    network = node.container("moving")  # of its own: elsewhere others' containers come and go, and addresses with them
    node.docker("network", "create", network)
    app = node.app("moving", "--network", network)
    squatter = node.container("squatter")
    try:
        wait_for("it serves", lambda: serves(node, "moving.localhost"))
        [before] = node.addresses(app)
        node.docker("stop", app)
        node.docker_run("squatter", "--network", network, image="sidegate-base", command=["sleep", "60"])
        assert node.addresses(squatter) == [before]
        node.docker("start", app)
        [after] = node.addresses(app)
        assert after != before
        wait_for("the container listens", lambda: listens(after))
        wait_for("it is served at its new address", lambda: serves(node, "moving.localhost"))
    finally:
        node.docker("rm", "-f", app, squatter)
        node.docker("network", "rm", network)


def test_stopped_is_503_unknown_is_404_and_a_refusing_port_502(node: Node) -> None:
    """R32."""
    app = node.app("closed", "--label", "sidegate.port=9999")
    try:
        wait_for("it is known", lambda: node.get("closed.localhost").status == 502)
        node.docker("stop", "-t", "1", app)
        wait_for("it is told to stop", lambda: node.get("closed.localhost").status == 503)
        wait_for("it is stopped", lambda: "stopped" in node.get("closed.localhost").body)
        assert node.get("nobody.example").status == 404
    finally:
        node.docker("rm", "-f", app)
    wait_for("it is forgotten", lambda: node.get("closed.localhost").status == 404)


def snapshot(node: Node) -> list[object]:
    """What people see and what the engine has, without what changes by itself."""
    shown: list[object] = [node.json(*words) for words in (["connections"], ["external", "ls"], ["env", "ls", "shop"])]
    shown.append([(a["name"], [r["container"] for r in a["replicas"]]) for a in node.json("app", "ls")])
    ids = node.docker("network", "ls", "--no-trunc", "--filter", f"label=sidegate.instance={node.name}", "-q")
    return [*shown, sorted(ids.split())]


def test_the_daemon_killed_and_started_has_the_same_state(node: Node, shop_db: str) -> None:
    """Must show 6: kill -9 costs nothing but the restart."""
    node.cli("connect", "shop", "shop-db", "--env")
    app = node.app("shop", *node.env_options("shop"))
    node.cli("external", "on", "shop-db")
    try:
        wait_for("it serves", lambda: serves(node, "shop.localhost"))
        before = snapshot(node)
        for _ in range(3):
            node.stop(signal.SIGKILL)
            node.start()
            assert snapshot(node) == before
            assert serves(node, "shop.localhost")
        assert not [p for p in node.problems() if "sidegate" in p]
    finally:
        node.cli("external", "off", "shop-db")
        node.cli("disconnect", "shop", "shop-db", "--yes")
        node.docker("rm", "-f", app)


def test_a_killed_worker_costs_only_what_it_had_accepted(node: Node) -> None:
    """Must show 6: under load at most its share of 16 connections fails; nothing hangs; it is replaced."""
    app = node.app("busy")
    try:
        wait_for("it serves", lambda: serves(node, "busy.localhost"))
        before = {w["slot"]: w["pid"] for w in node.json("status")["workers"]}
        url = f"http://127.0.0.1:{node.http_port}/healthz"
        load = subprocess.Popen(
            ["wrk", "-t2", "-c16", "-d7s", "--timeout", "5s", "-H", "Host: busy.localhost", url],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(1)  # the load must be under way: there is no state to wait for
        os.kill(before[0], signal.SIGKILL)
        output, _ = load.communicate(timeout=30)
        errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        connect, read, write, timeout = map(int, errors.groups()) if errors else (0, 0, 0, 0)
        assert connect == timeout == 0, output
        assert read + write <= 16, output
        assert "Non-2xx" not in output
        after = {w["slot"]: w["pid"] for w in node.json("status")["workers"]}
        assert after[0] != before[0]
        assert after[1] == before[1]
    finally:
        node.docker("rm", "-f", app)


def test_lost_events_cost_one_resync(tmp_path: Path) -> None:
    """Must show 7: the stream is cut while containers change; everything is right again after one resync."""
    relay = EngineRelay(tmp_path / "relay.sock")
    relay.start()
    node = Node(tmp_path, "sgdeaf", pool="10.215.192.0/20", ports="31100-31199")
    try:
        node.start(resync_seconds="3", docker_host=relay.url)
        app = node.app("early")
        wait_for("events work", lambda: serves(node, "early.localhost"))
        relay.go_deaf()
        node.app("late")
        node.docker("stop", "-t", "1", app)
        wait_for("the late app is served", lambda: serves(node, "late.localhost"), 6)
        wait_for("the early one is not", lambda: node.get("early.localhost").status == 503, 6)
    finally:
        node.close()
        relay.close()


@pytest.mark.needs("a start without an engine")
def test_an_engine_that_is_not_there_at_start_is_awaited(tmp_path: Path) -> None:
    """Must show 10: the daemon says so in status, refuses what needs the engine, and works once it is there."""
    relay = EngineRelay(tmp_path / "relay.sock")
    node = Node(tmp_path, "sglate", pool="10.215.208.0/20", ports="31200-31299")
    try:
        node.start(ready=False, docker_host=relay.url)
        wait_for("the daemon answers", lambda: node.cli("status", check=False).returncode == 0)
        wait_for("it has asked", lambda: str(relay.path) in (node.json("status")["engine"]["fault"] or ""))
        assert node.json("status")["engine"]["connected"] is False
        status, text = node.refusal("connect", "a", "b")
        assert status in (1, 4)
        assert "does not answer" in text or "no app or database" in text
        relay.start()
        wait_for("it is connected", lambda: node.json("status")["engine"]["connected"], 10)
        node.app("hello")
        wait_for("it serves", lambda: serves(node, "hello.localhost"))
    finally:
        node.close()
        relay.close()


def inside(node: Node, host: str) -> str:
    """The status that a client in the node's namespace gets."""
    command = [
        "curl",
        "-s",
        "-m",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        f"Host: {host}",
        f"http://{node.seen_as}:{node.http_port}/healthz",  # docker-proxy, behind 127.0.0.1, ends with the engine
    ]
    return run(*node.inside, *command, check=False).stdout


def test_routes_are_served_while_an_engine_with_live_restore_is_away(private: tuple[Node, PrivateEngine]) -> None:
    """Must show 6: containers stay, so does their traffic; reconciled within 10 s of the engine's answer."""
    node, engine = private
    node.app("calm", "--restart", "always")
    node.app("friend", "--restart", "always")
    node.cli("connect", "calm", "friend")
    wait_for("it serves", lambda: inside(node, "calm.localhost") == "200")
    engine.stop()
    wait_for("the loss is noticed", lambda: not node.json("status")["engine"]["connected"])
    assert {inside(node, "calm.localhost") for _ in range(20)} == {"200"}
    engine.start(live_restore=True)
    wait_for("it is connected again", lambda: node.json("status")["engine"]["connected"], 10)
    assert inside(node, "calm.localhost") == "200"
    node.app("newcomer", "--restart", "always")
    wait_for("events work again", lambda: inside(node, "newcomer.localhost") == "200", 10)


@pytest.mark.needs("an engine that restarts")
def test_without_live_restore_it_is_503_until_the_containers_are_back(private: tuple[Node, PrivateEngine]) -> None:
    """Must show 6: every container stops with the engine; 503 is the truth, neither 502 nor a hang."""
    node, engine = private
    engine.stop()
    engine.start(live_restore=False)
    wait_for("it serves", lambda: inside(node, "newcomer.localhost") == "200")
    engine.stop()
    wait_for("503", lambda: inside(node, "newcomer.localhost") == "503")
    assert {inside(node, "newcomer.localhost") for _ in range(10)} == {"503"}
    engine.start(live_restore=False)
    wait_for("it is back", lambda: inside(node, "newcomer.localhost") == "200")
    fetch = "import urllib.request as u; u.urlopen('http://friend.internal:8080/healthz', timeout=2)"
    wait_for(
        "the ends reach each other",
        lambda: (
            not run(
                "docker", "exec", node.container("calm"), "python3", "-c", fetch, check=False, env=node.environ
            ).returncode
        ),
    )
    assert [c["state"] for c in node.json("connections")] == ["up"]
    if node.has("the bridge fast path"):
        first = run(*node.inside, "iptables", "-S", "DOCKER-USER").stdout.splitlines()[1]
        assert f"sidegate:{node.name}" in first
