"""A host of its own in network namespaces: Docker's firewall, a database behind it, clients outside.

client 198.51.100.2-9  ──veth──  node 198.51.100.1 │ sg-lab 10.77.0.1/27  ──veth──  database 10.77.0.2
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SERIAL = itertools.count(1)
IP = shutil.which("ip") or "ip"  # some tests take the PATH away
PUBLIC, HOME, GATEWAY = "198.51.100.1", "10.77.0.2", "10.77.0.1"
CLIENTS = ("198.51.100.2", "198.51.100.3", "198.51.100.4")

DOCKER = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-ISOLATION-STAGE-1 ! -s 10.77.0.0/27 -o sg-lab -j DROP
-A DOCKER-ISOLATION-STAGE-1 ! -d 10.77.0.0/27 -i sg-lab -j DROP
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""
"""What Docker 20.10 has for one internal network."""

SERVER = """
import selectors, socket, sys
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
clients = selectors.DefaultSelector()
clients.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
while True:
    for key, _ in clients.select():
        if key.fileobj is listener:
            client, address = listener.accept()
            client.sendall(f"hello {address[0].removeprefix('::ffff:')} {address[1]}\\n".encode())
            clients.register(client, selectors.EVENT_READ)
            continue
        try:
            data = key.fileobj.recv(65536)
            key.fileobj.sendall(data)
        except OSError:
            data = b""
        if not data:
            clients.unregister(key.fileobj)
            key.fileobj.close()
"""
"""Greets, as MySQL does, then echoes; it has no clock and never closes by itself."""

HAMMER = """
import socket, sys, time
address, port = sys.argv[1], int(sys.argv[2])
print("hammering", flush=True)
while True:
    try:
        with socket.create_connection((address, port), timeout=2) as client:
            client.recv(100)
            client.sendall(b"x" * 1000)
            client.recv(1000)
    except OSError:
        pass
    time.sleep(0.005)
"""
"""Sessions, one after the other, for ever."""


def run(*command: str, check: bool = True, text: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, input=text)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread lives in a network namespace: the sockets that it makes, the commands that it starts."""
    with Path("/proc/thread-self/ns/net").open() as here, Path(f"/run/netns/{namespace}").open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Host:
    """The namespaces of one test. The test itself, and what it starts, lives on the node meanwhile."""

    def __init__(self) -> None:
        self.name = f"sgf{os.getpid()}-{next(SERIAL)}"
        self.client, self.database = f"{self.name}c", f"{self.name}d"
        self.programs: list[subprocess.Popen[str]] = []

    def build(self) -> None:
        for name in (self.name, self.client, self.database):
            run(IP, "netns", "add", name)
            run(IP, "-n", name, "link", "set", "lo", "up")
        for command in (
            f"link add out netns {self.name} type veth peer name out netns {self.client}",
            f"link add db netns {self.name} type veth peer name home netns {self.database}",
            f"-n {self.name} link add sg-lab type bridge",
            f"-n {self.name} link set db master sg-lab",
            f"-n {self.name} address add {GATEWAY}/27 dev sg-lab",
            f"-n {self.name} address add {PUBLIC}/24 dev out",
            f"-n {self.database} address add {HOME}/27 dev home",
            *(f"-n {self.client} address add {address}/24 dev out" for address in CLIENTS),
            *(f"-n {self.name} link set {device} up" for device in ("out", "db", "sg-lab")),
            f"-n {self.client} link set out up",
            f"-n {self.database} link set home up",
        ):
            run(IP, *command.split())

    def docker_starts(self) -> None:
        run("iptables-restore", "--noflush", text=DOCKER)

    def start(self, namespace: str, code: str, *arguments: str) -> int:
        """A Python program in a namespace, from its first line on; its pid."""
        enter = ("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{namespace}")
        program = subprocess.Popen(
            (*enter, sys.executable, "-S", "-c", code, *arguments), stdout=subprocess.PIPE, text=True
        )
        self.programs.append(program)
        assert program.stdout is not None
        assert program.stdout.readline()
        return program.pid

    def start_database(self) -> int:
        return self.start(self.database, SERVER, "3306")

    def end(self, pid: int) -> None:
        program = next(program for program in self.programs if program.pid == pid)
        self.programs.remove(program)
        program.kill()
        program.communicate()

    async def connect(self, port: int, client: str = CLIENTS[0], to: str = PUBLIC) -> socket.socket:
        """A session from outside, greeted; OSError where it is refused."""
        with inside(self.client):
            sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.bind((client, 0))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(10):
                await loop.sock_connect(sock, (to, port))
                assert (await loop.sock_recv(sock, 100)).startswith(b"hello")
        except BaseException:
            sock.close()
            raise
        return sock

    async def connects(self, port: int, client: str = CLIENTS[0]) -> bool:
        try:
            (await self.connect(port, client)).close()
        except ConnectionRefusedError:
            return False
        return True

    def flows(self) -> list[str]:
        """Tracked connections that were forwarded."""
        return run("conntrack", "-L", "-p", "tcp", "--dst-nat").splitlines()

    def firewall(self) -> str:
        """All rules of the node, to be compared: without packet counts and handles."""
        return run("nft", "-s", "list", "ruleset")

    def database_sockets(self) -> list[str]:
        """Connections at the database, less what two ended ones leave behind."""
        state = ("state", "connected", "exclude", "time-wait")
        return run("nsenter", f"--net=/run/netns/{self.database}", "ss", "-Htn", *state).splitlines()

    def close(self) -> None:
        for program in self.programs:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            program.communicate()
        for name in (self.name, self.client, self.database):
            run(IP, "netns", "delete", name, check=False)


@contextlib.contextmanager
def host() -> Iterator[Host]:
    made = Host()
    try:
        made.build()
        with inside(made.name):
            run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            made.docker_starts()
            yield made
    finally:
        made.close()
