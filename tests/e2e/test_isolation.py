"""Each value of `isolation` does what its line in config/sidegate.toml says, on a real engine, and private networks are
private while Docker rewrites its rules."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node import Node, need_engine, run, running, wait_for
from e2e.private_engine import PrivateEngine

DATABASES = {
    "plain": (),
    "published": ("-p", "127.0.0.1::3306"),
}
"""What each is started with, all on the default bridge and on a network of their project as well."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon of its own, first with `report`, beside databases and a bystander that shares their networks."""
    need_engine()
    directory: Path = tmp_path_factory.mktemp("isolation")
    node = Node(
        directory,
        "sgisolated",
        pool="10.217.13.0/24",
        ports="31820-31829",
        settings={"isolation": "report", "workers": "1"},
    )
    node.docker("network", "create", node.container("project"))
    try:
        with running(node):
            for name, options in DATABASES.items():
                labels = ["--label", f"sidegate.database={name}-db", "--label", "sidegate.engine=mariadb"]
                node.docker_run(name, *labels, *options, image="sidegate-base", command=["sleep", "1d"])
            node.docker_run("bystander", image="sidegate-base", command=["sleep", "1d"])
            for name in (*DATABASES, "bystander"):
                node.docker("network", "connect", node.container("project"), node.container(name))
            yield node
    finally:
        node.docker("network", "rm", node.container("project"), check=False)


def networks(node: Node, name: str) -> set[str]:
    """The networks of a container, `home` for the one that a database has from us."""
    listed = node.docker(
        "inspect", "-f", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}", node.container(name)
    )
    ours = {node.container(f"home--{name}-db"): "home", node.container("project"): "project"}
    return {ours.get(network, network) for network in listed.split()}


def told(node: Node, name: str) -> list[str]:
    """The networks through which a database can be reached by the bystander, as problems say it."""
    said = [text for text in node.problems() if text.startswith(f"{name}-db: can be reached through ")]
    assert all(node.container("bystander") in text for text in said), said
    return sorted(text.split()[5].removeprefix(f"{node.name}-") for text in said)


@pytest.mark.parametrize(
    ("isolation", "plain", "published"),
    [
        ("report", {"home", "bridge", "project"}, {"home", "bridge", "project"}),
        ("bridge", {"home", "project"}, {"home", "bridge", "project"}),
        ("strict", {"home"}, {"home"}),
    ],
)
def test_what_each_setting_takes_databases_off(
    node: Node, isolation: str, plain: set[str], published: set[str]
) -> None:
    """Who can still reach one without being connected to it is said, through which network, and nobody else is. Apps
    and other containers stay where they are."""
    node.stop()
    node.environ["SIDEGATE_ISOLATION"] = isolation
    node.start()
    lefts = {"plain": plain, "published": published}
    wait_for("they are where they may be", lambda: {name: networks(node, name) for name in lefts} == lefts)
    ways = {name: sorted(left - {"home"}) for name, left in lefts.items()}
    wait_for("it is told", lambda: {name: told(node, name) for name in lefts} == ways)
    assert networks(node, "bystander") == {"bridge", "project"}


CHAINS = ("DOCKER-ISOLATION-STAGE-1", "DOCKER-USER")
"""The last is to come first."""

REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 8080), 1).close()
except OSError as error:
    print(error)
else:
    print("reached")
"""


@pytest.mark.needs("the fence around private networks")
def test_a_private_network_stays_closed_while_docker_rewrites_its_rules(private: tuple[Node, PrivateEngine]) -> None:
    """R12. At each change of a network Docker takes its jumps out of FORWARD and puts them back: here they stay away
    longer. The fence stands without the daemon, and comes back when somebody has removed it."""
    node, _ = private

    def reaches(container: str, address: str) -> bool:
        return node.docker("exec", node.container(container), "python3", "-c", REACH, address) == "reached"

    def jump(verb: str, chain: str) -> bool:
        return run(*node.inside, "iptables", verb, "FORWARD", "-j", chain, check=False).returncode == 0

    def take_out() -> None:
        for chain in CHAINS:
            while jump("-D", chain):
                pass

    made = [node.app("inner"), node.app("partner"), node.docker_run("stranger")]
    try:
        node.cli("connect", "inner", "partner")
        where = f'(index .NetworkSettings.Networks "{node.container("inner--partner")}").IPAddress'
        address = node.docker("inspect", "-f", f"{{{{{where}}}}}", node.container("inner"))
        wait_for("the partner reaches it", lambda: reaches("partner", address))
        with node.paused():
            take_out()
            assert not reaches("stranger", address)
            assert reaches("partner", address)
            run(*node.inside, "nft", "delete", "table", "ip", f"sidegate-{node.name}.fence")
            assert reaches("stranger", address)
        made.append(node.docker_run("onlooker"))
        wait_for("it is closed again", lambda: not reaches("stranger", address))
        assert reaches("partner", address)
    finally:
        take_out()  # so that none is there twice
        assert all(jump("-I", chain) for chain in CHAINS)
        node.cli("disconnect", "inner", "partner", "--yes", check=False)
        node.docker("rm", "-f", *made)
