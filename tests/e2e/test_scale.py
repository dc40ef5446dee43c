"""Two hundred connections, and the fast path that keeps them from slowing each other down."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.node import BASE_IMAGE, Node, run, wait_for
from sidegate.api import schemas
from sidegate.api.client import Client, find_socket

APPS = 21  # 21 apps make 210 pairs
CONNECTIONS = 200


def test_two_hundred_connections_are_made_and_removed_and_nothing_is_left(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    """Must show 8. The times are printed, not asserted."""
    before = set(node.networks())
    names = [f"many{number:02}" for number in range(APPS)]
    containers = [
        node.docker_run(name, "--label", f"sidegate.app={name}", image=BASE_IMAGE, command=["sleep", "infinity"])
        for name in names
    ]
    pairs = list(itertools.combinations(names, 2))[:CONNECTIONS]
    # The control socket itself: four hundred interpreters would take longer to start than all this takes.
    client = Client(find_socket(None, node.environ), seconds=60)

    def connect(pair: tuple[str, str]) -> None:
        client.call("POST", "/v1/connections", schemas.Connected, body=schemas.ConnectRequest(*pair))

    def disconnect(pair: tuple[str, str]) -> None:
        client.call("DELETE", f"/v1/connections/{pair[0]}/{pair[1]}", schemas.Disconnected, query={"env": "remove"})

    try:
        with ThreadPoolExecutor(8) as people:
            began = time.monotonic()
            list(people.map(connect, pairs))
            made = time.monotonic() - began
            assert len(node.json("connections")) == CONNECTIONS
            assert len(set(node.networks()) - before) == CONNECTIONS
            found = run("docker", "exec", containers[0], "getent", "hosts", f"{names[20]}.internal", check=False)
            assert found.returncode == 0
            began = time.monotonic()
            list(people.map(disconnect, pairs))
            removed = time.monotonic() - began
    finally:
        node.docker("rm", "-f", *containers)
    assert set(node.networks()) == before
    assert node.json("connections") == []
    with capsys.disabled():
        print(f"\n{CONNECTIONS} connections: made in {made:.1f} s, removed in {removed:.1f} s, 8 people at once")


INJECT = """
import socket, subprocess, sys
target, gateway, device = sys.argv[1:]
run = lambda *words: subprocess.run(words, check=True)
if sys.argv[2] != "-":
    run("ip", "route", "replace", target, "via", gateway, "dev", device)
else:
    run("ip", "route", "replace", target, "dev", device)
    run("ip", "neigh", "replace", target, "lladdr", "ff:ff:ff:ff:ff:ff", "dev", device)
for source in (0, 5353):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("", source))
        for _ in range(5):
            s.sendto(b"injected", (target, 5353))
s = socket.socket()
s.settimeout(1)
print("reached" if s.connect_ex((target, 8080)) == 0 else "refused")
"""
LISTEN = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5353))
print("listening", flush=True)
while True:
    print(s.recvfrom(100), flush=True)
"""


def test_a_container_cannot_inject_into_another_apps_network(node: Node) -> None:
    """The fast path accepts only what is established: not routed, not broadcast, not with forged neighbours."""
    for name in ("victim", "friend", "evil", "crony"):
        node.app(name, *(["--user", "root", "--cap-add", "NET_ADMIN"] if name == "evil" else []))
    containers = [node.container(name) for name in ("victim", "friend", "evil", "crony")]
    try:
        node.cli("connect", "victim", "friend")
        node.cli("connect", "evil", "crony")
        private = {e["network"]: e for e in node.json("connections")}
        victim_net, evil_net = node.container("friend--victim"), node.container("crony--evil")
        assert {victim_net, evil_net} <= set(private)
        where = '{{(index .NetworkSettings.Networks "%s").%s}}'
        target = node.docker("inspect", "-f", where % (victim_net, "IPAddress"), node.container("victim"))
        gateway = node.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", evil_net)
        own = node.docker("inspect", "-f", where % (evil_net, "IPAddress"), node.container("evil"))
        devices = run("docker", "exec", node.container("evil"), "ip", "-br", "addr").stdout
        device = next(line.split("@")[0].split()[0] for line in devices.splitlines() if own in line)
        node.docker("exec", "-d", node.container("victim"), "sh", "-c", f"python3 -c '{LISTEN}' > /tmp/heard 2>&1")
        wait_for("the victim listens", lambda: heard(node).startswith("listening"))
        for via in (gateway, "-"):
            words = ["docker", "exec", node.container("evil"), "python3", "-c", INJECT, target, via, device]
            assert run(*words).stdout.split()[-1] == "refused"
        friend = "import socket; socket.socket(2, 2).sendto(b'friendly', ('victim.internal', 5353))"
        node.docker("exec", node.container("friend"), "python3", "-c", friend)
        wait_for("the friend is heard", lambda: "friendly" in heard(node))
        assert "injected" not in heard(node)
    finally:
        node.cli("disconnect", "victim", "friend", "--yes", check=False)
        node.cli("disconnect", "evil", "crony", "--yes", check=False)
        node.docker("rm", "-f", *containers)


def heard(node: Node) -> str:
    return node.docker("exec", node.container("victim"), "cat", "/tmp/heard", check=False)


@pytest.mark.needs("the bridge fast path")
def test_the_fast_path_stands_first_and_is_put_back(node: Node, shop_db: str) -> None:
    """Rules are re-read at each pass: others flush and reorder them. Only ours is ever removed."""

    def rules() -> list[str]:
        return run("iptables", "-S", "DOCKER-USER").stdout.splitlines()[1:]

    def leads() -> bool:
        """Daemons on one host are content with any order among themselves."""
        own = itertools.takewhile(lambda rule: "sidegate:" in rule, rules())
        return any(f"sidegate:{node.name}" in rule for rule in own)

    wait_for("it stands first", leads)
    foreign = ["-s", "198.51.100.77/32", "-j", "ACCEPT"]
    run("iptables", "-I", "DOCKER-USER", *foreign)
    try:
        assert "198.51.100.77" in rules()[0]
        node.cli("connect", "anyone", "shop-db")
        wait_for("it stands first again", leads)
        run("iptables", "-F", "DOCKER-USER")
        run("iptables", "-A", "DOCKER-USER", *foreign)
        run("iptables", "-A", "DOCKER-USER", "-j", "RETURN")
        node.cli("disconnect", "anyone", "shop-db", "--yes")
        wait_for("it is back after a flush", leads)
        assert "198.51.100.77" in run("iptables", "-S", "DOCKER-USER").stdout
    finally:
        run("iptables", "-D", "DOCKER-USER", *foreign, check=False)
