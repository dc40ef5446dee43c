"""`sidegate doctor` on a node of its own, engine, network and all: silent while nothing is wrong, and finds what is.

Faults are planted together: each check has to find its own beside all others, and what is pasted has to mend it.
"""

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e import forms
from e2e.node import SIDEGATE, Node, enter, need_engine, run, running, wait_for
from e2e.private_engine import PrivateEngine, private_engine

NAME = "sgdoctor"
HOSTS = "127.0.0.1 localhost sidegate-doctor.localhost\n::1 localhost\n"
WITH_HOSTS = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
LISTEN = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))):
    print(flush=True)
    sys.stdin.read()
"""
BAD = ("fault", "warning")


@dataclass(frozen=True)
class Examined:
    status: int
    findings: Sequence[Mapping[str, str]]

    def levels(self, *levels: str) -> dict[str, str]:
        """Check -> its level, of those at these levels."""
        return {f["check"]: f["level"] for f in self.findings if f["level"] in levels}

    def commands(self, check: str) -> list[str]:
        return [f["command"] for f in self.findings if f["check"] == check and f["level"] in BAD]


class House:
    """A node with its engine, all in one network namespace, with names of its own."""

    def __init__(self, node: Node, engine: PrivateEngine) -> None:
        self.node, self.engine = node, engine
        self.hosts = node.directory / "hosts"
        self.hosts.write_text(HOSTS)
        self.environ = dict(node.environ)

    def run(self, *command: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command in the namespace, with our own /etc/hosts."""
        words = [*enter(NAME), "unshare", "-m", "sh", "-c", WITH_HOSTS, "sh", str(self.hosts), *command]
        return run(*words, check=check, env=self.environ | environ)

    def paste(self, lines: str) -> str:
        return self.run("sh", "-e", "-c", lines).stdout

    def doctor(self, program: Sequence[str] = (SIDEGATE,), **environ: str) -> Examined:
        done = self.run(*program, "doctor", "--json", check=False, **environ)
        assert done.returncode in (0, 1) and done.stdout, done.stderr
        return Examined(done.returncode, json.loads(done.stdout)["findings"])

    @contextlib.contextmanager
    def listener(self, port: int) -> Iterator[int]:
        """A process that holds a port; its pid."""
        words = [*enter(NAME), sys.executable, "-c", LISTEN, str(port)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            yield process.pid
            process.communicate()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    need_engine()
    directory = Path(tmp_path_factory.mktemp("doctor"))
    with private_engine(directory, NAME, image="") as engine:
        node = Node(directory, NAME, pool="10.233.0.0/17", ports="31900-31999", docker=engine.url, namespace=NAME)
        made = House(node, engine)
        # as on a host where Docker is what switched forwarding on
        made.paste("iptables -P FORWARD DROP; sysctl -qw net.ipv4.ip_local_port_range='40000 60999'")
        made.paste(f"tar -hc {' '.join(sleep_files())} | docker import - mariadb >/dev/null")
        with running(node):
            yield made


def sleep_files() -> list[str]:
    """A program for containers, and what it is linked with: all that an image needs."""
    return ["/bin/sleep", *re.findall(r"(/\S+)", run("ldd", "/bin/sleep").stdout)]


@dataclass(frozen=True)
class Fault:
    """What is planted (`{state}`, `{run}` are the daemon's directories), the level at which `check` finds it, and how
    it goes where it is not mended by what was found (None: by the command that was found)."""

    check: str
    level: str
    plant: str
    undo: str | None = None


OURS = f"--label sidegate.instance={NAME}"
BESIDE_A_DAEMON = [
    Fault("ip-forward", "fault", "sysctl -qw net.ipv4.ip_forward=0"),
    Fault("bridge-nf", "warning", "sysctl -qw net.bridge.bridge-nf-call-iptables=0"),
    Fault(
        "pool-routes",
        "warning",
        "ip link add sgdummy type bridge; ip link set sgdummy up; ip route add 10.233.40.0/24 dev sgdummy",
    ),
    Fault(
        "pool-vpn",
        "warning",
        "ip tuntap add tun9 mode tun; ip link set tun9 up; ip addr add 10.233.41.1/24 dev tun9",
    ),
    Fault("pool-networks", "warning", "docker network create --subnet 10.233.42.0/24 theirs"),
    Fault("outgoing-ports", "warning", "sysctl -qw net.ipv4.ip_local_port_range='31000 60999'"),
    Fault(
        "databases",
        "warning",
        f"docker run -d --name open-db {OURS} --label sidegate.database=open-db --label sidegate.engine=mariadb "
        "-p 3306:3306 mariadb sleep 600",
        undo="docker rm -f open-db",
    ),
    Fault(
        "unlabelled-databases",
        "warning",
        "docker network create alone; docker run -d --name old-db --network alone -p 3307:3306 mariadb sleep 600",
        undo="docker rm -f old-db; docker network rm alone",
    ),
    Fault("state-dir", "fault", "chmod 755 {state}"),
    Fault("state-file", "fault", "chmod 644 {state}/sidegate.db"),
    Fault("control-socket", "fault", "chmod 666 {run}/control.sock"),
    Fault("keys", "fault", "chmod 640 {state}/authority/authority.pem"),
    Fault("localhost-names", "warning", "echo 127.0.0.1 localhost >/etc/hosts", undo=f"printf '{HOSTS}' >/etc/hosts"),
    Fault(
        "left-networks",
        "warning",
        "docker network create --internal --label sidegate.managed=true --label sidegate.instance=sggone gone-a--b; "
        "docker create --network gone-a--b --name member mariadb sleep 600",
    ),
    Fault("left-tables", "warning", "nft add table ip sidegate-sggone"),
    Fault(
        "left-fences",
        "warning",
        "nft add table ip sidegate-sgfenced.fence; nft add table ip6 sidegate-sgfenced.fence",
    ),
    Fault("left-rules", "warning", "iptables -I DOCKER-USER -m comment --comment sidegate:sggone -j RETURN"),
    Fault(
        "left-copies",
        "warning",
        "docker create --label sidegate.instance=sggone --name shop.sidegate-next mariadb sleep 600",
        undo="docker rm -f shop.sidegate-next",
    ),
    # last: an engine that makes a network puts it back
    Fault("docker-user", "fault", "while iptables -D FORWARD -j DOCKER-USER 2>/dev/null; do :; done"),
]
WITHOUT_A_DAEMON = [
    Fault("control-socket-stale", "warning", ""),  # kill -9 leaves it
    Fault("forward-policy", "warning", "iptables -P FORWARD ACCEPT"),
    Fault("kernel-forwarder", "warning", "iptables -A INPUT -i eth7 -j DROP", undo="iptables -D INPUT -i eth7 -j DROP"),
    Fault("inbound", "warning", "iptables -A INPUT -j DROP", undo="iptables -D INPUT -j DROP"),
    Fault("left-tables", "warning", f"nft add table ip sidegate-{NAME}"),
    Fault("left-rules", "warning", f"iptables -I DOCKER-USER -m comment --comment sidegate:{NAME} -j RETURN"),
]


def found(faults: Sequence[Fault]) -> dict[str, str]:
    return {fault.check: fault.level for fault in faults}


def test_a_good_node_is_silent(house: House) -> None:
    """With a daemon, as root and as somebody who may see little; in a table it is one line."""
    good = house.doctor()
    assert good.levels("fault", "warning", "unknown") == {}
    assert good.status == 0
    shown = house.run(SIDEGATE, "doctor", "--table").stdout
    assert shown == f"nothing is wrong; {len(good.findings)} checks in order (--verbose shows them)\n"


def test_what_cannot_be_seen_is_said_and_is_no_fault(house: House) -> None:
    stranger = ["setpriv", f"--reuid={forms.USER}", f"--regid={forms.USER}", "--clear-groups"]
    little = house.doctor([*stranger, forms.user_python(), "-P", "-m", "sidegate"])
    assert little.levels(*BAD) == {}
    assert little.status == 0
    unknown = little.levels("unknown")
    assert {"engine", "daemon", "docker-user", "left-tables", "databases"} <= set(unknown)
    assert {"ip-forward", "pool-routes", "localhost-names", "tools"}.isdisjoint(unknown)


def test_each_planted_fault_is_found_beside_a_daemon_and_mended_by_its_command(house: House) -> None:
    """Must show 4."""
    places = {"state": house.environ["SIDEGATE_STATE_DIR"], "run": house.environ["SIDEGATE_RUNTIME_DIR"]}
    with house.listener(31905):
        for fault in BESIDE_A_DAEMON:
            house.paste(fault.plant.format(**places))
        wait_for("the daemon knows the database", lambda: bool(house.node.json("db", "ls")))
        sick = house.doctor()
    assert sick.levels(*BAD) == {**found(BESIDE_A_DAEMON), "external-ports": "warning"}
    assert sick.status == 1
    for fault in BESIDE_A_DAEMON:
        for command in [fault.undo] if fault.undo else sick.commands(fault.check):
            assert command, fault.check
            house.paste(command)
    wait_for("the daemon has forgotten the database", lambda: not house.node.problems())
    assert house.doctor().levels(*BAD) == {}
    assert house.paste("docker inspect -f '{{len .NetworkSettings.Networks}}' member") == "0\n"  # and it can start
    house.paste("docker rm member; ip link del sgdummy; ip link del tun9")


def test_and_what_a_daemon_that_was_killed_leaves(house: House) -> None:
    house.node.stop(signal.SIGKILL)
    with house.listener(house.node.http_port) as pid:
        for fault in WITHOUT_A_DAEMON:
            house.paste(fault.plant)
        sick = house.doctor()
        assert sick.commands("http-ports") == [f"kill {pid}"]
    assert sick.levels(*BAD) == {**found(WITHOUT_A_DAEMON), "http-ports": "fault"}
    for fault in WITHOUT_A_DAEMON:
        for command in sick.commands(fault.check) if fault.undo is None else [fault.undo]:
            house.paste(command)
    assert house.doctor().levels(*BAD) == {}


def test_what_is_wrong_with_the_settings_and_what_they_name(house: House, tmp_path: Path) -> None:
    """A pool that somebody has, a full disk, more visitors than files, commands that are not there."""
    small, tools = tmp_path / "small", tmp_path / "bin"
    small.mkdir()
    tools.mkdir()
    for tool in ("ip", "iptables", "iptables-restore", "ss", "nsenter"):
        (tools / tool).symlink_to(f"/usr/sbin/{tool}" if Path(f"/usr/sbin/{tool}").exists() else f"/usr/bin/{tool}")
    wrong = {
        "SIDEGATE_STATE_DIR": str(small),
        "SIDEGATE_INTERNAL_POOL": "172.17.0.0/17",
        "SIDEGATE_MAX_CONNECTIONS": "9000000",
        "SIDEGATE_RUNTIME_DIR": str(tmp_path / "run"),
    }
    mounted = ["sh", "-c", 'mount -t tmpfs -o size=1m,mode=700 none "$1" && head -c 990k /dev/zero >"$1/full" && '
               'shift && PATH="$1" && shift && exec "$@"', "sh", str(small), str(tools)]  # fmt: skip
    sick = house.doctor([*mounted, SIDEGATE], **wrong).levels(*BAD)
    assert sick == {
        "pool-networks": "fault",
        "pool-room": "fault",
        "disk": "fault",
        "open-files": "warning",
        "tools": "warning",
    }
