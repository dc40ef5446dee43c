import asyncio
from collections.abc import Callable

import pytest
import uvloop

from proxy.wire import be_patient


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The workers' loop."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a worker that hangs: it is noticed as soon as in earnest."""
    be_patient(monkeypatch, answer=1.0)
