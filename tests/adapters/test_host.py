"""The host's commands, tried for real: iptables, sockets and flows in network namespaces made for the purpose."""

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from adapters.test_tools import running
from sidegate.adapters.host import LinuxHost, Route, parse_routes, parse_rules, rule_leads
from sidegate.errors import HostToolError, MissingRightsError

SERIAL = itertools.count(1)
IP = shutil.which("ip") or "ip"  # some tests take the PATH away

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
sg-1a2b3c\t2000D50A\t00000000\t0001\t0\t0\t0\tE0FFFFFF\t0\t0\t0
tun0\t0000000A\t00000000\t0000\t0\t0\t0\t000000FF\t0\t0\t0
"""

RULE = (
    "-i sg-+ -o sg-+ -m physdev --physdev-is-bridged -m conntrack --ctstate ESTABLISHED "
    '-m comment --comment "sidegate:test" -j ACCEPT'
)


def test_routes_are_read() -> None:
    """Routes that are up, with their prefix lengths, the default routes among them."""
    assert parse_routes(ROUTES) == [
        Route("eth1", IPv4Network("0.0.0.0/0"), 100),
        Route("eth0", IPv4Network("0.0.0.0/0"), 0),
        Route("docker0", IPv4Network("172.17.0.0/16"), 0),
        Route("sg-1a2b3c", IPv4Network("10.213.0.32/27"), 0),
    ]


@pytest.mark.parametrize(
    ("rules", "leads"),
    [
        ([RULE, "-j RETURN"], True),
        (["-i sg-+ -m comment --comment sidegate:other -j ACCEPT", RULE], True),
        (["-s 10.0.0.0/8 -j DROP", RULE, "-j RETURN"], False),
        (["-j RETURN"], False),
        ([], False),
        ([RULE.replace("-m physdev --", "-m physdev  --").replace('"', ""), "-j RETURN"], True),
        ([RULE.replace("sidegate:test", "sidegate:test2"), "-j RETURN"], False),
    ],
)
def test_the_rule_must_lead(rules: list[str], leads: bool) -> None:
    """Our rule counts where no stranger's rule stands before it, however iptables spaces and quotes it."""
    listing = "\n".join(["-N DOCKER-USER", *(f"-A DOCKER-USER {rule}" for rule in rules)])
    ours = parse_rules(f"-A DOCKER-USER {RULE}")[0]
    assert rule_leads(parse_rules(listing), ours) is leads


# --- a namespace of our own --------------------


@dataclass(frozen=True)
class Namespace:
    """A network namespace, and a LinuxHost whose commands run in it."""

    name: str
    host: LinuxHost
    proc: Path

    def run(self, *command: str) -> str:
        return subprocess.run(
            (IP, "netns", "exec", self.name, *command), check=True, capture_output=True, text=True
        ).stdout

    def rules(self) -> list[str]:
        return self.run("iptables", "-S", "DOCKER-USER").splitlines()[1:]


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """iptables and conntrack reach LinuxHost by PATH: each enters the namespace and is the real one."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    name = f"sgt{os.getpid()}-{next(SERIAL)}"
    subprocess.run((IP, "netns", "add", name), check=True)
    try:
        tools, proc = tmp_path / "tools", tmp_path / "proc"
        tools.mkdir()
        for tool in ("iptables", "conntrack"):
            (tools / tool).write_text(f'#!/bin/sh\nexec ip netns exec {name} {shutil.which(tool)} "$@"\n')
            (tools / tool).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        (proc / "sys/net/bridge").mkdir(parents=True)
        (proc / "sys/net/bridge/bridge-nf-call-iptables").write_text("1\n")
        (proc / "net").mkdir()
        (proc / "net/route").write_text(ROUTES)
        device = tmp_path / "sys/class/net/eth0"
        device.mkdir(parents=True)
        (device / "mtu").write_text("1450\n")
        yield Namespace(name, LinuxHost("test", proc=proc, sysfs=tmp_path / "sys"), proc)
    finally:
        subprocess.run((IP, "netns", "delete", name), check=True)


async def test_what_is_seen_of_the_host(namespace: Namespace) -> None:
    """Routes but the default ones and our own bridges', the MTU of the best default route, and no DOCKER-USER chain."""
    state = await namespace.host.observe()
    assert state.routes == ("172.17.0.0/16",)
    assert state.mtu == 1450
    assert state.fast_path is None
    assert "DOCKER-USER" in state.fast_path_fault


async def test_the_fast_path_comes_and_goes(namespace: Namespace) -> None:
    """The rule is put at the head once, wherever copies of it stood, and only ours is removed."""
    stranger = "-A DOCKER-USER -s 192.0.2.0/24 -j DROP"
    namespace.run("iptables", "-N", "DOCKER-USER")
    namespace.run("iptables", *stranger.split())
    assert (await namespace.host.observe()).fast_path is False
    await namespace.host.install_fast_path()
    assert (await namespace.host.observe()).fast_path is True
    namespace.run("iptables", *stranger.replace("-A", "-I").split())
    namespace.run("iptables", "-A", "DOCKER-USER", *RULE.replace('"', "").split())
    assert (await namespace.host.observe()).fast_path is False
    await namespace.host.install_fast_path()
    ours = f"-A DOCKER-USER {RULE}"
    assert namespace.rules() == [ours, stranger, stranger]
    neighbour = LinuxHost("other", proc=namespace.proc)
    await neighbour.install_fast_path()
    assert (await namespace.host.observe()).fast_path is True
    for _ in range(2):
        await namespace.host.remove_fast_path()
    assert namespace.rules() == [ours.replace("sidegate:test", "sidegate:other"), stranger, stranger]


async def test_no_use_for_the_fast_path(namespace: Namespace) -> None:
    """Where bridged packets do not meet iptables, or never did, there is neither a rule nor a fault."""
    setting = namespace.proc / "sys/net/bridge/bridge-nf-call-iptables"
    setting.write_text("0\n")
    assert ((await namespace.host.observe()).fast_path, (await namespace.host.observe()).fast_path_fault) == (None, "")
    setting.unlink()
    assert ((await namespace.host.observe()).fast_path, (await namespace.host.observe()).fast_path_fault) == (None, "")


async def test_removing_without_a_chain_is_done(namespace: Namespace) -> None:
    """Without DOCKER-USER there is nothing to remove, and installing says why it cannot."""
    await namespace.host.remove_fast_path()
    with pytest.raises(HostToolError, match="no chain DOCKER-USER"):
        await namespace.host.install_fast_path()


async def test_a_missing_tool_names_its_package(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is not installed is an error that says what to install; looking only shows it as a fault."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "apt-get install iptables" in (await namespace.host.observe()).fast_path_fault
    with pytest.raises(HostToolError, match="apt-get install conntrack"):
        await namespace.host.forget_flows(IPv4Network("10.9.0.0/27"))
    with pytest.raises(HostToolError, match="apt-get install util-linux"):
        await LinuxHost("test").destroy_sockets(os.getpid(), IPv4Network("10.9.0.0/27"))


async def test_a_tool_that_hangs_is_ended(namespace: Namespace, tmp_path: Path) -> None:
    """A host command that does not end is killed at its deadline."""
    tool = tmp_path / "tools/conntrack"
    tool.write_text('#!/bin/sh\nexec tail -f "$0"\n')
    host = LinuxHost("test", deadline=0.3)
    with pytest.raises(HostToolError, match="did not end within"):
        await host.forget_flows(IPv4Network("10.9.0.0/27"))
    assert running(tool) == []


# --- sockets --------------------

SERVER = """
import selectors, socket, sys
listener = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
clients = selectors.DefaultSelector()
clients.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
while True:
    for key, _ in clients.select():
        if key.fileobj is listener:
            client, address = listener.accept()
            client.sendall(b"hello")
            clients.register(client, selectors.EVENT_READ, address[0])
            continue
        try:
            data = key.fileobj.recv(100)
        except OSError:
            data = b""
        if not data:
            print("lost", key.data, flush=True)
            clients.unregister(key.fileobj)
            key.fileobj.close()
"""

CLIENT = """
import socket, sys
client = socket.create_connection(("10.99.0.1", 7000), source_address=(sys.argv[1], 0))
print(client.recv(100).decode(), flush=True)
try:
    print("end" if not client.recv(100) else "data", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
"""


class Program:
    """A Python program in a network namespace, read line by line; killed at the end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, namespace: str, code: str, *arguments: str) -> "Program":
        # nsenter becomes the program, so that its pid is the program's
        command = ("nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-S", "-c", code, *arguments)
        return cls(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


@pytest.fixture
def peer(namespace: Namespace) -> Iterator[str]:
    """Another namespace, wired to `namespace` (10.99.0.1/27) as 10.99.0.2 and 10.99.0.34 (a second subnet)."""
    other = f"{namespace.name}p"
    subprocess.run((IP, "netns", "add", other), check=True)
    try:
        for command in (
            f"link add v0 netns {namespace.name} type veth peer name v1 netns {other}",
            f"-n {namespace.name} address add 10.99.0.1/24 dev v0",
            f"-n {other} address add 10.99.0.2/24 dev v1",
            f"-n {other} address add 10.99.0.34/24 dev v1",
            f"-n {namespace.name} link set v0 up",
            f"-n {other} link set v1 up",
        ):
            subprocess.run((IP, *command.split()), check=True)
        yield other
    finally:
        subprocess.run((IP, "netns", "delete", other), check=True)


async def test_sockets_are_destroyed_at_both_ends(namespace: Namespace, peer: str) -> None:
    """A session of a dual-stack server ends at once at both ends; one from another subnet goes on."""
    host = LinuxHost("test")
    programs = [server := await Program.start(namespace.name, SERVER)]
    try:
        assert await server.line() == "listening"
        programs += [
            gone := await Program.start(peer, CLIENT, "10.99.0.2"),
            kept := await Program.start(peer, CLIENT, "10.99.0.34"),
        ]
        assert (await gone.line(), await kept.line()) == ("hello", "hello")
        await host.destroy_sockets(server.process.pid, IPv4Network("10.99.0.0/27"))
        assert await gone.line() == "Connection reset by peer"
        assert await server.line() == "lost ::ffff:10.99.0.2"
        await host.destroy_sockets(server.process.pid, IPv4Network("10.99.0.0/27"))
        left = namespace.run("ss", "-Htn", "state", "established").splitlines()
        assert len(left) == 1
        assert "10.99.0.34" in left[0]
        await kept.end()
        assert await server.line() == "lost ::ffff:10.99.0.34"
        await server.end()
        await host.destroy_sockets(server.process.pid, IPv4Network("10.99.0.0/27"))
    finally:
        for program in programs:
            await program.end()


async def test_flows_are_forgotten(namespace: Namespace, peer: str) -> None:
    """conntrack entries from and to a subnet go, others stay, and none at all is fine."""
    namespace.run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    programs = [server := await Program.start(namespace.name, SERVER)]
    try:
        assert await server.line() == "listening"
        for address in ("10.99.0.2", "10.99.0.34"):
            programs.append(client := await Program.start(peer, CLIENT, address))
            assert await client.line() == "hello"
        assert len(namespace.run("conntrack", "-L").splitlines()) == 2
        await namespace.host.forget_flows(IPv4Network("10.99.0.64/27"))  # neither end of any
        await namespace.host.forget_flows(IPv4Network("10.99.0.2/32"))
        left = namespace.run("conntrack", "-L").splitlines()
        assert len(left) == 1
        assert "src=10.99.0.34" in left[0]
        await namespace.host.forget_flows(IPv4Network("10.99.0.1/32"))  # as destination
        assert namespace.run("conntrack", "-L") == ""
    finally:
        for program in programs:
            await program.end()


# --- processes --------------------


async def test_a_process_is_known_by_its_start(tmp_path: Path) -> None:
    """Alive while it runs; not when it ended, became a zombie, or its pid is another's; unknown if never seen."""
    process = await asyncio.create_subprocess_exec("sleep", "600")
    host = LinuxHost("test")
    try:
        assert host.alive(process.pid) is True
    finally:
        process.kill()
        await process.wait()
    assert host.alive(process.pid) is False
    assert LinuxHost("test").alive(process.pid) is None
    assert host.alive(0) is False

    stat = tmp_path / "77/stat"
    stat.parent.mkdir()
    told = LinuxHost("test", proc=tmp_path)

    def write(state: str, start: int) -> None:
        stat.write_text(f"77 (a b) c) {state} 1 77 77 0 -1 4194560 1 0 0 0 0 1 0 0 20 0 1 0 {start} 2560000\n")

    write("S", 500)
    assert told.alive(77) is True
    write("Z", 500)
    assert told.alive(77) is False
    write("S", 900)
    assert told.alive(77) is False
    told.remember([78])
    assert told.alive(78) is None
    assert told.alive(77) is True


async def test_a_process_that_cannot_be_seen_is_no_success() -> None:
    """Sockets of a process in a pid namespace that we do not see cannot be destroyed, and that is said."""
    with socket.socket() as unrelated:
        unrelated.bind(("127.0.0.1", 0))
        with pytest.raises(HostToolError, match="pid namespace"):
            await LinuxHost("test").destroy_sockets(2**22 + 1, IPv4Network("10.99.0.0/27"))


@pytest.mark.parametrize(
    ("capabilities", "lacking"),
    [
        ("000001ffffffffff", ""),
        ("0000000000201000", ""),
        ("0000000000200000", "CAP_NET_ADMIN"),
        ("0000000000001000", "CAP_SYS_ADMIN"),
        ("0000000000000000", "CAP_NET_ADMIN and CAP_SYS_ADMIN"),
    ],
)
async def test_what_it_takes_to_destroy_sockets_is_said_and_nothing_tried_without(
    tmp_path: Path, capabilities: str, lacking: str
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(f"Name:\tsidegate\nCapEff:\t{capabilities}\n")
    host = LinuxHost("test", proc=tmp_path)
    fault = (await host.observe()).cut_fault
    assert fault.rpartition("with ")[2] == lacking
    if lacking:
        with pytest.raises(MissingRightsError, match=lacking):
            (tmp_path / "77").mkdir()
            (tmp_path / "77/stat").write_text("77 (x) S" + " 0" * 18 + " 500 0\n")
            await host.destroy_sockets(77, IPv4Network("10.9.0.0/27"))
