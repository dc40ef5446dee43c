"""Each value of `isolation` does what its line in config/sidegate.toml says, on a real engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node import Node, need_engine, running, wait_for

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
