"""`sidegate run --dev`: an ordinary user's daemon, and compose projects that bear no label of ours.

The containers here do bear one, which says whose daemon is to look at them: others are under test at the same time.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import forms
from e2e.node import run, wait_for
from ports import free_port
from sidegate.api.client import Client, find_socket
from sidegate.errors import DaemonUnreachableError

NAME, POOL, PORTS = "sgdev", "10.230.0.0/17", "32600-32689"
PROJECT = "sgdev_shop"
HOST = "web.sgdev-shop.localhost"
APP, DATABASE = "web-sgdev-shop", "db-sgdev-shop"
COMPOSE = """
version: "3.8"
services:
  web:
    image: sidegate-sample-app
    labels: {sidegate.instance: sgdev}
    environment: {DB_HOST: db, DB_NAME: shop, DB_USER: shop, DB_PASSWORD: secret, MYSQL_ROOT_PASSWORD: root-secret}
  db:
    image: sidegate-mariadb
    labels: {sidegate.instance: sgdev}
    environment:
      {MARIADB_ROOT_PASSWORD: root-secret, MARIADB_DATABASE: shop, MARIADB_USER: shop, MARIADB_PASSWORD: secret}
  analytics:
    image: sidegate-postgres
    labels: {sidegate.instance: sgdev}
    environment: {POSTGRES_PASSWORD: secret}
  worker:
    image: sidegate-base
    command: sleep infinity
    labels: {sidegate.instance: sgdev}
"""


class Developer:
    """An ordinary user: a home, a daemon, a compose project."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.http_port, self.https_port = free_port(), free_port()
        self.log = home / "daemon.log"
        self.file = home / "compose.yaml"
        self.file.write_text(COMPOSE)
        os.chown(home, forms.USER, forms.USER)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "SIDEGATE_INSTANCE": NAME,
            "SIDEGATE_INTERNAL_POOL": POOL,
            "SIDEGATE_EXTERNAL_PORTS": PORTS,
            "SIDEGATE_HTTP_PORT": str(self.http_port),
            "SIDEGATE_HTTPS_PORT": str(self.https_port),
        }
        self.command = [*forms.as_user(), forms.user_python(), "-P", "-m", "sidegate"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as log:
            words = [*self.command, "run", "--dev"]
            self.process = subprocess.Popen(
                words, env=self.environ, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        wait_for("the daemon is ready", self.is_ready)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return bool(self.ask("/v1/status")["ready"])
        except DaemonUnreachableError:
            return False

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A verb, as the same user, who says nowhere where the socket is."""
        return run(*self.command, *words, check=check, env=self.environ, cwd="/")

    def json(self, *words: str) -> Any:
        return json.loads(self.cli(*words).stdout)

    def ask(self, path: str) -> Any:
        """What a call gives; an interpreter for each look would take most of the machine."""
        return json.loads(Client(find_socket(None, self.environ)).call("GET", path, bytes).body)

    def problems(self) -> list[str]:
        return [f"{problem['subject']}: {problem['text']}" for problem in self.ask("/v1/status")["problems"]]

    def compose(self, *words: str) -> str:
        return run("docker-compose", "-p", PROJECT, "-f", str(self.file), *words, timeout=120).stdout

    def get(self, host: str, *options: str) -> str:
        """The status of a page, with curl, which has *.localhost resolved by itself."""
        port = self.https_port if options else self.http_port
        url = f"http{'s' * bool(options)}://{host}:{port}/"
        return run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "10", *options, url, check=False).stdout

    def sql(self, port: int, statement: str) -> subprocess.CompletedProcess[str]:
        login = ["mariadb", "--protocol=tcp", "-h127.0.0.1", f"-P{port}", "-ushop", "-psecret", "-NB", "shop", "-e"]
        return run(*login, statement, check=False)

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.compose("down", "-v", "-t", "0")
        if self.process is not None:
            if self.process.poll() is None:
                self.cli("purge", "--yes", check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=20)
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def developer() -> Iterator[Developer]:
    """His daemon, and his project when all of it has come up."""
    assert shutil.which("docker-compose"), "no docker-compose: run ./scripts/test"
    home = Path(tempfile.mkdtemp(prefix="sidegate-home-"))
    home.chmod(0o755)
    developer = Developer(home)
    try:
        developer.start()
        developer.compose("up", "-d")
        wait_for("the page answers", lambda: developer.get(HOST) == "200")
        wait_for(
            "the databases take logins", lambda: {d["login"] for d in developer.ask("/v1/databases")} == {"ok"}, 60
        )
        yield developer
    finally:
        developer.close()
        shutil.rmtree(home)


def test_services_answer_without_a_label(developer: Developer) -> None:
    assert developer.get(HOST) == developer.get(f"{APP}.localhost") == "200"
    authority = developer.home / "ca.crt"
    authority.write_text(developer.cli("cert", "ca").stdout)
    assert developer.get(HOST, "--cacert", str(authority)) == "200"
    (app,) = developer.ask("/v1/apps")
    assert app["urls"][0] == f"http://{HOST}:{developer.http_port}"
    assert {d["name"]: d["engine"] for d in developer.ask("/v1/databases")} == {
        "analytics-sgdev-shop": "postgres",
        DATABASE: "mariadb",
    }


def test_an_ordinary_user_has_no_problems_and_is_told_who_is_left_out(developer: Developer) -> None:
    assert developer.problems() == []
    (worker,) = developer.ask("/v1/status")["left_out"]
    assert worker["container"] == f"{PROJECT}_worker_1"
    assert worker["reason"].startswith("has no port: ")
    assert f"{worker['container']} has no port" in developer.cli("status", "--table").stdout
    said = developer.log.read_text()
    assert f"http://SERVICE.PROJECT.localhost:{developer.http_port}" in said
    assert '"level": "warning"' not in said and '"level": "error"' not in said


def test_it_keeps_to_the_users_own_directories_and_to_loopback(developer: Developer) -> None:
    assert developer.process is not None
    state = developer.home / ".local/state/sidegate"
    assert (state / "sidegate.db").stat().st_uid == forms.USER
    assert str(state / "run/control.sock") in developer.log.read_text()
    for address in ("127.0.0.1", "[::1]"):
        told = ["-H", f"Host: {HOST}", f"http://{address}:{developer.http_port}/"]
        assert run("curl", "-sf", "-o", "/dev/null", *told, check=False).returncode == 0
    gateway = run("docker", "network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}").stdout.strip()
    told = ["-H", f"Host: {HOST}", f"http://{gateway}:{developer.http_port}/"]
    assert run("curl", "-s", "-m", "3", *told, check=False).returncode == 7  # could not connect


def test_replicas_and_one_offs(developer: Developer) -> None:
    developer.compose("up", "-d", "--scale", "web=2")
    wait_for("both take requests", lambda: developer.ask(f"/v1/apps/{APP}")["serving"] == 2)
    developer.compose("run", "-d", "--name", "sgdev-once", "web", "sleep", "60")
    wait_for(
        "it is left out", lambda: any(o["container"] == "sgdev-once" for o in developer.ask("/v1/status")["left_out"])
    )
    assert len(developer.ask(f"/v1/apps/{APP}")["replicas"]) == 2
    run("docker", "rm", "-f", "sgdev-once")


def test_connect_and_part_with_a_query_running(developer: Developer) -> None:
    """No container's network can be entered: the database's own KILL ends the session, and both ends know."""
    web = f"{PROJECT}_web_1"
    developer.cli("connect", APP, DATABASE)
    query = f"mariadb -h {DATABASE}.internal -ushop -psecret shop -e 'SELECT SLEEP(100)'"
    with subprocess.Popen(["docker", "exec", web, "sh", "-c", query], stderr=subprocess.PIPE, text=True) as session:
        asked = ["docker", "exec", f"{PROJECT}_db_1", "mariadb", "-h127.0.0.1", "-uroot", "-proot-secret", "-NBe"]
        running = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
        wait_for("the query runs", lambda: run(*asked, running).stdout.strip() == "1")
        developer.cli("disconnect", APP, DATABASE, "--yes")
        _, said = session.communicate(timeout=20)
        assert "Lost connection" in said
    assert developer.problems() == []


def test_external_on_and_off(developer: Developer) -> None:
    shown = developer.json("external", "on", DATABASE)
    assert (shown["host"], shown["local"], shown["anybody"]) == ("127.0.0.1", True, False)
    assert developer.sql(shown["port"], "SELECT CURRENT_USER()").stdout == "shop@%\n"
    with subprocess.Popen(
        ["mariadb", "--protocol=tcp", f"-P{shown['port']}", "-h127.0.0.1", "-ushop", "-psecret", "-e", "DO SLEEP(100)"],
        stderr=subprocess.PIPE,
        text=True,
    ) as session:
        wait_for("the session is there", lambda: developer.ask(f"/v1/databases/{DATABASE}/sessions"))
        assert developer.json("external", "off", DATABASE)["sessions_cut"] == 1
        assert "Lost connection" in session.communicate(timeout=20)[1]
    assert developer.sql(shown["port"], "SELECT 1").returncode != 0
    assert developer.problems() == []
    assert (
        "only this machine is listened to"
        in developer.cli("external", "on", DATABASE, "--no-local", check=False).stderr
    )


def test_postgresql_has_the_switch_and_says_why_it_has_no_connection(developer: Developer) -> None:
    """Its port becomes 3306 by a rule in its network namespace, which takes root."""
    refused = developer.cli("connect", APP, "analytics-sgdev-shop", check=False)
    assert refused.returncode == 5
    assert "listens at 5432, and only a daemon that runs as root" in refused.stderr
    port = developer.json("external", "on", "analytics-sgdev-shop")["port"]
    words = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-tAc", "SELECT 42"]
    assert run(*words, env={**os.environ, "PGPASSWORD": "secret"}).stdout == "42\n"
    developer.cli("external", "off", "analytics-sgdev-shop")
    assert developer.problems() == []


def test_without_dev_an_ordinary_user_is_told_of_it(developer: Developer) -> None:
    done = run(*developer.command, "run", check=False, env={"PATH": os.environ["PATH"]}, cwd="/")
    assert done.returncode == 2
    assert "/var/lib/sidegate" in done.stderr and "`sidegate run --dev`" in done.stderr


def test_a_second_one_is_told_who_has_its_containers(developer: Developer) -> None:
    """Whatever its directories and ports are."""
    assert developer.process is not None
    home = developer.home / "second"
    home.mkdir()
    os.chown(home, forms.USER, forms.USER)
    own = {"HOME": str(home), "SIDEGATE_HTTP_PORT": str(free_port()), "SIDEGATE_HTTPS_PORT": "0"}
    done = run(*developer.command, "run", "--dev", check=False, env=developer.environ | own, cwd="/")
    assert done.returncode == 1
    state = developer.home / ".local/state/sidegate"
    who = f"(pid {developer.process.pid}, user {forms.USER}, state_dir {state}, runtime_dir {state}/run)"
    assert f"another sidegate daemon {who} has the instance {NAME!r} on this Docker engine" in done.stderr
    assert "SIDEGATE_INSTANCE=NAME" in done.stderr and "Traceback" not in done.stderr
    assert developer.problems() == []


def test_who_may_not_use_the_engine_is_told_what_to_do(developer: Developer) -> None:
    home = developer.home / "other"
    home.mkdir()
    os.chown(home, forms.USER, forms.USER)
    environ = developer.environ | {
        "HOME": str(home),
        "SIDEGATE_HTTP_PORT": str(free_port()),
        "SIDEGATE_HTTPS_PORT": "0",
        "SIDEGATE_WORKERS": "1",
    }
    alone = [word for word in developer.command if not word.startswith("--groups")]
    words = [alone[0], "--clear-groups", *alone[1:], "run", "--dev"]
    with subprocess.Popen(words, env=environ, stderr=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            assert process.stderr is not None
            said = ""
            while "usermod" not in said or not said.startswith("sidegate: "):
                said = process.stderr.readline()
                assert said, "it ended without a word of it"
            assert "join the group docker: `sudo usermod -aG docker $USER`" in said
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


# --- the page of docs

DOCS = Path(__file__).parents[2] / "docs/development.md"
PYTHON_IMAGE = """
FROM sidegate-base
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-pip \\
 && ln -s python3 /usr/bin/python && rm /usr/lib/python3*/EXTERNALLY-MANAGED
COPY wheels /wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
"""
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64")


@contextlib.contextmanager
def stands_for(image: str, make: Callable[[], object]) -> Iterator[None]:
    """An image of that name, unless the engine has it: those of the registry are out of the tests' reach."""
    if run("docker", "image", "inspect", image, check=False).returncode == 0:
        yield
        return
    make()
    try:
        yield
    finally:
        run("docker", "rmi", image, check=False)


@pytest.mark.skipif(not os.environ.get("SIDEGATE_TEST_DOCS"), reason="takes PyPI and two minutes: SIDEGATE_TEST_DOCS=1")
def test_the_docs_commands_work_when_pasted(tmp_path: Path) -> None:
    """Must show 2: a compose project whose app nobody here wrote, without a label, with the default instance and ports,
    so nothing else of that instance may run."""
    home = Path(tempfile.mkdtemp(prefix="sidegate-docs-"))
    home.chmod(0o755)
    text = DOCS.read_text()
    tour = text[text.index("## Five minutes") : text.index("## What becomes what")]
    (home / "tour.sh").write_text("\n".join(re.findall(r"```sh\n(.*?)```", tour, re.DOTALL)))
    for name, command in (
        ("sidegate", f'exec {forms.user_python()} -P -m sidegate "$@"'),
        ("docker", 'if [ "$1" = compose ]; then shift; exec docker-compose "$@"; fi; exec /usr/bin/docker "$@"'),
    ):
        path = home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)
    os.chown(home, forms.USER, forms.USER)

    def make_python() -> None:
        (tmp_path / "Dockerfile").write_text(PYTHON_IMAGE)
        chosen = [f"--platform={platform}" for platform in PLATFORMS]
        words = ["-q", "--only-binary=:all:", "--python-version=3.11", *chosen, "-d", str(tmp_path / "wheels")]
        run(sys.executable, "-m", "pip", "download", *words, "wagtail", "pymysql", timeout=300)
        run("docker", "build", "-q", "-t", "python:3.11-slim", str(tmp_path), timeout=300)

    environ = {"HOME": str(home), "PATH": f"{home}/bin:/usr/local/bin:/usr/bin:/bin"}
    with (
        stands_for("python:3.11-slim", make_python),
        stands_for("mariadb:11", lambda: run("docker", "tag", "sidegate-mariadb", "mariadb:11")),
    ):
        try:
            # To a file: the daemon keeps what it was given open, also where a command has failed before it is stopped.
            words = [*forms.as_user(), "bash", "-ec", f". {home}/tour.sh > {home}/printed 2> {home}/complaints"]
            done = run(*words, env=environ, cwd=home, timeout=600, check=False)
            printed = (home / "printed").read_text()
            assert done.returncode == 0, printed[-2000:] + (home / "complaints").read_text()[-2000:]
            assert "Welcome to your new Wagtail site\n" in printed
            assert "\n200\n" in printed  # over TLS
            assert "Home\t/home/" in printed  # through the external connection
        finally:
            file = home / "mysite/compose.yaml"
            run("docker-compose", "-f", str(file), "down", "-v", "-t", "0", "--rmi", "local", check=False)
            run(*forms.as_user(), str(home / "bin/sidegate"), "purge", "--yes", check=False, env=environ, cwd=home)
            shutil.rmtree(home)
