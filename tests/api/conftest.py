from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_daemon import MemoryDaemon, running


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    """A control plane in memory that serves its socket."""
    async with running(tmp_path) as daemon:
        yield daemon
