"""What carries external connections, as plans: the listener always, the kernel besides it where it can."""

from collections.abc import Mapping

import pytest

from sidegate.core.desired import desire
from sidegate.core.forwarding import Kernel, carry
from sidegate.core.gates import AccessList, Entry, Gate, KernelForward, kernel_forward
from sidegate.core.model import Container, Endpoint, External, Intent, Rules
from sidegate.core.reconcile import Observed, reconcile
from sidegate.core.sessions import Listening
from states import database, ours, state

PORT = 30000
OPEN = Gate(PORT)
OFFICE = Gate(PORT, allow=(Entry("203.0.113.0/24"),))
LIMITED = Gate(PORT, max_sessions=2)
HOME = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
AUTO = Rules(forwarder="auto")


def shop_db(address: str = "10.213.0.2", **changes: object) -> Container:
    return database("shop-db", endpoints=(Endpoint(HOME.name, address),), **changes)


def forward(gate: Gate, address: str = "10.213.0.2") -> KernelForward:
    found = kernel_forward(AccessList(gate), address)
    assert found is not None
    return found


def kernel(*gates: Gate, address: str = "10.213.0.2", ports: tuple[int, ...] = ()) -> Kernel:
    forwards = {gate.port: forward(gate, address) for gate in gates}
    return Kernel(forwards, frozenset({*forwards, *ports}))


def plan(
    external: External | None,
    *,
    listening: Listening | None = None,
    present: Kernel | None = None,
    container: Container | None = None,
    rules: Rules = AUTO,
    fault: str = "",
) -> list[str]:
    """What is done about shop-db's external connection, without the causes."""
    now = state(container or shop_db(), networks=(HOME,))
    externals: Mapping[str, External] = {"shop-db": external} if external else {}
    desired = desire(Intent(externals=externals), now, rules, kernel_fault=fault)
    forwarders = {"shop-db": listening} if listening else {}
    observed = Observed(now, forwarders=forwarders, routes=desired.routes, kernel=present or Kernel())
    made, _ = reconcile(desired, observed, rules)
    return [a.what for chain in made.chains() for rank in chain for a in rank if a.chain.startswith("forwarder")]


def on(gate: Gate, forwarder: str = "") -> External:
    return External(gate, enabled=True, forwarder=forwarder)


def off(gate: Gate) -> External:
    return External(gate, enabled=False)


OPENED = f"open shop-db on port {PORT}"
FORWARDED = f"forward port {PORT} to shop-db at 10.213.0.2 in the kernel"
STOPPED = f"stop forwarding port {PORT} in the kernel"
CUT = f"cut all sessions through port {PORT} in the kernel"
CUT_REFUSED = f"cut sessions of clients that may no longer come in through port {PORT} in the kernel"
KILLED = f"kill the sessions of shop-db that were cut on port {PORT}"
RESERVED = f"leave clients of shop-db on port {PORT} to the kernel's limits"


def test_the_listener_opens_before_the_kernel_takes_the_port() -> None:
    assert plan(on(OPEN)) == [OPENED, FORWARDED]
    assert plan(on(OPEN), listening=Listening(OPEN), present=kernel(OPEN)) == []


def test_a_limit_is_the_kernels_alone_only_once_it_counts() -> None:
    assert plan(on(LIMITED)) == [OPENED, FORWARDED, RESERVED]
    assert plan(on(LIMITED), listening=Listening(LIMITED, kernel=True), present=kernel(LIMITED)) == []
    assert plan(on(LIMITED), listening=Listening(LIMITED), present=kernel(LIMITED)) == [RESERVED]


def test_a_limit_whose_rule_has_gone_is_not_left_to_the_kernel_meanwhile() -> None:
    flushed = kernel(ports=(PORT,))
    assert plan(on(LIMITED), listening=Listening(LIMITED, kernel=True), present=flushed) == [
        OPENED,
        FORWARDED,
        RESERVED,
    ]


def test_a_limit_is_the_workers_before_the_kernel_stops_counting() -> None:
    """Or whoever comes between would be refused as over a limit that he is far from."""
    reserved = Listening(LIMITED, kernel=True)
    assert plan(on(LIMITED), listening=reserved, present=kernel(LIMITED), fault="INPUT does more than accept") == [
        OPENED,
        STOPPED,
        CUT,
        KILLED,
    ]
    assert plan(on(LIMITED, "userspace"), listening=reserved, present=kernel(LIMITED)) == [
        OPENED,
        STOPPED,
        CUT,
        KILLED,
    ]


def test_off_closes_both_ways_at_once_and_cuts_at_both_ends() -> None:
    assert plan(off(OPEN), listening=Listening(OPEN), present=kernel(OPEN)) == [
        STOPPED,
        f"close shop-db on port {PORT}",
        "destroy sockets of shop-db-1 with 10.213.0.1/32",
        "kill sessions of shop-db with 10.213.0.1/32",
        CUT,
    ]


def test_off_after_a_flush_still_cuts_what_the_kernel_tracks() -> None:
    planned = plan(off(OPEN), listening=Listening(OPEN), present=kernel(ports=(PORT,)))
    assert (planned[0], planned[-1]) == (STOPPED, CUT)


def test_a_narrower_list_is_the_listeners_first_and_cuts_only_whom_it_refuses() -> None:
    assert plan(on(OFFICE), listening=Listening(OPEN), present=kernel(OPEN)) == [
        OPENED,
        FORWARDED,
        CUT_REFUSED,
        KILLED,
    ]
    assert plan(on(OFFICE), listening=Listening(OFFICE), present=kernel(OPEN)) == [FORWARDED, CUT_REFUSED, KILLED]


def test_whom_other_terms_part_the_database_ends_too_after_all_else() -> None:
    """Only on terms that somebody may be parted by, and never at another server than his."""
    userspace = Rules(forwarder="userspace")
    assert plan(on(OFFICE), listening=Listening(OPEN), rules=userspace) == [OPENED, KILLED]
    assert plan(on(LIMITED), listening=Listening(OPEN), rules=userspace) == [OPENED]
    narrow = Gate(PORT, OFFICE.allow, max_sessions=2)
    assert plan(on(narrow), listening=Listening(OPEN), present=kernel(OPEN))[-2:] == [RESERVED, KILLED]
    local = Gate(PORT, local=True)
    assert plan(on(local), listening=Listening(OPEN), present=kernel(OPEN)) == [OPENED, STOPPED, CUT, KILLED]
    moved = shop_db("10.213.0.9")
    assert KILLED not in plan(on(OFFICE), listening=Listening(OPEN), present=kernel(OPEN), container=moved)


def test_a_list_that_lets_everybody_in_cuts_nobody() -> None:
    assert plan(on(OPEN), listening=Listening(OFFICE), present=kernel(OFFICE)) == [OPENED, FORWARDED]


def test_a_rule_that_was_flushed_is_put_back_and_sessions_go_on() -> None:
    assert plan(on(OPEN), listening=Listening(OPEN), present=kernel(ports=(PORT,))) == [FORWARDED]


def test_a_database_with_a_new_address_is_forwarded_there_and_what_led_to_the_old_one_is_cut() -> None:
    moved = shop_db("10.213.0.9")
    assert plan(on(OPEN), listening=Listening(OPEN), present=kernel(OPEN), container=moved) == [
        f"forward port {PORT} to shop-db at 10.213.0.9 in the kernel",
        CUT,
    ]


def test_a_database_that_is_down_is_left_to_the_listener_which_refuses() -> None:
    down = shop_db(state="exited", pid=0)
    assert plan(on(OPEN), listening=Listening(OPEN), present=kernel(OPEN), container=down) == [STOPPED, CUT]
    assert plan(on(OPEN), listening=Listening(OPEN), container=down) == []


def test_another_port_closes_the_one_and_opens_the_other() -> None:
    moved = Gate(PORT + 1)
    planned = plan(on(moved), listening=Listening(OPEN), present=kernel(OPEN))
    assert planned[:2] == [STOPPED, f"close shop-db on port {PORT}"]
    assert set(planned) >= {CUT, f"open shop-db on port {PORT + 1}"}


def test_what_an_earlier_daemon_left_is_stopped_and_cut() -> None:
    assert plan(off(OPEN), present=kernel(ports=(PORT,))) == [STOPPED, CUT]
    assert plan(None, present=kernel(OPEN)) == [STOPPED, CUT]


def test_where_the_kernel_cannot_be_used_the_workers_carry_it() -> None:
    fault = "iptables' INPUT chain does more than accept"
    assert plan(on(OPEN), fault=fault) == [OPENED]
    assert plan(on(OPEN), listening=Listening(OPEN), present=kernel(OPEN), fault=fault) == [STOPPED, CUT, KILLED]
    assert plan(on(OPEN), rules=Rules(forwarder="userspace")) == [OPENED]


@pytest.mark.parametrize(
    ("external", "setting", "carried", "why"),
    [
        (on(OPEN), "auto", True, ""),
        (on(OPEN), "kernel", True, ""),
        (on(OPEN), "userspace", False, ""),
        (on(OPEN, "userspace"), "auto", False, ""),
        (on(OPEN, "kernel"), "userspace", True, ""),
        (on(Gate(PORT, local=True)), "auto", False, "no IPv4 client from elsewhere may come in"),
        (on(Gate(PORT, allow=(Entry("2001:db8::/32"),))), "auto", False, "no IPv4 client from elsewhere may come in"),
    ],
)
def test_a_connections_own_choice_wins_over_the_settings(
    external: External, setting: str, carried: bool, why: str
) -> None:
    found = carry(external, "10.213.0.2", setting, "")
    assert (found.kernel is not None, found.why) == (carried, why)


def test_auto_says_why_and_only_kernel_makes_it_a_problem() -> None:
    fault = "the daemon lacks CAP_NET_ADMIN"
    assert carry(on(OPEN), "10.213.0.2", "auto", fault).why == fault
    now = state(shop_db(), networks=(HOME,))
    intent = Intent(externals={"shop-db": on(OPEN)})
    assert desire(intent, now, AUTO, kernel_fault=fault).problems == ()
    (problem,) = desire(intent, now, Rules(forwarder="kernel"), kernel_fault=fault).problems
    assert str(problem).startswith("shop-db: its external connection goes through the workers")
    assert fault in problem.text
