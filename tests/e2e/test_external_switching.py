"""A hundred times on and off while clients hammer from another host: each time it opens, and nothing is left over."""

import time

from e2e.node import Node, wait_for
from e2e.outside import SESSIONS, Hammer, Outside, Switch, administrator, traces

CYCLES = 100
EXPIRY = 15
"""Seconds after which the kernel has forgotten a connection that was reset (nf_conntrack_tcp_timeout_close: 10)."""


def test_a_hundred_times_on_and_off(node: Node, switch: Switch, shop_db: str, outside: Outside, forwarder: str) -> None:
    """No session at the database after each `off`; no rule, port or tracked connection in the end."""
    port = switch.on(forwarder=forwarder)
    switch.off()
    with administrator(node, shop_db) as root:
        with Hammer(outside.name, outside.here, port) as hammer:
            for cycle in range(CYCLES):
                hammer.first.clear()
                switch.change(forwarder=forwarder)
                assert hammer.first.wait(20), f"nobody was let in, cycle {cycle}"
                switch.off()
                began = time.monotonic()
                while left := root(SESSIONS):
                    assert time.monotonic() < began + 20, f"{left} sessions are left, cycle {cycle}"
        published = not node.has("the host's ports")
        wait_for("nothing is left", lambda: not any(traces(port, published=published).values()), EXPIRY + 5)
        assert root(SESSIONS) == 0
