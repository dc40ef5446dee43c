"""A node under test: a real daemon with directories, ports, a pool and an instance of its own, beside real containers.

Every container, volume and namespace made here carries the node's name and goes with it, also when a test fails.
"""

import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from e2e import forms
from ports import free_port
from sidegate.api.calls import CALLS
from sidegate.api.client import Client, find_socket, quote

T = TypeVar("T")
PARAMETER = re.compile(r"\{(\w+)\}")
SIDEGATE = forms.SIDEGATE
APP_IMAGE, DATABASE_IMAGE, BASE_IMAGE = "sidegate-sample-app", "sidegate-mariadb", "sidegate-base"
PASSWORD = "Pa$$ word'\"1"


def run(*command: str, check: bool = True, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command's outcome; a failure shows both outputs."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    if check and done.returncode:
        raise AssertionError(f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def wait_for(what: str, probe: Callable[[], T | None], timeout: float = 20) -> T:
    """Poll until `probe` gives something true; fails with `what` after `timeout` seconds.

    At most half of the time is the probe's: others are at work on what it waits for.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if found := probe():
            return found
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(max(0.01, now - began))


@dataclass(frozen=True)
class Reply:
    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)
    """By names in lower case."""


class Node:
    """One daemon. `namespace`: a network namespace that it, its engine and its clients live in (else the host's).

    `settings` of its own, by their keys, hold for every start. `form`: how it is started, else as the run says, and
    then `name`, `pool` and `ports` are moved where such runs have theirs.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        pool: str,
        ports: str,
        docker: str = "",
        namespace: str = "",
        settings: Mapping[str, str] = MappingProxyType({}),
        form: str = "",
    ) -> None:
        self.form = form or forms.FORM
        if not form:
            name, pool, ports = forms.beside(self.form, name, pool, ports)
        self.name, self.pool = name, pool
        self.ports = range(int(ports.split("-")[0]), int(ports.split("-")[1]) + 1)
        directory = forms.place(self.form, directory)
        self.ours = ["--label", f"sidegate.instance={name}"]
        """Options of `docker run` that make a container this daemon's business and no other's."""
        self.directory = directory
        self.inside = enter(namespace) if namespace else []
        self.without: Sequence[str] = ()
        """Capabilities that the daemon starts without."""
        self.http_port = 8080 if namespace else free_port()
        self.https_port = 8443 if namespace else free_port()
        self.log = directory / "daemon.log"
        self._containers: list[str] = []
        self._process: forms.Process | None = None
        self.environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SIDEGATE_")},
            "SIDEGATE_STATE_DIR": str(directory / "state"),
            "SIDEGATE_RUNTIME_DIR": str(directory / "run"),
            "SIDEGATE_HTTP_PORT": str(self.http_port),
            "SIDEGATE_HTTPS_PORT": str(self.https_port),
            "SIDEGATE_DRAIN_SECONDS": "10",
            "SIDEGATE_EXTERNAL_PORTS": ports,
            "SIDEGATE_INTERNAL_POOL": pool,
            "SIDEGATE_INSTANCE": name,
            "SIDEGATE_RESYNC_SECONDS": "30",
            **{f"SIDEGATE_{key.upper()}": value for key, value in settings.items()},
        }
        if docker:
            self.environ |= {"DOCKER_HOST": docker}

    def has(self, what: str) -> bool:
        """Whether the daemon has, in its form, something that not every form has."""
        return forms.has(self.form, what)

    @functools.cached_property
    def seen_as(self) -> str:
        """The address that a client on this machine has for the daemon, and can come to it by."""
        if self.form != "bridge":
            return "127.0.0.1"
        return self.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", f"0{self.name}")

    def give(self, path: Path) -> None:
        """Let the daemon's user have a file or a directory that was made here."""
        if self.form == "dev":
            os.chown(path, forms.USER, forms.USER)

    # --- the daemon

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, ready: bool = True, **settings: str) -> None:
        """Start the daemon, by default until it says that it is ready."""
        environ = self.environ | {f"SIDEGATE_{key.upper()}": value for key, value in settings.items()}
        launch = forms.Launch(self.name, self.directory, self.log, environ, self.inside, self.without)
        self._process = forms.start(self.form, launch)
        if ready:
            wait_for("the daemon is ready", self.is_ready)

    def is_ready(self) -> bool:
        assert self._process is not None
        ended = self._process.poll()
        assert ended is None, f"the daemon ended with status {ended}:\n{self.log.read_text()[-3000:]}"
        done = self.cli("status", check=False)
        return done.returncode == 0 and bool(json.loads(done.stdout)["ready"])

    def revive(self) -> None:
        """Start the daemon if it does not run: what a test that failed has left behind is nobody else's failure."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon; returns its exit status."""
        assert self._process is not None
        self._process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Until the daemon has ended by itself; returns its exit status."""
        assert self._process is not None
        status = self._process.wait(timeout=30)
        self._process = None
        return status

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The control plane stands still (SIGSTOP); what happens meanwhile it learns afterwards."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Remove whatever this node made."""
        for container in reversed(self._containers):
            self.docker("rm", "-f", "-v", container, check=False)
        self.revive()
        self.cli("purge", "--yes", check=False)
        process = self._process
        assert process is not None
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # --- people

    def cli(self, *words: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return run(SIDEGATE, *words, check=check, env=self.environ, input=text)

    def json(self, *words: str) -> Any:
        """What a verb prints into a pipe. One that only reads is asked of the daemon itself, with the same answer: an
        interpreter for each look would take most of the machine."""
        for call in CALLS:
            for verb in (verb.split() for verb in call.verbs):
                names, given = PARAMETER.findall(call.path), words[len(verb) :]
                if call.method == "GET" and [*words[: len(verb)]] == verb and len(given) == len(names):
                    path = call.path.format(**dict(zip(names, map(quote, given), strict=True)))
                    return json.loads(Client(find_socket(None, self.environ)).call("GET", path, bytes).body)
        return json.loads(self.cli(*words).stdout)

    def refusal(self, *words: str, text: str | None = None) -> tuple[int, str]:
        """Exit status and message of a verb that must fail."""
        done = self.cli(*words, check=False, text=text)
        assert done.returncode != 0, done.stdout
        return done.returncode, done.stderr.strip()

    def problems(self) -> list[str]:
        return [f"{p['subject']}: {p['text']}" for p in self.json("status")["problems"]]

    def get(
        self,
        host: str,
        path: str = "/",
        *,
        timeout: float = 10,
        body: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Reply:
        """One request through the public port, as a client on this machine; a POST where there is a body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, {"Host": host, **headers})
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, response.read().decode(), received)

    # --- containers

    def docker(self, *words: str, check: bool = True, timeout: float = 60) -> str:
        return run("docker", *words, check=check, env=self.environ, timeout=timeout).stdout.strip()

    def container(self, name: str) -> str:
        """The full name of a container of this node."""
        return f"{self.name}-{name}"

    def docker_run(self, name: str, *options: str, image: str = APP_IMAGE, command: Sequence[str] = ()) -> str:
        """`docker run -d`; returns the container's full name."""
        full = self.container(name)
        self._containers.append(full)
        self.docker("run", "-d", "--name", full, *self.ours, *options, image, *command)
        return full

    def app(self, app: str, *options: str, name: str = "", command: Sequence[str] = ()) -> str:
        """A sample app, with the variables that Sidegate holds for it."""
        return self.docker_run(name or app, "--label", f"sidegate.app={app}", *options, command=command)

    def database(self, database: str, *options: str, name: str = "", command: Sequence[str] = ()) -> str:
        """A MariaDB with schema and user `shop`, once it takes logins; `command` holds options of the server."""
        labels = ["--label", f"sidegate.database={database}", "--label", "sidegate.engine=mariadb"]
        variables = {
            "MARIADB_ROOT_PASSWORD": "root-" + PASSWORD,
            "MARIADB_DATABASE": "shop",
            "MARIADB_USER": "shop",
            "MARIADB_PASSWORD": PASSWORD,
        }
        given = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
        full = self.docker_run(name or database, *labels, *given, *options, image=DATABASE_IMAGE, command=command)
        self.wait_for_login(full)
        return full

    def wait_for_login(self, container: str) -> None:
        wait_for(f"{container} takes logins", lambda: self.sql(container, "SELECT 1", check=False) == "1", 60)

    def sql(self, container: str, statement: str, *, check: bool = True) -> str:
        """A statement as root in a database's container, over TCP: a server still setting up does not count."""
        login = ["mariadb", "-h127.0.0.1", "-uroot", f"-proot-{PASSWORD}", "-N", "-B", "-e", statement]
        return self.docker("exec", container, *login, check=check)

    def sessions(self, container: str) -> list[str]:
        """Users and hosts of the server's client threads, root's own aside."""
        query = "SELECT CONCAT(user, '@', host) FROM information_schema.processlist WHERE user = 'shop'"
        return self.sql(container, query).split()

    def env_options(self, app: str) -> list[str]:
        """An app's stored variables as options of `docker run`, whatever characters they hold."""
        stored = json.loads(self.cli("env", "export", app, "--format", "json").stdout)
        return [word for key, value in stored.items() for word in ("-e", f"{key}={value}")]

    def addresses(self, container: str) -> list[str]:
        listed = self.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", container)
        return listed.split()

    def networks(self) -> list[str]:
        """Names of this node's networks."""
        return self.docker(
            "network", "ls", "--filter", f"label=sidegate.instance={self.name}", "--format", "{{.Name}}"
        ).split()


def enter(namespace: str) -> list[str]:
    """Words that run a command in a network namespace; unlike `ip netns exec` they leave /sys and its cgroups be."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


@contextlib.contextmanager
def outside_host(name: str, *, prefix: str = "198.51.100", within: str = "") -> Iterator[str]:
    """A network namespace that is another host: `prefix`.2 there, `prefix`.1 on this side. Gives its name.

    `within`: the namespace that this side is in, else the host's own.
    """
    inner, outer = f"{name[:12]}i", f"{name[:12]}o"
    here = ["ip", "-n", within] if within else ["ip"]
    try:
        run("ip", "netns", "add", name)
        run(*here, "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
        run(*here, "addr", "add", f"{prefix}.1/24", "dev", outer)
        run(*here, "link", "set", outer, "up")
        run("ip", "-n", name, "addr", "add", f"{prefix}.2/24", "dev", inner)
        run("ip", "-n", name, "link", "set", inner, "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "route", "add", "default", "via", f"{prefix}.1")
        yield name
    finally:
        run("ip", "netns", "del", name, check=False)
        run(*here, "link", "del", outer, check=False)


@contextlib.contextmanager
def running(node: Node) -> Iterator[Node]:
    """Its daemon started, and everything of it closed in the end, also where the start failed."""
    try:
        node.start()
        yield node
    finally:
        node.close()


@contextlib.contextmanager
def holding(node: Node, port: int) -> Iterator[int]:
    """Somebody else listens at a port, a process of the daemon's user; gives its pid."""
    listen = f"import socket; s = socket.create_server(('', {port})); print('ready', flush=True); input()"
    who = [*forms.as_user(), forms.user_python()] if node.form == "dev" else [sys.executable]
    with subprocess.Popen([*who, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            yield holder.pid
        finally:
            holder.kill()


def need_engine() -> None:
    """Fail, not skip, where there is no engine: scripts/test brings one up."""
    assert shutil.which("docker"), "no docker client: run ./scripts/test"
    assert run("docker", "version", check=False).returncode == 0, "no Docker engine answers: run ./scripts/test"
