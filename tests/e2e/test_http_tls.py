"""HTTPS on a real node: the local authority, certificates that come and go under load, restarts, killed workers."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node import Node, Reply, need_engine, run, running, wait_for
from e2e.visitors import fingerprint, secure_get, shown, trusting, visitors
from pairs import pair

CURL_UNTRUSTED = 60


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon of its own with two apps: shop at shop.example and below w.example, and blog."""
    need_engine()
    with running(
        Node(
            Path(tmp_path_factory.mktemp("tls")),
            "sgtls",
            pool="10.217.2.0/24",
            ports="31700-31709",
            settings={"workers": "2"},
        )
    ) as node:
        node.app("shop", "--label", "sidegate.domains=shop.example,*.w.example")
        node.app("blog")
        for app in ("shop", "blog"):
            wait_for(f"{app} answers", lambda app=app: node.get(f"{app}.localhost", "/healthz").status == 200)  # type: ignore[misc]
        yield node


@pytest.fixture
def certificates(node: Node) -> Iterator[Path]:
    """The directory of certificates, empty again after the test."""
    directory = node.directory / "state" / "certificates"
    directory.mkdir(mode=0o700, exist_ok=True)
    node.give(directory)
    yield directory
    for file in directory.iterdir():
        file.unlink()
    wait_for("no problem is left", lambda: not node.problems())


def curl(node: Node, host: str, *options: str) -> int:
    """curl's exit status after a GET of https://host/healthz that must be a 200."""
    there = ["--resolve", f"{host}:{node.https_port}:127.0.0.1", f"https://{host}:{node.https_port}/healthz"]
    return run("curl", "-sS", "--fail", "--noproxy", "*", *options, *there, check=False).returncode


def add(node: Node, directory: Path, name: str, *hosts: str) -> str:
    """`sidegate cert add` of a new pair; returns its chain."""
    chain, key = pair(*hosts)
    (directory / "new.crt").write_text(chain)
    (directory / "new.key").write_text(key)
    node.cli("cert", "add", "--cert", str(directory / "new.crt"), "--key", str(directory / "new.key"), "--name", name)
    return chain


def test_whoever_trusts_the_local_authority_reaches_every_name(node: Node, tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_text(node.cli("cert", "ca").stdout)
    for host in ("shop.localhost", "shop.example", "any.w.example"):
        assert curl(node, host, "--cacert", str(authority)) == 0
    assert curl(node, "shop.example") == CURL_UNTRUSTED
    assert curl(node, "shop.example", "--cacert", str(authority), "--tls-max", "1.2") == 0
    echoed = secure_get(node, "shop.example", "/echo").body
    assert '["X-Forwarded-Proto", "https"]' in echoed
    assert f"https://shop.example:{node.https_port}" in node.json("app", "show", "shop")["urls"]


def test_an_added_certificate_is_presented_at_once_replaced_and_given_up_while_requests_run(
    node: Node, certificates: Path, tmp_path: Path
) -> None:
    before = shown(node, "shop.example")
    with visitors(node, "shop.example", context=trusting()) as stream:
        first = add(node, tmp_path, "mine", "shop.example", "www.shop.example")
        assert shown(node, "shop.example") == fingerprint(first)
        assert curl(node, "shop.example", "--cacert", str(tmp_path / "new.crt")) == 0
        stream.go_on()
        second = add(node, tmp_path, "mine", "shop.example")
        assert shown(node, "shop.example") == fingerprint(second)
        assert shown(node, "blog.localhost") not in (fingerprint(first), fingerprint(second))
        [mine] = [c for c in node.json("cert", "ls") if c["name"] == "mine"]
        assert (mine["names"], mine["used_by"], mine["problems"]) == (["shop.example"], ["shop"], [])
        stream.go_on()
        node.cli("cert", "rm", "mine")
        assert shown(node, "shop.example") == before
    assert [file.name for file in certificates.iterdir()] == []


def test_files_put_there_by_hand_are_taken_up_and_bad_ones_change_nothing(node: Node, certificates: Path) -> None:
    chain, key = pair("shop.example", "*.w.example")
    with visitors(node, "any.w.example", context=trusting()) as stream:
        (certificates / "hand.crt").write_text(chain)
        wait_for("half a pair is a problem", lambda: any("hand.key" in p for p in node.problems()))
        assert shown(node, "any.w.example") != fingerprint(chain)
        (certificates / "hand.key").write_text(key)
        wait_for("the pair is presented", lambda: shown(node, "any.w.example") == fingerprint(chain))
        for broken, said in (("junk", "PEM"), (pair("other.example")[0], "does not belong")):
            (certificates / "hand.crt").write_text(broken)
            wait_for("it is a problem", lambda said=said: any(said in p for p in node.problems()))  # type: ignore[misc]
            assert shown(node, "any.w.example") == fingerprint(chain)
        stream.go_on()
        expired, its_key = pair("shop.example", days=-1, since=2)
        (certificates / "hand.crt").write_text(expired)
        (certificates / "hand.key").write_text(its_key)
        wait_for(
            "an old one is a problem", lambda: any("hand: the new certificate expired" in p for p in node.problems())
        )
        assert shown(node, "any.w.example") == fingerprint(chain)


def test_refused_certificates_leave_nothing_behind(node: Node, certificates: Path, tmp_path: Path) -> None:
    chain, _ = pair("shop.example")
    old, its_key = pair("shop.example", days=-1, since=2)
    before = shown(node, "shop.example")
    for one, key, status, said in (
        (chain, its_key, 2, "the key does not belong to the certificate"),
        (old, its_key, 2, "expired"),
        ("junk", its_key, 2, "must be PEM"),
        ("", its_key, 2, "must be PEM"),
    ):
        (tmp_path / "bad.crt").write_text(one)
        (tmp_path / "bad.key").write_text(key)
        words = ["cert", "add", "--cert", str(tmp_path / "bad.crt"), "--key", str(tmp_path / "bad.key")]
        found, sentence = node.refusal(*words)
        assert (found, said in sentence) == (status, True), sentence
    assert node.refusal(*words, "--name", "../etc")[0] == 2
    assert node.refusal(*words, "--name", "")[0] == 2
    assert node.refusal("cert", "rm", "nothing")[0] == 4
    assert list(certificates.iterdir()) == []
    assert shown(node, "shop.example") == before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_authority_and_certificates_outlive_the_daemon(
    node: Node, certificates: Path, tmp_path: Path, how: signal.Signals
) -> None:
    added = add(node, tmp_path, "mine", "shop.example")
    authority = node.cli("cert", "ca").stdout
    node.stop(how)
    node.start()
    assert node.cli("cert", "ca").stdout == authority
    assert secure_get(node, "shop.localhost", "/healthz", authority) == Reply(200, "ok")
    assert shown(node, "shop.example") == fingerprint(added)


def test_redirects_and_hsts_hold_at_once(node: Node) -> None:
    try:
        node.cli("app", "set", "shop", "https=redirect", "hsts=1d", "www=remove")
        sent = node.get("shop.example", "/a?b=c")
        assert (sent.status, sent.headers["location"]) == (308, f"https://shop.example:{node.https_port}/a?b=c")
        assert secure_get(node, "shop.example").headers["strict-transport-security"] == "max-age=86400"
        www = secure_get(node, "www.shop.example", "/a")
        assert (www.status, www.headers["location"]) == (308, f"https://shop.example:{node.https_port}/a")
        assert node.json("app", "show", "shop")["urls"][0] == f"https://shop.localhost:{node.https_port}"
    finally:
        node.cli("app", "unset", "shop", "https", "hsts", "www")
    assert node.get("shop.example", "/healthz") == Reply(200, "ok")
    assert "strict-transport-security" not in secure_get(node, "shop.example").headers
    assert node.get("www.shop.example").status == 404


def test_a_killed_worker_leaves_the_port_open(node: Node) -> None:
    before = {worker["pid"] for worker in node.json("status")["workers"]}
    os.kill(min(before), signal.SIGKILL)
    for _ in range(20):  # some come to the socket of the one that is gone and wait for its successor
        assert secure_get(node, "shop.example") == Reply(200, "ok")

    def replaced() -> bool:
        workers = node.json("status")["workers"]
        return min(before) not in {w["pid"] for w in workers} and all(w["state"] == "serving" for w in workers)

    wait_for("there is another in its place", replaced)
    assert secure_get(node, "shop.example") == Reply(200, "ok")


def test_a_second_daemon_has_its_own_port_and_authority_and_none_without_tls(node: Node, tmp_path: Path) -> None:
    other = Node(tmp_path, "sgtls2", pool="10.217.3.0/24", ports="31710-31719", settings={"workers": "1"})
    try:
        if node.has("the host's ports"):
            other.start(https_port=str(node.https_port), ready=False)
            assert other.wait() == 1
            assert f"port {node.https_port} is held by" in other.log.read_text()
            assert "set http_port and https_port" in other.log.read_text()
        other.start(https_port="0")
        assert not (tmp_path / "state" / "authority").exists()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", other.https_port)) != 0
        for words in (["cert", "ls"], ["cert", "ca"], ["cert", "rm", "shop"]):
            status, said = other.refusal(*words)
            assert (status, "https_port" in said) == (5, True), said
        other.app("shop")
        wait_for("it answers", lambda: other.get("shop.localhost", "/healthz").status == 200)
        assert [url.partition(":")[0] for url in other.json("app", "show", "shop")["urls"]] == ["http"]
        other.cli("app", "set", "shop", "https=redirect")
        assert other.get("shop.localhost", "/healthz").status == 200  # there is nothing to redirect to
        assert any("https_port" in problem for problem in other.problems())
        other.cli("app", "unset", "shop", "https")
        other.stop()
        other.start()
        authority = other.cli("cert", "ca").stdout
        wait_for("it has a certificate", lambda: "shop.localhost" in str(other.json("cert", "ls")))
        assert secure_get(other, "shop.localhost", "/healthz", authority) == Reply(200, "ok")
        assert authority != node.cli("cert", "ca").stdout
        assert secure_get(node, "shop.localhost") == Reply(200, "ok")
        ours, theirs = (one.container("shop") for one in (node, other))
        assert [r["container"] for r in node.json("app", "show", "shop")["replicas"]] == [ours]
        assert [r["container"] for r in other.json("app", "show", "shop")["replicas"]] == [theirs]
    finally:
        other.close()
