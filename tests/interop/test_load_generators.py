"""wrk, h2load and ab through two workers: every request counts."""

import re
from collections.abc import AsyncIterator

import pytest

from interop.plane import HOST, Plane, plane, run, sample_app, wrk_faults
from interop.toolbox import Toolbox

pytestmark = pytest.mark.engine
NAMED = ("-H", f"Host: {HOST}")


@pytest.fixture
async def shop() -> AsyncIterator[Plane]:
    async with sample_app() as port, plane(port, workers=2) as found:
        yield found


async def test_wrk_on_kept_and_on_closed_connections(shop: Plane) -> None:
    for extra in ((), ("-H", "Connection: close")):
        found = await run("wrk", "-t2", "-c50", "-d1s", *NAMED, *extra, f"{shop.address}/healthz")
        assert not wrk_faults(found), found


async def test_h2load_with_and_without_pipelining(shop: Plane, toolbox: Toolbox) -> None:
    for pipelined in ("1", "8"):
        load = ("h2load", "--h1", "-n4000", "-c20", "-m", pipelined, f"{shop.address}/healthz")
        found = await run(*toolbox.inside(*load))
        assert "4000 succeeded, 0 failed, 0 errored, 0 timeout" in found, found
        assert "4000 2xx" in found, found


async def test_ab_which_speaks_http_1_0(shop: Plane, toolbox: Toolbox) -> None:
    body = toolbox.file("ab.body", b"x" * 20_000)
    upload = ("-p", f"/srv/{body.name}", "-T", "application/octet-stream")
    for words, path in (
        ((), "/healthz"),
        (("-k",), "/healthz"),
        (("-k",), "/stream?bytes=100000"),
        (("-i",), "/stream?bytes=100000"),
        (upload, "/upload"),
        (("-k", *upload), "/upload"),
    ):
        found = await run(*toolbox.inside("ab", "-q", "-n1000", "-c20", "-l", *words, f"{shop.address}{path}"))
        counts = dict(re.findall(r"^(.+): +(\d+)", found, re.MULTILINE))
        assert (counts["Complete requests"], counts["Failed requests"]) == ("1000", "0"), found
        assert "Non-2xx responses" not in counts, found
