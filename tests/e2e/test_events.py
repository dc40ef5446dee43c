"""Events of real changes on a daemon of its own, followed by the command line over a restart of the daemon."""

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.node import SIDEGATE, Node, need_engine, running, wait_for
from sidegate.api.client import Client, find_socket


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    need_engine()
    directory = Path(tmp_path_factory.mktemp("events"))
    with running(Node(directory, "sgverbs", pool="10.235.0.0/17", ports="29100-29199")) as node:
        yield node


class Follower:
    """`sidegate events -f` into a pipe that is a file."""

    def __init__(self, node: Node, path: Path) -> None:
        self._path = path
        with path.open("wb") as out, path.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(
                [SIDEGATE, "events", "-f", "--limit", "1000"], stdout=out, stderr=err, env=node.environ
            )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, *wanted: str) -> None:
        """Until each of these, as "kind subject", is among what has come."""
        wait_for(f"{wanted}, got {self.seen()}", lambda: {*wanted} <= {*self.seen()})

    def seen(self) -> list[str]:
        return [f"{line['kind']} {line.get('subject', '')}".strip() for line in self.lines()]

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(how)
        return self.process.wait(timeout=20), self._path.with_suffix(".err").read_text()


def test_what_happens_on_a_node_is_told_also_over_a_restart_of_the_daemon(own: Node, tmp_path: Path) -> None:
    follower = Follower(own, tmp_path / "events")
    follower.wait_for("daemon.started sidegate")
    own.app("shop")
    follower.wait_for("app.appeared shop", "replica.ready shop", "app.available shop")
    own.docker("stop", "-t", "0", own.container("shop"))
    follower.wait_for("replica.resting shop", "app.unavailable shop")
    own.docker("start", own.container("shop"))
    container = own.database("shop-db")
    follower.wait_for("database.seen shop-db", "database.up shop-db")
    own.cli("connect", "shop", "shop-db", "--env")
    own.cli("external", "on", "shop-db", "--for", "1h")
    own.cli("external", "allow", "shop-db", "198.51.100.0/24")
    own.cli("external", "off", "shop-db")
    own.cli("app", "pause", "shop")
    follower.wait_for(
        *("connection.made shop", "app.variables shop", "external.on shop-db", "external.changed shop-db"),
        *("external.off shop-db", "app.mode shop"),
    )
    last = follower.lines()[-1]["id"]
    own.stop()
    follower.wait_for("daemon.stopping sidegate")
    own.start()
    wait_for("the next daemon's start", lambda: follower.seen().count("daemon.started sidegate") == 2)
    assert "lost" in follower.seen()
    own.cli("disconnect", "shop", "shop-db", "--yes")
    own.docker("rm", "-f", container)
    follower.wait_for("connection.cut shop", "database.gone shop-db")
    ids = [line["id"] for line in follower.lines() if "id" in line]
    assert ids == sorted(set(ids))
    assert ids[-1] > last
    assert follower.end() == (0, _waited(follower))
    text = json.dumps(follower.lines())
    assert "Pa$$" not in text
    listed = [json.loads(line) for line in own.cli("events", "--kind", "database").stdout.splitlines()]
    assert [event["kind"] for event in listed] == ["database.gone"]


def _waited(follower: Follower) -> str:
    """What a follower may have said: that it waited, and that it waits no more."""
    said = follower._path.with_suffix(".err").read_text()
    lines = said.splitlines()
    assert len(lines) == 2, said
    assert lines[0].endswith(": waiting for it")
    assert lines[1] == "sidegate: the daemon is back"
    return said


def test_a_worker_that_dies_is_told(own: Node) -> None:
    status = own.json("status")
    start = _events(own)[-1]["id"]
    own_pid = status["workers"][0]["pid"]
    subprocess.run(["kill", "-9", str(own_pid)], check=True)
    kinds = ("worker.died", "worker.serving")
    wait_for("a worker is replaced", lambda: {*kinds} <= {e["kind"] for e in _events(own, since=str(start))})


def test_a_pipe_that_nobody_reads_any_more_ends_it_quietly(own: Node) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.quote(SIDEGATE)} events -f --limit 1000 | head -n 1"],
        capture_output=True,
        text=True,
        timeout=60,
        env=own.environ,
    )
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


def _events(node: Node, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        Client(find_socket(None, node.environ)).call("GET", "/v1/events", bytes, query=query).body
    )
    return found
