"""What can be said of an app, on a real node: options, modes, routes and health; no request is lost to any of it."""

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node import Node, Reply, need_engine, running, wait_for
from e2e.visitors import visitors

CERTAINLY = 0.5  # seconds in which an answer that is not held would have come

SWITCHABLE = """
import os
from aiohttp import web

async def healthz(request):
    return web.Response(status=500 if os.path.exists("/tmp/sick") else 200)

async def whoami(request):
    return web.Response(text=os.uname().nodename)

app = web.Application()
app.add_routes([web.get("/healthz", healthz), web.get("/", whoami)])
web.run_app(app, port=8080, print=None)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon of its own with two apps: front, the default, and api, which has options, paths and a wildcard."""
    need_engine()
    domains = "sidegate.domains=site.example/echo/api,*.tenants.example"
    with running(
        Node(
            Path(tmp_path_factory.mktemp("apps")),
            "sgapps",
            pool="10.217.5.0/24",
            ports="31730-31739",
            settings={"workers": "2", "default_app": "front"},
        )
    ) as node:
        node.app("front", "--label", "sidegate.domains=site.example")
        node.app("api", *labelled(domains, "sidegate.max-body=1k", "sidegate.hsts=banana", "sidegate.colour=red"))
        for app in ("front", "api"):  # as themselves: what is not routed yet is front's
            wait_for(f"{app} answers", lambda app=app: served_by(node, f"{app}.localhost") == id_of(node, app))  # type: ignore[misc]
        yield node


def labelled(*labels: str) -> list[str]:
    return [word for label in labels for word in ("--label", label)]


def asked(node: Node, host: str) -> socket.socket:
    """A connection on which a request has been sent."""
    connection = socket.create_connection(("127.0.0.1", node.http_port), 10)
    connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return connection


def status_of(connection: socket.socket) -> int:
    """Of the response, once it comes."""
    with contextlib.closing(connection), connection.makefile("rb") as response:
        return int(response.readline().split()[1])


def held(connections: list[socket.socket]) -> bool:
    return not select.select(connections, [], [], CERTAINLY)[0]


def served_by(node: Node, host: str, path: str = "/echo") -> str:
    """The container that answers, by the sample app's name for itself; empty where none does."""
    found = node.get(host, path)
    return str(json.loads(found.body)["replica"]) if found.status == 200 else ""


def id_of(node: Node, name: str) -> str:
    return node.docker("inspect", "-f", "{{.Id}}", node.container(name))[:12]


def test_labels_are_options_and_a_bad_one_is_a_problem(node: Node) -> None:
    shown = node.json("app", "show", "api")
    assert shown["options"] == [{"name": "max-body", "value": "1k", "source": "label"}]
    assert node.get("api.localhost", "/upload", body=bytes(1024)).status == 200
    assert node.get("api.localhost", "/upload", body=bytes(1025)).status == 413
    said = "\n".join(node.problems())
    assert "ignored sidegate.hsts: 'banana' is not a time" in said
    assert "sidegate.colour" in said


def test_commands_win_over_labels_until_they_are_unset(node: Node) -> None:
    node.cli("app", "set", "api", "max-body=2k")
    assert node.get("api.localhost", "/upload", body=bytes(2048)).status == 200
    status, said = node.refusal("app", "set", "api", "max-body=1m", "response-timeout=soon")
    assert (status, "response-timeout: 'soon'" in said) == (2, True)
    assert node.get("api.localhost", "/upload", body=bytes(2049)).status == 413  # nothing of it was done
    node.cli("app", "set", "api", "response-timeout=1")
    assert node.get("api.localhost", "/slow?seconds=30").status == 504
    node.cli("app", "unset", "api", "max-body", "response-timeout")
    assert node.get("api.localhost", "/upload", body=bytes(2048)).status == 413


def test_hosts_wildcards_paths_and_the_default_app(node: Node) -> None:
    front, api = id_of(node, "front"), id_of(node, "api")
    for host, path, expected in (
        ("site.example", "/echo", front),
        ("site.example", "/echo/apis", front),
        ("site.example", "/echo/api", api),
        ("site.example", "/echo/api/more?x=/", api),
        ("acme.tenants.example", "/echo", api),
        ("ACME.Tenants.example:81", "/echo", api),
        ("tenants.example", "/echo", front),
        ("nobody.example", "/echo/api", front),
        ("198.51.100.1", "/echo", front),
    ):
        assert served_by(node, host, path) == expected, (host, path)
    assert node.json("app", "show", "api")["domains"] == ["*.tenants.example", "site.example/echo/api"]


def test_a_paused_app_holds_requests_until_it_resumes(node: Node) -> None:
    node.cli("app", "pause", "api")
    waiting = [asked(node, "api.localhost") for _ in range(8)]
    assert held(waiting)
    assert node.get("front.localhost", "/healthz") == Reply(200, "ok")
    assert node.json("app", "show", "api")["mode"] == "paused"
    node.cli("app", "resume", "api")
    assert [status_of(one) for one in waiting] == [200] * 8


def test_maintenance_says_when_to_come_again(node: Node) -> None:
    node.cli("app", "maintenance", "on", "api")
    found = node.get("api.localhost", "/healthz", headers={"Accept": "text/html"})
    assert (found.status, found.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert int(found.headers["retry-after"]) > 0
    node.cli("app", "maintenance", "off", "api")
    assert node.get("api.localhost", "/healthz") == Reply(200, "ok")


def test_modes_and_options_outlive_a_restart(node: Node) -> None:
    node.cli("app", "set", "api", "hsts=1h", "max-body=2k")
    node.cli("app", "pause", "api")
    node.cli("app", "maintenance", "on", "front")
    node.stop()
    node.start()
    waiting = [asked(node, "api.localhost")]
    assert held(waiting)
    assert node.get("front.localhost").status == 503
    assert node.json("status")["held"] == {"api": "paused", "front": "maintenance"}
    node.cli("app", "resume", "front")
    node.cli("app", "resume", "api")
    assert status_of(waiting[0]) == 200
    assert node.get("front.localhost", "/healthz").status == 200
    assert node.get("api.localhost", "/upload", body=bytes(2048)).status == 200
    node.cli("app", "unset", "api", "hsts", "max-body")


def test_a_sick_replica_is_taken_out_and_comes_back_and_no_request_is_lost(node: Node) -> None:
    health = labelled("sidegate.health=/healthz", "sidegate.health-interval=1s", "sidegate.health-fall=2")
    names = [node.app("well", *health, name=f"well-{n}", command=["python3", "-c", SWITCHABLE]) for n in (1, 2)]
    sick = names[0]

    def replicas() -> dict[str, str | None]:
        return {r["container"]: r["fault"] for r in node.json("app", "show", "well")["replicas"]}

    try:
        both = {id_of(node, f"well-{n}") for n in (1, 2)}
        # One that was not asked yet is taken for well, and an app that is not known yet is the default one's.
        wait_for("both answer", lambda: {node.get("well.localhost").body for _ in range(8)} == both)
        wait_for("both take requests", lambda: replicas() == dict.fromkeys(names))
        with visitors(node, "well.localhost", "/") as stream:
            node.docker("exec", sick, "touch", "/tmp/sick")
            # At first it may be out because the other is known to be well and it is not yet known not to be.
            wait_for("it is out", lambda: replicas() == {sick: "unhealthy: /healthz answered 500", names[1]: None})
            wait_for("it is said", lambda: any(f"{sick} takes no requests" in problem for problem in node.problems()))
            other = id_of(node, "well-2")
            assert {node.get("well.localhost").body for _ in range(20)} == {other}
            stream.go_on()
            node.docker("exec", sick, "rm", "/tmp/sick")
            wait_for("it is back", lambda: replicas()[sick] is None)
            wait_for("it is asked again", lambda: node.get("well.localhost").body != other)
    finally:
        node.docker("rm", "-f", *names)


def test_docker_stop_of_one_of_two_loses_no_request(node: Node) -> None:
    names = [node.app("pair", name=f"pair-{n}") for n in (1, 2)]
    both = {id_of(node, f"pair-{n}") for n in (1, 2)}
    try:
        wait_for("both answer", lambda: {served_by(node, "pair.localhost") for _ in range(8)} == both)
        with visitors(node, "pair.localhost", "/slow?seconds=0.02") as stream:
            node.docker("stop", names[0])
            stream.go_on()
        assert served_by(node, "pair.localhost") == id_of(node, "pair-2")
    finally:
        node.docker("rm", "-f", *names)
