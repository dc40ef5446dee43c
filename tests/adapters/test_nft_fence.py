"""The fence, on a host made of network namespaces: Docker's rules for one network, whole and with their hole."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.forwarding import GATEWAY, HOME, IP, SERVER, Host, host, inside, run
from sidegate.adapters.nft import KernelForwarder, NftFence
from sidegate.adapters.nft.commands import Commands, Object
from sidegate.adapters.tools import Result
from sidegate.core.fencing import NONE, Fence
from sidegate.core.gates import KernelForward
from sidegate.errors import HostToolError

LAB, TABLE = "sg-lab", "sidegate-test.fence"
PORT = 30001
PRIVATE, EGRESS = Fence(frozenset({LAB})), Fence(egress=frozenset({LAB}))
STRANGER, THEIRS = "10.88.0.2", "10.88.0.1"
SENT = """
import socket, sys
with socket.socket() as client:
    client.settimeout(float(sys.argv[3]))
    try:
        client.connect((sys.argv[1], int(sys.argv[2])))
        print(client.recv(5).decode())
    except OSError as error:
        print(type(error).__name__)
"""

OPEN, SHUT, LEFT = (True, True), (False, False), (False, True)
NEVER = 0.4
"""Seconds to wait for what does not come; SYNs that are dropped are all that there is to see."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make network namespaces")


class Street:
    """The node, whose database is on sg-lab, and a stranger on a bridge that is none of ours; each can route to the
    other, and nothing is dropped but by rules."""

    def __init__(self, node: Host) -> None:
        self.node = node
        self.stranger = f"{node.name}s"

    def build(self) -> None:
        run(IP, "netns", "add", self.stranger)
        for command in (
            f"link add theirs netns {self.node.name} type bridge",
            f"link add str netns {self.node.name} type veth peer name eth netns {self.stranger}",
            f"-n {self.node.name} link set str master theirs",
            f"-n {self.node.name} address add {THEIRS}/24 dev theirs",
            f"-n {self.stranger} address add {STRANGER}/24 dev eth",
            *(f"-n {self.node.name} link set {device} up" for device in ("str", "theirs")),
            f"-n {self.stranger} link set eth up",
            f"-n {self.stranger} route add default via {THEIRS}",
            f"-n {self.node.database} route add default via {GATEWAY}",
        ):
            run(IP, *command.split())
        run("iptables", "-A", "FORWARD", "-i", "theirs", "!", "-o", "theirs", "-j", "ACCEPT")
        run("iptables", "-A", "FORWARD", "-i", LAB, "-j", "ACCEPT")  # so that it is not the way back that is closed
        for namespace in (self.node.database, self.stranger):
            self.node.start(namespace, SERVER, "3306")

    def open(self) -> None:
        """What Docker does at each change of a network, for longer than it does."""
        for chain in ("DOCKER-USER", "DOCKER-ISOLATION-STAGE-1"):
            run("iptables", "-D", "FORWARD", "-j", chain)

    def ways(self, *, seconds: float = NEVER) -> tuple[bool, bool]:
        """Whether the stranger comes in, and the database gets out."""
        return reaches(self.stranger, HOME, seconds), reaches(self.node.database, STRANGER, seconds)


def reaches(namespace: str, address: str, seconds: float = 10) -> bool:
    with inside(namespace):
        said = run("python3", "-S", "-c", SENT, address, "3306", str(seconds)).strip()
    assert said in ("hello", "TimeoutError"), said
    return said == "hello"


@pytest.fixture
def street() -> Iterator[Street]:
    with host() as node:
        made = Street(node)
        try:
            made.build()
            yield made
        finally:
            run(IP, "netns", "delete", made.stranger, check=False)


@pytest.fixture
def fence() -> NftFence:
    return NftFence("test")


def test_dockers_rules_have_a_hole(street: Street) -> None:
    assert street.ways() == SHUT
    street.open()
    assert street.ways(seconds=10) == OPEN


async def test_nothing_gets_into_a_private_network_or_out_of_it(street: Street, fence: NftFence) -> None:
    await fence.put(PRIVATE)
    assert await fence.observe() == PRIVATE
    street.open()
    assert street.ways() == SHUT
    await fence.put(NONE)
    assert await fence.observe() == NONE
    assert "fence" not in street.node.firewall()


async def test_a_network_with_egress_is_left_and_not_entered(street: Street, fence: NftFence) -> None:
    street.open()
    await fence.put(EGRESS)
    assert await fence.observe() == EGRESS
    assert (reaches(street.stranger, HOME, NEVER), reaches(street.node.database, STRANGER)) == LEFT


async def test_neighbours_of_one_network_and_other_people_s_pass(street: Street, fence: NftFence) -> None:
    """Bridged packets cross the forward hook where br_netfilter is; other bridges, and ones with like names, are
    nobody's business."""
    name = street.node.name
    neighbour = f"{name}n"
    run(IP, "netns", "add", neighbour)
    try:
        for command in (
            f"link add nb netns {name} type veth peer name eth netns {neighbour}",
            f"-n {name} link set nb master {LAB}",
            f"-n {name} link set nb up",
            f"-n {neighbour} address add 10.77.0.3/27 dev eth",
            f"-n {neighbour} link set eth up",
        ):
            run(IP, *command.split())
        bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
        if bridged.exists():
            run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
        street.open()
        run("iptables", "-P", "FORWARD", "ACCEPT")
        await fence.put(PRIVATE)
        assert reaches(neighbour, HOME)
        assert street.ways() == SHUT
        await fence.put(Fence(frozenset({"sg-la", "sg-lab2"}), frozenset({"sg-l"})))
        assert street.ways(seconds=10) == OPEN
    finally:
        run(IP, "netns", "delete", neighbour, check=False)


async def test_what_the_kernel_forwarder_takes_in_passes_both_ways(street: Street, fence: NftFence) -> None:
    """And goes on when the forwarder's own table goes: that is another, and so is what becomes of it."""
    kernel = KernelForwarder("test", (30000, 30999))
    await fence.put(PRIVATE)
    assert await kernel.usable() == ""
    await kernel.apply({PORT: KernelForward(PORT, HOME)})
    with await street.node.connect(PORT) as session:
        await kernel.apply({})
        assert await fence.observe() == PRIVATE
        session.settimeout(10)
        session.sendall(b"ping")
        assert session.recv(10) == b"ping"
    assert await kernel.usable() == ""
    await kernel.remove()
    assert await fence.observe() == PRIVATE


async def test_networks_come_and_go_and_rules_stay(street: Street, fence: NftFence) -> None:
    """Only sets change, and a later daemon puts its own in the place of what it finds, in one transaction."""
    assert street
    await fence.put(PRIVATE)
    before = handles()
    for wanted in (
        Fence(frozenset({LAB, "sg-0123456789ab"}), frozenset({"sg-2"})),
        Fence(frozenset({"sg-2"}), frozenset({LAB})),
        Fence(frozenset({LAB})),
    ):
        await fence.put(wanted)
        assert await fence.observe() == wanted
        assert handles() == before
    later = NftFence("test")
    assert (await later.observe()).torn
    await later.put(PRIVATE)
    assert await later.observe() == PRIVATE
    neighbour = NftFence("other")
    await neighbour.put(EGRESS)
    await later.put(NONE)
    assert await neighbour.observe() == EGRESS


def handles() -> str:
    return run("nft", "-a", "list", "chain", "ip", TABLE, "forward")


async def test_what_others_break_is_noticed_and_repaired(street: Street, fence: NftFence) -> None:
    street.open()
    await fence.put(PRIVATE)
    for blow in (
        "nft flush ruleset",
        f"nft delete table ip {TABLE}",
        f"nft delete table ip6 {TABLE}",
        f"nft flush chain ip {TABLE} forward",
        f"nft flush chain ip6 {TABLE} forward",
        f"nft insert rule ip {TABLE} forward accept",
        f"nft delete element ip {TABLE} private {{ {LAB} }}",
        f"nft flush set ip6 {TABLE} within",
        f"nft add element ip {TABLE} within {{ theirs . {LAB} }}",
    ):
        run(*blow.split())
        assert await fence.observe() != PRIVATE, blow
        await fence.put(PRIVATE)
        assert await fence.observe() == PRIVATE, blow
    assert street.ways() == SHUT


async def test_the_host_s_network_is_entered_where_ours_is_another(street: Street, fence: NftFence) -> None:
    process = street.node.start(street.stranger, "import time; print('here', flush=True); time.sleep(600)")
    there = NftFence("test", process=process)
    await there.put(PRIVATE)
    assert (await there.observe(), await fence.observe()) == (PRIVATE, NONE)
    await there.put(NONE)
    assert await there.observe() == NONE


async def test_a_kernel_without_ipv6_needs_no_rules_for_it(street: Street, tmp_path: Path) -> None:
    fence = NftFence("test", commands=Commands(proc=tmp_path))
    await fence.put(PRIVATE)
    assert await fence.observe() == PRIVATE
    assert "ip6" not in street.node.firewall()


async def test_what_was_broken_since_we_looked_is_built_anew(street: Street, fence: NftFence) -> None:
    assert street
    await fence.put(PRIVATE)
    run("nft", "delete", "table", "ip", TABLE)
    both = Fence(PRIVATE.private, frozenset({"sg-2"}))
    await fence.put(both)
    assert await fence.observe() == both
    run("nft", "flush", "set", "ip", TABLE, "within")
    await fence.put(EGRESS)
    assert await fence.observe() == EGRESS


async def test_where_nft_is_missing_or_forbidden_that_is_said(
    street: Street, fence: NftFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert street
    with pytest.raises(HostToolError, match=r"cannot list .*fence: .*not permitted"):
        await NftFence("test", commands=WithoutRights()).observe()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostToolError, match="apt-get install nftables"):
        await fence.observe()


class WithoutRights(Commands):
    """Runs its commands without CAP_NET_ADMIN."""

    async def run(self, *command: str, text: str = "", keep: int | None = None) -> Result:
        return await super().run("setpriv", "--bounding-set=-net_admin", *command, text=text, keep=keep)


async def test_it_is_looked_at_again_only_after_a_change_of_any_table(street: Street) -> None:
    class Counting(Commands):
        looks = 0

        async def list_table(
            self, family: str, table: str, *enter: str, keep: int | None = None
        ) -> list[Object] | None:
            self.looks += family == "ip"
            return await super().list_table(family, table, *enter, keep=keep)

    commands = Counting()
    fence = NftFence("test", commands=commands)
    await fence.put(PRIVATE)
    assert [await fence.observe() for _ in range(3)] == [PRIVATE] * 3
    before = commands.looks
    assert await fence.observe() == PRIVATE
    assert commands.looks == before
    run("nft", "add", "table", "ip", "other")
    assert await fence.observe() == PRIVATE
    assert commands.looks == before + 1
    run("nft", "delete", "table", "ip", TABLE)
    assert (await fence.observe()).torn
