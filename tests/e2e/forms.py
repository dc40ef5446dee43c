"""How the daemon of a node is started: on the host as root, as an ordinary user, or from the image in either network.

SIDEGATE_FORM names the form of a run of the tests (`scripts/test --form`): host, dev, image or bridge. Whatever the
form, the tests' own tools stay root's, pids are those of the host, and what was started is gone afterwards.
"""

import atexit
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

import sidegate

SIDEGATE = str(Path(sys.executable).parent / "sidegate")
IMAGE = "sidegate"
USER = 60914
"""Uid and gid of the ordinary user; no account is needed, and it is not the one that root's workers become."""

COMPOSE = (Path(__file__).parents[2] / "config/compose.yaml").read_text()
CAPABILITIES = re.findall(
    r"^    - ([A-Z_]+)$", COMPOSE.partition("cap_add:")[2].partition("security_opt:")[0], re.MULTILINE
)

DEVELOPMENT = {
    "SIDEGATE_LISTEN": "all",
    "SIDEGATE_DISCOVER": "labels",
    "SIDEGATE_ISOLATION": "bridge",
    "SIDEGATE_FORWARDER": "auto",
}
"""What `--dev` sets otherwise than a node has it; the tests are about the same daemon."""

LACKS: Mapping[str, Mapping[str, str]] = {
    "host": {},
    "dev": {
        "the kernel's forwarder": "nftables rules take root",
        "the bridge fast path": "iptables rules take root",
        "the fence around private networks": "nftables rules take root",
        "sockets destroyed": "in a container's network namespace that takes root, and between apps no engine helps",
        "3306 for PostgreSQL": "a rule in the database's network namespace takes root",
        "newcomers held": "to stop a container's process until its networks are there takes root",
    },
    "image": {
        "an engine that restarts": "the daemon's own container stops with an engine that has no live-restore",
    },
    "bridge": {
        "the kernel's forwarder": "the daemon's container has a network of its own, and rules there are not the host's",
        "IPv6": "its ports are published for IPv4 alone: over IPv6 Docker would show strangers as if they were here",
        "clients of this machine": "Docker shows them as its own gateway, and not as loopback",
        "a start without an engine": "only the engine can tell it which container it is in, and it ends without one",
        "the host's ports": "those that are published are docker-proxy's, and nobody else can hold one",
        "an engine that restarts": "the daemon's own container stops with an engine that has no live-restore",
    },
}
"""What a form does not have, by the words that `needs` has for it, and why."""


class Process(Protocol):
    """A daemon that was started; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int:
        """On the host."""

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to be started. `inside`: words that run a command where its engine is; `without`: capabilities that it
    shall not have."""

    name: str
    directory: Path
    log: Path
    environ: Mapping[str, str]
    inside: Sequence[str] = ()
    without: Sequence[str] = ()


# --- one name of a form beside another's --------------------


OWN = {
    "dev": ("sgformsd", "10.236.0.0/19", "29320-29339"),
    "image": ("sgformsi", "10.236.32.0/19", "29340-29359"),
    "bridge": ("sgformsb", "10.236.64.0/19", "29300-29319"),
}
"""Instance, pool and ports of the node that most tests share; the ports lie below the ephemeral ones, of which clients'
sockets have one now and then."""


def beside(form: str, name: str, pool: str, ports: str) -> tuple[str, str, str]:
    """Instance, pool and ports of a node of another form than the host's: a run in each goes on at the same time."""
    if form == "host":
        return name, pool, ports
    network, start = IPv4Network(pool), int(ports.split("-")[0])
    moved = int(IPv4Network("10.236.96.0/19").network_address) + (int(network.network_address) & 0x1FFF)
    first = 29360 + start // 10 % 4 * 10
    return form[0] + name, f"{IPv4Network((moved, max(network.prefixlen, 20)), strict=False)}", f"{first}-{first + 9}"


def other_name(name: str) -> str:
    """Of a network namespace; see `beside`."""
    return name if FORM == "host" else FORM[0] + name


def other_prefix(prefix: str) -> str:
    """The first three numbers of the addresses of an outside host; see `beside`."""
    if FORM == "host":
        return prefix
    return f"198.18.{128 + (int(prefix.replace('.', '')) + 3 * list(OWN).index(FORM)) % 128}"


# --- on the host --------------------


def has(form: str, what: str) -> bool:
    """Whether a form has something that not every one has."""
    assert any(what in lacking for lacking in LACKS.values()), what
    return what not in LACKS[form]


def start(form: str, launch: Launch) -> Process:
    """A daemon, started in that form; it may still end at once. Raises AssertionError where nothing was."""
    if form in ("image", "bridge"):
        return Contained(launch, bridge=form == "bridge")
    command, environ = [SIDEGATE, "run"], dict(launch.environ)
    if form == "dev":
        command = [*as_user(), user_python(), "-P", "-m", "sidegate", "run", "--dev"]
        environ = DEVELOPMENT | environ
        environ = {key: value for key, value in environ.items() if not key.startswith("XDG_")}
        environ |= {"HOME": str(launch.directory)}
    elif launch.without:
        command = ["setpriv", "--bounding-set=" + ",".join(f"-{one}" for one in launch.without), *command]
    with launch.log.open("ab") as log:
        return subprocess.Popen([*launch.inside, *command], env=environ, stdout=log, stderr=log, start_new_session=True)


# --- as an ordinary user --------------------


def place(form: str, directory: Path) -> Path:
    """Where a node's files are: `directory`, or one of its own where the ordinary user cannot get there."""
    if form != "dev":
        return directory
    if not all(parent.stat().st_mode & 0o001 for parent in directory.parents):
        directory = Path(tempfile.mkdtemp(prefix="sidegate-dev-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.chown(directory, USER, USER)
    return directory


def as_user() -> list[str]:
    """Words that run a command as an ordinary user in the group that the engine's socket belongs to."""
    group = Path("/var/run/docker.sock").stat().st_gid
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={group}"]


@functools.cache
def user_python() -> str:
    """An interpreter with Sidegate that the ordinary user can run: the tests' own, or where that is in somebody's home,
    the system's with the same packages."""
    # The shell's exec is the user's own: the one of setpriv still has root's rights to get there.
    probe = [*as_user(), "sh", "-c", 'exec "$0" -c "import sidegate"', sys.executable]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(version, path="/usr/local/bin:/usr/bin:/bin")
    assert system, f"no {version} that an ordinary user may run: install one, or make .venv with one outside /root"
    own = Path(tempfile.mkdtemp(prefix="sidegate-python-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    own.chmod(0o755)
    subprocess.run([system, "-m", "venv", "--without-pip", str(own)], check=True)
    packages, there = (Path(place) / "lib" / version / "site-packages" for place in (sys.prefix, own))
    line = f"import site; site.addsitedir({str(packages)!r})\n"
    (there / "sidegate-tests.pth").write_text(line)
    probe[-1] = python = str(own / "bin/python")
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:  # the checkout is out of reach, too
        (there / "sidegate-tests.pth").unlink()
        shutil.copytree(packages, there, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__editable__*", "*.pth"))
        shutil.copytree(Path(sidegate.__file__).parent, there / "sidegate")
        subprocess.run(["chmod", "-R", "a+rX", str(there)], check=True)
    return python


# --- from the image --------------------


class Contained:
    """A daemon in a container as config/compose.yaml has it, but for the limit of open files, which not every engine
    may raise; like a `subprocess.Popen`."""

    def __init__(self, launch: Launch, *, bridge: bool) -> None:
        self._name = f"{launch.name}-daemon"
        # Before all others by name: older engines take a container's default route from the first.
        self._front = f"0{launch.name}" if bridge else ""
        given = {key: value for key, value in launch.environ.items() if key.startswith("SIDEGATE_")}
        given["DOCKER_HOST"] = launch.environ.get("DOCKER_HOST", "unix:///host/run/docker.sock")
        self._environ = dict(launch.environ)
        for name in ("STATE", "RUNTIME"):
            Path(given[f"SIDEGATE_{name}_DIR"]).mkdir(mode=0o700 if name == "STATE" else 0o755, exist_ok=True)
        self._remove()
        if bridge:
            self._docker("network", "create", self._front)
            ports = [given[f"SIDEGATE_{what}_PORT"] for what in ("HTTP", "HTTPS")]
            ports = [port for port in (*ports, given["SIDEGATE_EXTERNAL_PORTS"]) if port != "0"]
            published = [f"-p=0.0.0.0:{port}:{port}" for port in ports]
            network = [f"--network={self._front}", "--sysctl=net.ipv4.ip_forward=0", *published]
        else:
            network = ["--network=host"]
        try:
            self._docker(
                *("run", "-d", f"--name={self._name}", *network, "--pid=host", "--cap-drop=ALL"),
                *(f"--cap-add={one}" for one in CAPABILITIES if one.lower() not in launch.without),
                *("--security-opt=apparmor=unconfined", "--security-opt=no-new-privileges", "--stop-timeout=45"),
                *("--read-only", "--tmpfs=/tmp", "--tmpfs=/run"),
                *("-v=/run:/host/run:ro", "-v=/sys/fs/cgroup:/sys/fs/cgroup:ro"),
                f"-v={launch.directory}:{launch.directory}",
                *(f"-e={key}={value}" for key, value in given.items()),
                IMAGE,
            )
        except BaseException:
            self._remove()
            raise
        with launch.log.open("ab") as log:
            command = ["docker", "logs", "-f", self._name]
            self._log = subprocess.Popen(command, env=self._environ, stdout=log, stderr=log, start_new_session=True)
        self._status: int | None = None
        self.pid = int(self._docker("inspect", "-f", "{{.State.Pid}}", self._name))  # 0: it has ended already

    def poll(self) -> int | None:
        if self._status is None:
            try:
                running, status = self._docker(
                    "inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", self._name
                ).split()
            except AssertionError:  # the engine is away; what it runs may go on without it
                return None
            if running == "false":
                self._log.wait(timeout=30)
                self._remove()
                self._status = int(status) if int(status) <= 128 else 128 - int(status)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout or 600)
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self._name, timeout or 600)
            time.sleep(0.02)
        return status

    def send_signal(self, sig: int) -> None:
        if self.pid and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)  # also where the engine is away
        self._remove()
        self._log.wait(timeout=30)
        self._status = -signal.SIGKILL

    def _remove(self) -> None:
        for words in (["rm", "-f", self._name], ["network", "rm", self._front])[: 2 if self._front else 1]:
            with contextlib.suppress(AssertionError):
                self._docker(*words)

    def _docker(self, *words: str) -> str:
        done = subprocess.run(
            ["docker", *words], env=self._environ, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"docker {words[0]}: {done.stderr}"
        return done.stdout.strip()


FORM = os.environ.get("SIDEGATE_FORM", "host")
assert FORM in LACKS, f"SIDEGATE_FORM is one of {', '.join(LACKS)}"
