"""Passwords on a real engine: changed in the server, carried literally everywhere, and shown nowhere else."""

import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

from e2e import forms
from e2e.node import Node, outside_host, run, wait_for

REFUSED, ADMITTED = "Access denied", "admitted"
PREFIX = forms.other_prefix("203.0.113")
EVERY_CHARACTER = [
    "Aa1,&*[]:'$`\"‘’“” :/?#[]@!$&'()*+,;=~^|<>",
    "Aa1\\' \\\" \\n\\0\\%\\_ %s%%20%2F $(id)`id`${HOME}$$ \\",
    "ünïcödé ßtraßE 1*,' OR '1'='1' -- x /* y */ ;",
]


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    with outside_host(forms.other_name("sgpwoutside"), prefix=PREFIX) as name:
        yield name


@pytest.fixture(scope="module")
def pw_db(node: Node, outside: str) -> str:
    """The container of the database pw-db, whose external connection is on."""
    container = node.database("pw-db")
    node.cli("external", "on", "pw-db")
    return container


@pytest.fixture(scope="module")
def app(node: Node, pw_db: str) -> str:
    """The container of the app pw-app, connected to pw-db with its variables."""
    node.cli("connect", "pw-app", "pw-db", "--env")
    return node.app("pw-app", *node.env_options("pw-app"))


def present(node: Node) -> str:
    """The password as it is now."""
    return str(node.json("db", "credentials", "pw-db")["password"])


def change(node: Node, password: str, *words: str) -> dict[str, object]:
    """`db password --stdin`."""
    answer: dict[str, object] = json.loads(node.cli("db", "password", "pw-db", "--stdin", *words, text=password).stdout)
    return answer


def inside(node: Node, app: str, password: str | None = None) -> str:
    """What the app's own program gets over the internal connection, with its own variables or another password."""
    given = [] if password is None else ["-e", f"DB_PASSWORD={password}"]
    words = ("docker", "exec", *given, app, "python3", "/app/app.py", "query", f"SELECT '{ADMITTED}'")
    done = run(*words, check=False)
    return done.stdout + done.stderr


def from_outside(node: Node, namespace: str, password: str) -> str:
    """What Debian's client gets over the external connection, from another host."""
    port = node.json("external", "show", "pw-db")["port"]
    command = [
        "mariadb",
        "-h",
        f"{PREFIX}.1",
        "-P",
        str(port),
        "-u",
        "shop",
        "-N",
        "-e",
        f"SELECT '{ADMITTED}'",
        "shop",
    ]
    done = run("ip", "netns", "exec", namespace, *command, check=False, env=os.environ | {"MYSQL_PWD": password})
    return done.stdout + done.stderr


def test_a_generated_one_works_on_both_paths_and_the_old_one_on_neither(node: Node, app: str, outside: str) -> None:
    """R41, R42, R44, R45."""
    old = present(node)
    done = node.json("db", "password", "pw-db", "--generate")
    new = done["password"]
    assert (done["user"], done["accounts"]) == ("shop", ["shop@%"])
    assert new.isascii()
    assert len(new) >= 24
    assert ADMITTED in inside(node, app, new)
    assert ADMITTED in from_outside(node, outside, new)
    assert REFUSED in inside(node, app, old)
    assert REFUSED in from_outside(node, outside, old)
    assert present(node) == new
    assert node.json("db", "show", "pw-db")["login"] == "ok"


def test_every_account_of_the_user_has_it(node: Node, pw_db: str) -> None:
    """R41: `%` and `localhost` alike."""
    node.sql(pw_db, "CREATE OR REPLACE USER shop@localhost IDENTIFIED BY 'another'")
    new = node.json("db", "password", "pw-db", "--generate")["password"]
    try:
        words = [
            "docker",
            "exec",
            "-e",
            f"MYSQL_PWD={new}",
            pw_db,
            "mariadb",
            "-ushop",
            "-N",
            "-e",
            f"SELECT '{ADMITTED}'",
        ]
        assert run(*words).stdout.strip() == ADMITTED
    finally:
        node.sql(pw_db, "DROP USER shop@localhost")


@pytest.mark.parametrize(
    ("password", "needs"),
    [
        ("abc", ["8 characters", "an upper-case letter", "a digit", "one of , & * [ ] : ' $ ` \""]),
        ("ABCDEFG1,", ["a lower-case letter"]),
        ("Abcdefgh,", ["a digit"]),
        ("Abcdefgh1", ["one of , & * [ ] : ' $ ` \""]),
        ("Abcdefg1,\nx", ["line break"]),
        ("Abcdefg1,\x07", ["control character"]),
        ("Abcdefg1," + "x" * 71, ["79 at their prompt"]),
    ],
)
def test_each_unmet_rule_is_named_and_nothing_changes(node: Node, pw_db: str, password: str, needs: list[str]) -> None:
    """R43."""
    status, said = node.refusal("db", "password", "pw-db", "--stdin", text=password)
    assert status == 2
    for need in needs:
        assert need in said
    assert password not in said
    assert node.json("db", "show", "pw-db")["login"] == "ok"


@pytest.mark.parametrize("password", EVERY_CHARACTER)
def test_every_character_arrives_byte_for_byte(
    node: Node, app: str, outside: str, password: str, tmp_path: Path
) -> None:
    """Must show 4, B4: the server, the container's environment, the URL, and each export by its own reader."""
    change(node, password, "--update-env")
    assert ADMITTED in inside(node, app, password)
    assert ADMITTED in from_outside(node, outside, password)
    stored = json.loads(node.cli("env", "export", "pw-app", "--format", "json").stdout)
    assert stored["DB_PASSWORD"] == password
    parts = urlsplit(stored["DB_CONNECTION_URL"])
    assert unquote(parts.password or "") == password
    assert parts.hostname == "pw-db.internal"
    shell = node.cli("env", "export", "pw-app", "--format", "shell").stdout
    read = run("bash", "-c", f'eval {shlex.quote(shell)}; printf %s "$DB_PASSWORD"')
    assert read.stdout == password
    env_file = tmp_path / "docker.env"
    env_file.write_text(node.cli("env", "export", "pw-app", "--format", "docker").stdout)
    job = ["docker", "run", "--rm", "--network", "none", "--env-file", str(env_file), "sidegate-base"]
    assert run(*job, "printenv", "DB_PASSWORD").stdout == password + "\n"
    container = run("docker", "exec", node.container("pw-app"), "printenv", "DB_PASSWORD").stdout
    assert container == password + "\n"  # redeployed
    assert ADMITTED in inside(node, node.container("pw-app"))


def test_who_still_holds_the_old_one_is_listed_and_update_env_brings_what_is_ours_up_to_date(
    node: Node, app: str
) -> None:
    """R46, B6."""
    node.json("db", "password", "pw-db", "--generate", "--update-env")
    old = present(node)
    node.cli("env", "set", "pw-app", "--stdin", "BY_HAND", "--secret", text=old)
    other = node.docker_run("pw-other", "-e", f"DATABASE_URL=mysql://shop:{quote(old)}@x", image="sidegate-base",
                            command=["sleep", "1d"])  # fmt: skip
    listed = node.json("db", "password", "pw-db", "--generate")
    found = {(v["app"], v["key"]) for v in listed["variables"]}
    assert found == {("pw-app", "DB_PASSWORD"), ("pw-app", "DB_CONNECTION_URL"), ("pw-app", "BY_HAND")}
    holders = {c["container"]: (c["app"], c["keys"]) for c in listed["containers"]}
    assert holders[node.container("pw-app")] == ("pw-app", ["DB_CONNECTION_URL", "DB_PASSWORD"])
    assert holders[other] == (None, ["DATABASE_URL"])
    assert REFUSED in inside(node, node.container("pw-app"))
    done = node.json("db", "password", "pw-db", "--generate", "--update-env")
    assert {(v["app"], v["key"]) for v in done["updated"]} == {
        ("pw-app", "DB_PASSWORD"),
        ("pw-app", "DB_CONNECTION_URL"),
    }
    assert done["redeployed"] == ["pw-app"]
    assert ADMITTED in inside(node, node.container("pw-app"))
    stored = json.loads(node.cli("env", "export", "pw-app", "--format", "json").stdout)
    assert (stored["DB_PASSWORD"], stored["BY_HAND"]) == (done["password"], old)


def test_no_request_is_lost_while_a_password_changes_and_its_apps_are_redeployed(node: Node, app: str) -> None:
    """B6, must show 2: at full rate; what needs no database answers all along."""
    url, host = f"http://127.0.0.1:{node.http_port}/healthz", "Host: pw-app.localhost"
    wait_for("it serves", lambda: node.get("pw-app.localhost", "/healthz").status == 200)
    words = ["wrk", "-t1", "-c16", "-d600s", "--timeout", "20s", "-H", host, url]
    load = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        done = node.json("db", "password", "pw-db", "--generate", "--update-env")
    finally:
        load.send_signal(signal.SIGINT)
        output, _ = load.communicate(timeout=60)
    assert done["redeployed"] == ["pw-app"]
    assert "Requests/sec" in output
    assert "Socket errors" not in output, output
    assert "Non-2xx" not in output, output


def test_disconnect_ends_the_sessions_that_logged_in_before(node: Node, pw_db: str, outside: str) -> None:
    """B7; without it they go on."""
    port = node.json("external", "show", "pw-db")["port"]
    command = ["mariadb", "-h", f"{PREFIX}.1", "-P", str(port), "-u", "shop", "-e", "SELECT SLEEP(600)", "shop"]
    environ = os.environ | {"MYSQL_PWD": present(node)}
    theirs = "SELECT GROUP_CONCAT(info) FROM information_schema.processlist WHERE user = 'shop' HAVING COUNT(*) = 1"
    with subprocess.Popen(
        ["ip", "netns", "exec", outside, *command], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as client:
        try:
            wait_for("its session alone is there", lambda: node.sql(pw_db, theirs) == "SELECT SLEEP(600)")
            assert node.json("db", "password", "pw-db", "--generate")["sessions_ended"] == 0
            assert client.poll() is None
            assert node.json("db", "password", "pw-db", "--generate", "--disconnect")["sessions_ended"] == 1
            assert client.wait(timeout=20) != 0
            assert node.sessions(pw_db) == []
        finally:
            client.kill()


@pytest.mark.parametrize("in_server", [False, True])
def test_a_crash_between_the_engine_and_the_store_is_healed(
    node: Node, app: str, outside: str, in_server: bool
) -> None:
    """R45: killed (SIGKILL) with the change kept, before or after the server had it."""
    old, new = present(node), f"Crash-password1,{in_server}"
    node.stop(signal.SIGKILL)
    try:
        with contextlib.closing(sqlite3.connect(node.directory / "state" / "sidegate.db")) as db, db:
            db.execute("INSERT INTO passwords VALUES ('pw-db', ?, 1, 0, ?)", (new, time.time()))
        if in_server:
            node.sql(node.container("pw-db"), f"SET PASSWORD FOR shop@'%' = PASSWORD('{new}')")
    finally:
        node.start()
    wait_for("healed", lambda: present(node) == new)
    assert node.json("db", "show", "pw-db")["login"] == "ok"
    assert ADMITTED in from_outside(node, outside, new)
    assert REFUSED in from_outside(node, outside, old)
    assert json.loads(node.cli("env", "export", "pw-app", "--format", "json").stdout)["DB_PASSWORD"] == new
    container = ["docker", "exec", node.container("pw-app"), "printenv", "DB_PASSWORD"]
    wait_for("redeployed", lambda: run(*container, check=False).stdout == new + "\n", 60)
    names = ["ps", "-a", "--format", "{{.Names}}", "--filter", f"name={node.container('pw-app')}"]
    wait_for("the old one is gone", lambda: node.docker(*names) == node.container("pw-app"), 60)
    assert not [problem for problem in node.problems() if "password" in problem]


def test_a_database_that_is_down_is_refused_and_nothing_has_changed(node: Node, pw_db: str) -> None:
    node.docker("stop", "-t", "0", pw_db)
    try:
        wait_for("it is seen", lambda: node.json("db", "show", "pw-db")["state"] == "exited")
        status, said = node.refusal("db", "password", "pw-db", "--generate")
        assert (status, "was not changed" in said) == (5, True)
    finally:
        node.docker("start", pw_db)
        node.wait_for_login(pw_db)
    wait_for("it is back", lambda: node.json("db", "show", "pw-db")["login"] == "ok")


def test_no_password_is_in_a_log_an_audit_entry_or_a_process_list(node: Node, app: str) -> None:
    """Whatever the daemon and its tools run while it happens."""
    seen: list[bytes] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.append(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        made = [node.json("db", "password", "pw-db", "--generate", "--update-env", "--disconnect")["password"]]
        given = "Given-pa's$w\"rd1"
        change(node, given, "--update-env")
    finally:
        done.set()
        watcher.join()
    told = [node.log.read_text(), node.cli("audit").stdout, node.cli("status").stdout]
    for password in (*made, given):
        assert not any(password.encode() in words for words in seen)
        assert not any(password in text or json.dumps(password)[1:-1] in text for text in told)
    assert "db password" in told[1]


# --- databases that Sidegate runs itself


@pytest.mark.parametrize("engine", ["mariadb", "postgres"])
def test_a_database_is_made_kept_and_taken_up_again(node: Node, engine: str) -> None:
    name, image = f"own-{engine}", f"sidegate-{engine}"
    volume = f"{node.name}-db--{name}"
    try:
        made = node.json("db", "create", name, "--engine", engine, "--image", image)
        assert (made["container"], made["volume"]) == (volume, volume)
        assert node.json("db", "show", name)["login"] == "ok"
        networks = json.loads(node.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", volume))
        assert list(networks) == [f"{node.name}-home--{name}"]
        new = node.json("db", "password", name, "--generate")["password"]
        removed = node.json("db", "rm", name, "--yes")
        assert (removed["container"], removed["kept_volume"]) == (volume, volume)
        status, said = node.refusal("db", "create", name, "--engine", engine, "--image", image)
        assert (status, "--existing-volume" in said) == (5, True)
        again = ["db", "create", name, "--engine", engine, "--image", image, "--existing-volume", "--stdin"]
        assert node.cli(*again, text=new).returncode == 0
        assert node.json("db", "show", name)["login"] == "ok"
        gone = node.json("db", "rm", name, "--yes", "--volume")
        assert gone["volume"] == volume
        assert volume not in node.docker("volume", "ls", "-q").split()
        assert f"{node.name}-home--{name}" not in node.networks()
    finally:
        node.cli("db", "rm", name, "--yes", "--volume", check=False)


def test_one_that_does_not_come_up_says_why_and_is_gone(node: Node) -> None:
    status, said = node.refusal("db", "create", "bad-db", "--engine", "postgres", "--image", "sidegate-mariadb")
    assert status == 1
    assert "its last lines" in said
    assert "root password" in said
    assert "bad-db" not in [d["name"] for d in node.json("db", "ls")]
    assert f"{node.name}-db--bad-db" not in node.docker("ps", "-a", "--format", "{{.Names}}").split()
    assert f"{node.name}-db--bad-db" not in node.docker("volume", "ls", "-q").split()
