"""How long it takes to switch an external connection on and off while clients hammer, and what is left over then."""

import socket
import statistics
import time
from collections.abc import Callable

from bench.bench import Bench, Case, progress
from bench.engine import NAME
from bench.forwarders import CARRIERS, DATABASE_PORT, HOST, KERNEL, USERSPACE, Field, database
from e2e.node import PASSWORD, wait_for
from e2e.outside import SESSIONS, Connection, Hammer, ask, logged_in, traces

CLIENTS = 4
_SECONDS = 5.0
_PATIENCE = 20.0
_EXPIRY = 15.0
"""Seconds after which the kernel has forgotten a connection that was reset (nf_conntrack_tcp_timeout_close: 10)."""


def measure(bench: Bench) -> None:
    with (
        database(bench, mariadb=True) as field,
        _login(field.address, DATABASE_PORT, "root", f"root-{PASSWORD}") as root,
    ):
        for label in (KERNEL, USERSPACE):
            _cycles(bench, field, label, lambda: int(ask(root, SESSIONS)))


def _cycles(bench: Bench, field: Field, label: str, sessions: Callable[[], int]) -> None:
    carrier = CARRIERS[label]
    port = field.switch(carrier).port
    assert port is not None
    field.switch("")
    before = traces(port)
    opened, closed = [], []
    with Hammer(NAME, HOST, port, CLIENTS) as hammer:
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


def _login(host: str, port: int, user: str, password: str) -> Connection:
    return logged_in(socket.create_connection((host, port), timeout=_SECONDS), user, password)


SWITCH = Case(
    name="switch",
    unit="ms",
    subject=KERNEL,
    about=f"""`+on`: from the call that switches an external connection on until the server greets the first client
that gets through, with {CLIENTS} clients outside the host that try without a pause. `+off`: from the call that switches
it off until MariaDB has none of their sessions.
Medians; in place of rounds stand the median, the least and the most of all cycles (`--cycles`).""",
    run=measure,
    quick=False,
    less_is_better=True,
)
