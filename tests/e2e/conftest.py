"""One daemon and one MariaDB for all end-to-end tests of a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node import Node, need_engine, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running daemon. Tests that stop it start it again."""
    need_engine()
    with running(
        Node(Path(tmp_path_factory.mktemp("node")), "sgtest", pool="10.215.0.0/17", ports="31000-31099")
    ) as node:
        yield node


@pytest.fixture(scope="session")
def shop_db(node: Node) -> str:
    """The container of the database shop-db, with one greeting in a table."""
    container = node.database("shop-db")
    node.sql(
        container, "CREATE TABLE shop.greetings (word VARCHAR(20)); INSERT INTO shop.greetings VALUES ('good morning')"
    )
    return container
