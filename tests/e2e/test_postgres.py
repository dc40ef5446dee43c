"""PostgreSQL on a real engine: at 3306 like every database, through both kinds of connection."""

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from e2e.node import PASSWORD, Node, run, wait_for
from e2e.outside import Outside, Switch

IMAGE = "sidegate-postgres"
SCHEMA = "shop & 1"
ANSWER = f"{SCHEMA}|5432"
QUESTION = "SELECT current_database(), inet_server_port()"


@pytest.fixture(scope="module")
def shop_pg(node: Node) -> str:
    """The container of the database shop-pg, once an own login at 3306 works."""
    variables = {"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": SCHEMA}
    given = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
    labels = ["--label", "sidegate.database=shop-pg", "--label", "sidegate.engine=postgres"]
    container = node.docker_run("shop-pg", *labels, *given, image=IMAGE)
    wait_for_login(node)
    return container


def wait_for_login(node: Node) -> None:
    wait_for("shop-pg takes logins", lambda: node.json("db", "show", "shop-pg")["login"] == "ok", 60)


@pytest.fixture(scope="module")
def app(node: Node, shop_pg: str) -> str:
    """The container of an app that has psql and is connected to shop-pg, with the variables of that."""
    node.cli("connect", "pg-app", "shop-pg", "--env")
    options = ["--label", "sidegate.app=pg-app", *node.env_options("pg-app")]
    return node.docker_run("pg-app", *options, image=IMAGE, command=["sleep", "1d"])


def asked(node: Node, app: str, statement: str = QUESTION) -> str:
    """What the app's psql prints, given nothing but the app's own variables."""
    command = f'exec psql "$DB_CONNECTION_URL" -X -A -t -c {shlex.quote(statement)}'
    return node.docker("exec", app, "sh", "-c", command, check=False)


def inside(node: Node, container: str, statement: str) -> str:
    """A statement on the server's own socket."""
    return node.docker("exec", container, "psql", "-U", "shop", "-d", SCHEMA, "-X", "-A", "-t", "-c", statement)


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        try:
            yield client
        finally:
            client.kill()


def sleepers(node: Node, container: str) -> int:
    return int(inside(node, container, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))


@pytest.mark.needs("3306 for PostgreSQL")
def test_an_app_reaches_it_at_3306_with_the_variables_of_its_connection(node: Node, app: str) -> None:
    """Must show 6. By the URL as stored, and by the single parts."""
    assert asked(node, app) == ANSWER
    parts = '-h "$DB_HOST" -p "$DB_PORT" -U "$DB_USER" -d "$DB_NAME"'
    command = f'PGPASSWORD="$DB_PASSWORD" exec psql {parts} -X -A -t -c "SELECT inet_client_addr()"'
    assert node.docker("exec", app, "sh", "-c", command) in node.addresses(app)
    assert node.docker("exec", app, "printenv", "DB_HOST", "DB_PORT").split() == ["shop-pg.internal", "3306"]


@pytest.mark.needs("3306 for PostgreSQL")
def test_it_is_back_at_3306_when_its_container_restarts(node: Node, app: str, shop_pg: str) -> None:
    """Also where it did so while no daemon ran, which itself takes nothing away."""
    node.docker("restart", "-t", "5", shop_pg)
    wait_for("PostgreSQL is back at 3306", lambda: asked(node, app) == ANSWER, 30)
    node.stop(signal.SIGKILL)
    assert asked(node, app) == ANSWER
    node.docker("restart", "-t", "5", shop_pg)
    node.start()
    wait_for("PostgreSQL is back at 3306", lambda: asked(node, app) == ANSWER, 30)


def test_the_printed_line_and_the_url_log_in_through_the_external_connection(
    node: Node, shop_pg: str, outside: Outside, forwarder: str
) -> None:
    """Must show 6: psql from another host."""
    shown = node.json("external", "on", "shop-pg", "--forwarder", forwarder)
    assert shown["carrier"] == forwarder
    assert any("speaks no TLS" in warning for warning in shown["warnings"])
    found = node.json("db", "credentials", "shop-pg")["external"]
    assert PASSWORD not in found["command"]
    command = shlex.split(found["command"].replace(f"-h {found['host']}", f"-h {outside.here}"))
    environ = os.environ | {"PGPASSWORD": PASSWORD}
    enter = ("ip", "netns", "exec", outside.name)
    assert run(*enter, *command, "-X", "-A", "-t", "-c", QUESTION, env=environ).stdout.strip() == ANSWER
    url = found["url"].replace(found["host"], outside.here)
    assert run(*enter, "psql", url, "-X", "-A", "-t", "-c", QUESTION).stdout.strip() == ANSWER


async def test_a_second_driver_reads_the_same_url(node: Node, shop_pg: str) -> None:
    """Not by libpq, as psql does."""
    node.cli("external", "on", "shop-pg")
    connection = await asyncpg.connect(node.json("db", "credentials", "shop-pg")["external"]["url"])
    try:
        assert "|".join(map(str, await connection.fetchrow(QUESTION))) == ANSWER
    finally:
        await connection.close()


def test_off_ends_a_running_query(node: Node, shop_pg: str, outside: Outside, forwarder: str) -> None:
    node.cli("external", "on", "shop-pg", "--forwarder", forwarder)
    url = node.json("db", "credentials", "shop-pg")["external"]
    address = url["url"].replace(url["host"], outside.here)
    with running("ip", "netns", "exec", outside.name, "psql", address, "-X", "-c", "SELECT pg_sleep(600)") as client:
        wait_for("the query runs", lambda: sleepers(node, shop_pg) == 1)
        node.cli("external", "off", "shop-pg")
        assert sleepers(node, shop_pg) == 0
        assert client.wait(timeout=20) != 0
    refused = run("ip", "netns", "exec", outside.name, "psql", address, "-X", "-c", "SELECT 1", check=False)
    assert "refused" in refused.stderr


def test_a_kick_ends_the_query_of_that_session_and_no_other(
    node: Node, shop_pg: str, outside: Outside, forwarder: str
) -> None:
    """Of two that come from one address, and are one address to the server, too."""
    switch = Switch(node, "shop-pg")
    switch.on(forwarder=forwarder)
    url = node.json("db", "credentials", "shop-pg")["external"]
    client = ("ip", "netns", "exec", outside.name, "psql", url["url"].replace(url["host"], outside.here), "-X", "-c")
    with running(*client, "SELECT pg_sleep(600), 1") as first:
        wait_for("the query runs", lambda: sleepers(node, shop_pg) == 1)
        (session,) = switch.sessions()
        with running(*client, "SELECT pg_sleep(600), 2") as second:
            wait_for("both queries run", lambda: sleepers(node, shop_pg) == 2)
            assert switch.kick(session.client) == 1
            wait_for("one is left", lambda: sleepers(node, shop_pg) == 1)
            assert inside(node, shop_pg, "SELECT query FROM pg_stat_activity WHERE wait_event = 'PgSleep'")[-1] == "2"
            assert first.wait(timeout=20) != 0
            assert second.poll() is None
            switch.off()


@pytest.mark.needs("3306 for PostgreSQL")
def test_without_the_right_to_enter_its_namespace_a_connection_is_refused(tmp_path: Path) -> None:
    """With it there is a redirect, which a purge takes away again."""
    node = Node(tmp_path, "sgnoright", pool="10.217.12.0/24", ports="31800-31809")
    node.without = ["sys_admin"]
    try:
        node.start()
        labels = ["--label", "sidegate.database=other-pg", "--label", "sidegate.engine=postgres"]
        container = node.docker_run("other-pg", *labels, "-e", f"POSTGRES_PASSWORD={PASSWORD}", image=IMAGE)
        reason = "(Operation not permitted): the daemon needs root, with CAP_SYS_ADMIN"
        status, text = node.refusal("connect", "other-app", "other-pg")
        assert (status, text.endswith(reason)) == (5, True), text
        assert "other-pg does not answer at port 3306" in text
        assert node.json("connections") == []
        found = [p["text"] for p in node.json("db", "show", "other-pg")["problems"]]
        assert sum(text.endswith(reason) for text in found) == 1, found
        node.stop()
        node.without = []
        node.start()
        node.cli("connect", "other-app", "other-pg")
        assert node.json("db", "show", "other-pg")["problems"] == []
        pid = node.docker("inspect", "-f", "{{.State.Pid}}", container)
        rules = ("nsenter", f"--net=/proc/{pid}/ns/net", "nft", "list", "ruleset")
        assert "dport 3306" in run(*rules).stdout
        node.cli("purge", "--yes")
        assert "3306" not in run(*rules).stdout
    finally:
        node.without = []
        node.close()


@pytest.mark.needs("3306 for PostgreSQL")
def test_disconnect_ends_a_running_query_at_both_ends(node: Node, app: str, shop_pg: str) -> None:
    """A server in a query does not look at its socket."""
    sleep = 'exec psql "$DB_CONNECTION_URL" -X -c "SELECT pg_sleep(600)"'
    with running("docker", "exec", app, "sh", "-c", sleep) as client:
        wait_for("the query runs", lambda: sleepers(node, shop_pg) == 1)
        node.cli("disconnect", "pg-app", "shop-pg", "--yes")
        assert sleepers(node, shop_pg) == 0
        assert client.wait(timeout=20) != 0
    assert asked(node, app) == ""
