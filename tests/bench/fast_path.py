"""What two hundred connections cost the two ends of one of them, and what one firewall rule is worth."""

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench import engine
from bench.bench import Bench, Case, progress
from bench.engine import NAME, firewall_rules
from bench.load import wrk_rate
from bench.programs import IMAGE
from e2e.node import Node, run

APPS = 21  # 21 apps make 210 pairs
CONNECTIONS = 200
AT_ONCE = 8


def measure(bench: Bench) -> None:
    names = [f"end{number:02}" for number in range(APPS)]
    pairs = list(itertools.combinations(names, 2))[:CONNECTIONS]
    first, others = pairs[0], pairs[1:]
    with engine.daemon(bench.case.name) as node, ThreadPoolExecutor(AT_ONCE) as people:
        progress(f"{bench.case.name}: starting {APPS} containers")
        list(people.map(lambda name: _start(node, name, serves=name == first[1]), names))

        def rate(seconds: float) -> float:
            url = f"http://{first[1]}.internal:8080/"
            words = ["wrk", "-t1", "-c32", f"-d{max(1, round(seconds))}s", url]
            return wrk_rate(url, run("docker", "exec", node.container(first[0]), *words, timeout=seconds + 30).stdout)

        def rate_without_the_rule(seconds: float) -> float:
            with _past_the_rule(device):
                return rate(seconds)

        # half of its rounds before, half after the others were there: what drifts in between drifts both ways
        half = (bench.rounds + 1) // 2
        node.cli("connect", *first)
        device = _device(node)
        bench.alternate({"1-connection": rate}, half)
        progress(f"{bench.case.name}: making {len(others)} more connections, {AT_ONCE} at a time")
        list(people.map(lambda pair: node.cli("connect", *pair), others))
        bench.alternate({f"{CONNECTIONS}-connections": rate, f"{CONNECTIONS}-without-the-rule": rate_without_the_rule})
        progress(f"{bench.case.name}: removing {len(others)} connections")
        list(people.map(lambda pair: node.cli("disconnect", *pair, "--yes"), others))
        bench.alternate({"1-connection": rate}, half)


def _start(node: Node, name: str, *, serves: bool) -> None:
    command = ["nginx", "-c", "/etc/nginx/app.conf"] if serves else []
    node.docker_run(name, "--label", f"sidegate.app={name}", image=IMAGE, command=command)


@contextlib.contextmanager
def _past_the_rule(device: str) -> Iterator[None]:
    """What crosses this bridge leaves DOCKER-USER at once, as if no Sidegate had a rule in it.

    Removing the rule would not do: that of another Sidegate on the machine serves this bridge as well, and the daemon
    puts its own back. It looks only at rules that no Sidegate made, so this one, by its comment, does not disturb it.
    """
    rule = ["-i", device, "-o", device, "-m", "comment", "--comment", f"sidegate:{NAME}-past", "-j", "RETURN"]
    run("iptables", "-w", "-I", "DOCKER-USER", "1", *rule)
    try:
        yield
        assert firewall_rules()[0][1:] == rule, f"a rule was put before this benchmark's: {firewall_rules()[0]}"
    finally:
        run("iptables", "-w", "-D", "DOCKER-USER", *rule)


def _device(node: Node) -> str:
    """The bridge of the node's only network."""
    (network,) = node.networks()
    options = '{{index .Options "com.docker.network.bridge.name"}}'
    return node.docker("network", "inspect", "-f", options, network)


FAST_PATH = Case(
    name="fast-path",
    unit="req/s",
    subject=f"{CONNECTIONS}-connections",
    about=f"""Requests between the two containers of one internal connection, over its private bridge: with that one
connection on the node, and with {CONNECTIONS}. Docker adds firewall rules for each network, and packets on a bridge
cross them all; the rule that Sidegate keeps at the head of DOCKER-USER spares them that. The last row is without it.
The one connection alone is measured half before, half after the others are there. 55-byte responses by nginx,
`wrk -t1 -c32` in the other container. Floor: {CONNECTIONS} at least 0.9 of 1.""",
    run=measure,
    quick=False,  # making and removing the connections takes minutes
)
