"""One database and every way that a client on another host has to it. The ways take turns.

Client, database and what is between them share all cores: where the kernel forwards, nobody would use a core that is
kept for a proxy, and what a proxy takes, the others lack, as on any node.
"""

import contextlib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import engine
from bench.bench import Bench, Measure
from bench.machine import CORES, cpu_seconds
from bench.programs import IMAGE, Programs
from bench.servers import Server
from bench.site import Site
from bench.stage import free_ports
from e2e.node import Node, enter, outside_host, run, wait_for
from sidegate.api import schemas
from sidegate.api.client import Client, find_socket

DATABASE, DATABASE_PORT = "bench", 3306
HOST, OUTSIDE, NETWORK = "198.51.100.1", "198.51.100.2", "198.51.100.0/24"
"""This machine as the other host sees it, that host, and the network between the two."""
KERNEL, USERSPACE = "sidegate-kernel", "sidegate-userspace"
DIRECT, DOCKER, HAPROXY, NGINX = "direct", "docker-p", "haproxy", "nginx"
ALL = (KERNEL, USERSPACE, DIRECT, DOCKER, HAPROXY, NGINX)
QUICK = (KERNEL, USERSPACE, DOCKER, HAPROXY)

CARRIERS = {KERNEL: "kernel", USERSPACE: "userspace"}
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Way:
    """Where clients dial. `prepare` makes this way the one that works, for as long as it is being measured; `busy` is
    the processor time that its processes have taken so far, in seconds."""

    label: str
    address: str
    port: int
    within: Sequence[str]
    prepare: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    busy: Callable[[], float] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"


class TcpForwarder(Server):
    """A program that forwards one port of this machine to `target`."""

    def __init__(self, site: Site, programs: Programs, target: str) -> None:
        super().__init__(site, programs, CORES)
        self._target = target

    def _serves(self) -> bool:
        assert not (fault := self.program.ended()), f"{self.label} ended: {fault}"
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.site.http), timeout=5):
            return True
        return False


class HAProxy(TcpForwarder):
    """Mode tcp."""

    name = HAPROXY

    def command(self) -> list[str]:
        config = self._configured("haproxy-tcp.cfg", address=HOST, target=self._target)
        return [*self._programs.debian("haproxy"), "-db", "-f", str(config)]


class Nginx(TcpForwarder):
    """The stream module."""

    name = NGINX

    def command(self) -> list[str]:
        modules = self._programs.nginx_modules
        config = self._configured("nginx-stream.conf", address=HOST, target=self._target, modules=modules)
        return [*self._programs.debian("nginx"), "-p", str(self.directory), "-e", "stderr", "-c", str(config)]


@dataclass(slots=True)
class Field:
    """A daemon, a database that it serves, and another host. `address` is the database's on Docker's own network."""

    bench: Bench
    node: Node
    directory: str
    container: str
    address: str
    published: int
    running: contextlib.ExitStack

    def ways(self, names: Sequence[str]) -> list[Way]:
        """In this order, from the other host; programs that stand in between are started and serve."""
        return [self._way(name) for name in names]

    def switch(self, carrier: str) -> schemas.ExternalView:
        """Switch the external connection on, carried by this, or, without a carrier, off; nothing but the call."""
        body = schemas.ExternalRequest(enabled=bool(carrier), forwarder=carrier or None)
        client = Client(find_socket(None, self.node.environ))
        shown = client.call("PUT", f"/v1/databases/{DATABASE}/external", schemas.ExternalView, body=body).value
        assert not carrier or shown.carrier == carrier, f"{carrier} does not carry it: {shown.carrier_reason}"
        return shown

    def alternate(self, ways: Sequence[Way], work: Callable[[Way, float], float], *, warm_up: bool = True) -> None:
        """Measure each way once a round, as `Bench.alternate` does."""
        self.bench.alternate({way.label: self._measure(way, work) for way in ways}, warm_up=warm_up)

    def _measure(self, way: Way, work: Callable[[Way, float], float]) -> Measure:
        def measure(seconds: float) -> float:
            self._forget()
            with way.prepare():
                before, began = way.busy() if way.busy else 0.0, time.monotonic()
                value = work(way, seconds)
                if way.busy:
                    share = (way.busy() - before) / (time.monotonic() - began)
                    self.bench.busy.setdefault(way.label, []).append(share)
                return value

        return measure

    def _forget(self) -> None:
        """Let the kernel track none of the connections that are over, or new ones could fill its table in the end."""
        for ends in (("-s", OUTSIDE), ("-d", self.address)):
            run("conntrack", "-D", "-p", "tcp", *ends, check=False)

    def _way(self, name: str) -> Way:
        within = enter(engine.NAME)
        if name in CARRIERS:
            port, pid = self.switch(CARRIERS[name]).port, self.node.pid
            assert port is not None
            return Way(name, HOST, port, within, lambda: self._carried(CARRIERS[name]), lambda: cpu_seconds(pid))
        if name == DIRECT:
            return Way(name, self.address, DATABASE_PORT, within, self._routed)
        if name == DOCKER:
            return Way(name, HOST, self.published, within)
        kind = HAProxy if name == HAPROXY else Nginx
        (port,) = free_ports(1)
        site = Site(self.directory, 0, 0, port, 0, "", "", "")
        server = kind(site, self.bench.programs, f"{self.address}:{DATABASE_PORT}")
        self.running.callback(server.stop)
        server.start()
        return Way(name, HOST, port, within, busy=server.program.cpu_seconds)

    @contextlib.contextmanager
    def _carried(self, carrier: str) -> Iterator[None]:
        self.switch(carrier)
        yield

    @contextlib.contextmanager
    def _routed(self) -> Iterator[None]:
        """Docker lets nobody in who dials a container's own address; meanwhile the other host may."""
        rule = [
            "-s",
            NETWORK,
            "-d",
            f"{self.address}/32",
            "-m",
            "comment",
            "--comment",
            f"sidegate:{engine.NAME}-direct",
        ]
        run("iptables", "-w", "-I", "DOCKER-USER", "1", *rule, "-j", "ACCEPT")
        try:
            yield
        finally:
            run("iptables", "-w", "-D", "DOCKER-USER", *rule, "-j", "ACCEPT")


@contextlib.contextmanager
def database(bench: Bench, *, mariadb: bool = False) -> Iterator[Field]:
    """A database behind a daemon and behind a published port, beside another host. Without `mariadb` it is nginx, which
    listens where a database does: what is measured then are bytes and connections."""
    settings = {"workers": "1", "isolation": "report"}  # the published port must stay, to be compared with
    with (
        outside_host(engine.NAME),
        tempfile.TemporaryDirectory(prefix="sgbench-") as directory,
        engine.daemon(bench.case.name, **settings) as node,
        contextlib.ExitStack() as running,
    ):
        (published,) = free_ports(1)
        place = ["-p", f"{HOST}:{published}:{DATABASE_PORT}"]
        if mariadb:
            container = node.database(DATABASE, *place)
        else:
            labels = ["--label", f"sidegate.database={DATABASE}", "--label", "sidegate.engine=mariadb"]
            command = ["nginx", "-c", "/etc/nginx/database.conf"]
            container = node.docker_run(DATABASE, *labels, *place, image=IMAGE, command=command)
        listed = node.docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", container)
        wait_for("the database is known", lambda: DATABASE in node.cli("db", "ls").stdout, _PATIENCE)
        yield Field(bench, node, directory, container, listed, published, running)
