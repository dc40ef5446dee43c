"""For how long: restarts of the daemon, ends that come while none runs, countdown, extension, idleness."""

import json
import re
import signal
import time
from collections.abc import Iterator

import pytest

from e2e.node import Node, wait_for
from e2e.outside import GREETED, REFUSED, RESET, Hammer, Outside, Switch, alive

KERNEL = pytest.mark.needs("the kernel's forwarder")
LEASE = 10
"""Seconds after which the kernel's rules of a daemon that was killed let nobody in any more."""


@pytest.fixture(scope="module")
def brief_db(node: Node) -> str:
    """The container of another database."""
    return node.database("brief-db")


@pytest.fixture
def brief(node: Node, brief_db: str) -> Iterator[Switch]:
    """Its external connection, off before and after."""
    assert brief_db
    switch = Switch(node, "brief-db")
    switch.off()
    yield switch
    node.revive()
    switch.off()


def events(node: Node, start: int, what: str) -> list[str]:
    """Why external connections have ended, by the log from `start` on."""
    lines = node.log.read_bytes()[start:].decode().splitlines()
    told = (json.loads(line) for line in lines if what in line)
    return [f"{one['database']}: {one['cause']}" for one in told]


@pytest.mark.parametrize(
    ("forwarder", "how"),
    [
        pytest.param("kernel", signal.SIGTERM, marks=KERNEL),
        pytest.param("kernel", signal.SIGKILL, marks=KERNEL),
        ("userspace", signal.SIGKILL),
    ],
)
def test_on_stays_on_over_a_restart_and_what_ended_meanwhile_never_opens(
    node: Node, switch: Switch, brief: Switch, outside: Outside, forwarder: str, how: signal.Signals
) -> None:
    """State is intent: one that is on serves again on its port. One whose time ran out while no daemon ran lets nobody
    in, although clients try without a pause while it starts."""
    port, ending = switch.on(forwarder=forwarder), brief.on(forwarder=forwarder, expires_in="3s")
    over = time.monotonic() + 3
    assert outside.attempt(ending) == GREETED
    logged = node.log.stat().st_size
    node.stop(how)
    for closed in (port, ending):
        wait_for("nobody is let in", lambda closed=closed: outside.attempt(closed) in (REFUSED, RESET), LEASE + 10)  # type: ignore[misc]
    wait_for("its time is over", lambda: time.monotonic() > over)
    with Hammer(outside.name, outside.here, ending) as hammer:
        node.start()
        wait_for("the other one serves", lambda: outside.attempt(port) == GREETED)
        assert switch.show().port == port
        assert brief.show().enabled is False
        assert outside.attempt(ending) == REFUSED
    assert not hammer.first.is_set()
    assert events(node, logged, "external connection ends") == ["brief-db: its time is over"]


def test_the_end_is_counted_down_put_off_and_cuts_sessions(
    node: Node, switch: Switch, outside: Outside, forwarder: str
) -> None:
    port = switch.on(forwarder=forwarder, expires_in="1h")
    first = switch.show().expires_in or 0
    assert 3590 < first <= 3600
    assert re.search(r"ends +in (1 h|59 min|60 min)", node.cli("external", "show", "shop-db", "--table").stdout)
    wait_for("it is counted down", lambda: (switch.show().expires_in or 0) < first)
    extended = node.json("external", "extend", "shop-db", "--for", "1h")
    assert 7190 < extended["expires_in"] <= 7200
    session = outside.login(port)
    logged = node.log.stat().st_size
    assert alive(session)
    switch.change(expires_in="1s")
    wait_for("it has ended", lambda: outside.attempt(port) == REFUSED)
    wait_for("its session has ended", lambda: not alive(session))
    assert (switch.show().enabled, switch.show().expires_at) == (False, None)
    assert events(node, logged, "external connection ends") == ["shop-db: its time is over"]


def test_one_that_nobody_uses_is_turned_off_and_one_with_a_session_is_not(
    node: Node, switch: Switch, outside: Outside, forwarder: str
) -> None:
    """R7. Sessions of the kernel count as those of the workers, though no process of ours carries them."""
    port = switch.on(forwarder=forwarder, idle_off="2s")
    session = outside.login(port)
    logged, until = node.log.stat().st_size, time.monotonic() + 4
    wait_for("its time would be over", lambda: time.monotonic() > until)
    assert alive(session)
    assert switch.show().enabled
    session.close()
    wait_for("it has ended", lambda: not switch.show().enabled)  # to try it would be to use it
    wait_for("it is closed", lambda: outside.attempt(port) == REFUSED)
    assert events(node, logged, "external connection ends") == ["shop-db: nobody has used it for 2 s"]
    switch.on(idle_off="never")  # what is not said the next time stays as it was
