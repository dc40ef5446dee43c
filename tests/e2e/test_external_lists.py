"""Who may come in, to the letter: both families, overlapping lists, lists that change under load, and a database that
locks out an address which connects too often without logging in."""

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from e2e.node import Node, wait_for
from e2e.outside import GREETED, NET_V6, RESET, Hammer, Outside, Switch, administrator, alive, home_address

ERRORS = 5
"""How many connections in a row an address may make without a login, before MariaDB takes nobody from there."""
ATTEMPTS = 300
COM_QUERY = 3
SLEEPERS = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(600)' AND host LIKE 'gateway.%'"
RESOLVING = ["--skip-name-resolve=0", "--host-cache-size=128", f"--max-connect-errors={ERRORS}"]


@pytest.fixture(scope="module")
def strict_db(node: Node) -> str:
    """The container of a MariaDB that counts errors for each address: one that looks up names."""
    container = node.database("strict-db", command=RESOLVING)
    home = ip_network(f"{home_address(node, 'strict-db', container)}/27", strict=False)
    # What all external clients come from there; nobody else knows its name, and asking takes seconds.
    node.docker("exec", container, "sh", "-c", f"echo {home[1]} gateway.example >>/etc/hosts")
    return container


@pytest.fixture
def strict(node: Node, strict_db: str) -> Iterator[Switch]:
    """Its external connection, off before and after."""
    assert strict_db
    switch = Switch(node, "strict-db")
    switch.off()
    yield switch
    switch.off()


@pytest.fixture
def root(node: Node, strict_db: str) -> Iterator[Callable[[str], Any]]:
    with administrator(node, strict_db) as asked:
        asked("FLUSH HOSTS")
        yield asked


def connections(root: Callable[[str], Any]) -> tuple[int, int]:
    """How many connections the server has had, and how many of them came to nothing."""
    value = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = '%s'"
    return int(root(value % "Connections")), int(root(value % "Aborted_connects"))


def test_one_that_was_never_on_has_no_port(node: Node, strict_db: str) -> None:
    assert strict_db
    shown = Switch(node, "strict-db").show()
    assert (shown.enabled, shown.listening, shown.port, shown.carrier) == (False, False, None, None)


def test_who_is_not_on_the_list_never_reaches_the_database(
    node: Node, strict: Switch, outside: Outside, root: Callable[[str], Any], forwarder: str
) -> None:
    """By the database's own count, over hundreds of attempts, over both families; nobody is locked out by them."""
    friend, *strangers = outside.there
    port = strict.on(forwarder=forwarder, allow=[friend])
    assert any(f"once {ERRORS} of them" in text for text in strict.show().warnings)
    outside.login(port, friend).close()
    before = connections(root)
    sources = [*strangers, outside.there_v6 if node.has("IPv6") else strangers[0]]
    tried = [outside.attempt(port, sources[n % 4]) for n in range(ATTEMPTS)]
    assert set(tried) == {RESET}
    assert connections(root) == before
    outside.login(port, friend).close()
    assert connections(root) == (before[0] + 1, before[1])
    wait_for("they are counted", lambda: strict.show().refused == {"not on the allow list": ATTEMPTS}, 5)


def test_who_is_parted_from_a_database_that_knows_him_by_a_name_leaves_no_query_behind(
    strict: Switch, outside: Outside, root: Callable[[str], Any], forwarder: str
) -> None:
    port = strict.on(forwarder=forwarder)
    sessions = [outside.login(port, address) for address in outside.there[:2]]
    for session in sessions:
        session._execute_command(COM_QUERY, "SELECT SLEEP(600)")  # type: ignore[attr-defined]
    wait_for("the queries run", lambda: root(SLEEPERS) == 2)
    strict.kick(outside.there[0])
    wait_for("one is left", lambda: root(SLEEPERS) == 1)
    strict.off()
    wait_for("none is left", lambda: root(SLEEPERS) == 0)


@pytest.mark.needs("IPv6")
def test_ipv6_goes_through_the_workers_and_lists_know_it(switch: Switch, outside: Outside, forwarder: str) -> None:
    """On the same port, whatever carries IPv4. An address of IPv4 that is written as one of IPv6 is the same address,
    in lists and when the workers' socket, which takes both, names its client."""
    network = NET_V6
    port = switch.on(forwarder=forwarder, allow=[network, f"::ffff:{outside.there[0]}"])
    assert [entry.cidr for entry in switch.show().allow] == [network, f"{outside.there[0]}/32"]
    session = outside.login(port, outside.there_v6)
    assert outside.attempt(port, outside.there[0]) == GREETED
    assert outside.attempt(port, outside.there[1]) == RESET
    (seen,) = [s for s in switch.sessions() if s.client.startswith("[")]
    assert (seen.client.rpartition(":")[0], seen.carrier) == (f"[{outside.there_v6}]", "userspace")
    switch.edit(deny=[f"{outside.there_v6}/128"])
    assert not alive(session)
    assert outside.attempt(port, outside.there_v6) == RESET
    assert outside.attempt(port, outside.there[0]) == GREETED
    switch.edit(remove_deny=[outside.there_v6], remove_allow=[network])
    assert outside.attempt(port, outside.there_v6) == RESET


def test_overlapping_ranges(switch: Switch, outside: Outside, forwarder: str) -> None:
    """Wide, narrow, beside each other and twice; a hole for one address, and everything but one network."""
    a, b, c, d = outside.there  # .2 to .5
    net = outside.net
    cases = {
        ((f"{net}.0/24", f"{net}.0/25", a, "198.18.0.0/16"), ()): {a, b, c, d},
        ((f"{net}.2/31", f"{net}.4/32"), ()): {a, b, c},
        ((f"{net}.0/24",), (b, f"{net}.4/31")): {a},
        ((a, b), (f"{net}.2/31", "10.0.0.0/8"), d): {d},
        ((), (f"{net}.4/30",)): {a, b},
        (("::/0",), ()): set(),
        (("0.0.0.0/0", "::/0"), ("0.0.0.0/1",)): {a, b, c, d},
    }
    for (allow, deny, *more), admitted in cases.items():
        port = switch.on(forwarder="" if not admitted else forwarder, allow=[*allow, *more], deny=list(deny))
        assert {address for address in outside.there if outside.attempt(port, address) == GREETED} == admitted, allow


def test_a_list_that_changes_under_load_parts_nobody_who_stays_on_it(
    switch: Switch, outside: Outside, forwarder: str
) -> None:
    """A friend's session goes on through twenty changes while others come and go, and each change holds at once."""
    friend, guest, *_ = outside.there
    port = switch.on(forwarder=forwarder, allow=[friend, f"{guest}=guest"])
    session = outside.login(port, friend)
    with Hammer(outside.name, outside.here, port, source=friend) as hammer:
        assert hammer.first.wait(20)
        for number in range(10):
            held = outside.login(port, guest)
            switch.edit(remove_allow=[guest], allow=[f"192.0.2.{number}"])
            assert not alive(held)
            assert outside.attempt(port, guest) == RESET
            switch.edit(allow=[guest])
            assert alive(session)
            assert outside.attempt(port, guest) == GREETED
        assert hammer.lost == 0


def test_probes_by_who_may_come_in_lock_nobody_out(
    switch: Switch, node: Node, shop_db: str, outside: Outside, forwarder: str
) -> None:
    """Connections that are dropped without a word, or after the greeting; on a MariaDB that looks up no names, as the
    images have it. All clients are one address there, so one of them could lock out all."""
    port = switch.on(forwarder=forwarder)
    with administrator(node, shop_db) as root:
        root(f"SET GLOBAL max_connect_errors = {ERRORS}")
        for greeted in [False] * 100 + [True] * 100:
            with outside.connect(port) as probe:
                if greeted:
                    assert probe.recv(1)
        assert alive(outside.login(port))
        root("SET GLOBAL max_connect_errors = DEFAULT")
