"""Builds on a real engine: what they reach, what they do not, and what they are told."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node import APP_IMAGE, BASE_IMAGE, PASSWORD, SIDEGATE, Node, run, wait_for

MIGRATE = (
    'MYSQL_PWD="$DB_PASSWORD" mariadb -h "$DB_HOST" -P "$DB_PORT" -u "$DB_USER" "$DB_NAME" '
    '-e "CREATE TABLE migrated (at TIMESTAMP)"'
)
ARGUMENTS = "ARG DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD\n"
AT_BUILD = f"FROM {APP_IMAGE}\n{ARGUMENTS}RUN {MIGRATE}\n"
AT_START = f"FROM {APP_IMAGE}\n{ARGUMENTS}CMD {MIGRATE} && exec python3 /app/app.py\n"
SLEEP = f"sleep {1_000_000 + os.getpid()}"
"""No other run of the tests has it."""


class Workshop:
    """A context, and builds of the app `shop` from it."""

    def __init__(self, node: Node, root: Path) -> None:
        self.node, self.root = node, root
        self.tag = f"{node.name}/shop:latest"

    def write(self, dockerfile: str, **files: str) -> None:
        (self.root / "Dockerfile").write_text(dockerfile)
        for name, text in files.items():
            (self.root / name.replace("__", ".")).write_text(text)

    def build(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.node.cli("build", "shop", str(self.root), *options, check=check)

    def fails(self, *options: str) -> str:
        """Everything that a build which must fail says."""
        done = self.build(*options, check=False)
        assert done.returncode == 1, done.stderr
        return done.stderr


@pytest.fixture
def shop(node: Node, tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(node, tmp_path)
    before = images(node)
    yield workshop
    for pair in node.json("connections"):
        node.cli("disconnect", pair["a"], pair["b"], "--yes")
    node.docker("rm", "-f", node.container("shop"), check=False)
    node.docker("rmi", "-f", workshop.tag, check=False)
    for image in images(node):  # what steps left, the newest first
        if image not in before:
            node.docker("rmi", image, check=False)


def images(node: Node) -> list[str]:
    return node.docker("images", "-a", "-q", "--no-trunc").split()


@pytest.fixture
def database(node: Node, shop_db: str) -> Iterator[str]:
    """The database shop-db, without a migration."""
    yield shop_db
    node.cli("external", "off", "shop-db")
    node.sql(shop_db, "DROP TABLE IF EXISTS shop.migrated")


def migrated(node: Node, database: str) -> bool:
    return bool(node.sql(database, "SHOW TABLES FROM shop LIKE 'migrated'"))


def test_a_build_gives_an_image_that_runs(shop: Workshop) -> None:
    """What is in .dockerignore is not in it; the output comes line by line, the result last."""
    shop.write(
        f"FROM {BASE_IMAGE}\nARG WORD\nCOPY . /context\nRUN echo $WORD > /word && echo building\n",
        kept="x",
        left="x",
        __dockerignore="left\nDockerfile\n.dockerignore\n",
    )
    done = shop.build("--build-arg", 'WORD=it\'s $5 "now"')
    assert "Step 4/4 : RUN echo $WORD > /word && echo building\n" in done.stderr
    assert "\nbuilding\n" in done.stderr
    result = json.loads(done.stdout)
    assert result["tag"] == shop.tag
    assert shop.node.docker("inspect", "-f", "{{.Id}}", shop.tag) == result["image_id"]
    assert shop.node.docker("inspect", "-f", "{{json .Config.Labels}}", shop.tag) == "null"
    shown = shop.node.docker("run", "--rm", shop.tag, "sh", "-c", "cat /word; ls -A /context")
    assert shown.split("\n") == ['it\'s $5 "now"', "kept"]


def test_a_build_goes_on_to_a_deployment(shop: Workshop) -> None:
    """R30, R31: from a directory to a page, and a second time without the first one's containers."""
    node = shop.node
    try:
        for word in ("first", "second"):
            shop.write(
                f"FROM {APP_IMAGE}\nUSER root\nRUN mkdir /site && echo {word} > /site/index.html\n"
                'STOPSIGNAL SIGINT\nWORKDIR /site\nCMD exec python3 -m http.server "$PORT"\n'
            )
            node.cli("build", "site", str(shop.root), "--tag", shop.tag, "--deploy")
            assert node.get("site.localhost").body == f"{word}\n"
        assert len(node.json("app", "show", "site")["replicas"]) == 1
    finally:
        node.cli("app", "rm", "site", "--yes", check=False)


def test_a_large_context_goes_through(shop: Workshop) -> None:
    shop.write(f"FROM {BASE_IMAGE}\nCOPY big /big\n")
    size = 64 << 20
    with (shop.root / "big").open("wb") as file:
        file.truncate(size)
    shop.build()
    assert shop.node.docker("run", "--rm", shop.tag, "stat", "-c", "%s", "/big") == str(size)


def test_r23_a_build_has_the_variables_of_its_scopes(shop: Workshop, database: str) -> None:
    """R23, R24: build and both, not runtime; the same key once for each."""
    shop.node.app("shop")
    for words in (("A=build", "--scope", "build"), ("A=runtime", "--scope", "runtime"), ("C=both", "--scope", "both")):
        shop.node.cli("env", "set", "shop", *words)
    shop.write(f"FROM {BASE_IMAGE}\nARG A B=none C\nRUN echo $A $B $C > /said\n")
    shop.build()
    assert shop.node.docker("run", "--rm", shop.tag, "cat", "/said") == "build none both"
    for key in ("A", "C"):
        shop.node.cli("env", "unset", "shop", key)


def test_r20_no_connection_is_there_during_a_build(shop: Workshop, database: str) -> None:
    """R20, R12: neither by name nor by address, whatever labels the Dockerfile gives its image."""
    node = shop.node
    node.app("shop")
    node.cli("connect", "shop", "shop-db")
    addresses = " ".join(node.addresses(database))
    shop.write(
        f"FROM {APP_IMAGE}\nUSER root\n"
        f"LABEL sidegate.app=shop sidegate.instance={node.name} sidegate.domains=stolen.example\n"
        "RUN ! getent hosts shop-db.internal && ! getent hosts shop-db\n"
        f"RUN for address in {addresses}; do ! nc -w 2 -z $address 3306 || exit 1; done\n"
        "RUN test $(ip -4 -o addr show scope global | wc -l) = 1\n"
    )
    shop.build("--no-cache")
    assert [replica["container"] for replica in node.json("app", "show", "shop")["replicas"]] == [
        node.container("shop")
    ]
    assert "stolen.example" not in node.log.read_text()


def test_r21_a_migration_in_the_build_is_explained_and_both_ways_round_it_work(shop: Workshop, database: str) -> None:
    """R19, R21, R22, R25."""
    node = shop.node
    node.app("shop")
    node.cli("connect", "shop", "shop-db", "--env", "--scope", "both")
    shop.write(AT_BUILD)
    said = shop.fails("--no-cache")
    before, _, after = said.partition("Step 1/")
    for text in (before, after):
        assert "an internal connection, and those are there at run time only" in text
        assert "move the command that needs shop-db to the start command of shop" in text
        assert "`sidegate external on shop-db`" in text
    assert "Unknown server host 'shop-db.internal'" in after
    assert "the build of shop failed in step 3/3 (RUN MYSQL_PWD=" in after
    assert PASSWORD not in said

    # One way: the command at the start, with the connection.
    shop.write(AT_START)
    shop.build()
    node.docker("rm", "-f", node.container("shop"))
    again = [] if node.has("newcomers held") else ["--restart", "on-failure"]
    node.docker_run("shop", "--label", "sidegate.app=shop", *node.env_options("shop"), *again, image=shop.tag)
    wait_for("the start command has migrated", lambda: migrated(node, database), 60)
    wait_for("the app serves", lambda: node.get("shop.localhost").status == 200)
    node.sql(database, "DROP TABLE shop.migrated")

    # The other: variables of the build's own, with the external details.
    external = node.json("external", "on", "shop-db")
    for key in ("DB_CONNECTION_URL", "DB_HOST", "DB_PORT"):
        assert f"`sidegate env rename shop {key} --new-scope runtime`" in before
        node.cli("env", "rename", "shop", key, "--new-scope", "runtime")
    details = (f"DB_HOST={external['host']}", f"DB_PORT={external['port']}")
    node.cli("env", "set", "shop", *details, "--scope", "build")
    shop.write(AT_BUILD)
    done = shop.build("--no-cache")
    assert json.loads(done.stdout)["notes"] == []
    assert migrated(node, database)

    # R25: the same while it is off.
    node.cli("external", "off", "shop-db")
    said = shop.fails("--no-cache")
    assert "DB_HOST, DB_PORT hold the external details of shop-db, whose external connection is off" in said
    assert "`sidegate external on shop-db`" in said
    node.cli("env", "unset", "shop", "DB_HOST", "DB_PORT", "--scope", "build")


def test_a_build_that_is_interrupted_ends_at_the_engine(shop: Workshop) -> None:
    """Ctrl-C."""
    node = shop.node
    shop.write(f"FROM {BASE_IMAGE}\nRUN echo begun && {SLEEP}\n")
    command = [SIDEGATE, "build", "shop", str(shop.root), "--no-cache"]
    process = subprocess.Popen(command, env=node.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(line == "begun\n" for line in process.stderr)
    wait_for("the step runs", sleeping)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 1
    wait_for("the engine has ended the step", lambda: sleeping() == "", 30)
    wait_for("it is written down", lambda: node.json("audit", "--limit", "1")[0]["outcome"] == "abandoned")


def sleeping() -> str:
    """Processes of the step that is interrupted, anywhere on this machine."""
    return run("pgrep", "-fx", SLEEP, check=False).stdout


def test_a_failing_step_is_named_with_its_last_lines(shop: Workshop) -> None:
    shop.write(f"FROM {BASE_IMAGE}\nRUN echo fine\nRUN echo broken && exit 7\n")
    assert shop.fails().endswith(
        "sidegate: the build of shop failed in step 3/3 (RUN echo broken && exit 7): exit status 7\n"
        "its last lines:\n  broken\n"
    )


def test_a_base_image_that_is_not_there_says_what_to_do(shop: Workshop) -> None:
    shop.write("FROM sidegate-not-there\n")
    assert (
        "sidegate-not-there is not on this node and was not to be had: `docker pull sidegate-not-there`" in shop.fails()
    )
