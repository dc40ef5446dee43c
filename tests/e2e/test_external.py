"""The contract of external connections, held by the kernel and by the workers alike, on a real engine."""

import contextlib
import socket
import time
from ipaddress import ip_network
from urllib.parse import unquote, urlsplit

import aiomysql
import pymysql
import pytest
import yarl

from e2e.node import PASSWORD, Node, wait_for
from e2e.outside import (
    GREETED,
    REFUSED,
    RESET,
    SESSIONS,
    Connection,
    Outside,
    Switch,
    administrator,
    alive,
    ask,
    attempt_here,
    home_address,
    living_in,
)

COM_QUERY = 3
QUERIES = ("SELECT SLEEP(600)", "SELECT BENCHMARK(2000000000, SHA2('x', 512))")


def ended(sock: socket.socket) -> bool:
    """Whether a connection is over, as a client that says nothing learns it."""
    sock.settimeout(5)
    try:
        return not sock.recv(1)
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def expect_refused(switch: Switch, wanted: dict[str, int]) -> None:
    """Workers tell once a second whom they have refused."""
    with contextlib.suppress(AssertionError):
        wait_for("they are counted", lambda: sum(switch.show().refused.values()) >= sum(wanted.values()), 5)
    assert switch.show().refused == wanted


def held(session: Connection) -> socket.socket:
    found = session._sock  # type: ignore[attr-defined]  # what pymysql gives nobody
    assert isinstance(found, socket.socket)
    return found


def test_off_until_it_is_switched_on_and_then_the_printed_line_logs_in(
    node: Node, switch: Switch, outside: Outside, forwarder: str
) -> None:
    """R2, R6, R38: Debian's clients on another host, with the command line as printed; it carries no password."""
    assert (switch.show().enabled, switch.show().listening) == (False, False)
    shown = node.json("external", "on", "shop-db", "--forwarder", forwarder)
    assert (shown["enabled"], shown["listening"], shown["carrier"]) == (True, True, forwarder)
    assert any("anybody who has the password may come in" in warning for warning in shown["warnings"])
    assert any("speaks no TLS" in warning for warning in shown["warnings"])
    assert PASSWORD not in shown["command"]
    for client in ("mariadb", "mysql"):
        line = shown["command"].replace(f"-h {shown['host']}", f"-h {outside.here}").replace("mariadb", client)
        status, output = outside.typed(f'{line} -e "SELECT word FROM greetings"', PASSWORD)
        assert status == 0, output
        assert "good morning" in output
    assert node.json("external", "show", "shop-db")["carrier"] == forwarder
    assert node.json("external", "off", "shop-db")["listening"] is False
    assert outside.attempt(shown["port"]) == REFUSED


async def test_credentials_give_what_two_drivers_log_in_with(
    node: Node, switch: Switch, outside: Outside, forwarder: str
) -> None:
    """R37, R39: host, port, user, schema, and a URL that two parsers read alike, percent signs and all."""
    port = switch.on(forwarder=forwarder)
    found = node.json("db", "credentials", "shop-db")
    external = found["external"]
    assert (found["user"], found["password"], found["schema"]) == ("shop", PASSWORD, "shop")
    assert external["port"] == port
    url = external["url"].replace(external["host"], outside.here)
    standard, other = urlsplit(url), yarl.URL(url)
    assert (standard.scheme, standard.hostname, standard.port) == ("mysql", outside.here, port)
    with living_in(outside.namespace):
        session = pymysql.connect(
            host=standard.hostname or "", port=standard.port or 0, user=unquote(standard.username or ""),
            password=unquote(standard.password or ""), database=unquote(standard.path[1:]),
        )  # fmt: skip
    assert ask(session, "SELECT word FROM greetings") == "good morning"
    session.close()
    with living_in(outside.namespace):
        second = await aiomysql.connect(
            host=other.host or "", port=other.port or 0, user=other.user or "", password=other.password or "",
            db=other.path[1:],
        )  # fmt: skip
    async with second.cursor() as cursor:
        await cursor.execute("SELECT word FROM greetings")
        assert await cursor.fetchone() == ("good morning",)
    second.close()


def test_bulk_comes_through_whole_both_ways(switch: Switch, outside: Outside, forwarder: str) -> None:
    """Four megabytes each way, checked at both ends."""
    with outside.login(switch.on(forwarder=forwarder)) as session, session.cursor() as cursor:
        cursor.execute("SELECT REPEAT('0123456789abcdef', 262144)")
        assert cursor.fetchone() == ("0123456789abcdef" * 262144,)
        cursor.execute("SELECT MD5(%s) = MD5(REPEAT('0123456789abcdef', 262144))", ["0123456789abcdef" * 262144])
        assert cursor.fetchone() == (1,)


def test_off_ends_everything_at_both_ends(
    node: Node, switch: Switch, shop_db: str, outside: Outside, forwarder: str
) -> None:
    """R40: idle clients, clients that were only greeted, and queries that do not look at their socket. Then the same
    port serves again."""
    port = switch.on(forwarder=forwarder)
    with administrator(node, shop_db) as root:
        sessions = [outside.login(port) for _ in range(4)]
        greeted = outside.connect(port)
        assert greeted.recv(4096)
        for session, query in zip(sessions, QUERIES, strict=False):
            session._execute_command(COM_QUERY, query)  # type: ignore[attr-defined]  # and no wait for its answer
        queries = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'shop' AND command = 'Query'"
        wait_for("the queries run", lambda: root(queries) == 2)
        switch.off()
        wait_for("the database has forgotten them", lambda: root(SESSIONS) == 0)
        assert outside.attempt(port) == REFUSED
        assert all(map(ended, [greeted, *map(held, sessions)]))
        assert switch.on(forwarder=forwarder) == port
        assert outside.attempt(port) == GREETED


def test_a_database_that_is_down_is_refused_at_once_and_one_with_a_new_address_serves_by_itself(
    node: Node, switch: Switch, shop_db: str, outside: Outside, forwarder: str
) -> None:
    """The forwarder follows the name, not the address; what it was is nobody else's."""
    port = switch.on(forwarder=forwarder)
    home = node.container("home--shop-db")
    node.docker("kill", shop_db)
    outside.attempt(port)  # nobody knows yet that it is down
    wait_for("it is known", lambda: any("clients are turned away" in text for text in switch.show().warnings))
    assert {outside.attempt(port) for _ in range(10)} == {RESET}
    before = home_address(node, "shop-db", shop_db)
    with node.paused():  # or it would connect the database again before we choose another address for it
        node.docker("network", "disconnect", home, shop_db)
        subnet = ip_network(node.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", home))
        wanted = next(str(subnet[n]) for n in (20, 21) if str(subnet[n]) != before)
        node.docker("network", "connect", "--ip", wanted, home, shop_db)
        node.docker("start", shop_db)
    assert home_address(node, "shop-db", shop_db) == wanted
    wait_for("it serves again", lambda: outside.attempt(port) == GREETED, 30)
    wait_for("it is carried as before", lambda: switch.show().carrier == forwarder)
    node.wait_for_login(shop_db)


def test_sessions_are_told_with_their_age_and_kick_ends_those_of_an_address(
    node: Node, switch: Switch, outside: Outside, forwarder: str
) -> None:
    """Bytes are the workers' to tell; of the kernel's sessions they are told where it counts them."""
    port = switch.on(forwarder=forwarder)
    first, second, other = (outside.login(port, outside.there[n]) for n in (0, 0, 1))
    found = switch.sessions()
    names = [":".join(map(str, held(session).getsockname())) for session in (first, second, other)]
    assert [session.client for session in found] == names
    assert {session.carrier for session in found} == {forwarder}
    assert all(session.since is not None and abs(time.time() - session.since) < 60 for session in found)
    if forwarder == "userspace":
        assert all(session.bytes_sent and session.bytes_received for session in found)
        node.cli("external", "kick", "shop-db", names[1])
        assert [alive(session) for session in (first, second, other)] == [True, False, True]
    assert node.json("external", "kick", "shop-db", outside.there[0])["sessions"] >= 1
    assert [alive(session) for session in (first, second, other)] == [False, False, True]
    assert [session.client for session in switch.sessions()] == names[2:]
    status, text = node.refusal("external", "kick", "shop-db", outside.there[0])
    assert (status, "has no session" in text) == (4, True)
    assert outside.attempt(port, outside.there[0]) == GREETED  # kicked is not kept out


def test_lists_keep_strangers_out_and_tell_who_tried(
    node: Node, switch: Switch, outside: Outside, forwarder: str
) -> None:
    """Counted by reason, and logged with address and reason."""
    friend, denied, stranger = outside.there[:3]
    port = switch.on(forwarder=forwarder, allow=[f"{friend}/31=the office"], deny=[f"{denied}=left the firm"])
    logged = node.log.stat().st_size
    assert outside.attempt(port, friend) == GREETED
    assert {outside.attempt(port, denied) for _ in range(3)} == {RESET}
    assert outside.attempt(port, stranger) == RESET
    refused = {f"denied by {denied}/32 (left the firm)": 3, "not on the allow list": 1}
    expect_refused(switch, refused)
    told = node.log.read_bytes()[logged:].decode()
    for address, reason in zip((denied, stranger), refused, strict=True):
        assert any(address in line and reason in line for line in told.splitlines()), told


def test_other_terms_cut_who_is_no_longer_allowed_and_nobody_else(
    switch: Switch, outside: Outside, forwarder: str
) -> None:
    friend, other, stranger = outside.there[:3]
    port = switch.on(forwarder=forwarder)
    sessions = [outside.login(port, address) for address in (friend, other, stranger)]
    switch.edit(deny=[stranger])
    assert [alive(session) for session in sessions] == [True, True, False]
    switch.change(allow=[friend, other], max_sessions=3)
    assert [alive(session) for session in sessions] == [True, True, False]
    switch.edit(remove_allow=[other])
    assert [alive(session) for session in sessions] == [True, False, False]
    assert [outside.attempt(port, a) for a in (friend, other, stranger)] == [GREETED, RESET, RESET]
    assert alive(sessions[0])


def test_an_address_has_so_many_sessions_and_no_more(switch: Switch, outside: Outside, forwarder: str) -> None:
    port = switch.on(forwarder=forwarder, max_sessions=2)
    sessions = [outside.login(port), outside.login(port)]
    assert outside.attempt(port) == RESET
    assert outside.attempt(port, outside.there[1]) == GREETED
    assert all(map(alive, sessions))
    expect_refused(switch, {"over its limit of sessions": 1})
    sessions.pop().close()
    wait_for("there is room for another", lambda: outside.attempt(port) == GREETED, 5)


def test_an_address_is_slowed_down(switch: Switch, outside: Outside, forwarder: str) -> None:
    """The first ones of a burst come in; others' addresses do not suffer."""
    port = switch.on(forwarder=forwarder, max_new=3)
    outcomes = [outside.attempt(port) for _ in range(20)]
    assert outcomes[:3] == [GREETED] * 3
    assert set(outcomes[3:]) <= {GREETED, RESET}
    assert RESET in outcomes
    assert outside.attempt(port, outside.there[1]) == GREETED
    reason = "over its limit of new sessions per second"
    expect_refused(switch, {reason: outcomes.count(RESET)})


@pytest.mark.needs("clients of this machine")
def test_local_is_for_this_machine_alone(switch: Switch, outside: Outside, forwarder: str) -> None:
    """The kernel has nothing to do with it by design: loopback is the workers', whoever carries the rest."""
    port = switch.on(local=True, forwarder="" if forwarder == "kernel" else forwarder)
    assert outside.attempt(port) == RESET
    assert outside.attempt(port, outside.there_v6) == RESET
    assert [attempt_here(address, port) for address in ("127.0.0.1", "::1")] == [GREETED] * 2
    assert attempt_here(outside.here, port, outside.here) == RESET
    switch.change(local=False, forwarder=forwarder)
    assert outside.attempt(port) == GREETED
    assert attempt_here("127.0.0.1", port) == GREETED
