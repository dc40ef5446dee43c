"""Every check as a table: what was seen, and what is said of it. A good node is silent."""

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sidegate import __version__
from sidegate.adapters.docker.client import NEWEST_API
from sidegate.cli.doctor import show
from sidegate.core.model import Container, Endpoint, Network, Problem
from sidegate.core.subnets import free_subnets
from sidegate.doctor.checks import GROUPS, pool, table
from sidegate.doctor.checks.leftovers import ALL_OF
from sidegate.doctor.examination import examine
from sidegate.doctor.findings import FAULT, OK, UNKNOWN, WARNING, Finding
from sidegate.doctor.snapshot import (
    Daemon,
    DaemonStatus,
    Disk,
    Engine,
    File,
    Files,
    Firewall,
    HostRoute,
    Kernel,
    Limits,
    Link,
    Listener,
    Publication,
    Reach,
    RunningDaemon,
    Snapshot,
    Unseen,
    Viewer,
)
from sidegate.settings import Settings
from states import app, database, ours, state

ROOT = Path(__file__).parents[2]
DOCKERS = """\
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-USER -j RETURN
"""
FAST = "-A DOCKER-USER -i sg-+ -o sg-+ -m physdev --physdev-is-bridged -m comment --comment {} -j ACCEPT\n"
FENCE: dict[str, object] = {"table": {"family": "ip", "name": "sidegate-sidegate.fence"}}
POOL = IPv4Network("10.213.0.0/16")
STATE = Path("/var/lib/sidegate")
DATABASE = File(STATE / "sidegate.db", 0o600, 0, "root")
GOOD = Snapshot(
    firewall=Firewall(iptables=DOCKERS),
    routes=(
        HostRoute(IPv4Network("0.0.0.0/0"), "eth0"),
        HostRoute(IPv4Network("192.0.2.0/24"), "eth0"),
        HostRoute(IPv4Network("172.17.0.0/16"), "docker0"),
    ),
    links=(Link("lo", "", 65536), Link("eth0"), Link("docker0", "bridge")),
    uplink="eth0",
    engine=Engine(state=state()),
    files=Files(state_dir=File(STATE, 0o700, 0, "root"), state=(DATABASE,)),
)


def status(**changes: object) -> DaemonStatus:
    values = {"version": __version__, "pool": str(POOL), **changes}
    return DaemonStatus(**values)  # type: ignore[arg-type]


UP = Daemon(file="socket", pid=50, status=status())
UNSEEN_FILES = Files(state_dir=Unseen("x"), state=Unseen("x"), control=Unseen("x"), keys=Unseen("x"))
RUNNING = replace(GOOD, daemon=UP, daemons=(RunningDaemon(50, Settings(), frozenset({50, 51})),))


def problems(seen: Snapshot) -> list[Finding]:
    return [finding for finding in examine(seen) if finding.level != OK]


def with_engine(seen: Snapshot = GOOD, **changes: object) -> Snapshot:
    assert isinstance(seen.engine, Engine)
    return replace(seen, engine=replace(seen.engine, **changes))  # type: ignore[arg-type]


def with_networks(*networks: Network, seen: Snapshot = GOOD) -> Snapshot:
    return with_engine(seen, state=state(networks=networks))


def with_containers(*containers: Container, seen: Snapshot = GOOD, published: Iterable[Publication] = ()) -> Snapshot:
    return with_engine(seen, state=state(*containers), publications=tuple(published))


def with_rules(text: str, seen: Snapshot = GOOD, **more: object) -> Snapshot:
    return replace(seen, firewall=Firewall(iptables=text, **more))  # type: ignore[arg-type]


def with_routes(*routes: tuple[str, str], links: Iterable[Link] = ()) -> Snapshot:
    added = tuple(HostRoute(IPv4Network(cidr), device, given=True) for cidr, device in routes)
    assert isinstance(GOOD.routes, tuple)
    assert isinstance(GOOD.links, tuple)
    return replace(GOOD, routes=GOOD.routes + added, links=(*GOOD.links, *links))


def with_settings(seen: Snapshot = GOOD, **changes: object) -> Snapshot:
    return replace(seen, settings=replace(seen.settings, **changes))  # type: ignore[arg-type]


def with_daemon(**changes: object) -> Snapshot:
    return replace(RUNNING, daemon=replace(UP, **changes))  # type: ignore[arg-type]


def theirs(name: str, subnet: str, **changes: object) -> Network:
    return Network(id=f"id-{name}", name=name, subnets=(subnet,), **changes)  # type: ignore[arg-type]


def reached(fault: str, **changes: object) -> Snapshot:
    reach = Reach(fault=fault, **changes)  # type: ignore[arg-type]
    return replace(GOOD, reach=reach, engine=Unseen("the Docker engine does not answer"))


ROWS: list[tuple[str, str, Snapshot, str, str]] = [
    # check, level, what was seen, a part of what is said, a part of the command
    ("settings", FAULT, replace(GOOD, settings_faults=("http_port = 0 (from x): is 0",)), "http_port = 0", ""),
    ("daemon", FAULT, with_daemon(status=status(ready=False)), "not ready", "sidegate status"),
    (
        "daemon",
        FAULT,
        with_daemon(status=status(engine_fault="gone")),
        "lost the engine: gone",
        "",
    ),
    ("daemon", FAULT, with_daemon(status=None, file="other"), "is not a socket", "rm /run/sidegate/control.sock"),
    ("daemon", FAULT, with_daemon(status=None, fault="it did not answer"), "it did not answer", ""),
    ("daemon", FAULT, with_daemon(status=None, file="", holder=77), "process 77 holds /var/lib", "kill 77"),
    ("daemon", UNKNOWN, with_daemon(status=None, fault="you may not use it", denied=True), "you may not", ""),
    (
        "daemon-problems",
        WARNING,
        with_daemon(status=status(problems=(Problem("shop", "is full"),))),
        "shop: is full",
        "",
    ),
    (
        "daemon-problems",
        WARNING,
        with_daemon(status=status(failures=("no",))),
        "could not do everything: no",
        "",
    ),
    ("daemon-version", WARNING, with_daemon(status=status(version="0.0.1")), "version 0.0.1", ""),
    ("daemon-version", WARNING, with_settings(RUNNING, internal_pool=IPv4Network("10.9.0.0/16")), "10.213.0.0/16", ""),
    ("control-socket-stale", WARNING, with_daemon(status=None, stale=True, fault="x"), "left of a daemon", "rm /run"),
    ("engine", FAULT, reached("missing"), "does not run", "systemctl start docker"),
    ("engine", FAULT, reached("missing", installed=False), "none is installed", "apt-get install docker.io"),
    ("engine", FAULT, reached("refused", url="tcp://127.0.0.1:2375"), "nobody listens", "systemctl start docker"),
    ("engine", FAULT, reached("denied", group="docker"), "for the group docker", "usermod -aG docker root"),
    ("engine", FAULT, reached("denied"), "root's alone", "sudo"),
    ("engine", UNKNOWN, replace(reached("denied"), daemons=(RunningDaemon(5),)), "closed to you", ""),
    ("engine", FAULT, reached("silent", said="no reply"), "does not answer (no reply)", "systemctl restart docker"),
    ("engine", FAULT, reached("other", said="ssh"), "ssh", ""),
    ("engine-version", FAULT, with_engine(version="18.06", api="1.38"), "18.06 (API 1.38) is too old", ""),
    ("engine-version", FAULT, with_engine(version="40", api="1.60", least_api="1.50"), f"speaks {NEWEST_API}", ""),
    ("engine-rootless", WARNING, with_engine(rootless=True), "runs without root", ""),
    ("engine-desktop", FAULT, with_engine(desktop=True), "Docker Desktop", "docker compose"),
    (
        "userland-proxy",
        WARNING,
        with_engine(
            replace(GOOD, daemons=(RunningDaemon(9, Settings(), container="own"),)),
            userland_proxy=True,
            publications=(Publication("sidegate", "::", 80, "own"),),
        ),
        "lost their addresses",
        "",
    ),
    ("swarm", WARNING, with_engine(swarm=True), "swarm", ""),
    ("live-restore", WARNING, with_engine(live_restore=False), "stops every container", "systemctl reload docker"),
    ("live-restore", WARNING, with_engine(live_restore=False, config_file=True), "live-restore is off", ""),
    ("ip-forward", FAULT, replace(GOOD, kernel=Kernel(forwarding=False)), "does not forward", "ip_forward=1"),
    ("bridge-nf", WARNING, replace(GOOD, kernel=Kernel(bridge_filter=None)), "not loaded", "modprobe br_netfilter"),
    ("bridge-nf", WARNING, replace(GOOD, kernel=Kernel(bridge_filter=0)), "is 0", "bridge-nf-call-iptables=1"),
    ("conntrack", WARNING, replace(GOOD, kernel=Kernel(flows=81, flows_most=100)), "tracks 81", "conntrack_max=200"),
    ("conntrack", FAULT, replace(GOOD, kernel=Kernel(flows=99, flows_most=100)), "tracks 99", "conntrack_max=200"),
    ("firewall-backend", WARNING, with_engine(firewall="nftables"), "no DOCKER-USER", ""),
    ("docker-user", FAULT, with_rules("-P INPUT ACCEPT\n-P FORWARD DROP\n"), "no chain DOCKER-USER", "restart docker"),
    (
        "docker-user",
        FAULT,
        with_rules(DOCKERS.replace("-A FORWARD -j DOCKER-USER\n", "")),
        "before Docker's DOCKER-USER",
        "iptables -I FORWARD 1 -j DOCKER-USER",
    ),
    (
        "docker-user",
        FAULT,
        with_rules("-P FORWARD DROP\n-N DOCKER-USER\n"),
        "does not lead to DOCKER-USER",
        "iptables -I FORWARD 1 -j DOCKER-USER",
    ),
    (
        "docker-user",
        FAULT,
        with_rules(DOCKERS.replace("-A FORWARD", "-A FORWARD -i eth1 -j REJECT\n-A FORWARD", 1)),
        "`-A FORWARD -i eth1 -j REJECT`",
        "iptables -I FORWARD 1",
    ),
    (
        "forward-policy",
        WARNING,
        with_rules(DOCKERS.replace("FORWARD DROP", "FORWARD ACCEPT")),
        "ports of containers that nobody published",
        "iptables -P FORWARD DROP",
    ),
    (
        "kernel-forwarder",
        WARNING,
        with_rules(DOCKERS + "-A INPUT -s 203.0.113.0/24 -j DROP\n"),
        "INPUT chain does more than accept",
        "",
    ),
    (
        "kernel-forwarder",
        WARNING,
        with_rules(DOCKERS, legacy="-P INPUT DROP\n"),
        "INPUT chain does more than accept",
        "",
    ),
    (
        "kernel-forwarder",
        WARNING,
        with_rules(
            DOCKERS,
            ruleset=({"chain": {"family": "inet", "table": "mine", "name": "in", "hook": "input", "policy": "drop"}},),
        ),
        "inet mine in",
        "",
    ),
    (
        "kernel-forwarder",
        FAULT,
        with_settings(with_rules(DOCKERS + "-A INPUT -s 203.0.113.0/24 -j DROP\n"), forwarder="kernel"),
        'forwarder is "kernel"',
        "",
    ),
    (
        "inbound",
        WARNING,
        with_settings(
            with_rules(DOCKERS.replace("INPUT ACCEPT", "INPUT DROP") + "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n"),
            forwarder="userspace",
        ),
        "none names port 443, 30000-30999",
        "iptables -I INPUT -p tcp -m multiport --dports 443,30000:30999 -j ACCEPT",
    ),
    (
        "inbound",
        WARNING,
        with_settings(with_rules(DOCKERS, manager="ufw"), forwarder="userspace"),
        "ufw lets in",
        "ufw allow proto tcp to any port 80,443,30000:30999",
    ),
    (
        "inbound",
        WARNING,
        with_settings(with_rules(DOCKERS + "-A INPUT -j REJECT\n"), forwarder="userspace"),
        "the INPUT chain lets in",
        "multiport",
    ),
    (
        "pool-routes",
        WARNING,
        with_routes(("10.213.4.0/24", "eth1")),
        "routes 10.213.4.0/24 to eth1",
        "ip route del 10.213.4.0/24 dev eth1",
    ),
    ("pool-vpn", WARNING, with_routes(("10.213.0.0/17", "tun3")), "the VPN device tun3", "ip link set tun3 down"),
    (
        "pool-vpn",
        WARNING,
        with_routes(("10.213.9.9/32", "office"), links=[Link("office", "wireguard", 1420)]),
        "the VPN device office has 10.213.9.9/32",
        "ip link set office down",
    ),
    ("pool-networks", WARNING, with_networks(theirs("lan", "10.213.3.0/24")), "Docker's network lan", "network rm lan"),
    (
        "docker-pools",
        WARNING,
        with_engine(pools=((IPv4Network("10.50.0.0/23"), 24),)),
        "have 2 networks left",
        "docker network prune",
    ),
    (
        "mtu",
        WARNING,
        replace(
            with_networks(replace(ours("sidegate--shop", "10.213.0.0/27", "shop"), internal=False), seen=RUNNING),
            links=(Link("eth0", "", 1400),),
            firewall=Firewall(iptables=DOCKERS + FAST.format("sidegate:sidegate"), ruleset=(FENCE,)),
        ),
        "sidegate--shop: packets have up to 1500 bytes, and eth0 takes 1400",
        "",
    ),
    (
        "http-ports",
        FAULT,
        replace(GOOD, listeners=(Listener(80, "nginx (pid 812)", 812),)),
        "port 80 (http_port) is held by nginx (pid 812)",
        "kill 812",
    ),
    ("http-ports", FAULT, replace(GOOD, listeners=(Listener(443),)), "only root can see", "ss -ltnp 'sport = :443'"),
    (
        "http-ports",
        FAULT,
        with_containers(published=[Publication("web", "0.0.0.0", 80, "id-web")]),
        "container web publishes port 80",
        "docker stop web",
    ),
    (
        "other-ports",
        FAULT,
        with_settings(replace(GOOD, listeners=(Listener(9913, "nc (pid 9)", 9),)), metrics_listen="127.0.0.1:9913"),
        "port 9913 (metrics_listen) is held by nc (pid 9)",
        "kill 9",
    ),
    (
        "external-ports",
        WARNING,
        replace(GOOD, listeners=(Listener(30007, "nc (pid 9)", 9),)),
        "30007 by nc (pid 9)",
        "ss -ltnp 'sport >= :30000 and sport <= :30999'",
    ),
    (
        "external-ports",
        WARNING,
        with_containers(published=[Publication("web", "0.0.0.0", 30001, "id-web")]),
        "30001 by container web",
        "ss -ltnp",
    ),
    (
        "outgoing-ports",
        WARNING,
        replace(GOOD, kernel=Kernel(local_ports=range(30500, 61000), reserved_ports=frozenset({8080}))),
        "30500-30999",
        "ip_local_reserved_ports=8080,30500-30999",
    ),
    (
        "databases",
        WARNING,
        with_containers(database("shop-db", endpoints=(), published_ports=(3306,))),
        "shop-db: publishes port 3306 itself",
        "",
    ),
    (
        "databases",
        WARNING,
        with_containers(database("shop-db"), app("shop")),
        "can be reached through bridge without a connection, by shop-1",
        "docker network disconnect bridge shop-db-1",
    ),
    (
        "unlabelled-databases",
        WARNING,
        with_containers(
            Container(id="x", name="old-db", image="mariadb:11"),
            published=[Publication("old-db", "0.0.0.0", 3306, "x")],
        ),
        "old-db runs mariadb and publishes port 3306",
        "",
    ),
    ("labels", WARNING, with_containers(app("shop", labels={"sidegate.prot": "80"})), "did you mean", ""),
    (
        "state-dir",
        FAULT,
        replace(GOOD, files=replace(GOOD.files, state_dir=File(STATE, 0o755, 0, "root"))),
        "mode 0755",
        "chmod 700 /var/lib/sidegate",
    ),
    (
        "state-dir",
        FAULT,
        replace(GOOD, files=replace(GOOD.files, state_dir=File(STATE, 0o700, 1000, "joe"))),
        "belongs to uid 1000",
        "chown 0: /var/lib/sidegate",
    ),
    (
        "state-file",
        FAULT,
        replace(GOOD, files=replace(GOOD.files, state=(replace(DATABASE, mode=0o644),))),
        "it holds passwords",
        "chmod 600 /var/lib/sidegate/sidegate.db",
    ),
    (
        "control-socket",
        FAULT,
        replace(GOOD, files=replace(GOOD.files, control=File(Path("/run/s"), 0o666, 0, "sidegate"))),
        "anybody may drive the daemon",
        "chmod 660 /run/s",
    ),
    (
        "control-socket",
        WARNING,
        replace(GOOD, files=replace(GOOD.files, control=File(Path("/run/s"), 0o600, 0, "sidegate"))),
        "its group may not use it",
        "chmod 660 /run/s",
    ),
    (
        "control-socket",
        WARNING,
        replace(GOOD, files=replace(GOOD.files, control=File(Path("/run/s"), 0o660, 0, "root"))),
        "is for the group root",
        "chgrp sidegate /run/s",
    ),
    (
        "keys",
        FAULT,
        replace(GOOD, files=replace(GOOD.files, keys=(File(Path("/x y.key"), 0o640, 0, "root"),))),
        "it is a private key",
        "chmod 600 '/x y.key'",
    ),
    (
        "disk",
        WARNING,
        replace(GOOD, limits=Limits(disks=(Disk("state_dir", STATE, 5 * 10**9, 10**11),))),
        "the disk of state_dir (/var/lib/sidegate) is nearly full: 5.0 GB left, 5 %",
        "docker system df",
    ),
    (
        "disk",
        FAULT,
        replace(GOOD, limits=Limits(disks=(Disk("state_dir", STATE, 5 * 10**11, 10**12, 10, 1000),))),
        "10 inodes left, 1 %",
        "docker system df",
    ),
    (
        "open-files",
        WARNING,
        with_settings(replace(GOOD, limits=Limits(open_files=1024)), max_connections=1000),
        "may take 2256 open files, and a process may have 1024",
        "",
    ),
    ("open-files", WARNING, replace(GOOD, limits=Limits(open_files=1024)), "about 384 visitors at once", ""),
    (
        "clock",
        WARNING,
        replace(GOOD, limits=Limits(synchronised=False)),
        "not synchronised",
        "timedatectl set-ntp true",
    ),
    (
        "localhost-names",
        WARNING,
        replace(GOOD, unresolved=("blog.localhost", "shop.localhost")),
        "do not lead to this machine",
        "echo '127.0.0.1 blog.localhost shop.localhost' >> /etc/hosts",
    ),
    (
        "localhost-names",
        WARNING,
        replace(GOOD, unresolved=("sidegate-doctor.localhost",)),
        "does not lead to this machine",
        "apt-get install libnss-myhostname",
    ),
    ("tools", WARNING, replace(GOOD, missing_tools=("nft",)), "nft is not installed", "apt-get install nftables"),
    ("capabilities", WARNING, replace(GOOD, viewer=Viewer(lacking=("CAP_KILL",))), "the daemon lacks CAP_KILL", ""),
    (
        "pid-namespace",
        WARNING,
        replace(GOOD, viewer=Viewer(contained=True, host_processes=False)),
        "sees no processes of the host",
        "",
    ),
    (
        "network-namespace",
        WARNING,
        replace(GOOD, viewer=Viewer(contained=True, host_network=False)),
        "a network of its own",
        "",
    ),
    (
        "left-networks",
        WARNING,
        with_networks(ours("other-home--db", "10.99.0.0/27", "db", instance="other")),
        "other-home--db of instance other is left over: no daemon of that instance runs",
        ALL_OF.format(managed="sidegate.managed", label="sidegate.instance", instance="other"),
    ),
    (
        "left-networks",
        WARNING,
        replace(
            with_networks(ours("sidegate-home--db", "10.213.0.0/27", "db")),
            files=replace(GOOD.files, state=()),
        ),
        "/var/lib/sidegate has no state that asks for them",
        "docker network rm",
    ),
    (
        "left-tables",
        WARNING,
        with_rules(DOCKERS, ruleset=({"table": {"family": "ip", "name": "sidegate-sidegate"}},)),
        "sidegate-sidegate is left of instance sidegate",
        "nft delete table ip sidegate-sidegate",
    ),
    (
        "left-fences",
        WARNING,
        with_rules(DOCKERS, ruleset=({"table": {"family": "ip", "name": "sidegate-other.fence"}},)),
        "sidegate-other.fence is left of instance other, which has no network any more",
        "nft delete table ip sidegate-other.fence\nnft delete table ip6 sidegate-other.fence",
    ),
    (
        "left-rules",
        WARNING,
        with_rules(DOCKERS + FAST.format("sidegate:other")),
        "1 rule of instance other",
        "iptables -D DOCKER-USER -i sg-+ -o sg-+ -m physdev --physdev-is-bridged -m comment --comment sidegate:other "
        "-j ACCEPT",
    ),
    (
        "left-copies",
        WARNING,
        with_containers(app("shop", name="shop-1.sidegate-next")),
        "shop-1.sidegate-next of instance sidegate",
        "sidegate run",
    ),
]


def row_id(value: object) -> str:
    return value if isinstance(value, str) and len(value) < 30 else ""


@pytest.mark.parametrize(("check", "level", "seen", "text", "command"), ROWS, ids=row_id)
def test_a_check_says_what_is_wrong_and_what_mends_it(
    check: str, level: str, seen: Snapshot, text: str, command: str
) -> None:
    found = [finding for finding in problems(seen) if finding.check == check]
    assert [(f.level, f.check) for f in found] == [(level, check)]
    assert text in found[0].text
    assert command in found[0].command
    assert bool(command) <= bool(found[0].command)
    if level != UNKNOWN:
        assert found[0].command or found[0].advice


@pytest.mark.parametrize(("check", "level", "seen", "text", "command"), ROWS, ids=row_id)
def test_and_no_other_check_says_anything(check: str, level: str, seen: Snapshot, text: str, command: str) -> None:
    """Where one cause has two effects, both are said."""
    beside = {"kernel-forwarder": {"inbound"}}
    found = {finding.check for finding in problems(seen) if finding.level in (FAULT, WARNING)}
    assert found - {check} - beside.get(check, set()) == set()


@pytest.mark.parametrize("seen", [GOOD, RUNNING, Snapshot(firewall=Firewall(iptables=DOCKERS))])
def test_a_good_node_is_silent(seen: Snapshot) -> None:
    assert problems(seen) == []


def test_every_check_has_a_row() -> None:
    names = {check.name for group in GROUPS for check in group.checks}
    assert names - {row[0] for row in ROWS} == {"pool-room", "our-rules", "firewalld"}  # below


HOSTILE = "-f x\n  rm -rf /srv; $(reboot) '"


@pytest.mark.parametrize(
    "seen",
    [
        with_networks(replace(theirs(HOSTILE, "10.213.3.0/24"), id="0123456789ab")),
        with_networks(theirs("lan", "10.9.0.0/24", labels={"sidegate.managed": "true", "sidegate.instance": HOSTILE})),
        with_engine(
            state=state(
                database("shop-db", endpoints=(Endpoint(HOSTILE, "10.9.0.2"),)),
                app("shop", endpoints=(Endpoint(HOSTILE, "10.9.0.3"),)),
                networks=(replace(theirs(HOSTILE, "10.9.0.0/24"), id="0123456789ab"),),
            )
        ),
        with_containers(published=[Publication(HOSTILE, "0.0.0.0", 80, "id-web")]),
    ],
)
def test_a_name_that_somebody_chose_is_one_word_of_a_command(seen: Snapshot) -> None:
    """As bash reads it; and in the table no line of it begins one."""
    for command in [finding.command for finding in problems(seen) if finding.command]:
        assert not [line for line in command.split("\n") if line.strip().startswith("rm ")]
        script = f"""docker() {{ printf '%s\\0' "$@" >&2; }}\n{command}"""
        words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stderr.split("\0")
        assert not {"-f", "x", "reboot"} & set(words)
    shown = CliRunner().invoke(click.Command("x", callback=lambda: show(examine(seen), verbose=False))).output
    assert not [line for line in shown.splitlines() if line.strip().startswith("rm ")]


def test_the_pool_s_room_is_not_counted_to_its_end() -> None:
    """10.0.0.0/8 has two million networks."""
    seen = with_settings(internal_pool=IPv4Network("10.0.0.0/8"), internal_subnet=29)
    given = iter(free_subnets(IPv4Network("10.0.0.0/8"), 29, []))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "free_subnets", lambda *_: given)
        assert not [finding for finding in examine(seen) if finding.check == "pool-room" and finding.level != OK]
    assert next(given) < IPv4Network("10.1.0.0/29")


def test_the_first_process_is_never_to_be_killed() -> None:
    seen = replace(GOOD, listeners=(Listener(80, "systemd (pid 1)", 1),))
    assert "kill" not in next(f.command for f in problems(seen) if f.check == "http-ports")


def test_reserved_ports_are_put_together() -> None:
    kernel = Kernel(local_ports=range(30000, 61000), reserved_ports=frozenset(range(29000, 30500)))
    (found,) = [f for f in problems(replace(GOOD, kernel=kernel)) if f.check == "outgoing-ports"]
    assert found.command == "sysctl -w net.ipv4.ip_local_reserved_ports=29000-30999"


def test_names_are_there_once() -> None:
    names = [check.name for group in GROUPS for check in group.checks]
    assert len(set(names)) == len(names)


def test_the_docs_have_the_table() -> None:
    """`python -c 'from sidegate.doctor.checks import table; print(table())'` writes it."""
    assert table() in (ROOT / "docs/doctor.md").read_text()


# --- what takes more than one line --------------------


def test_what_covers_the_whole_pool_is_a_fault() -> None:
    covered = with_routes(("10.0.0.0/8", "eth1"))
    assert {(f.check, f.level) for f in problems(covered)} == {("pool-routes", FAULT), ("pool-room", FAULT)}
    covered = with_networks(theirs("all", "10.212.0.0/15"))
    assert {(f.check, f.level) for f in problems(covered)} == {("pool-networks", FAULT), ("pool-room", FAULT)}


@pytest.mark.parametrize(("used", "level"), [(12, OK), (15, WARNING), (16, FAULT)])
def test_room_in_the_pool(used: int, level: str) -> None:
    pool = IPv4Network("10.213.0.0/23")
    networks = [ours(f"sidegate-a--b{n}", str(subnet), "a") for n, subnet in enumerate(pool.subnets(new_prefix=27))]
    seen = with_settings(with_networks(*networks[:used]), internal_pool=pool)
    assert [f.level for f in examine(seen) if f.check == "pool-room"] == [level]


def test_another_instance_in_the_pool_is_told_to_have_its_own() -> None:
    seen = with_networks(ours("other-a--b", "10.213.0.0/27", "a", instance="other"))
    seen = replace(seen, daemons=(RunningDaemon(9, replace(Settings(), instance="other")),))
    assert [(f.check, f.command) for f in problems(seen)] == [("pool-networks", "")]


def test_routes_of_the_engine_and_of_ours_are_nobody_s() -> None:
    seen = with_routes(("10.213.0.0/27", "sg-0123456789ab"), ("10.213.1.0/27", "br-1"), ("10.213.1.1/32", "br-1"))
    assert problems(seen) == []


def test_our_rules_while_the_daemon_runs() -> None:
    """Missing ones are told of; a daemon that may not use iptables says so itself."""
    kernel = Daemon(file="socket", pid=50, status=status(kernel=True))
    bare = replace(with_networks(ours("sidegate-a--b", "10.213.0.0/27", "a"), seen=RUNNING), daemon=kernel)
    assert [f.check for f in problems(bare)] == ["our-rules"] * 4
    rules = DOCKERS + FAST.format("sidegate:sidegate") + FAST.format("sidegate:sidegate:external")
    whole = with_rules(rules, bare, ruleset=({"table": {"family": "ip", "name": "sidegate-sidegate"}}, FENCE))
    assert problems(whole) == []
    stopped = replace(whole, daemon=GOOD.daemon, daemons=())
    assert "left-fences" not in [f.check for f in problems(stopped)]
    unable = replace(bare, viewer=Viewer(lacking=("CAP_NET_ADMIN",)))
    assert [f.check for f in problems(unable)] == ["capabilities"]
    users = replace(bare, daemon=replace(kernel, uid=1000))
    assert "our-rules" not in [f.check for f in problems(users)]


def test_firewalld() -> None:
    seen = with_rules(DOCKERS + "-A INPUT -p tcp -m multiport --dports 80,443,30000:30999 -j ACCEPT\n", GOOD)
    assert isinstance(seen.firewall, Firewall)
    active = with_settings(replace(seen, firewall=replace(seen.firewall, manager="firewalld")), forwarder="userspace")
    assert [(f.check, f.level) for f in problems(active)] == [("firewalld", WARNING)]


def test_a_daemon_s_own_listeners_are_no_strangers() -> None:
    """By its family; a holder that cannot be seen is taken for it where it answers."""
    held = tuple(Listener(port, "python (pid 51)", 51) for port in (80, 443, 30000))
    assert problems(replace(RUNNING, listeners=held)) == []
    unseen = tuple(Listener(port) for port in (80, 443, 30000))
    assert problems(replace(RUNNING, daemons=Unseen("x"), listeners=unseen)) == []
    published = [Publication("sidegate", "0.0.0.0", 80, "id-own")]
    inside = replace(with_containers(published=published), daemons=(RunningDaemon(9, Settings(), container="id-own"),))
    assert problems(replace(inside, listeners=(Listener(80, "docker-proxy (pid 8)", 8),))) == []


def test_what_a_daemon_says_of_databases_is_said_once() -> None:
    seen = with_containers(database("shop-db", endpoints=(), published_ports=(3306,)), seen=RUNNING)
    text = "publishes port 3306 itself, past Sidegate's switch: run shop-db-1 without -p"
    told = status(problems=(Problem("shop-db", text),))
    assert [f.check for f in problems(replace(seen, daemon=replace(UP, status=told)))] == ["databases"]


def test_a_database_in_reach_of_loopback_alone_is_silent() -> None:
    container = Container(id="x", name="dev-db", image="postgres:16")
    assert problems(with_containers(container, published=[Publication("dev-db", "127.0.0.1", 5432, "x")])) == []


def test_things_of_a_daemon_that_runs_are_not_left_over() -> None:
    other = (RunningDaemon(9, replace(Settings(), instance="other")),)
    seen = with_networks(ours("other-home--db", "10.99.0.0/27", "db", instance="other"))
    assert problems(replace(seen, daemons=other)) == []
    unsure = problems(replace(seen, daemons=(RunningDaemon(9),)))
    assert [(f.check, f.level) for f in unsure] == [("left-networks", UNKNOWN)]


def test_networks_of_a_daemon_that_is_stopped_are_wanted_while_there_is_state() -> None:
    assert problems(with_networks(ours("sidegate-home--db", "10.213.0.0/27", "db"))) == []


@pytest.mark.parametrize(
    "blind",
    [
        lambda seen: replace(seen, engine=Unseen("no engine", "start it")),
        lambda seen: replace(seen, firewall=Unseen("root only", "sudo")),
        lambda seen: replace(seen, kernel=Unseen("x"), routes=Unseen("x"), links=Unseen("x")),
        lambda seen: replace(seen, daemons=Unseen("x"), files=UNSEEN_FILES),
    ],
)
def test_what_could_not_be_seen_is_said_and_no_fault(blind: Callable[[Snapshot], Snapshot]) -> None:
    networks = (ours("other-home--db", "10.99.0.0/27", "db", instance="other"),)
    found = problems(blind(with_networks(*networks, seen=RUNNING)))
    assert found
    assert {f.level for f in found} <= {UNKNOWN, WARNING}
    assert any(f.level == UNKNOWN for f in found)


def test_an_endpoint_at_home_is_no_exposure() -> None:
    home = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
    at_home = database("shop-db", endpoints=(Endpoint("sidegate-home--shop-db", "10.213.0.2"),))
    seen = with_engine(RUNNING, state=state(at_home, app("shop"), networks=(home,)))
    rules = with_rules(DOCKERS + FAST.format("sidegate:sidegate"), seen, ruleset=(FENCE,))
    assert problems(rules) == []
