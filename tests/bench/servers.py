"""The servers that are compared: how each is configured for a Site, started, seen to serve, and stopped."""

import contextlib
import dataclasses
import json
import os
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import LOAD_CORES, PROXY_CORE, Program
from bench.programs import Programs
from bench.site import APPS, Site
from e2e.node import wait_for

CONFIGS = Path(__file__).parent / "configs"
SMALL = b"0123456789012345678901234567890123456789012345678901234"
MEDIUM, LARGE = 16 << 10, 1 << 20
_START = 30.0


class Server:
    """One program in front of the site's backend. `label` is what it is called in tables: its name and its variant."""

    name = ""

    def __init__(self, site: Site, programs: Programs, cores: Sequence[int] = PROXY_CORE, variant: str = "") -> None:
        self.site = site
        self.label = f"{self.name}+{variant}" if variant else self.name
        self.directory = Path(site.directory) / self.label
        self._programs = programs
        self._cores = cores
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        assert self._program is not None, f"{self.label} was not started"
        return self._program

    def command(self) -> list[str]:
        raise NotImplementedError

    def environ(self) -> Mapping[str, str]:
        return os.environ

    def start(self) -> None:
        """Returns once it answers on both of its ports, over TLS 1.3 on the second."""
        self.directory.mkdir(exist_ok=True)
        self._program = Program(self.command(), self._cores, self.directory / "output", self.environ())
        wait_for(f"{self.label} serves", self._serves, _START)

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None

    def _serves(self) -> bool:
        assert not (fault := self.program.ended()), f"{self.label} ended: {fault}"
        ports = [(self.site.http, False), (self.site.https, True)]
        return all(_answers(port, self.site.hosts[-1], tls=tls) for port, tls in ports if port)

    def _configured(self, template: str, **values: object) -> Path:
        """A file of tests/bench/configs with its @WORDS@ filled in."""
        words = dataclasses.asdict(self.site) | {"directory": self.directory} | values
        text = (CONFIGS / template).read_text()
        for word, value in words.items():
            text = text.replace(f"@{word.upper()}@", str(value))
        file = self.directory / template
        file.write_text(text)
        return file


class Backend(Server):
    """nginx with what all of them pass on. It has the load's cores."""

    name = "direct"

    def command(self) -> list[str]:
        files = self.directory / "files"
        files.mkdir()
        for name, size in (("16k", MEDIUM), ("1m", LARGE)):
            (files / name).write_bytes(os.urandom(size))
        config = self._configured("backend.conf", small=SMALL.decode())
        return [*self._programs.debian("nginx"), "-p", str(self.directory), "-e", "stderr", "-c", str(config)]


class Sidegate(Server):
    name = "sidegate"

    def command(self) -> list[str]:
        file = self.directory / "site.json"
        file.write_text(json.dumps(dataclasses.asdict(self.site)))
        return [sys.executable, "-P", "-m", "bench.launcher", str(file)]


class Nginx(Server):
    name = "nginx"

    def command(self) -> list[str]:
        log = f"{self.site.log} line buffer=64k flush=1s" if self.site.log else "off"
        hosts = " ".join(f"{host} backend;" for host in self.site.hosts)
        config = self._configured("nginx.conf", log=log, hosts=hosts)
        return [*self._programs.debian("nginx"), "-p", str(self.directory), "-e", "stderr", "-c", str(config)]


class HAProxy(Server):
    name = "haproxy"

    def command(self) -> list[str]:
        log, target = ("option httplog\n  log global", "log stdout format raw local0") if self.site.log else ("", "")
        config = self._configured("haproxy.cfg", log=log, log_target=target)
        return [*self._programs.debian("haproxy"), "-db", "-f", str(config)]


class Caddy(Server):
    name = "caddy"

    def command(self) -> list[str]:
        log = f"log {{\n\t\toutput file {self.site.log}\n\t\tformat json\n\t}}" if self.site.log else ""
        config = self._configured("Caddyfile", log=log)
        return [self._programs.caddy, "run", "--adapter", "caddyfile", "--config", str(config)]

    def environ(self) -> Mapping[str, str]:
        home = {"HOME": str(self.directory), "XDG_DATA_HOME": str(self.directory)}
        return os.environ | home | {"GOMAXPROCS": str(self.site.workers)}


class Envoy(Server):
    name = "envoy"

    def command(self) -> list[str]:
        config = self._configured("envoy.yaml", log=f"[{_ENVOY_LOG % self.site.log}]" if self.site.log else "[]")
        options = ["--disable-hot-restart", "--log-level", "warning", "--concurrency", str(self.site.workers)]
        return [self._programs.envoy, "-c", str(config), *options]


class Echo:
    """The WebSocket server behind all of them."""

    def __init__(self, site: Site, programs: Programs) -> None:
        self._program = Program(
            [programs.websocket, "echo", "127.0.0.1", str(site.echo)], LOAD_CORES, Path(site.directory) / "echo"
        )

    def stop(self) -> None:
        self._program.stop()


PROXIES: tuple[type[Server], ...] = (Sidegate, Nginx, HAProxy, Caddy, Envoy)

_ENVOY_LOG = """{name: envoy.access_loggers.file, typed_config: {
          "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %s,
          log_format: {json_format: {time: "%%START_TIME%%", method: "%%REQ(:METHOD)%%", host: "%%REQ(:AUTHORITY)%%",
          path: "%%REQ(:PATH)%%", status: "%%RESPONSE_CODE%%", bytes: "%%BYTES_SENT%%", ms: "%%DURATION%%",
          upstream: "%%UPSTREAM_HOST%%", client: "%%DOWNSTREAM_REMOTE_ADDRESS%%", id: "%%REQ(X-REQUEST-ID)%%"}}}}"""


def hosts(count: int) -> tuple[str, ...]:
    """So many names; the apps behind them stay the same few."""
    return tuple(f"shop-{number:05}.customer-{number % APPS}.example.com" for number in range(count))


def trusting() -> ssl.SSLContext:
    """A client that takes any certificate, and no TLS but 1.3, as all servers here shall speak it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def request(host: str, path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def _answers(port: int, host: str, *, tls: bool) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        sock = trusting().wrap_socket(plain, server_hostname="localhost") if tls else plain
        with sock:
            sock.sendall(request(host))
            return sock.recv(4096).startswith(b"HTTP/1.1 200 ")
    return False
