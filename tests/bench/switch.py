"""How long it takes to switch an external connection on and off while clients hammer, and what is left over then."""

import contextlib
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterable

import pymysql

from bench.bench import Bench, Case, progress
from bench.delay import enter_namespace
from bench.engine import NAME
from bench.forwarders import CARRIERS, DATABASE_PORT, HOST, KERNEL, OUTSIDE, USERSPACE, Field, database
from e2e.node import PASSWORD, run, wait_for

CLIENTS = 4
_SECONDS = 5.0
_RETRY = 0.002
_OVER = {"CLOSE", "TIME_WAIT"}
_PATIENCE = 20.0
_EXPIRY = 15.0
"""Seconds after which the kernel has forgotten a connection that was reset (nf_conntrack_tcp_timeout_close: 10)."""
_SESSIONS = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'shop' OR user = 'unauthenticated user'"


class Hammer:
    """Clients on another host who log in, ask something again and again, and log in again when they are thrown out."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        self.first = threading.Event()
        """Somebody has logged in since this was cleared; `when` it was."""
        self.when = 0.0
        self.inside = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Hammer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        enter_namespace(NAME)  # this thread alone
        while not self._ended.is_set():
            with contextlib.suppress(pymysql.MySQLError, OSError):
                self._session()
            time.sleep(_RETRY)

    def _session(self) -> None:
        # What is refused shall cost little: it happens all the time, and this process takes the times as well.
        sock = socket.create_connection((HOST, self._port), timeout=_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = _connection(HOST, self._port, "shop", PASSWORD)
        session.connect(sock)
        with session:
            with self._lock:
                self.inside += 1
                if not self.first.is_set():
                    self.when = time.monotonic()
                    self.first.set()
            try:
                with session.cursor() as cursor:
                    while not self._ended.wait(0.005):
                        cursor.execute("DO 0")
            finally:
                with self._lock:
                    self.inside -= 1


def measure(bench: Bench) -> None:
    with (
        database(bench, mariadb=True) as field,
        _login(field.address, DATABASE_PORT, "root", f"root-{PASSWORD}") as root,
    ):
        for label in (KERNEL, USERSPACE):
            _cycles(bench, field, label, lambda: _count(root))


def _cycles(bench: Bench, field: Field, label: str, sessions: Callable[[], int]) -> None:
    carrier = CARRIERS[label]
    port = field.switch(carrier).port
    assert port is not None
    field.switch("")
    before = traces(port)
    opened, closed = [], []
    with Hammer(port) as hammer:
        for number in range(1, bench.cycles + 1):
            hammer.first.clear()
            began = time.monotonic()
            field.switch(carrier)
            assert hammer.first.wait(_PATIENCE), f"nobody was let in within {_PATIENCE:g} s, cycle {number}"
            opened.append((hammer.when - began) * 1000)
            wait_for("all clients are in", lambda: hammer.inside == CLIENTS, _PATIENCE)
            began = time.monotonic()
            field.switch("")
            while sessions():
                assert time.monotonic() < began + _PATIENCE, f"sessions were left for {_PATIENCE:g} s, cycle {number}"
            closed.append((time.monotonic() - began) * 1000)
            if number % max(1, bench.cycles // 10) == 0:
                progress(f"{bench.case.name}: {label}: {number} of {bench.cycles} cycles")
    for what, times in (("on", opened), ("off", closed)):
        bench.measured[f"{label}+{what}"] = [statistics.median(times), min(times), max(times)]
    left = _left_over(port, before, sessions)
    bench.notes.append(f"{label}: {bench.cycles} cycles, left over: {left}")


def traces(port: int) -> dict[str, set[str]]:
    """What there is of a public port on this machine: rules, listening sockets, tracked connections."""
    word = re.compile(rf"(?<![0-9]){port}(?![0-9])")
    rules = run("nft", "list", "ruleset").stdout + run("iptables-save", "-t", "filter").stdout
    listed = run("ss", "-H", "-ltn", "sport", "=", f":{port}").stdout
    flows = run("conntrack", "-L", "-p", "tcp", "--dport", str(port)).stdout.splitlines()
    return {
        "rules": {line.strip() for line in rules.splitlines() if word.search(line)},
        "ports": set(listed.splitlines()),
        "tracked connections": left_over_flows(flows),
    }


def left_over_flows(flows: Iterable[str]) -> set[str]:
    """Those of conntrack's lines that nobody will take away soon.

    A connection of a process of ours that was reset lingers some seconds, as anybody's does. One that the kernel
    forwards, which has another's address in its answers, must be gone.
    """
    return {flow for flow in flows if f" src={HOST} dst={OUTSIDE} " not in flow or not _OVER & set(flow.split())}


def _left_over(port: int, before: dict[str, set[str]], sessions: Callable[[], int]) -> str:
    """In words, once the kernel had the time that it takes by itself."""
    deadline = time.monotonic() + _EXPIRY
    while True:
        found = {what: lines - before[what] for what, lines in traces(port).items()}
        inside = sessions()
        if not (inside or any(found.values())) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for line in sorted(set().union(*found.values())):
        progress(f"left over: {line}")
    return ", ".join([f"{len(lines)} {what}" for what, lines in found.items()] + [f"{inside} sessions"])


def _connection(host: str, port: int, user: str, password: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    """Not made yet."""
    return pymysql.connect(
        host=host, port=port, user=user, password=password, read_timeout=_SECONDS, autocommit=True, defer_connect=True
    )


def _login(host: str, port: int, user: str, password: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    made = _connection(host, port, user, password)
    made.connect()
    return made


def _count(root: "pymysql.Connection[pymysql.cursors.Cursor]") -> int:
    with root.cursor() as cursor:
        cursor.execute(_SESSIONS)
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


SWITCH = Case(
    name="switch",
    unit="ms",
    subject=KERNEL,
    about=f"""`+on`: from the call that switches an external connection on to the first login that got through, with
{CLIENTS} clients outside the host that try without a pause. `+off`: from the call that switches it off until MariaDB
has none of their sessions.
Medians; in place of rounds stand the median, the least and the most of all cycles (`--cycles`).""",
    run=measure,
    quick=False,
    less_is_better=True,
)
