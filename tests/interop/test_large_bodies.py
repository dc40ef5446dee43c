"""Two GiB each way through one worker (a quarter of it in chunks): memory does not grow with the body.

Every transfer begins with the taking side taking nothing for a second, then goes as fast as it can, so that both a slow
taker before a fast giver and a full-speed transfer are seen.
"""

import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from interop import bulk
from interop.plane import HOST, Plane, line, plane, process, run

pytestmark = pytest.mark.engine
SIZE = 2 << 30
SIZES = [("length", SIZE), ("chunked", SIZE // 4)]
MOST_GROWTH = 64 << 10  # KiB
WAIT = "1"


@pytest.fixture
async def shop() -> AsyncIterator[Plane]:
    async with process(sys.executable, bulk.__file__) as backend, plane(int(await line(backend))) as found:
        assert await run("curl", "-sS", "-H", "Expect:", "-T", "-", f"{found.url}/", given=b"warm") == "4"
        yield found


def memory(pid: int, key: str) -> int:
    """VmRSS or VmHWM, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


@contextlib.contextmanager
def flat(pid: int, what: str) -> Iterator[None]:
    """The most that a process held meanwhile is little more than before."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): VmHWM starts again from the present
    before = memory(pid, "VmRSS")
    yield
    peak = memory(pid, "VmHWM")
    print(f"{what}: {before} KiB before, {peak} KiB at most, {memory(pid, 'VmRSS')} KiB after")
    assert peak - before < MOST_GROWTH, f"{what}: {before} KiB grew to {peak} KiB"


@pytest.mark.parametrize(("framing", "size"), SIZES, ids=["length", "chunked"])
async def test_an_upload_of_two_gib(shop: Plane, tmp_path: Path, framing: str, size: int) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    chunked = ["-H", "Transfer-Encoding: chunked"] if framing == "chunked" else []
    with flat(shop.pids[0], f"upload, {framing}"):
        found = await run("curl", "-sS", *chunked, "-T", str(sparse), f"{shop.url}/?wait={WAIT}", timeout=180)
    assert int(found) == size


@pytest.mark.parametrize(("framing", "size"), SIZES, ids=["length", "chunked"])
async def test_a_download_of_two_gib(shop: Plane, framing: str, size: int) -> None:
    url = f"{shop.url}/?bytes={size}" + ("&chunked=1" if framing == "chunked" else "")
    with flat(shop.pids[0], f"download, {framing}"):
        found = await run("sh", "-c", f"curl -sS '{url}' | (sleep {WAIT}; wc -c)", timeout=180)
    assert int(found) == size


async def test_many_clients_that_take_nothing(shop: Plane) -> None:
    """What each of them makes a worker hold is bounded too."""
    request = f"GET /?bytes={SIZE} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack, flat(shop.pids[0], "100 clients that take nothing"):
        for _ in range(100):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", shop.supervisor.http_port)))
            client.sendall(request)
        for _ in range(20):
            assert await run("curl", "-sS", f"{shop.url}/?bytes=9", "-o", "/dev/null", "-w", "%{http_code}") == "200"
