"""Who visits a node, as apps and the access log are told, and how many connections one of them may have."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import forms
from e2e.node import Node, need_engine, outside_host, run, running, wait_for
from e2e.visitors import secure_get, visitors

PREFIX = forms.other_prefix("198.18.100")  # of a network of its own, beside those of other tests
HERE, OUTSIDER = f"{PREFIX}.1", f"{PREFIX}.2"
MOST = 4
LOOK_ELSEWHERE = """
import http.client, sys
from concurrent.futures import ThreadPoolExecutor
clients = [http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=10) for _ in range(int(sys.argv[3]))]
def status(client):
    try:
        client.request("GET", "/healthz", headers={"Host": "shop.example"})
        return client.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
print(*map(status, clients))
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon of its own with the apps shop and quiet; this machine is its trusted proxy."""
    need_engine()
    directory = Path(tmp_path_factory.mktemp("clients"))
    settings = {
        "workers": "1",  # each counts clients for itself
        "trusted_proxies": "127.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16",  # as Docker may show this machine
        "access_log": str(directory / "access.log"),
        "max_connections_per_client": str(MOST),
    }
    with running(Node(directory, "sgclients", pool="10.217.6.0/24", ports="31740-31749", settings=settings)) as node:
        node.app("shop", "--label", "sidegate.domains=shop.example,rotated.example")
        node.app("quiet", "--label", "sidegate.access-log=off")
        for app in ("shop", "quiet"):
            wait_for(f"{app} answers", lambda app=app: node.get(f"{app}.localhost", "/healthz").status == 200)  # type: ignore[misc]
        yield node


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    with outside_host(forms.other_name("sgvisitor"), prefix=PREFIX) as name:
        yield name


def told(echoed: str) -> dict[str, str]:
    """The headers of a request as the app saw them; none of those looked at comes twice."""
    return {name.lower(): value for name, value in json.loads(echoed)["headers"]}


def lines(*files: Path) -> list[dict[str, Any]]:
    """Those that are there whole."""
    found = [line for file in files for line in file.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in found if line.endswith("\n")]


CLAIMS = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.test",
    "X-Request-ID": "mine-1",
}


def test_a_trusted_proxy_is_believed(node: Node) -> None:
    seen = told(node.get("shop.example", "/echo", headers=CLAIMS).body)
    assert seen["x-forwarded-for"] == f"203.0.113.9, {node.seen_as}"
    assert (seen["x-real-ip"], seen["x-forwarded-proto"], seen["x-forwarded-host"]) == (
        "203.0.113.9",
        "https",
        "shop.test",
    )
    assert seen["x-request-id"] == "mine-1"


def test_a_stranger_is_not(node: Node, outside: str) -> None:
    claims = [word for name, value in CLAIMS.items() for word in ("-H", f"{name}: {value}")]
    url = f"http://{HERE}:{node.http_port}/echo"
    forged = ["-H", "Forwarded: for=203.0.113.9", "-H", "X-Real-IP: 203.0.113.9"]
    found = run("ip", "netns", "exec", outside, "curl", "-sS", "-H", "Host: shop.example", *claims, *forged, url)
    seen = told(found.stdout)
    assert seen["x-forwarded-for"] == seen["x-real-ip"] == OUTSIDER
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("http", str(node.http_port))
    assert seen["x-forwarded-host"] == "shop.example"
    assert seen["forwarded"] == f'for={OUTSIDER};host="shop.example";proto=http'
    assert seen["x-request-id"] not in ("", "mine-1")


def test_each_request_is_a_line_of_json(node: Node) -> None:
    log = node.directory / "access.log"
    assert node.get("shop.example", "/upload?secret=1", body=b"four", headers={"X-Request-ID": "line-1"}).status == 200
    assert secure_get(node, "shop.localhost", "/nothing").status == 404
    assert node.get("quiet.localhost", "/healthz").status == 200
    assert node.get("nobody.example", headers={"X-Request-ID": "line-2"}).status == 404
    wait_for("the last is written", lambda: "line-2" in log.read_text())
    written = lines(log)
    [upload] = [line for line in written if line["request_id"] == "line-1"]
    assert upload.pop("time").endswith("Z")
    assert 0 < upload.pop("upstream_seconds") <= upload.pop("seconds")
    assert upload.pop("bytes_out") > 0
    assert upload == {
        "client": node.seen_as,
        "scheme": "http",
        "method": "POST",
        "host": "shop.example",
        "path": "/upload",
        "status": 200,
        "bytes_in": 4,
        "app": "shop",
        "replica": node.container("shop"),
        "request_id": "line-1",
    }
    assert ("https", 404, "shop") in {(line["scheme"], line["status"], line["app"]) for line in written}
    [unknown] = [line for line in written if line["request_id"] == "line-2"]
    assert (unknown["app"], unknown["replica"], unknown["status"]) == ("", "", 404)
    assert "quiet" not in {line["app"] for line in written}


def test_no_line_is_lost_when_the_log_is_rotated(node: Node) -> None:
    log, first, second = (node.directory / name for name in ("access.log", "access.log.2", "access.log.1"))
    with visitors(node, "rotated.example") as stream:
        for rotated in (first, second):
            log.rename(rotated)
            wait_for("there is a new one", log.exists)
            stream.go_on()
    files = [file for file in (first, second, log) if file.exists()]
    wait_for("every request is written", lambda: len(visits(*files)) == stream.count)
    assert len({line["request_id"] for line in visits(*files)}) == stream.count
    assert all(visits(file) for file in (first, second))


def visits(*files: Path) -> list[dict[str, Any]]:
    return [line for line in lines(*files) if line["host"] == "rotated.example"]


def test_one_client_has_so_many_connections_and_no_more(node: Node, outside: str) -> None:
    command = ["ip", "netns", "exec", outside, "python3", "-c", LOOK_ELSEWHERE, HERE, str(node.http_port)]
    statuses = run(*command, str(MOST + 3)).stdout.split()
    assert (statuses.count("200"), statuses.count("429")) == (MOST, 3), statuses
    wait_for("they count no more once they end", lambda: run(*command, "1").stdout.split() == ["200"])
