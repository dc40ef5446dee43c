"""What a case works with: rounds that alternate, and containers and a daemon of its own that go when it ends.

Everything made here bears the name `sgbench`. Knows no case and writes no report.
"""

import contextlib
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import Result
from e2e.node import BASE_IMAGE, Node, run

NAME = "sgbench"
IMAGE = NAME
CONTEXT = Path(__file__).parents[1] / "images/bench"
BUILD_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
SPREAD = 0.15
"""Rounds further apart than this, against their median, are followed by more, up to twice as many."""
QUIET = 0.85
"""The share of the machine's time that must be idle before a round begins."""

Measure = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing worth measuring. `subject` is the server whose ratio to each other one is shown; `quick` says whether
    it takes part in a --quick run that does not name it."""

    name: str
    unit: str
    subject: str
    about: str
    run: Callable[["Bench"], None]
    quick: bool = True


@dataclass(slots=True)
class Bench:
    """One case being measured. `seconds`: how long a round lasts. `rounds`: how many there are at least.
    `patience`: how long, in seconds, a measurement may wait for a quiet machine. `disturbed`: how many did in vain."""

    case: Case
    seconds: float
    rounds: int
    patience: float
    measured: dict[str, list[float]] = field(default_factory=dict)
    disturbed: int = 0

    # --- measuring --------------------

    def alternate(self, servers: Mapping[str, Measure], rounds: int = 0) -> None:
        """Measure each server once a round, after one round that does not count."""
        least = rounds or self.rounds
        for measure in servers.values():
            measure()
        new: dict[str, list[float]] = {server: [] for server in servers}
        for number in range(1, 2 * least + 1):
            for server, measure in servers.items():
                value = self._undisturbed(measure)
                new[server].append(value)
                progress(f"{self.case.name}: round {number}: {server}: {value:,.0f} {self.case.unit}")
            if number >= least and all(_steady(values) for values in new.values()):
                break
        for server, values in new.items():
            self.measured.setdefault(server, []).extend(values)

    def wrk(self, container: str, url: str, *options: str) -> float:
        """Requests per second of one thread over 32 connections that stay open, sent from inside a container."""
        words = ["wrk", "-t1", "-c32", f"-d{self.seconds:g}s", *options, url]
        output = run("docker", "exec", container, *words, timeout=self.seconds + 30).stdout
        facts = {key: value.strip() for key, _, value in (line.partition(":") for line in output.splitlines())}
        # wrk prints these two lines only where something went wrong
        if "Socket errors" in facts or "Non-2xx or 3xx responses" in facts:
            raise AssertionError(f"{url} did not answer every request with 200:\n{output}")
        return float(facts["Requests/sec"])

    def _undisturbed(self, measure: Measure) -> float:
        """Measure while the machine is otherwise quiet; out of patience, whatever came last stands."""
        deadline = time.monotonic() + self.patience
        while True:
            before = _idle_share(0.2)
            if before < QUIET and time.monotonic() < deadline:
                continue
            value = measure()
            if min(before, _idle_share(0.2)) >= QUIET:
                return value
            if time.monotonic() > deadline:
                self.disturbed += 1
                progress("the machine is busy with other things: measured all the same")
                return value

    def results(self) -> list[Result]:
        return [
            Result(self.case.name, server, self.case.unit, tuple(values)) for server, values in self.measured.items()
        ]

    # --- what it runs --------------------

    @contextlib.contextmanager
    def node(self, **settings: str) -> Iterator[Node]:
        """A daemon with directories, ports, a pool and an instance of its own, ready."""
        with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as directory:
            node = Node(Path(directory), NAME, pool="10.218.0.0/18", ports="34000-34099")
            node.environ |= {f"SIDEGATE_{key.upper()}": value for key, value in settings.items()}
            try:
                progress(f"{self.case.name}: starting a daemon")
                node.start()
                yield node
            finally:
                progress(f"{self.case.name}: removing what was started")
                try:
                    node.close()
                finally:
                    with contextlib.suppress(AssertionError):  # it was never started
                        node.stop(signal.SIGKILL)
                    remove_leftovers()


@contextlib.contextmanager
def image() -> Iterator[None]:
    """The image of nginx and wrk that every container of a benchmark runs."""
    remove_leftovers()
    progress("building an image with nginx and wrk")
    proxies = [word for name in BUILD_VARIABLES for word in ("--build-arg", name)]
    options = ["--network=host", "--build-arg", f"BASE={BASE_IMAGE}", *proxies]
    try:
        run("env", "DOCKER_BUILDKIT=0", "docker", "build", "-q", *options, "-t", IMAGE, str(CONTEXT), timeout=300)
        yield
    finally:
        run("docker", "image", "rm", "-f", IMAGE, check=False)


def remove_leftovers() -> None:
    """Whatever of ours the daemon's purge did not take, or a killed run left: containers, networks, rules."""
    containers = _lines("docker", "ps", "-a", "-q", "--filter", f"name=^{NAME}-")
    if containers:
        run("docker", "rm", "-f", "-v", *containers, check=False, timeout=120)
    for network in _lines("docker", "network", "ls", "-q", "--filter", f"label=sidegate.instance={NAME}"):
        run("docker", "network", "rm", network, check=False)
    for rule in firewall_rules():
        if any(word.startswith(f"sidegate:{NAME}") for word in rule):
            run("iptables", "-w", "-D", *rule, check=False)


def firewall_rules() -> list[list[str]]:
    """DOCKER-USER's rules in order, each as `iptables -D` takes it: the chain, then the words of the rule."""
    rules = [shlex.split(line) for line in _lines("iptables", "-w", "-S", "DOCKER-USER")]
    return [rule[1:] for rule in rules if rule[0] == "-A"]


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _steady(values: Sequence[float]) -> bool:
    middle = sorted(values)[len(values) // 2]
    return max(values) - min(values) <= SPREAD * abs(middle)


def _idle_share(seconds: float) -> float:
    """Of all cores' time; what the hypervisor steals is not idle."""
    before = _cpu_times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_cpu_times(), before, strict=True)]
    return (spent[3] + spent[4]) / max(1, sum(spent))


def _cpu_times() -> list[int]:
    """proc(5), /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, in clock ticks."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    return [int(word) for word in first.split()[1:9]]


def _lines(*command: str) -> list[str]:
    return run(*command, check=False).stdout.splitlines()
