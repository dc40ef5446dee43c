"""Other people's programs, before the proxy and behind it."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from e2e.node import Node, need_engine, running
from interop.toolbox import Toolbox
from proxy.wire import be_patient


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon's loop."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


@pytest.fixture(scope="session")
def toolbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolbox]:
    """A container on the host's network with Debian's servers and clients in it."""
    need_engine()
    box = Toolbox(Path(tmp_path_factory.mktemp("toolbox")))
    try:
        box.start()
        yield box
    finally:
        box.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running daemon beside the one of the end-to-end tests."""
    need_engine()
    with running(
        Node(Path(tmp_path_factory.mktemp("node")), "sginterop", pool="10.219.0.0/20", ports="31600-31699")
    ) as node:
        yield node
