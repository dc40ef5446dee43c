"""The image in both network forms, beside real containers: what it serves, what it joins and leaves, how it ends."""

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from e2e.node import APP_IMAGE, SIDEGATE, Node, need_engine, run, running, wait_for
from e2e.outside import GREETED, REFUSED, Outside, Switch, alive, another_host, ask

pytestmark = pytest.mark.engine

NODES = {"image": ("sgimage", "10.231.0.0/18", "32700-32703"), "bridge": ("sgimageb", "10.231.64.0/18", "32710-32713")}
"""Name, pool and public ports."""

PUBLISHED = """
import asyncio
from sidegate.adapters.docker.own_container import find_own_container
print(*asyncio.run(find_own_container("")).published)
"""


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    with another_host("sgimageout", "198.18.31") as host:
        yield host


@pytest.fixture(scope="module", params=["image", "bridge"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon in the image, with an app on the default bridge and a database."""
    need_engine()
    name, pool, ports = NODES[request.param]
    directory = Path(tmp_path_factory.mktemp(name))
    with running(Node(directory, name, pool=pool, ports=ports, form=request.param)) as node:
        node.app("shop")
        node.database("shop-db")
        yield node


@pytest.fixture
def bridge(node: Node) -> Node:
    if node.form != "bridge":
        pytest.skip("about the form with a network of its own")
    return node


@contextlib.contextmanager
def network(node: Node, name: str) -> Iterator[str]:
    """Somebody else's; it can be removed in the end."""
    full = node.container(name)
    node.docker("network", "create", full)
    try:
        yield full
    finally:
        rest = ("docker", "network", "rm", full)
        wait_for(f"{full} can be removed", lambda: "active endpoints" not in run(*rest, check=False).stderr)


def served(node: Node, app: str) -> bool:
    return node.get(f"{app}.localhost").status == 200


def daemon(node: Node) -> str:
    return f"{node.name}-daemon"


def on(node: Node) -> set[str]:
    """The networks of the daemon's container."""
    return set(json.loads(node.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", daemon(node))))


def test_a_page_a_connection_and_an_external_session(node: Node, outside: Outside) -> None:
    """What the host form does: the same, with the same words."""
    wait_for("the page", lambda: served(node, "shop"))
    node.cli("connect", "shop", "shop-db")
    resolved = node.docker("exec", node.container("shop"), "getent", "hosts", "shop-db.internal")
    assert resolved.split()[0] in node.addresses(node.container("shop-db"))
    switch = Switch(node, "shop-db")
    port = switch.on()
    session = outside.login(port)
    assert ask(session, "SELECT 1") == 1
    assert [view.client.rpartition(":")[0] for view in switch.sessions()] == [outside.there[0]]
    carrier = switch.show()
    assert (carrier.carrier, bool(carrier.carrier_reason)) == (("kernel", False), ("userspace", True))[
        node.form == "bridge"
    ]
    switch.off()
    assert not alive(session)
    assert outside.attempt(port) == REFUSED or node.form == "bridge"  # there Docker's own proxy still listens
    assert node.problems() == []
    node.cli("disconnect", "shop", "shop-db", "--yes")


def test_names_under_localhost_are_for_this_machine_alone(node: Node, outside: Outside) -> None:
    """In a container, too, where clients on this machine come as the bridge that it was started on."""
    wait_for("the page", lambda: served(node, "shop"))
    url = f"http://{outside.here}:{node.http_port}/"
    done = outside.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: shop.localhost", url)
    assert done.stdout == "404"


def test_it_is_healthy_and_small(node: Node) -> None:
    wait_for(
        "it is healthy", lambda: node.docker("inspect", "-f", "{{.State.Health.Status}}", daemon(node)) == "healthy"
    )
    tools = "import shutil; print(*filter(shutil.which, ('pip', 'gcc', 'make')))"
    assert node.docker("exec", daemon(node), "/opt/sidegate/bin/python", "-c", tools) == ""
    assert node.docker("exec", daemon(node), "sh", "-c", "ls /var/lib/apt/lists") == ""


def test_workers_are_a_user_of_their_own(node: Node) -> None:
    user = node.docker("exec", daemon(node), "id", "-u", "sidegate-worker")
    for worker in node.json("status")["workers"]:
        lines = Path(f"/proc/{worker['pid']}/status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert fields["Uid"].split() == [user] * 4
        assert (fields["CapEff"], fields["NoNewPrivs"]) == ("0" * 16, "1")


def test_an_app_that_it_runs_itself_is_redeployed_without_a_lost_request(bridge: Node) -> None:
    """Its network is joined before its first container is asked whether it is ready."""
    bridge.cli("app", "deploy", "own", "--image", APP_IMAGE, "--port", "8080")
    before = bridge.docker("inspect", "-f", "{{.Id}}", bridge.container("own-1"))
    done = threading.Event()
    asked: list[int] = []

    def ask_on() -> None:
        while not done.is_set():
            asked.append(bridge.get("own.localhost", "/healthz").status)

    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(ask_on)
        try:
            bridge.cli("app", "redeploy", "own")
        finally:
            done.set()
        asking.result()
    assert set(asked) == {200}
    assert bridge.docker("inspect", "-f", "{{.Id}}", bridge.container("own-1")) != before
    bridge.cli("app", "rm", "own", "--yes")


def test_docker_stop_ends_in_order_and_a_start_takes_up_again(node: Node, outside: Outside) -> None:
    """A request in flight is answered; what was on is on again."""
    wait_for("the page", lambda: served(node, "shop"))
    port = Switch(node, "shop-db").on()
    slow = f"http://127.0.0.1:{node.http_port}/slow?seconds=4"
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: shop.localhost", slow]
    pid = node.docker("inspect", "-f", "{{.State.Pid}}", node.container("shop"))
    sessions = ["nsenter", "--net", "--target", pid, "ss", "-Htn", "state", "established", "sport", "=", ":8080"]
    with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as asking:
        wait_for("the request is there", lambda: run(*sessions).stdout)
        run("docker", "stop", daemon(node))
        assert asking.communicate(timeout=30)[0] == "200"
    assert node.wait() == 0
    node.start()
    wait_for("the page", lambda: served(node, "shop"))
    assert outside.attempt(port) == GREETED


def test_docker_kill_leaves_nothing_that_the_next_start_does_not_take_up(bridge: Node, outside: Outside) -> None:
    port = Switch(bridge, "shop-db").on()
    bridge.docker("kill", daemon(bridge))
    assert bridge.wait() != 0
    bridge.start()
    wait_for("the page", lambda: served(bridge, "shop"))
    assert outside.attempt(port) == GREETED
    Switch(bridge, "shop-db").off()


def test_another_projects_network_can_be_removed_as_soon_as_its_apps_are(bridge: Node) -> None:
    """`docker compose down`: stop, remove, remove the network, one right after the other."""
    with network(bridge, "project") as project:
        bridge.app("blog", "--network", project)
        wait_for("the page", lambda: served(bridge, "blog"))
        assert project in on(bridge)
        blog = bridge.container("blog")
        run("sh", "-ec", f"docker stop {blog}; docker rm {blog}; docker network rm {project}")
        wait_for("the rest is left as well", lambda: project not in on(bridge))


def test_it_serves_where_the_host_reaches_no_container(bridge: Node, outside: Outside) -> None:
    """Docker Desktop's case: what the host sends to containers is dropped, on the networks of this test."""
    with network(bridge, "far") as far, contextlib.ExitStack() as undo:
        blog = bridge.app("blog", "--network", far, name="far-blog")
        home = bridge.container("home--shop-db")
        for name in (far, home):
            subnet = bridge.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", name)
            rule = ("OUTPUT", "-d", subnet, "-j", "DROP")
            run("iptables", "-w", "5", "-I", *rule)
            undo.callback(run, "iptables", "-w", "5", "-D", *rule)
        direct = ["curl", "-s", "-m", "0.5", f"http://{bridge.addresses(blog)[0]}:8080/"]
        assert subprocess.run(direct, check=False).returncode == 28  # timed out
        wait_for("the page", lambda: served(bridge, "blog"))
        port = Switch(bridge, "shop-db").on()
        assert ask(outside.login(port), "SELECT 1") == 1
        Switch(bridge, "shop-db").off()
        bridge.docker("rm", "-f", blog)


def test_it_leads_from_no_network_to_another(bridge: Node) -> None:
    """A neighbour that makes it its router gets nowhere."""
    forwarded = ["nsenter", "--net", "--target", str(bridge.pid), "cat", "/proc/net/snmp"]

    def count() -> int:
        names, values = (line.split() for line in run(*forwarded).stdout.splitlines() if line.startswith("Ip:"))
        return int(dict(zip(names, values, strict=True))["ForwDatagrams"])

    with network(bridge, "left") as left, network(bridge, "right") as right:
        one, other = bridge.app("one", "--network", left), bridge.app("two", "--network", right)
        wait_for("both pages", lambda: served(bridge, "one") and served(bridge, "two"))
        address = "{{(index .NetworkSettings.Networks %s).IPAddress}}"
        router = bridge.docker("inspect", "-f", address % json.dumps(left), daemon(bridge))
        target = bridge.docker("inspect", "-f", address % json.dumps(right), other)
        pid = bridge.docker("inspect", "-f", "{{.State.Pid}}", one)
        inside = ["nsenter", "--net", "--target", pid]
        run(*inside, "ip", "route", "add", target, "via", router)
        before = count()
        ping = run(*inside, "curl", "-s", "-m", "0.5", f"http://{target}:8080/", check=False)
        assert (ping.returncode, count() - before) == (28, 0)
        bridge.docker("rm", "-f", one, other)


def test_what_cannot_be_reached_is_said(bridge: Node) -> None:
    bridge.app("hosty", "--network", "host", "-e", "PORT=32699")
    wait_for("it is said", lambda: any("uses the host's network" in text for text in bridge.problems()))
    bridge.docker("rm", "-f", bridge.container("hosty"))


def test_without_the_hosts_processes_it_serves_and_says_what_is_lost(tmp_path: Path) -> None:
    """As process 1 of a namespace of its own it also reaps orphans. Which of its ports are published it knows."""
    need_engine()
    name = "sgimagep"
    for directory in ("state", "run"):
        (tmp_path / directory).mkdir(mode=0o755)
    words = ["--cap-drop=ALL", "--cap-add=SETUID", "--cap-add=SETGID", "--security-opt=no-new-privileges"]
    mounts = ["-v=/run:/host/run:ro", f"-v={tmp_path}:{tmp_path}"]
    settings = {
        "DOCKER_HOST": "unix:///host/run/docker.sock",
        "SIDEGATE_STATE_DIR": f"{tmp_path}/state",
        "SIDEGATE_RUNTIME_DIR": f"{tmp_path}/run",
        "SIDEGATE_INSTANCE": name,
        "SIDEGATE_INTERNAL_POOL": "10.231.120.0/22",
        "SIDEGATE_WORKERS": "1",
    }
    environ = os.environ | settings
    given = [f"-e={key}={value}" for key, value in settings.items()]
    ports = ["-p=32720:32720", "-p=127.0.0.1:32721:32722"]
    run("docker", "run", "-d", f"--name={name}-daemon", *ports, *words, *mounts, *given, "sidegate")
    try:

        def status() -> dict[str, Any] | None:
            done = run(SIDEGATE, "status", check=False, env=environ)
            told: dict[str, Any] = json.loads(done.stdout or "{}")
            return told if told.get("ready") else None

        problems = wait_for("it is ready", status)["problems"]
        assert [p["text"].split(":")[0] for p in problems if p["text"].startswith("CAP_")] == [
            "CAP_KILL is missing",
            "CAP_SYS_NICE is missing",
            "CAP_SYS_PTRACE is missing",
        ]
        assert any(p["text"].startswith("the host's network cannot be looked at") for p in problems)
        assert run("docker", "exec", f"{name}-daemon", "/opt/sidegate/bin/python", "-c", PUBLISHED).stdout == "32720\n"
        inside = ("docker", "exec", f"{name}-daemon", "sh", "-c")
        run(*inside, "sh -c 'sleep 0.1; exec true orphan' & exit")
        wait_for("no orphan is left", lambda: "Z" not in run(*inside, "cat /proc/[0-9]*/stat", check=False).stdout)
        assert run("docker", "stop", f"{name}-daemon").returncode == 0
        assert run("docker", "inspect", "-f", "{{.State.ExitCode}}", f"{name}-daemon").stdout.strip() == "0"
    finally:
        run("docker", "rm", "-f", f"{name}-daemon", check=False)
