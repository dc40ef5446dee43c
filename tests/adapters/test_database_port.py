"""Every database engine at 3306: a real PostgreSQL in a container, and namespaces of our own for the rest."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import uvloop

from adapters.labs import docker
from e2e.node import wait_for
from sidegate.adapters.database_port import DatabasePorts
from sidegate.adapters.nft.commands import Commands
from sidegate.core.database_ports import DatabasePort, PortState
from sidegate.errors import HostToolError, RefusedError

NAME = f"sgp{os.getpid()}"
SUBNETS = [
    str(subnet) for subnet in list(IPv4Network("10.250.0.0/16").subnets(new_prefix=27))[os.getpid() % 2000 :][:2]
]
PASSWORD = "Pa$$ word'\"1"
ABSENT, GONE = DatabasePort(PortState.ABSENT), DatabasePort(PortState.GONE)
POSTGRES = DatabasePort(PortState.REDIRECTED, 5432)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make network namespaces")

LISTENER = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
while True:
    client, _ = listener.accept()
    client.sendall(b"%s %d" % (client.getsockname()[0].encode(), client.getsockname()[1]))
    client.close()
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    subprocess.run(("ip", "netns", "add", NAME), check=True)
    try:
        subprocess.run(("ip", "-n", NAME, "link", "set", "lo", "up"), check=True)
        yield NAME
    finally:
        subprocess.run(("ip", "netns", "delete", NAME), check=True)


@pytest.fixture
async def listen(namespace: str) -> AsyncIterator["Starter"]:
    starter = Starter(namespace)
    try:
        yield starter
    finally:
        await starter.close()


class Starter:
    """Programs in a namespace that listen at a port and say where they were reached."""

    def __init__(self, namespace: str) -> None:
        self._enter = ("nsenter", f"--net=/run/netns/{namespace}")
        self._programs: list[asyncio.subprocess.Process] = []

    async def __call__(self, port: int) -> int:
        command = ("setpriv", "--pdeathsig", "KILL", *self._enter, sys.executable, "-S", "-c", LISTENER, str(port))
        program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        self._programs.append(program)
        assert program.stdout is not None
        assert await program.stdout.readline()
        return program.pid

    def reach(self, address: str, port: int) -> str:
        code = f"import socket; print(socket.create_connection(('{address}', {port}), 10).recv(99).decode())"
        done = subprocess.run(
            (*self._enter, sys.executable, "-S", "-c", code), capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]

    async def close(self) -> None:
        for program in self._programs:
            if program.returncode is None:
                program.kill()
            await program.communicate()


async def test_it_comes_and_goes(listen: Starter, namespace: str) -> None:
    """3306 leads to the engine's own port, over the address that was asked for, until it is removed."""
    ports, pid = DatabasePorts(), await listen(5432)
    assert await ports.observe(pid) == ABSENT
    assert "refused" in listen.reach("127.0.0.1", 3306)
    for _ in range(2):
        await ports.redirect(pid, 5432)
        assert await ports.observe(pid) == POSTGRES
        assert listen.reach("127.0.0.1", 3306) == "127.0.0.1 5432"
    assert listen.reach("127.0.0.1", 5432) == "127.0.0.1 5432"
    subprocess.run(
        ("ip", "netns", "exec", namespace, "nft", "flush", "chain", "ip", "sidegate-port", "output"), check=True
    )
    assert await ports.observe(pid) == ABSENT
    await ports.redirect(pid, 6000)
    assert await ports.observe(pid) == DatabasePort(PortState.REDIRECTED, 6000)
    for _ in range(2):
        await ports.remove(pid)
        assert await ports.observe(pid) == ABSENT
    tables = subprocess.run(
        ("ip", "netns", "exec", namespace, "nft", "list", "ruleset"), capture_output=True, check=True
    )
    assert tables.stdout == b""


def test_it_works_on_the_event_loop_of_the_daemon(namespace: str) -> None:
    """uvloop's pipes are sockets, which nft cannot read its input from."""
    command = ("nsenter", f"--net=/run/netns/{namespace}", "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        ours = Path("/proc/self/ns/net")
        wait_for("it is in its namespace", lambda: not Path(f"/proc/{process.pid}/ns/net").samefile(ours))

        async def redirected() -> DatabasePort:
            ports = DatabasePorts()
            await ports.redirect(process.pid, 5432)
            return await ports.observe(process.pid)

        assert uvloop.run(redirected()) == POSTGRES
        process.communicate()


async def test_a_database_at_3306_is_left_alone(listen: Starter) -> None:
    """What listens there itself is not redirected, whichever came first; nor is an engine whose own port it is."""
    ports, pid = DatabasePorts(), await listen(5432)
    await ports.redirect(pid, 3306)
    assert await ports.observe(pid) == ABSENT
    await ports.redirect(pid, 5432)
    await listen(3306)
    assert await ports.observe(pid) == DatabasePort(PortState.OWN, 5432)
    with pytest.raises(RefusedError, match="listens at port 3306"):
        await ports.redirect(pid, 5432)
    await ports.remove(pid)
    assert await ports.observe(pid) == DatabasePort(PortState.OWN)
    assert listen.reach("127.0.0.1", 3306) == "127.0.0.1 3306"


async def test_the_host_is_never_touched(tmp_path: Path) -> None:
    """A process with the host's network is refused; one that is gone, or cannot be entered, is told apart."""
    ports = DatabasePorts()
    for call in (ports.observe(os.getpid()), ports.redirect(os.getpid(), 5432), ports.remove(os.getpid())):
        with pytest.raises(RefusedError, match="host's network"):
            await call
    assert await ports.observe(0) == GONE
    await ports.remove(0)
    with pytest.raises(HostToolError, match="has ended"):
        await ports.redirect(0, 5432)
    (tmp_path / "7/ns").mkdir(parents=True)
    (tmp_path / "7/ns/net").symlink_to("net")  # a name that is there and cannot be opened
    with pytest.raises(HostToolError, match="CAP_SYS_ADMIN"):
        await DatabasePorts(Commands(proc=tmp_path)).observe(7)


@pytest.fixture
async def postgres() -> AsyncIterator[str]:
    """A PostgreSQL in a container on two internal networks, once it takes logins."""
    try:
        for number, subnet in enumerate(SUBNETS):
            await docker("network", "create", "--internal", "--subnet", subnet, f"{NAME}-{number}")
        environment = ("-e", f"POSTGRES_PASSWORD={PASSWORD}", "-e", "POSTGRES_USER=shop", "-e", "POSTGRES_DB=shop-1")
        labels = ("--label", f"sidegate.instance={NAME}")
        await docker("create", "--name", NAME, *labels, "--network", f"{NAME}-0", *environment, "sidegate-postgres")
        await docker("network", "connect", f"{NAME}-1", NAME)
        await docker("start", NAME)
        yield NAME
    finally:
        for words in (("rm", "-f", "-v", NAME), ("network", "rm", f"{NAME}-0", f"{NAME}-1")):
            process = await asyncio.create_subprocess_exec("docker", *words, stdout=-3, stderr=-3)
            await process.wait()


def login(address: str, port: int, command: str = "SELECT inet_server_addr(), inet_server_port()") -> str:
    """What psql prints, on the host, of a statement over TCP."""
    url = f"host={address} port={port} user=shop dbname=shop-1 connect_timeout=10"
    done = subprocess.run(
        ("psql", url, "-X", "-A", "-t", "-c", command),
        env=os.environ | {"PGPASSWORD": PASSWORD}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr.strip()


@pytest.mark.engine
async def test_a_real_postgresql_at_3306(postgres: str) -> None:
    """Over each of its networks, answering from its own address; again after a restart, with a new pid."""
    listed = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    ports = DatabasePorts()
    for start in range(2):
        pid = int(await docker("inspect", "-f", "{{.State.Pid}}", postgres))
        addresses = (await docker("inspect", "-f", listed, postgres)).split()
        assert len(addresses) == 2
        for address in addresses:
            wait_for("PostgreSQL takes logins", lambda a=address: login(a, 5432) == f"{a}|5432", 30)  # type: ignore[misc]
            assert "refused" in login(address, 3306)
        assert await ports.observe(pid) == ABSENT
        await ports.redirect(pid, 5432)
        assert await ports.observe(pid) == POSTGRES
        for address in addresses:
            assert login(address, 3306) == f"{address}|5432"
        app = ("--rm", "--network", f"{NAME}-0", "--label", f"sidegate.instance={NAME}", "--entrypoint", "psql")
        query = ("-h", NAME, "-p", "3306", "-U", "shop", "-d", "shop-1", "-A", "-t", "-c", "SELECT 1")
        output = await docker("run", *app, "-e", f"PGPASSWORD={PASSWORD}", "sidegate-postgres", *query)
        assert output == "1"
        if start == 0:
            await docker("restart", "-t", "5", postgres)
            assert await ports.observe(pid) == GONE
