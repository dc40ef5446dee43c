"""The kernel forwarder on a real engine: a container on an internal network, a client that is another host."""

import asyncio
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from adapters.forwarding import IP, SERVER, inside, run
from adapters.labs import docker
from e2e.node import wait_for
from sidegate.adapters.nft import KernelForwarder
from sidegate.core.gates import KernelForward

NAME = f"sgk{os.getpid()}"
DEVICE = f"sg-k{os.getpid()}"
SUBNET = f"10.249.{os.getpid() % 256}.0/27"
PORT = 32000 + os.getpid() % 500
SLOW = ("tbf", "rate", "8kbit", "burst", "120", "limit", "4000")
PUBLIC, CLIENT = (f"198.19.{os.getpid() % 256}.{host}" for host in (1, 2))  # 198.18 is for the end-to-end tests

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make network namespaces"),
]


@pytest.fixture
async def database() -> AsyncIterator[tuple[int, str]]:
    """Pid and address of a container on an internal network whose bridge has a name as ours have."""
    try:
        bridge = ("--opt", f"com.docker.network.bridge.name={DEVICE}")
        await docker("network", "create", "--internal", "--subnet", SUBNET, *bridge, NAME)
        labels = ("--label", f"sidegate.instance={NAME}", "--network", NAME, "--entrypoint", "python3")
        await docker("run", "-d", "--name", NAME, *labels, "sidegate-sample-app", "-c", SERVER, "3306")
        shown = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        pid, address = (await docker("inspect", "-f", shown, NAME)).split()
        wait_for("the database listens", lambda: ":3306" in run("nsenter", "-t", pid, "-n", "ss", "-Hltn"))
        yield int(pid), address
    finally:
        for words in (("rm", "-f", NAME), ("network", "rm", NAME)):
            process = await asyncio.create_subprocess_exec("docker", *words, stdout=-3, stderr=-3)
            await process.wait()


@pytest.fixture
def outside() -> Iterator[str]:
    """A network namespace that is another host."""
    here, there = f"{NAME}o"[:15], f"{NAME}i"[:15]
    try:
        run(IP, "netns", "add", NAME)
        run(IP, "link", "add", here, "type", "veth", "peer", "name", there, "netns", NAME)
        run(IP, "address", "add", f"{PUBLIC}/30", "dev", here)
        run(IP, "link", "set", here, "up")
        run(IP, "-n", NAME, "address", "add", f"{CLIENT}/30", "dev", there)
        run(IP, "-n", NAME, "link", "set", there, "up")
        yield NAME
    finally:
        run(IP, "netns", "delete", NAME, check=False)
        run(IP, "link", "delete", here, check=False)


def connect(namespace: str) -> socket.socket:
    with inside(namespace):
        sock = socket.socket()
    sock.settimeout(10)
    try:
        sock.connect((PUBLIC, PORT))
        assert sock.recv(100).startswith(b"hello")
    except BaseException:
        sock.close()
        raise
    return sock


async def test_on_and_off(database: tuple[int, str], outside: str) -> None:
    """Through Docker's own rules, ten times: served while on, then cut at once at both ends, and nothing left."""
    pid, address = database
    kernel = KernelForwarder(NAME, (PORT, PORT))
    times = []
    try:
        for _ in range(10):
            start = time.perf_counter()
            await kernel.apply({PORT: KernelForward(PORT, address)})
            opened = time.perf_counter()
            with connect(outside) as session:
                served = time.perf_counter()
                (seen,) = await kernel.sessions(PORT)
                assert (seen.client, seen.client_port) == session.getsockname()
                before = time.perf_counter()
                await kernel.apply({})
                closed = time.perf_counter()
                assert len(await kernel.cut(PORT, pid)) == 1
                cut = time.perf_counter()
                with pytest.raises(ConnectionResetError):
                    session.recv(1)
                times.append((opened - start, served - opened, closed - before, cut - closed))
            with pytest.raises(ConnectionRefusedError):
                connect(outside)
            assert await kernel.sessions(PORT) == ()
            assert NAME not in run("iptables", "-S", "DOCKER-USER")
            assert NAME not in run("nft", "list", "tables")
    finally:
        await kernel.remove()
    for what, column in zip(("on", "first session", "off", "cut"), zip(*times, strict=True), strict=True):
        print(f"{what}: {statistics.median(column) * 1000:.1f} ms")


async def cut_one(database: tuple[int, str], outside: str, *, reset_before: bool = False) -> None:
    """A session that says nothing is cut, and its client hears of it. `reset_before`: its socket at the database is
    destroyed beforehand, and that the client does not hear."""
    pid, address = database
    kernel = KernelForwarder(NAME, (PORT, PORT))
    try:
        await kernel.apply({PORT: KernelForward(PORT, address)})
        with connect(outside) as session:
            await kernel.apply({})
            if reset_before:
                deaf = ("-p", "tcp", "--sport", str(PORT), "--tcp-flags", "RST", "RST", "-j", "DROP")
                run("ip", "netns", "exec", outside, "iptables", "-A", "INPUT", *deaf)
                run("nsenter", "-t", str(pid), "-n", "ss", "-K", "-t", "state", "established", "sport", "=", ":3306")
                async with asyncio.timeout(10):
                    while await kernel.sessions(PORT):
                        await asyncio.sleep(0.01)
                run("ip", "netns", "exec", outside, "iptables", "-D", "INPUT", *deaf)
            assert len(await kernel.cut(PORT, pid)) == (0 if reset_before else 1)
            with pytest.raises(ConnectionResetError):
                session.recv(1)
        assert await kernel.sessions(PORT) == ()
    finally:
        await kernel.remove()


async def test_a_client_hears_of_the_cut_however_slowly_the_database_answers(
    database: tuple[int, str], outside: str
) -> None:
    """Its RST needs the tracked flow to find the client."""
    run("nsenter", "-t", str(database[0]), "-n", "tc", "qdisc", "add", "dev", "eth0", "root", *SLOW)
    await cut_one(database, outside)


async def test_a_client_hears_of_the_cut_although_the_database_s_word_is_lost(
    database: tuple[int, str], outside: str
) -> None:
    """As it is where Docker rewrites its rules at that moment."""
    drop = ("-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP")
    run("nsenter", "-t", str(database[0]), "-n", "iptables", "-A", "OUTPUT", *drop)
    await cut_one(database, outside)


async def test_a_client_hears_of_the_cut_although_the_database_s_word_was_lost_before_it(
    database: tuple[int, str], outside: str
) -> None:
    """Off destroys the database's sockets first, those of the workers' sessions among them."""
    await cut_one(database, outside, reset_before=True)
