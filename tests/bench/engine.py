"""Containers and a daemon of a benchmark's own, which go when the case ends. Everything made here is named sgbench."""

import contextlib
import shlex
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.bench import progress
from e2e.node import Node, run

NAME = "sgbench"


@contextlib.contextmanager
def daemon(case: str, **settings: str) -> Iterator[Node]:
    """A daemon with directories, ports, a pool and an instance of its own, ready."""
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as directory:
        node = Node(Path(directory), NAME, pool="10.218.0.0/18", ports="29200-29299")
        node.environ |= {f"SIDEGATE_{key.upper()}": value for key, value in settings.items()}
        try:
            progress(f"{case}: starting a daemon")
            node.start()
            yield node
        finally:
            progress(f"{case}: removing what was started")
            try:
                node.close()
            finally:
                with contextlib.suppress(AssertionError):  # it was never started
                    node.stop(signal.SIGKILL)
                remove_leftovers()


def remove_leftovers() -> None:
    """Whatever of ours the daemon's purge did not take, or a killed run left: containers, networks, rules, the other
    host."""
    containers = _lines("docker", "ps", "-a", "-q", "--filter", f"name=^{NAME}-")
    if containers:
        run("docker", "rm", "-f", "-v", *containers, check=False, timeout=120)
    for which in (f"label=sidegate.instance={NAME}", f"name=^{NAME}-"):
        for network in _lines("docker", "network", "ls", "-q", "--filter", which):
            run("docker", "network", "rm", network, check=False)
    for rule in firewall_rules():
        if any(word.startswith(f"sidegate:{NAME}") for word in rule):
            run("iptables", "-w", "-D", *rule, check=False)
    for table in _lines("nft", "list", "tables"):
        if table.split()[-1] == f"sidegate-{NAME}":
            run("nft", *table.replace("table", "delete table", 1).split(), check=False)
    if Path(f"/run/netns/{NAME}").exists():
        run("ip", "netns", "del", NAME, check=False)
        run("ip", "link", "del", f"{NAME}o", check=False)


def firewall_rules() -> list[list[str]]:
    """DOCKER-USER's rules in order, each as `iptables -D` takes it: the chain, then the words of the rule."""
    rules = [shlex.split(line) for line in _lines("iptables", "-w", "-S", "DOCKER-USER")]
    return [rule[1:] for rule in rules if rule[0] == "-A"]


def _lines(*command: str) -> list[str]:
    return run(*command, check=False).stdout.splitlines()
