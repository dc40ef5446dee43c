"""The kernel forwarder, on a host made of network namespaces: real rules and sessions, Docker's firewall around."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.forwarding import CLIENTS, GATEWAY, HAMMER, HOME, PUBLIC, Host, host, run
from sidegate.adapters.nft import KernelForwarder
from sidegate.adapters.nft.commands import Commands
from sidegate.core.gates import AccessList, Entry, Gate, KernelForward, kernel_forward
from sidegate.errors import HostToolError

PORT, OTHER = 30001, 30002
PORTS = (30000, 30999)
OPEN = {PORT: KernelForward(PORT, HOME)}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make network namespaces")


@pytest.fixture
def node() -> Iterator[Host]:
    with host() as made:
        yield made


@pytest.fixture
def kernel(node: Host) -> KernelForwarder:
    assert node
    return KernelForwarder("test", PORTS)


def only(*clients: str, deny: tuple[str, ...] = (), **limits: int) -> KernelForward:
    gate = Gate(PORT, tuple(map(Entry, clients)), tuple(map(Entry, deny)), **limits)  # type: ignore[arg-type]
    forward = kernel_forward(AccessList(gate), HOME)
    assert forward is not None
    return forward


async def ended(sock: socket.socket) -> str:
    """How a session ended, as its client learns it without sending anything."""
    with sock:
        try:
            async with asyncio.timeout(10):
                return "end" if not await asyncio.get_running_loop().sock_recv(sock, 10) else "data"
        except ConnectionResetError:
            return "reset"


async def echoes(sock: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        await loop.sock_sendall(sock, b"ping")
        return await loop.sock_recv(sock, 10) == b"ping"


async def eventually(what: str, holds: object) -> None:
    async with asyncio.timeout(15):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_on_serves_and_off_leaves_nothing(node: Host, kernel: KernelForwarder) -> None:
    """On: a session through the public port, masqueraded. Off: refused, cut at both ends while idle, no rule left."""
    before = node.firewall()
    pid = node.start_database()
    assert await kernel.usable() == ""
    assert await kernel.observe() == {}
    assert not await node.connects(PORT)
    await kernel.apply(OPEN)
    assert await kernel.observe() == OPEN
    session = await node.connect(PORT)
    (seen,) = await kernel.sessions(PORT)
    assert (seen.client, seen.client_port) == session.getsockname()
    assert (seen.database, seen.masked, seen.state) == (HOME, GATEWAY, "ESTABLISHED")
    assert f"{HOME}]:3306" in node.database_sockets()[0]
    assert f"{GATEWAY}]:{seen.masked_port}" in node.database_sockets()[0]
    await kernel.apply({})
    assert not await node.connects(PORT)
    assert await echoes(session)  # closed is not cut
    assert len(await kernel.cut(PORT, pid)) == 1
    assert node.database_sockets() == []
    assert await ended(session) == "reset"
    assert node.flows() == []
    assert node.firewall() == before
    await kernel.apply({})
    await kernel.remove()
    assert node.firewall() == before


async def test_nothing_else_is_forwarded(node: Host, kernel: KernelForwarder) -> None:
    """Loopback, the node's own connections and a port that is off meet the local stack, where the listener is."""
    node.start_database()
    await kernel.apply(OPEN)
    for address in ("127.0.0.1", PUBLIC, GATEWAY):
        probe = f"import socket; socket.create_connection(('{address}', {PORT}), 5)"
        output = run("python3", "-c", f"try:\n {probe}\nexcept OSError as error: print(error.strerror)")
        assert output.strip() == "Connection refused", address
    assert not await node.connects(OTHER)
    assert await node.connects(PORT)


async def test_lists_act_before_the_database_is_reached(node: Host, kernel: KernelForwarder) -> None:
    """A list that changes: those still allowed go on, those who no longer are can be cut, strangers never arrive."""
    pid = node.start_database()
    await kernel.apply({PORT: only("198.51.100.0/24", deny=(CLIENTS[2],))})
    kept, lost = await node.connect(PORT, CLIENTS[0]), await node.connect(PORT, CLIENTS[1])
    assert not await node.connects(PORT, CLIENTS[2])
    narrow = {PORT: only(CLIENTS[0], "203.0.113.0/24")}
    await kernel.apply(narrow)
    assert await kernel.observe() == narrow
    assert not await node.connects(PORT, CLIENTS[1])
    assert await echoes(lost)
    assert len(await kernel.cut(PORT, pid, {CLIENTS[1], CLIENTS[2]})) == 1
    assert await ended(lost) == "reset"
    assert await echoes(kept)
    assert len(node.database_sockets()) == 1
    assert [s.client for s in await kernel.sessions(PORT)] == [CLIENTS[0]]
    await kernel.apply({PORT: only(CLIENTS[1])})
    assert await node.connects(PORT, CLIENTS[1])
    assert not await node.connects(PORT, CLIENTS[0])
    await kernel.apply(OPEN)
    assert await node.connects(PORT, CLIENTS[2])
    assert await echoes(kept)
    kept.close()


async def test_sessions_of_an_address_are_bounded(node: Host, kernel: KernelForwarder) -> None:
    """So many at once and no more, per address; one that ends makes room; a change of the list keeps the count."""
    node.start_database()
    await kernel.apply({PORT: only(max_sessions=2)})
    held = [await node.connect(PORT), await node.connect(PORT)]
    assert not await node.connects(PORT)
    assert await node.connects(PORT, CLIENTS[1])
    changed = {PORT: only("198.51.100.0/24", max_sessions=2)}
    await kernel.apply(changed)
    assert await kernel.observe() == changed
    assert not await node.connects(PORT)
    held.pop().close()
    async with asyncio.timeout(10):
        while not await node.connects(PORT):
            await asyncio.sleep(0.05)
    held.pop().close()


async def test_new_sessions_of_an_address_are_slowed(node: Host, kernel: KernelForwarder) -> None:
    """Beyond so many in a second the rest are refused; another address is not."""
    node.start_database()
    limited = {PORT: only(max_new=3)}
    await kernel.apply(limited)
    let_in = [await node.connects(PORT) for _ in range(20)]
    assert let_in[:3] == [True] * 3
    assert not all(let_in)
    assert await node.connects(PORT, CLIENTS[1])
    assert await kernel.observe() == limited
    await kernel.apply({PORT: only(max_new=50_000, max_sessions=1000)})
    assert all([await node.connects(PORT) for _ in range(20)])


async def test_an_attempt_that_is_made_again_counts_once(node: Host, kernel: KernelForwarder) -> None:
    """A SYN that was counted and then dropped, as while Docker rewrites its rules, comes again a second later."""
    node.start_database()
    await kernel.apply({PORT: only(max_sessions=1, max_new=2)})
    run("iptables", "-D", "FORWARD", "-j", "DOCKER-USER")
    attempt = asyncio.create_task(node.connect(PORT))
    async with asyncio.timeout(10):
        while not (await kernel.counts())[PORT]:
            await asyncio.sleep(0.01)
    run("iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
    session = await attempt
    assert (await kernel.counts())[PORT] > 1
    assert not await node.connects(PORT)
    session.close()


async def test_a_change_leaves_the_others_alone(node: Host, kernel: KernelForwarder) -> None:
    """Opening, changing and closing one port touches no rule and no session of another."""
    pid = node.start_database()
    await kernel.apply(OPEN)
    session = await node.connect(PORT)
    rule = next(line for line in run("nft", "-a", "list", "ruleset").splitlines() if "dnat to" in line)
    for wanted in (
        OPEN | {OTHER: KernelForward(OTHER, HOME)},
        OPEN | {OTHER: KernelForward(OTHER, HOME, ((1, 2), (5, 9)), 7, 7)},
        OPEN | {OTHER: KernelForward(OTHER, "10.77.0.9", ((1, 2),), 0, 8), 40_000: KernelForward(40_000, HOME)},
        OPEN,
    ):
        await kernel.apply(wanted)
        assert await kernel.observe() == wanted
        handle = rule.rpartition("#")[2]
        assert f"#{handle}\n" in run("nft", "-a", "list", "chain", "ip", "sidegate-test", f"port-{PORT}") + "\n"
        assert await node.connects(PORT)
        assert await node.connects(40_000) is (40_000 in wanted)
    assert await echoes(session)
    session.close()
    assert pid


@pytest.mark.parametrize(
    "blow",
    [
        "iptables -F DOCKER-USER",
        "nft flush table ip sidegate-test",
        "nft delete table ip sidegate-test",
        f"nft flush chain ip sidegate-test port-{PORT}",
        f"nft delete element ip sidegate-test ports {{ {PORT} }}",
        f"nft insert rule ip sidegate-test port-{PORT} return",
        "nft insert rule ip sidegate-test prerouting return",
        "nft add chain ip sidegate-test port-30500",
        f"nft add element ip sidegate-test allow-{PORT} {{ 192.0.2.1 }}",
        "nft flush ruleset",
    ],
)
async def test_what_others_break_is_noticed_and_repaired(node: Host, kernel: KernelForwarder, blow: str) -> None:
    """Flushed or edited rules are not what was applied; applying again makes them so, and a live session goes on."""
    node.start_database()
    wanted = {PORT: only("198.51.100.0/24")}
    await kernel.apply(wanted)
    session = await node.connect(PORT)
    run(*blow.split())
    assert await kernel.observe() == {}
    if "ruleset" in blow:
        assert await kernel.usable() == ""  # nothing drops any more
        await kernel.apply(wanted)
        assert await node.connects(PORT)
        node.docker_starts()
        assert await kernel.observe() == {}
    await kernel.apply(wanted)
    assert await kernel.observe() == wanted
    assert await node.connects(PORT)
    assert await echoes(session)
    session.close()
    await kernel.remove()
    assert "sidegate" not in node.firewall()


async def test_without_renewal_the_way_in_lapses_and_open_sessions_go_on(node: Host) -> None:
    """What a daemon that was killed leaves behind: new sessions meet the local stack, as if nothing were forwarded."""
    kernel = KernelForwarder("test", PORTS, lease=2)
    node.start_database()
    await kernel.apply(OPEN)
    session = await connect_renewed(node, kernel)
    async with asyncio.timeout(30):
        while await node.connects(PORT):
            await asyncio.sleep(0.1)
    assert await echoes(session)
    assert await kernel.observe() == OPEN  # nobody has touched it
    (await connect_renewed(node, kernel)).close()
    session.close()


async def connect_renewed(node: Host, kernel: KernelForwarder) -> socket.socket:
    """A session through a port on a lease so short that a busy machine may miss it."""
    async with asyncio.timeout(30):
        while True:
            await kernel.renew()
            with contextlib.suppress(ConnectionRefusedError):
                return await node.connect(PORT)


async def test_a_renewal_prolongs_the_lease(node: Host) -> None:
    kernel = KernelForwarder("test", PORTS, lease=1000)
    await kernel.renew()
    assert "sidegate-test" not in node.firewall()  # there is nothing to prolong
    await kernel.apply(OPEN)
    assert 950 < expires() <= 1000
    async with asyncio.timeout(30):
        while expires() > 997:
            await asyncio.sleep(0.1)
    before = run("nft", "-s", "list", "table", "ip", "sidegate-test")
    await kernel.renew()
    assert expires() > 997
    assert run("nft", "-s", "list", "table", "ip", "sidegate-test") == before
    assert await kernel.observe() == OPEN


def expires() -> int:
    """Whole seconds that are left of the lease."""
    listed = json.loads(run("nft", "-j", "list", "set", "ip", "sidegate-test", "lease"))["nftables"]
    ((element,),) = [item["set"]["elem"] for item in listed if "set" in item]
    return int(element["elem"]["expires"])


@pytest.mark.parametrize("blow", ["nft flush ruleset", "nft delete table ip sidegate-test", "iptables -F DOCKER-USER"])
async def test_a_renewal_says_that_what_it_prolongs_is_gone(node: Host, kernel: KernelForwarder, blow: str) -> None:
    assert node
    await kernel.apply(OPEN)
    await kernel.renew()
    run(*blow.split())
    with pytest.raises(HostToolError):
        await kernel.renew()
    await kernel.apply(OPEN)
    await kernel.renew()


async def test_a_later_daemon_takes_over(node: Host, kernel: KernelForwarder) -> None:
    """What an earlier daemon of the instance left is replaced or removed; sessions go on, strangers' rules stay."""
    node.start_database()
    run("iptables", "-I", "DOCKER-USER", "-s", "192.0.2.0/24", "-j", "ACCEPT")
    before = node.firewall()
    await kernel.apply({PORT: KernelForward(PORT, HOME), OTHER: KernelForward(OTHER, HOME)})
    session = await node.connect(PORT)
    neighbour = KernelForwarder("other", (31000, 31999))
    await neighbour.apply({31000: KernelForward(31000, HOME)})
    later = KernelForwarder("test", PORTS)
    assert await later.observe() == {}
    await later.apply(OPEN)
    assert await echoes(session)
    assert not await node.connects(OTHER)
    session.close()
    await KernelForwarder("test", PORTS).remove()
    assert not await node.connects(PORT)
    assert await node.connects(31000)
    await neighbour.remove()
    assert node.firewall() == before


async def test_daemons_on_one_host_do_not_get_into_each_others_way(node: Host, kernel: KernelForwarder) -> None:
    """Each reads Docker's chain and then puts its rules at a place in it, while the other does the same."""
    before = node.firewall()
    other = KernelForwarder("other", (31000, 31999))

    async def switch(forwarder: KernelForwarder, port: int) -> None:
        for _ in range(8):
            await forwarder.apply({port: KernelForward(port, HOME)})
            await forwarder.remove()

    await asyncio.gather(switch(kernel, PORT), switch(other, 31000))
    assert node.firewall() == before


async def test_the_fast_path_stays_ahead(node: Host, kernel: KernelForwarder) -> None:
    """Our accepts stand behind the rules of Sidegate at the head of the chain, and before everybody else's."""
    fast = ("-i", "sg-+", "-m", "comment", "--comment", "sidegate:test", "-j", "ACCEPT")
    run("iptables", "-I", "DOCKER-USER", "-s", "192.0.2.0/24", "-j", "ACCEPT")
    run("iptables", "-I", "DOCKER-USER", *fast)
    await kernel.apply(OPEN)
    rules = run("iptables", "-S", "DOCKER-USER").replace('"', "").splitlines()[1:]
    assert [("sidegate:test " in r, "sidegate:test:external" in r) for r in rules] == [
        (True, False), (False, True), (False, True), (False, False), (False, False),
    ]  # fmt: skip
    await kernel.remove()
    assert len(run("iptables", "-S", "DOCKER-USER").splitlines()) == 4


async def test_a_hundred_times_on_and_off_under_hammering_clients(node: Host, kernel: KernelForwarder) -> None:
    """Whatever clients do meanwhile: after each off nothing is left at the database, in the rules or tracked."""
    before = node.firewall()
    pid = node.start_database()
    for _ in range(2):
        node.start(node.client, HAMMER, PUBLIC, str(PORT))
    cut = 0
    for _ in range(100):
        await kernel.apply(OPEN)
        session = await node.connect(PORT)
        await kernel.apply({})
        cut += len(await kernel.cut(PORT, pid))
        assert node.database_sockets() == []
        assert node.flows() == []
        assert await ended(session) == "reset"
    assert cut >= 100
    assert node.firewall() == before


async def test_cutting_what_came_in_by_the_hundred(node: Host, kernel: KernelForwarder) -> None:
    """Hundreds of idle sessions end at both ends; those of one address can go alone while the port stays open."""
    pid = node.start_database()
    await kernel.apply(OPEN)
    many = [await node.connect(PORT) for _ in range(450)]
    kept = await node.connect(PORT, CLIENTS[1])
    assert len(await kernel.cut(PORT, pid, [CLIENTS[0]])) == 450
    assert len(node.database_sockets()) == 1
    assert {await ended(sock) for sock in many} == {"reset"}
    assert await echoes(kept)
    kept.close()


async def test_one_session_of_an_address_is_cut(node: Host, kernel: KernelForwarder) -> None:
    pid = node.start_database()
    await kernel.apply(OPEN)
    kept, lost = await node.connect(PORT), await node.connect(PORT)
    address, number = lost.getsockname()
    (seen,) = [session for session in await kernel.sessions(PORT) if session.client_port == number]
    (cut,) = await kernel.cut(PORT, pid, [f"{address}:{number}"])
    assert (cut.client, cut.client_port, cut.masked, cut.masked_port) == (address, number, GATEWAY, seen.masked_port)
    assert await ended(lost) == "reset"
    assert await echoes(kept)
    kept.close()


async def test_what_has_come_in_is_counted_also_when_it_has_gone(node: Host, kernel: KernelForwarder) -> None:
    node.start_database()
    assert await kernel.counts() == {}
    await kernel.apply(OPEN | {OTHER: KernelForward(OTHER, HOME, ((1, 2),), 3, 3)})
    assert await kernel.counts() == {PORT: 0, OTHER: 0}
    for _ in range(3):
        assert await node.connects(PORT)
        await kernel.renew()
    assert await kernel.counts() == {PORT: 3, OTHER: 0}
    assert await kernel.observe()
    await kernel.remove()


async def test_cutting_where_the_database_is_gone_or_out_of_reach(
    node: Host, kernel: KernelForwarder, tmp_path: Path
) -> None:
    """A database that ended has closed its sessions: what is tracked of them goes. No way in: no cut."""
    pid = node.start_database()
    await kernel.apply(OPEN)
    session = await node.connect(PORT)
    (tmp_path / "777/ns").mkdir(parents=True)
    (tmp_path / "777/ns/net").symlink_to("net")  # a name that is there and cannot be opened
    with pytest.raises(HostToolError, match="cannot enter the network namespace of process 777"):
        await KernelForwarder("test", PORTS, commands=Commands(proc=tmp_path)).cut(PORT, 777)
    assert await echoes(session)
    node.end(pid)
    assert await ended(session) in ("end", "reset")
    await kernel.apply({})
    await kernel.cut(PORT, 0)
    assert node.flows() == []
    await kernel.forget(PORT)


async def test_the_age_is_told_and_accounting_where_it_is_on(node: Host, kernel: KernelForwarder) -> None:
    """The kernel is asked to keep when sessions began; bytes each way are told where somebody has it count them."""
    node.start_database()
    await kernel.apply(OPEN)
    with await node.connect(PORT) as plain:
        (seen,) = await kernel.sessions(PORT)
        assert seen.since is not None
        assert abs(time.time() - seen.since) < 60
        assert (seen.bytes_sent, seen.bytes_received) == (None, None)
        assert await echoes(plain)
    run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1")
    with await node.connect(PORT, CLIENTS[1]) as counted:
        assert await echoes(counted)
        (seen,) = [s for s in await kernel.sessions(PORT) if s.client == CLIENTS[1]]
        assert seen.bytes_sent is not None
        assert 4 < seen.bytes_sent < 10_000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("iptables -P INPUT DROP", "INPUT chain does more than accept"),
        ("iptables -A INPUT -p tcp --dport 22 -j DROP", "INPUT chain does more than accept"),
        ("iptables -A INPUT -p tcp --dport 22 -j ACCEPT", ""),
        ("iptables -I DOCKER-USER -s 192.0.2.0/24 -j DROP", "DOCKER-USER holds rules of the operator"),
        ("iptables -I DOCKER-USER -s 192.0.2.0/24 -j ACCEPT", ""),
        ("iptables -I FORWARD -s 192.0.2.0/24 -j DROP", "before Docker's DOCKER-USER: `-A FORWARD -s 192.0.2.0/24"),
        ("iptables -D FORWARD -j DOCKER-USER", "before Docker's DOCKER-USER"),
        ("iptables -F FORWARD", "does not lead to DOCKER-USER"),
        (
            "nft add table inet w; nft add chain inet w i { type filter hook input priority 0; policy drop; }",
            "inet w i",
        ),
        (
            "nft add table ip w; nft add chain ip w f { type filter hook forward priority 9; };"
            "nft add rule ip w f ip saddr 192.0.2.1 drop",
            "does not overrule",
        ),
        ("nft add table ip w; nft add chain ip w f { type filter hook forward priority 9; }", ""),
        ("nft add table ip6 w; nft add chain ip6 w f { type filter hook input priority 0; policy drop; }", ""),
        ("nft add table ip w; nft add chain ip w o { type filter hook output priority 0; policy drop; }", ""),
    ],
)
async def test_a_firewall_that_the_kernel_would_go_round(
    node: Host, kernel: KernelForwarder, change: str, reason: str
) -> None:
    """Where INPUT rules or forwarding would be dropped the reason is said; what only accepts is no obstacle."""
    await kernel.apply(OPEN)
    run("sh", "-c", change.replace(" {", " '{").replace("; }", "; }'"))
    said = await kernel.usable()
    assert reason in said if reason else said == ""


async def test_what_the_host_lacks_is_said(node: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No forwarding, no capability, a user namespace, no nft: each has its sentence."""
    assert node
    proc = tmp_path / "proc"
    (proc / "sys/net/ipv4").mkdir(parents=True)
    (proc / "self").mkdir()
    kernel = KernelForwarder("test", PORTS, commands=Commands(proc=proc))

    async def said(uid_map: str, capabilities: str, forward: str) -> str:
        (proc / "self/uid_map").write_text(uid_map)
        (proc / "self/status").write_text(f"CapEff:\t{capabilities}\n")
        (proc / "sys/net/ipv4/ip_forward").write_text(forward)
        return await kernel.usable()

    whole, every = "         0          0 4294967295\n", "000001ffffffffff"
    assert await said(whole, every, "1\n") == ""
    assert "sysctl -w net.ipv4.ip_forward=1" in await said(whole, every, "0\n")
    assert "CAP_NET_ADMIN" in await said(whole, "00000000a80425fb", "1\n")
    assert "user namespace" in await said("         0       1000          1\n", every, "1\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("iptables", "iptables-legacy"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    monkeypatch.setenv("PATH", str(tools))
    assert "apt-get install nftables" in await said(whole, every, "1\n")
    with pytest.raises(HostToolError, match="apt-get install nftables"):
        await kernel.observe()
