"""Variables on the real engine: what a connection adds, scopes, literal values, and containers that have others."""

import json
import shlex
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.node import APP_IMAGE, PASSWORD, SIDEGATE, Node, wait_for
from e2e.visitors import visitors
from literal_values import LITERAL

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"
SIX = ["DB_CONNECTION_URL", "DB_HOST", "DB_NAME", "DB_PASSWORD", "DB_PORT", "DB_USER"]


@pytest.fixture
def app(node: Node, shop_db: str) -> Iterator[str]:
    """The name of an app to come, which leaves nothing behind."""
    name = f"vars-{uuid.uuid4().hex[:8]}"
    yield name
    node.docker("rm", "-f", *node.docker("ps", "-aq", "--filter", f"label=sidegate.app={name}").split(), check=False)
    node.cli("disconnect", name, "shop-db", "--yes", check=False)
    if keys := [v["key"] for v in listed(node, name)]:
        node.cli("env", "unset", name, *sorted(set(keys)))


def listed(node: Node, app: str) -> list[dict[str, Any]]:
    found = node.cli("env", "ls", app, check=False)
    return list(json.loads(found.stdout)["variables"]) if found.returncode == 0 else []


def given(node: Node, app: str, *options: str) -> dict[str, str]:
    """What a container that starts with these options finds in its environment."""
    shown = node.docker("run", "--rm", "--network", "none", *options, APP_IMAGE, "python3", "-c", SHOW)
    return dict(json.loads(shown))


def stale(node: Node, app: str) -> dict[str, list[str]]:
    return {s["container"]: s["keys"] for s in node.json("app", "show", app)["stale"]}


def start(node: Node, app: str) -> str:
    """A container of the app with the variables that are stored now."""
    container = node.app(app, *node.env_options(app))
    wait_for("it serves", lambda: node.get(f"{app}.localhost").status == 200)
    return container


def test_the_variables_of_a_connection_lead_to_its_database(node: Node, app: str) -> None:
    """R8, R9, R10, R13, R14, R18: from either end the same, nobody types a value, and without --env there are none."""
    node.cli("connect", app, "shop-db")
    assert listed(node, app) == []
    node.cli("disconnect", app, "shop-db", "--yes")
    added = []
    for ends in ((app, "shop-db"), ("shop-db", app)):
        assert node.json("connect", *ends, "--env")["variables"][0] == "DB_HOST"
        added.append(node.json("env", "export", app, "--format", "json"))
        shown = node.json("connections")
        assert [c["variables"] for c in shown if app in (c["a"], c["b"])] == [{app: SIX}]
        if ends[0] == app:
            node.cli("disconnect", app, "shop-db", "--remove-env", "--yes")
            assert listed(node, app) == []
    assert added[0] == added[1]
    container = start(node, app)
    assert "good morning" in node.docker("exec", container, "python3", "app.py", "query", "SELECT * FROM greetings")


def test_a_running_app_has_the_variables_when_connect_returns(node: Node, app: str) -> None:
    """R8, R27: redeployed on demand, without losing a request."""
    container, host = node.app(app, "--label", "sidegate.health=/healthz"), f"{app}.localhost"
    wait_for("it serves", lambda: node.get(host, "/healthz").status == 200)
    with visitors(node, host, "/healthz"):
        done = node.json("connect", app, "shop-db", "--env", "--redeploy")
    assert (done["redeployed"], container in done["attached"], stale(node, app)) == ([app], True, {})
    assert "good morning" in node.docker("exec", container, "python3", "app.py", "query", "SELECT * FROM greetings")


def test_keys_are_chosen_before_and_changed_later(node: Node, app: str) -> None:
    """R16, R17: a clash changes nothing and lists itself."""
    node.cli("env", "set", app, "DB_HOST=elsewhere", "DB_USER=me")
    status, said = node.refusal("connect", app, "shop-db", "--env")
    assert status == 5
    assert "DB_HOST for runtime, DB_USER for runtime: nothing was changed" in said
    assert not [c for c in node.json("connections") if app in (c["a"], c["b"])]
    node.cli("connect", app, "shop-db", "--env", "--rename", "DB_HOST=MYSQL_HOST", "--rename", "DB_USER=MYSQL_USER")
    node.cli("env", "rename", app, "DB_PASSWORD", "MYSQL_PASSWORD")
    stored = node.json("env", "export", app, "--format", "json")
    assert (stored["MYSQL_HOST"], stored["MYSQL_PASSWORD"]) == ("shop-db.internal", PASSWORD)
    assert (stored["DB_HOST"], "DB_PASSWORD" in stored) == ("elsewhere", False)
    assert PASSWORD not in node.cli("env", "ls", app).stdout
    removed = node.json("disconnect", app, "shop-db", "--yes")["variables_removed"]
    assert {"MYSQL_HOST", "MYSQL_USER", "MYSQL_PASSWORD"} < set(removed)
    assert [v["key"] for v in listed(node, app)] == ["DB_HOST", "DB_USER"]


def test_a_variable_counts_for_builds_for_running_or_for_both(node: Node, app: str, tmp_path: Path) -> None:
    """R23, R24, in a real build and a real container."""
    node.cli("env", "set", app, "WHERE=a build", "ONLY_BUILD=1", "--scope", "build")
    node.cli("env", "set", app, "WHERE=a container", "--scope", "runtime")
    node.cli("env", "set", app, "EVERYWHERE=yes", "--scope", "both")
    status, said = node.refusal("env", "set", app, "WHERE=nowhere", "NEW=1", "--scope", "both")
    assert (status, f"{app} already has WHERE for build, WHERE for runtime" in said) == (5, True)
    status, said = node.refusal("env", "rename", app, "ONLY_BUILD", "EVERYWHERE")
    assert (status, "EVERYWHERE for both" in said) == (5, True)
    assert {v["key"] for v in listed(node, app)} == {"WHERE", "ONLY_BUILD", "EVERYWHERE"}
    env_file = tmp_path / "env"
    env_file.write_text(node.cli("env", "export", app, "--format", "docker").stdout)
    running = given(node, app, "--env-file", str(env_file))
    assert (running["WHERE"], running["EVERYWHERE"], "ONLY_BUILD" in running) == ("a container", "yes", False)
    built = build(node, tmp_path, app, ["WHERE", "ONLY_BUILD", "EVERYWHERE"])
    assert built == {"WHERE": "a build", "ONLY_BUILD": "1", "EVERYWHERE": "yes"}


def build(node: Node, directory: Path, app: str, keys: list[str]) -> dict[str, str]:
    """What a build with the exported arguments finds in its environment."""
    image = node.container(app)
    arguments = "".join(f"ARG {key}\n" for key in keys)
    script = '["python3", "-c", "import json, os; json.dump(dict(os.environ), open(\'/seen\', \'w\'))"]'
    (directory / "Dockerfile").write_text(f"FROM {APP_IMAGE}\nUSER root\n{arguments}RUN {script}\n")
    exported = subprocess.run(  # bytes: text mode would turn CR LF into LF
        [SIDEGATE, "env", "export", app, "--format", "build-args"], env=node.environ, capture_output=True, check=True
    )
    words = shlex.split(exported.stdout.decode())
    try:
        node.docker("build", "--network", "none", "-t", image, *words, str(directory), timeout=120)
        seen = json.loads(node.docker("run", "--rm", "--network", "none", image, "cat", "/seen"))
        return {key: seen[key] for key in keys}
    finally:
        node.docker("rmi", "-f", image, check=False)


def test_values_arrive_as_they_are(node: Node, app: str, tmp_path: Path) -> None:
    """B4: in containers by -e and by an env file, and in builds, byte for byte."""
    for key, value in LITERAL.items():
        node.cli("env", "set", app, "--stdin", key, "--scope", "both", text=value + "\n")
    stored = {key: value for key, value in given(node, app, *node.env_options(app)).items() if key in LITERAL}
    assert stored == LITERAL
    assert build(node, tmp_path, app, list(LITERAL)) == LITERAL
    status, said = node.refusal("env", "export", app, "--format", "docker")
    assert (status, "LINES holds a line break" in said) == (5, True)
    node.cli("env", "unset", app, "LINES")
    env_file = tmp_path / "env"
    env_file.write_bytes(node.cli("env", "export", app, "--format", "docker").stdout.encode())
    read = given(node, app, "--env-file", str(env_file))
    assert {key: read.get(key) for key in LITERAL if key != "LINES"} == {k: LITERAL[k] for k in LITERAL if k != "LINES"}


def test_a_running_app_with_other_variables_is_marked(node: Node, app: str, apps_stale: Callable[[], int]) -> None:
    """B5: with the keys, never a value, until a redeploy; then its containers have exactly what is stored."""
    node.cli("connect", app, "shop-db", "--env")
    node.cli("env", "set", app, "CHANGED=1", "GONE=1")
    before = apps_stale()
    container = start(node, app)
    assert stale(node, app) == {}
    had = environment(node, container)
    said = json.loads(node.cli("env", "set", app, "--stdin", "CHANGED", text="s3cret").stdout)
    assert said["stale"] == [{"container": container, "keys": ["CHANGED"]}]
    assert f"`sidegate app redeploy {app}`" in said["notes"][0]
    node.cli("env", "unset", app, "GONE")
    assert stale(node, app) == {container: ["CHANGED", "GONE"]}
    assert apps_stale() == before + 1
    assert "s3cret" not in node.cli("app", "show", app).stdout + node.cli("app", "ls").stdout
    node.cli("app", "redeploy", app)
    assert stale(node, app) == {}
    assert apps_stale() == before
    del had["GONE"]
    assert environment(node, container) == had | {"CHANGED": "s3cret"}
    done = node.json("disconnect", app, "shop-db", "--keep-env", "--yes")
    assert (done["variables_removed"], done["variables_kept"], done["notes"]) == ([], SIX, [])


def environment(node: Node, container: str) -> dict[str, str]:
    """What the engine gives a container."""
    listed = json.loads(node.docker("inspect", "-f", "{{json .Config.Env}}", container))
    return dict(entry.split("=", 1) for entry in listed)


@pytest.fixture
def apps_stale(node: Node) -> Callable[[], int]:
    return lambda: int(node.json("status")["counts"]["stale"])


def test_a_disconnect_changes_nothing_unless_it_is_meant(node: Node, app: str) -> None:
    """R34, R36: what becomes of the variables is said and chosen."""
    node.cli("connect", app, "shop-db", "--env")
    container = start(node, app)
    before = node.json("connections"), listed(node, app)
    status, said = node.refusal("disconnect", app, "shop-db")
    assert (status, "--yes" in said) == (2, True)
    assert (node.json("connections"), listed(node, app)) == before
    done = node.json("disconnect", app, "shop-db", "--remove-env", "--yes")
    assert (done["variables_removed"], done["variables_kept"]) == (SIX, [])
    assert stale(node, app) == {container: SIX}
    assert f"{container} ({', '.join(SIX)})" in done["notes"][0]


def test_secrets_are_in_no_log_and_no_trail(node: Node, app: str) -> None:
    secret = f"s3cret-{uuid.uuid4().hex}"
    node.cli("env", "set", app, "--stdin", "API_KEY", "--secret", text=secret)
    node.cli("env", "set", app, "--file", "-", "--secret", text=f"TOKEN='{secret}'\n")
    node.cli("env", "rename", app, "TOKEN", "TOKEN_2")
    assert secret not in node.cli("env", "ls", app).stdout
    assert secret in node.cli("env", "ls", app, "--reveal").stdout
    assert secret in node.cli("env", "export", app).stdout
    trail = node.cli("audit", "--limit", "20").stdout
    assert all(part in trail for part in (f"{app} API_KEY", f"{app} TOKEN", "env export", "env ls --reveal"))
    assert secret not in trail + node.log.read_text()
