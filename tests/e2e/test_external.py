"""External connections on a real engine: off by default, switched by hand, gone at once."""

import os
import pty
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from e2e.node import PASSWORD, Node, outside_host, run, wait_for


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    with outside_host("sgoutside") as name:
        yield name


def typed(namespace: str, command: str, secret: str) -> tuple[int, str]:
    """Paste a command line on another host's terminal and type the password when asked."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("ip", ["ip", "netns", "exec", namespace, *shlex.split(command)])
    output = b""
    try:
        while b"password:" not in output.lower():
            output += os.read(terminal, 4096)
        os.write(terminal, secret.encode() + b"\n")
        while chunk := os.read(terminal, 4096):
            output += chunk
    except OSError:
        pass  # the terminal's other end has closed: the client is done
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode()


def login(namespace: str, port: int, statement: str) -> subprocess.CompletedProcess[str]:
    command = ["mariadb", "-h", "198.51.100.1", "-P", str(port), "-u", "shop", "-N", "-e", statement, "shop"]
    return run("ip", "netns", "exec", namespace, *command, check=False, env=os.environ | {"MYSQL_PWD": PASSWORD})


def test_off_by_default_on_by_hand_and_the_printed_line_logs_in(node: Node, shop_db: str, outside: str) -> None:
    """R2, R6, R38, must show 3: Debian's client from another host, with the command line as printed."""
    assert node.json("external", "show", "shop-db")["enabled"] is False
    node.cli("external", "on", "shop-db")
    shown = node.json("external", "show", "shop-db")
    assert shown["enabled"] is True
    command = shown["command"].replace(f"-h {shown['host']}", "-h 198.51.100.1")
    assert PASSWORD not in shown["command"]
    status, output = typed(outside, f'{command} -e "SELECT word FROM greetings"', PASSWORD)
    assert status == 0, output
    assert "good morning" in output


def test_off_refuses_and_cuts_at_both_ends_and_on_gives_the_same_port(node: Node, shop_db: str, outside: str) -> None:
    """R40, must show 3: sessions idle and in a query are gone at both ends within a second of `off`."""
    port = node.json("external", "on", "shop-db")["port"]
    statements = ("SELECT SLEEP(60)", "SELECT BENCHMARK(2000000000, SHA2('x', 512))")
    clients = [start_client(outside, port, statement) for statement in statements]
    wait_for("both are logged in", lambda: len(node.sessions(shop_db)) == 2)
    assert len(node.json("external", "sessions", "shop-db")) == 2
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.settimeout(2)
        assert idle.recv(4096)  # the server's greeting; the client says nothing
        node.cli("external", "off", "shop-db")
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
    for client in clients:
        assert client.wait(timeout=2) != 0
    wait_for("the server has forgotten them", lambda: node.sessions(shop_db) == [], 2)
    refused = login(outside, port, "SELECT 1")
    assert refused.returncode != 0
    assert "Can't connect" in refused.stderr
    assert node.json("external", "on", "shop-db")["port"] == port
    assert login(outside, port, "SELECT 1").stdout == "1\n"


def start_client(namespace: str, port: int, statement: str) -> subprocess.Popen[bytes]:
    command = ["mariadb", "-h", "198.51.100.1", "-P", str(port), "-u", "shop", "-e", statement, "shop"]
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, *command],
        env=os.environ | {"MYSQL_PWD": PASSWORD},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def test_a_restarted_database_with_a_new_address_works_again_by_itself(node: Node, shop_db: str, outside: str) -> None:
    """Must show 3: the forwarder follows the name, not the address."""
    port = node.json("external", "on", "shop-db")["port"]
    home = node.container("home--shop-db")
    before = set(node.addresses(shop_db))
    with node.paused():  # or it would connect the database again before we choose another address for it
        node.docker("stop", shop_db)
        node.docker("network", "disconnect", home, shop_db)
        subnet = node.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", home)
        address = str(ip_network(subnet)[20])
        node.docker("network", "connect", "--ip", address, home, shop_db)
        node.docker("start", shop_db)
    assert address in set(node.addresses(shop_db)) - before
    wait_for("it takes logins", lambda: login(outside, port, "SELECT 1").stdout == "1\n", 30)


def test_the_switch_survives_a_restart_of_the_daemon(node: Node, shop_db: str, outside: str) -> None:
    """State is intent: on stays on, on the same port, after the daemon was stopped and after it was killed."""
    port = node.json("external", "on", "shop-db")["port"]
    for how in (signal.SIGTERM, signal.SIGKILL):
        node.stop(how)
        wait_for("nobody listens", lambda: "Can't connect" in login(outside, port, "SELECT 1").stderr, 5)
        node.start()
        assert node.json("external", "show", "shop-db")["port"] == port
        wait_for("it serves again", lambda: login(outside, port, "SELECT 1").stdout == "1\n", 5)
    node.cli("external", "off", "shop-db")
    node.stop()
    node.start()
    assert "Can't connect" in login(outside, port, "SELECT 1").stderr


def test_half_a_million_bytes_come_through_whole(node: Node, shop_db: str, outside: str) -> None:
    """Bulk both ways through the userspace forwarder."""
    port = node.json("external", "on", "shop-db")["port"]
    found = login(outside, port, f"SELECT LENGTH(REPEAT('{'x' * 50000}', 10)), REPEAT('y', 500000)").stdout
    assert found == "500000\t" + "y" * 500000 + "\n"
