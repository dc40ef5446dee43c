"""Bad input: an error that names what is wrong and what to do, and nothing changed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node import SIDEGATE, Node, holding, run, running, wait_for

SENTENCE = "the internal port is 3306 and cannot be changed"


@pytest.fixture
def unchanged(node: Node, shop_db: str) -> Iterator[Node]:
    """What is asked for and what the engine has are the same after the test as before."""

    def look() -> list[object]:
        shown = [node.json(*words) for words in (["connections"], ["external", "ls"])]
        return [*shown, sorted(node.networks())]

    wait_for("the database is home", lambda: len(node.networks()) > 0)
    before = look()
    yield node
    assert look() == before


@pytest.mark.parametrize(
    ("words", "status", "parts"),
    [
        (["connect", "shop", "shop-bd"], 4, ["shop-bd", "shop-db"]),
        (["connect", "Shop!", "shop-db"], 2, ["Shop!", "a-z"]),
        (["connect", "home", "shop-db"], 2, ["reserved"]),
        (["connect", "shop-db", "shop-db"], 5, ["itself"]),
        (["disconnect", "shop", "shop-db", "--yes"], 4, ["not connected"]),
        (["db", "show", "nothing"], 4, ["nothing", "shop-db"]),
        (["db", "credentials", "nothing"], 4, ["nothing"]),
        (["app", "show", "nothing"], 4, ["nothing"]),
        (["env", "ls", "nothing"], 4, ["nothing"]),
        (["external", "on", "nothing"], 4, ["nothing"]),
        (["external", "on", "shop-db", "--port", "80"], 2, ["{ports}"]),
        (["external", "on", "shop-db", "--port", "70000"], 2, ["70000"]),
        (["db", "set", "shop-db", "--port", "5432"], 5, [SENTENCE]),
        (["connect", "new", "shop-db", "--env", "--rename", "DB_HOTS=X"], 2, ["DB_HOTS", "DB_HOST"]),
        (["connect", "new", "shop-db", "--env", "--rename", "DB_HOST=9"], 2, ["9"]),
        (["connect", "new"], 2, ["Usage", "TARGET"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_each_mistake_has_its_sentence_and_changes_nothing(
    unchanged: Node, words: list[str], status: int, parts: list[str]
) -> None:
    """Must show 10."""
    found, text = unchanged.refusal(*words)
    assert found == status, text
    ports = f"{unchanged.ports[0]}-{unchanged.ports[-1]}"
    assert all(part.format(ports=ports) in text for part in parts), text
    assert "Traceback" not in text


def test_a_second_database_of_the_same_name_is_reported_and_left_alone(node: Node, shop_db: str) -> None:
    """Must show 10: the older keeps the name; the other is named with its reason."""
    labels = ["--label", "sidegate.database=shop-db", "--label", "sidegate.engine=mariadb"]
    rival = node.docker_run("rival", *labels, image="sidegate-base", command=["sleep", "60"])
    try:
        wait_for(
            "it is reported",
            lambda: f"{rival}: the name 'shop-db' is taken by container {shop_db}" in str(node.problems()),
        )
        assert node.json("db", "show", "shop-db")["container"] == shop_db
    finally:
        node.docker("rm", "-f", rival)
    wait_for("the report is gone", lambda: rival not in str(node.problems()))


def test_a_bad_label_value_is_reported_with_its_reason(node: Node) -> None:
    """Must show 10: a port out of range."""
    app = node.app("askew", "--label", "sidegate.port=70000")
    try:
        wait_for("it is reported", lambda: "sidegate.port='70000' is not a port" in str(node.problems()))
        assert node.get("askew.localhost").status == 404
    finally:
        node.docker("rm", "-f", app)


def test_an_exhausted_pool_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    """Must show 10: two /27s in the pool, one is the database's home, one a connection's."""
    with running(Node(tmp_path, "sgtiny", pool="10.217.0.0/26", ports="31400-31499")) as node:
        labels = ["--label", "sidegate.database=tiny-db", "--label", "sidegate.engine=mariadb"]
        node.docker_run("tiny-db", *labels, image="sidegate-base", command=["sleep", "60"])
        wait_for("it is home", lambda: len(node.networks()) == 1)
        node.cli("connect", "first", "tiny-db")
        status, text = node.refusal("connect", "second", "tiny-db")
        assert status == 5
        assert f"internal_pool {node.pool}" in text
        assert len(node.json("connections")) == 1
        assert len(node.networks()) == 2


def test_a_second_daemon_on_the_same_directories_is_told_who_holds_them(node: Node) -> None:
    """Must show 10."""
    done = run(SIDEGATE, "run", check=False, env=node.environ)
    assert done.returncode == 1
    assert f"(pid {node.pid})" in done.stderr
    assert "Traceback" not in done.stderr
    assert node.json("status")["ready"]


def test_a_held_http_port_is_named_with_its_holder(node: Node, tmp_path: Path) -> None:
    environ = {"SIDEGATE_STATE_DIR": str(tmp_path / "state"), "SIDEGATE_RUNTIME_DIR": str(tmp_path / "run")}
    done = run(SIDEGATE, "run", check=False, env=node.environ | environ | {"SIDEGATE_INSTANCE": "sgsecond"})
    assert done.returncode == 1
    assert f"port {node.http_port} is held by" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.needs("the host's ports")
def test_an_external_port_that_somebody_holds_is_named_and_nothing_is_switched_on(node: Node, shop_db: str) -> None:
    """On means listening, or the reason."""
    port = node.ports[-2]
    node.cli("external", "off", "shop-db")
    known = node.json("external", "show", "shop-db")
    with holding(node, port) as pid:
        status, text = node.refusal("external", "on", "shop-db", "--port", str(port))
        assert status in (1, 5)
        assert f"pid {pid}" in text
        assert node.json("external", "show", "shop-db") == known


def test_no_daemon_is_exit_status_3_with_what_to_do(tmp_path: Path) -> None:
    done = run(SIDEGATE, "--socket", str(tmp_path / "none.sock"), "status", check=False)
    assert done.returncode == 3
    assert "sidegate run" in done.stderr


def test_settings_errors_name_key_and_reason(node: Node) -> None:
    wrong = {"SIDEGATE_HTTP_PORT": "99999", "SIDEGATE_ISOLATION": "tight", "SIDEGATE_HTP_PORT": "80"}
    done = run(SIDEGATE, "run", check=False, env=node.environ | wrong)
    assert done.returncode == 2
    for part in ("http_port", "99999", "isolation", "tight", "SIDEGATE_HTP_PORT", "SIDEGATE_HTTP_PORT"):
        assert part in done.stderr, part
    assert "Traceback" not in done.stderr


def test_the_audit_trail_says_who_did_what_and_holds_no_secret(node: Node, shop_db: str) -> None:
    node.cli("db", "credentials", "shop-db")
    node.refusal("connect", "shop", "shop-bd")
    trail = node.json("audit")
    text = json.dumps(trail)
    assert "credentials" in text
    assert "shop-bd" in text
    assert all(entry["uid"] == 0 for entry in trail)
    assert "Pa$$" not in text
    assert "Pa$$" not in node.log.read_text()


def test_isolation_report_leaves_a_database_where_it_is_and_says_who_reaches_it(tmp_path: Path) -> None:
    """R12: `report` changes nothing about the default bridge; a purge then leaves everything as it was."""
    node = Node(tmp_path, "sgreport", pool="10.217.1.0/24", ports="31500-31599")
    try:
        node.start(isolation="report")
        labels = ["--label", "sidegate.database=open-db", "--label", "sidegate.engine=mariadb"]
        database = node.docker_run("open-db", *labels, image="sidegate-base", command=["sleep", "60"])
        other = node.docker_run("bystander", image="sidegate-base", command=["sleep", "60"])
        said = "open-db: can be reached through bridge without a connection, by "
        wait_for("it is said", lambda: any(p.startswith(said) and other in p for p in node.problems()))
        assert len(node.addresses(database)) == 2
        node.cli("purge", "--yes")
        assert len(node.addresses(database)) == 1
        assert node.networks() == []
        assert f"sidegate:{node.name}" not in run("iptables", "-S", "DOCKER-USER").stdout
    finally:
        node.close()
