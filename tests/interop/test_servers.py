"""Debian's nginx and Apache, and Python's own server, behind a worker."""

import asyncio
import hashlib
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from interop.plane import HOST, Plane, line, outcome, plane, process, run, wait_for_server, wrk_faults
from interop.toolbox import Toolbox
from ports import free_port

pytestmark = pytest.mark.engine
Server = Callable[[Toolbox], AbstractAsyncContextManager[int]]
BIG = os.urandom(1 << 20) * 40
TEXT = b"tea, and more tea\n" * 5000
QUIET = ("curl", "-sS", "--max-time", "30")
STATUS = ("-o", "/dev/null", "-w", "%{response_code}")

EVENTS = """#!/bin/sh
echo 'Content-Type: text/event-stream'
echo
echo 'data: first'
echo
while [ ! -e "/srv/$QUERY_STRING" ]; do sleep 0.02; done
echo 'data: second'
echo
"""
ENVIRONMENT = """#!/bin/sh
echo 'Status: 201 Made'
echo 'Content-Type: text/plain'
echo "X-Method: $REQUEST_METHOD"
echo
env | sort
cat | wc -c
"""


@asynccontextmanager
async def nginx(box: Toolbox) -> AsyncIterator[int]:
    locations = """
absolute_redirect off;
error_page 404 /missing.html;
location /old { return 301 /index.html; }
location /away { return 302 https://elsewhere.test/; }
location /empty { return 204; }
location /small { client_max_body_size 1k; proxy_pass http://127.0.0.1:9; }
"""
    port = box.nginx("gzip on; gzip_types text/plain; gzip_http_version 1.0; keepalive_requests 9;", locations)
    try:
        yield port
    finally:
        box.stop("nginx", port)


@asynccontextmanager
async def apache(box: Toolbox) -> AsyncIterator[int]:
    settings = """
ErrorDocument 404 /missing.html
Redirect 301 /old /index.html
Redirect 302 /away https://elsewhere.test/
Redirect 410 /gone
KeepAlive On
MaxKeepAliveRequests 9
AddOutputFilterByType DEFLATE text/plain
<Location /small>
  LimitRequestBody 1000
</Location>
"""
    port = box.apache(settings)
    try:
        yield port
    finally:
        box.stop("apache", port)


@pytest.fixture(params=[nginx, apache], ids=["nginx", "apache"])
async def site(request: pytest.FixtureRequest, toolbox: Toolbox) -> AsyncIterator[Plane]:
    for name, content in {"index.html": b"<h1>Tea</h1>", "missing.html": b"no tea", "big": BIG, "t.txt": TEXT}.items():
        toolbox.file(f"www/{name}", content)
    toolbox.file("cgi/events.cgi", EVENTS.encode(), 0o755)
    toolbox.file("cgi/env.cgi", ENVIRONMENT.encode(), 0o755)
    start: Server = request.param
    async with start(toolbox) as port:
        await wait_for_server(port)
        async with plane(port) as found:
            yield found


async def test_files_with_ranges_and_conditions(site: Plane, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    await run(*QUIET, "-o", str(whole), f"{site.url}/big")
    assert whole.read_bytes() == BIG
    for given, part in (("0-99", BIG[:100]), ("-77", BIG[-77:]), ("1000000-", BIG[1_000_000:])):
        target = tmp_path / "part"
        assert await run(*QUIET, "-r", given, "-o", str(target), "-w", "%{response_code}", f"{site.url}/big") == "206"
        assert target.read_bytes() == part
    several = await run(
        *QUIET, "-r", "0-9,20-29", "-o", "/dev/null", "-w", "%{response_code} %{content_type}", site.url + "/big"
    )
    assert several.startswith("206 multipart/byteranges")
    assert await run(*QUIET, "-r", "99999999-", *STATUS, f"{site.url}/big") == "416"

    partial = tmp_path / "partial"
    partial.write_bytes(BIG[:12345])
    await run(*QUIET, "-C", "-", "-o", str(partial), f"{site.url}/big")
    assert partial.read_bytes() == BIG

    tag = tmp_path / "tag"
    await run(*QUIET, "--etag-save", str(tag), "-o", "/dev/null", f"{site.url}/t.txt")
    assert await run(*QUIET, "--etag-compare", str(tag), *STATUS, f"{site.url}/t.txt") == "304"
    assert await run(*QUIET, "-z", str(whole), *STATUS, f"{site.url}/t.txt", f"{site.url}/t.txt") == "304304"
    assert await run(*QUIET, "-H", 'If-Match: "no"', *STATUS, f"{site.url}/t.txt") == "412"


async def test_compressed_files_head_redirects_and_error_pages(site: Plane) -> None:
    found = await run(*QUIET, "--compressed", f"{site.url}/t.txt", "-w", "%{size_download}")
    text, size = found[: len(TEXT)], int(found[len(TEXT) :])
    assert text.encode() == TEXT
    assert size < len(TEXT) // 10
    head = await run(*QUIET, "-I", f"{site.url}/big")
    assert f"content-length: {len(BIG)}\r\n" in head.lower()
    assert await run(*QUIET, "-L", f"{site.url}/old") == "<h1>Tea</h1>"
    assert await run(*QUIET, *STATUS[:-1], "%{redirect_url}", f"{site.url}/old") == f"{site.url}/index.html"
    assert await run(*QUIET, *STATUS[:-1], "%{redirect_url}", f"{site.url}/away") == "https://elsewhere.test/"
    missing = ("-w", " %{response_code}", f"{site.url}/nothing")
    assert await run(*QUIET, *missing) == "no tea 404"
    assert await run(*QUIET, "-H", "Accept: application/json", *missing) == "no tea 404"  # the app's page, not ours
    assert await run(*QUIET, "-X", "TEAPOT", *STATUS, f"{site.url}/t.txt") in ("405", "501")


async def test_an_upload_that_is_refused_early(site: Plane, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(BIG)
    for words in ((), ("-H", "Expect:"), ("-H", "Transfer-Encoding: chunked")):
        # curl may find that nobody takes the rest (55, 56) and must have the answer all the same.
        status, out, error = await outcome(*QUIET, *words, "-T", str(big), *STATUS, f"{site.url}/small")
        assert out in ("413", "405"), (status, out, error)
        assert status in (0, 55, 56), error


async def test_limits_on_kept_connections_cost_no_request(site: Plane, toolbox: Toolbox) -> None:
    """The server ends every connection after nine requests."""
    found = await run("wrk", "-t1", "-c20", "-d2s", "--timeout", "10s", "-H", f"Host: {HOST}", f"{site.address}/t.txt")
    assert not wrk_faults(found), found
    found = await run(*toolbox.inside("h2load", "--h1", "-n3000", "-c10", "-m4", f"{site.address}/index.html"))
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in found, found


@pytest.mark.parametrize("server", ["nginx", "apache"])
async def test_a_server_that_ends_idle_connections_just_then(toolbox: Toolbox, server: str) -> None:
    """Requests that cross the end of their kept connection are sent again where they may be."""
    toolbox.file("www/index.html", b"hello")
    if server == "nginx":
        port = toolbox.nginx("keepalive_timeout 30ms;")
    else:
        port = toolbox.apache("KeepAlive On\nKeepAliveTimeout 30ms")
    await wait_for_server(port)
    async with plane(port) as shop, aiohttp.ClientSession(shop.address) as session:
        statuses: list[int] = []

        async def ask(pauses: random.Random) -> None:
            for _ in range(40):
                async with session.request(pauses.choice(("GET", "HEAD", "OPTIONS")), "/index.html") as response:
                    await response.read()
                    statuses.append(response.status)
                await asyncio.sleep(pauses.uniform(0.028, 0.034))

        await asyncio.gather(*(ask(random.Random(number)) for number in range(20)))
        assert set(statuses) <= {200, 405}, sorted(set(statuses))
    toolbox.stop(server, port)


@pytest.mark.parametrize("site", [apache], indirect=True, ids=["apache"])
async def test_cgi_with_a_body_and_unbuffered_events(site: Plane, toolbox: Toolbox) -> None:
    body = ("-H", "Transfer-Encoding: chunked", "-T", "-")
    said = await run(*QUIET, "-i", *body, f"{site.url}/cgi/env.cgi/a%20b?c=d", given=TEXT)
    assert "201 Made" in said
    assert "X-Method: PUT\r\n" in said
    assert f"HTTP_HOST={HOST}:{site.supervisor.http_port}\n" in said
    assert "QUERY_STRING=c=d\n" in said
    assert "PATH_INFO=/a b\n" in said
    assert said.rstrip().endswith(str(len(TEXT)))

    name = f"go-{os.urandom(4).hex()}"
    async with process("curl", "-sSN", f"{site.url}/cgi/events.cgi?{name}") as events:
        assert await line(events) == "data: first\n"  # while the script waits
        toolbox.file(name, b"")
        assert [await line(events), await line(events)] == ["\n", "data: second\n"]


async def test_pythons_own_server_which_speaks_http_1_0(tmp_path: Path) -> None:
    """It ends each response by closing the connection, and sends files with a length and pages with one."""
    (tmp_path / "big").write_bytes(BIG)
    port = free_port()
    serve = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
    async with process(*serve):
        await wait_for_server(port)
        async with plane(port) as shop:
            target = tmp_path / "copy"
            await run(*QUIET, "-o", str(target), f"{shop.url}/big")
            assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(BIG).digest()
            connects = ("-o", "/dev/null", "-w", "%{response_code}/%{num_connects} ", f"{shop.url}/")
            assert await run(*QUIET, *connects, "--next", "-sS", *connects) == "200/1 200/0 "
            assert await run(*QUIET, *STATUS, f"{shop.url}/nothing") == "404"
            assert await run(*QUIET, "-d", "x=y", *STATUS, f"{shop.url}/") == "501"
