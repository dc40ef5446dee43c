"""Apps that Sidegate runs, and apps of others that it redeploys, on a real engine: no request is lost to any of it, and
a daemon that is killed half-way finds one healthy copy of each container at its next start, or makes it."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e import forms
from e2e.node import APP_IMAGE, SIDEGATE, Node, enter, need_engine, outside_host, run, running, wait_for
from e2e.visitors import secure_get, trusting, visitors

ENDS = "python3 -c \"print('no such table: orders'); raise SystemExit(3)\""

SERVER = """
import socket
with socket.create_server(("", 8099)) as server:
    print("ready", flush=True)
    server.accept()[0].sendall(b"hello")
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon of its own, with the app `shop` of two replicas."""
    need_engine()
    directory = Path(tmp_path_factory.mktemp("deployments"))
    made = Node(directory, "sgdeploy", pool="10.217.40.0/23", ports="31760-31769", settings={"rollout_seconds": "20"})
    with running(made) as node:
        deploy(node, "shop", "--replicas", "2")
        yield node


def deploy(node: Node, app: str, *options: str) -> None:
    node.cli("app", "deploy", app, "--image", APP_IMAGE, *options)


def containers(node: Node, app: str) -> dict[str, str]:
    """The app's containers by name, and their state."""
    words = ("ps", "-a", "--filter", f"label=sidegate.app={app}", "--format", "{{.Names}} {{.State}}", *filters(node))
    return dict(line.split() for line in node.docker(*words).splitlines())


def filters(node: Node) -> list[str]:
    return ["--filter", f"label=sidegate.instance={node.name}"]


def ids(node: Node, app: str) -> set[str]:
    words = ("ps", "-aq", "--no-trunc", "--filter", f"label=sidegate.app={app}", *filters(node))
    return set(node.docker(*words).split())


def environment(node: Node, container: str) -> dict[str, str]:
    listed = json.loads(node.docker("inspect", "-f", "{{json .Config.Env}}", container))
    return dict(entry.split("=", 1) for entry in listed)


@pytest.fixture(params=["http", "https"])
def context(request: pytest.FixtureRequest) -> object:
    return trusting() if request.param == "https" else None


# --- deploying


def test_a_deployed_app_has_port_and_answers_publicly(node: Node) -> None:
    """R26, R29, R30, R31: PORT is given, the sample app reads it, and requests to 80 and 443 go there."""
    deploy(node, "ported", "--port", "5000", "--domain", "ported.example")
    assert environment(node, node.container("ported-1"))["PORT"] == "5000"
    assert "listening on port 5000" in node.docker("logs", node.container("ported-1"))
    for host in ("ported.localhost", "ported.example"):
        assert node.get(host, "/healthz").status == 200
        assert secure_get(node, host).status == 200
    node.cli("app", "rm", "ported", "--yes")


def test_an_app_that_is_not_there_is_503_and_an_unknown_host_404(node: Node) -> None:
    """R32: stopped, undeployed, unknown."""
    deploy(node, "gone", "--domain", "gone.example")
    node.docker("stop", node.container("gone-1"))
    wait_for("it is stopped", lambda: "stopped" in node.get("gone.example").body)
    assert node.get("gone.example").status == 503
    node.cli("app", "rm", "gone", "--yes")
    assert node.get("gone.example").status == 404
    assert node.get("nobody.example").status == 404


def test_variables_are_given_literally(node: Node) -> None:
    """B4."""
    value = "a,b 'c' \"d\" $e `f` \\ %\nsecond line"
    deploy(node, "literal", "--env", f"ODD={value}")
    assert environment(node, node.container("literal-1"))["ODD"] == value
    node.cli("app", "rm", "literal", "--yes")


def test_deployed_apps_reach_the_world_and_not_each_other(node: Node) -> None:
    """R12: each has a network to itself."""
    deploy(node, "alone")
    address = node.addresses(node.container("shop-1"))[0]
    ask = "s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); sys.exit(not s.recv(1))"  # gateways take any connection
    probe = f"import socket, sys; s = socket.create_connection(('{address}', 8080), 2); {ask}"
    done = run("docker", "exec", node.container("alone-1"), "python3", "-c", probe, check=False)
    assert done.returncode != 0
    assert run("docker", "exec", node.container("shop-1"), "python3", "-c", probe, check=False).returncode == 0
    with outside_host(forms.other_name("sgdeployout"), prefix=forms.other_prefix("198.51.107")) as outside:
        server = [*enter(outside), sys.executable, "-c", SERVER]
        with subprocess.Popen(server, stdout=subprocess.PIPE) as listening:
            assert listening.stdout is not None
            listening.stdout.readline()
            there = f"{forms.other_prefix('198.51.107')}.2"
            probe = f"import socket; print(socket.create_connection(('{there}', 8099), 5).recv(5).decode())"
            assert node.docker("exec", node.container("alone-1"), "python3", "-c", probe) == "hello"
            listening.kill()
    node.cli("app", "rm", "alone", "--yes")
    assert node.container("-alone") not in node.networks()


def test_what_is_refused(node: Node) -> None:
    """R28 and everything that can never be right, each with what to do."""
    theirs = node.app("theirs")
    wait_for("it is known", lambda: node.get("theirs.localhost", "/healthz").status == 200)
    status, said = node.refusal("app", "deploy", "theirs", "--image", APP_IMAGE)
    assert (status, theirs in said) == (5, True)
    assert node.refusal("app", "deploy", "shop", "--image", "Shop:1")[0] == 2
    assert node.refusal("app", "deploy", "shop", "--image", APP_IMAGE, "--domain", "theirs.localhost")[0] == 5
    node.docker("run", "-d", "--name", node.container("db"), *node.ours, "--label", "sidegate.database=some-db",
                "--label", "sidegate.engine=mariadb", APP_IMAGE)  # fmt: skip
    try:
        status, said = node.refusal("app", "port", "some-db", "5432")
        assert (status, said) == (5, "sidegate: the internal port is 3306 and cannot be changed")
    finally:
        node.docker("rm", "-f", node.container("db"))


# --- replacing


def test_no_request_is_lost_to_a_deployment_a_redeployment_or_a_port(node: Node, context: object) -> None:
    """R27 and B5: requests as fast as they are answered, all of them 200."""
    before = ids(node, "shop")
    ports = {node.json("app", "show", "shop")["port"], 8080, 9090}
    with visitors(node, "shop.localhost", context=context) as stream:  # type: ignore[arg-type]
        deploy(node, "shop", "--env", "VERSION=2")
        stream.go_on()
        node.cli("env", "set", "shop", "VERSION=3")
        assert node.json("app", "show", "shop")["stale"]
        node.cli("app", "redeploy", "shop")
        stream.go_on()
        port = next(port for port in ports if port != node.json("app", "show", "shop")["port"])
        node.cli("app", "port", "shop", str(port))
    assert not before & ids(node, "shop")
    assert containers(node, "shop") == {node.container("shop-1"): "running", node.container("shop-2"): "running"}
    assert environment(node, node.container("shop-1")) | {"VERSION": "3", "PORT": str(port)} == environment(
        node, node.container("shop-1")
    )
    assert node.json("app", "show", "shop")["stale"] == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--command", ENDS], "no such table: orders"),
        (["--command", "sleep 1000"], "nothing listens at its port"),
        (["--health", "/nowhere"], "/nowhere answered 404"),
    ],
    ids=["it ends", "it does not listen", "it is not well"],
)
def test_a_deployment_that_fails_leaves_the_old_ones_serving(node: Node, options: list[str], why: str) -> None:
    before = (ids(node, "shop"), node.json("app", "show", "shop")["deployment"])
    with visitors(node, "shop.localhost"):
        status, said = node.refusal("app", "deploy", "shop", "--image", APP_IMAGE, *options)
    assert status == 1
    assert "the old containers go on serving" in said
    assert why in said
    assert (ids(node, "shop"), node.json("app", "show", "shop")["deployment"]) == before
    assert node.json("app", "show", "shop")["options"] == []


def test_other_peoples_containers_are_redeployed_as_they_are(node: Node) -> None:
    """R27 and B5: the port and the variables come with the redeployment, and that is said before."""
    name = node.app("web", "-e", "OWN=kept", "-p", "127.0.0.1::8080")
    wait_for("it answers", lambda: node.get("web.localhost", "/healthz").status == 200)
    node.cli("env", "set", "web", "NEW=1")
    found = node.json("app", "port", "web", "7070")
    assert any("PORT=7070 applies to" in note and "app redeploy web" in note for note in found["notes"])
    assert node.get("web.localhost", "/healthz").status == 200
    with visitors(node, "web.localhost"):
        node.cli("app", "redeploy", "web")
    assert containers(node, "web") == {name: "running"}
    assert environment(node, name) | {"OWN": "kept", "NEW": "1", "PORT": "7070"} == environment(node, name)


def test_where_two_cannot_run_side_by_side_it_is_said_and_the_old_one_stops_first(node: Node) -> None:
    name = node.app("fixed", "--label", "sidegate.strategy=recreate")
    wait_for("it answers", lambda: node.get("fixed.localhost", "/healthz").status == 200)
    before = ids(node, "fixed")
    done = node.cli("app", "redeploy", "fixed")
    assert "two copies cannot run side by side, because its label sidegate.strategy says recreate" in done.stderr
    assert containers(node, "fixed") == {name: "running"}
    assert not before & ids(node, "fixed")
    assert node.get("fixed.localhost", "/healthz").status == 200


def test_a_container_that_somebody_removed_is_made_again(node: Node) -> None:
    node.docker("rm", "-f", node.container("shop-2"))
    wait_for("it is back", lambda: containers(node, "shop").get(node.container("shop-2")) == "running", 60)
    wait_for("it serves", lambda: node.json("app", "show", "shop")["serving"] == 2, 60)


# --- a daemon that is killed


def created(found: dict[str, str]) -> bool:
    return any(name.endswith("-next") for name in found)


def started(found: dict[str, str]) -> bool:
    return any(name.endswith("-next") and state == "running" for name, state in found.items())


def renamed(found: dict[str, str]) -> bool:
    return any(name.endswith("-old") for name in found)


def stopped(found: dict[str, str]) -> bool:
    return any(name.endswith("-old") and state == "exited" for name, state in found.items())


@pytest.mark.parametrize("app", ["shop", "fixed"])
@pytest.mark.parametrize("when", [created, started, renamed, stopped])
def test_a_daemon_killed_half_way_goes_on_at_its_next_start(
    node: Node, app: str, when: Callable[[dict[str, str]], bool]
) -> None:
    """Afterwards exactly one healthy copy of each container serves, and nothing is left over."""
    names = {"shop": {node.container("shop-1"), node.container("shop-2")}, "fixed": {node.container("fixed")}}[app]
    with subprocess.Popen(
        [SIDEGATE, "app", "redeploy", app], env=node.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as asked:
        with contextlib.suppress(AssertionError):  # gone by too fast to be seen: the end is the same
            wait_for("it is so far", lambda: when(containers(node, app)) or asked.poll() is not None, 30)
        node.stop(signal.SIGKILL)
    node.start()
    wait_for("it is done", lambda: node.json("app", "show", app)["rollout"] is None, 60)
    assert containers(node, app) == dict.fromkeys(names, "running")
    wait_for("all serve", lambda: node.json("app", "show", app)["serving"] == len(names))
    assert node.get(f"{app}.localhost", "/healthz").status == 200


# --- logs and the end


def test_logs(node: Node) -> None:
    found = node.cli("app", "logs", "shop", "--tail", "1", "--table").stdout.splitlines()
    assert sorted(line.split(" | ")[0] for line in found) == [node.container("shop-1"), node.container("shop-2")]
    with subprocess.Popen(
        [SIDEGATE, "app", "logs", "shop", "-f"], env=node.environ, stdout=subprocess.PIPE
    ) as following:
        assert following.stdout is not None
        assert b"listening on port" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=20) == 130


def test_removing_an_app_takes_what_is_ours_and_nothing_else(node: Node) -> None:
    """R34: it asks; a no changes nothing."""
    assert node.refusal("app", "rm", "shop")[0] == 2
    assert len(containers(node, "shop")) == 2
    done = node.json("app", "rm", "shop", "--yes")
    assert done["containers"] == [node.container("shop-1"), node.container("shop-2")]
    assert containers(node, "shop") == {}
    assert node.container("-shop") not in node.networks()
    done = node.json("app", "rm", "fixed", "--yes")
    assert done["kept_containers"] == [node.container("fixed")]
    assert containers(node, "fixed") == {node.container("fixed"): "running"}
