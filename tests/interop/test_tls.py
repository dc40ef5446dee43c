"""Clients of TLS through a real daemon, which trust its own authority and nobody else."""

import asyncio
import hashlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import certifi
import httpx
import pytest
import requests
import websockets

from e2e.node import Node, wait_for
from interop.plane import outcome, run
from interop.toolbox import Toolbox

pytestmark = pytest.mark.engine
HOST = "tea.localhost"
BODY = os.urandom(900_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@dataclass(frozen=True)
class Site:
    port: int
    authority: Path

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))


@pytest.fixture(scope="module")
def site(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    container = node.app("tea")
    try:
        wait_for("it serves", lambda: node.get(HOST, "/healthz").status == 200)
        authority = Path(tmp_path_factory.mktemp("authority")) / "ca.crt"
        authority.write_text(node.cli("cert", "ca").stdout)
        yield Site(node.https_port, authority)
    finally:
        node.docker("rm", "-f", container)


async def test_curl_with_either_version_of_tls(site: Site, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(BODY)
    curl = ("curl", "-sS", "--max-time", "20", "--cacert", str(site.authority))
    for version in (("--tls-max", "1.2"), ("--tlsv1.3",)):
        for words in ((), ("-H", "Transfer-Encoding: chunked"), ("-0",)):
            given = ("--data-binary", f"@{body}")
            found = json.loads(await run(*curl, *version, *words, *given, f"{site.url}/upload"))
            assert found["sha256"] == DIGEST
        told = dict(json.loads(await run(*curl, *version, f"{site.url}/echo"))["headers"])
        assert told["X-Forwarded-Proto"] == "https"
        assert told["X-Forwarded-Port"] == str(site.port)
    size = ("-o", "/dev/null", "-w", "%{size_download}/%{num_connects} ")
    streams = [f"{site.url}/stream?bytes=50000000", f"{site.url}/stream?bytes=50000000&chunked=1"]
    assert await run(*curl, *size, streams[0], "--next", *curl[1:], *size, streams[1]) == "50000000/1 50000000/0 "
    # curl offers h2 first, and is content with what there is.
    assert await run(*curl, "--http2", "-o", "/dev/null", "-w", "%{http_version}", f"{site.url}/healthz") == "1.1"
    status, _, _ = await outcome("curl", "-sS", "--max-time", "20", f"{site.url}/healthz")
    assert status == 60  # nobody else's trust store has this authority
    status, _, _ = await outcome(*curl, "--tls-max", "1.1", f"{site.url}/healthz")
    assert status == 35


async def test_python_clients(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: resolve("127.0.0.1", *rest, **named))

    def talk() -> None:
        with requests.Session() as session:
            session.trust_env = False  # a CA bundle named there would win
            session.verify = str(site.authority)
            for _ in range(3):
                assert session.post(f"{site.url}/upload", data=BODY, timeout=20).json()["sha256"] == DIGEST
            with pytest.raises(requests.exceptions.SSLError):
                session.get(f"{site.url}/healthz", timeout=20, verify=certifi.where())
        with httpx.Client(verify=site.context, timeout=20, trust_env=False) as client:
            assert client.put(f"{site.url}/upload", content=BODY).json()["sha256"] == DIGEST

    await asyncio.to_thread(talk)
    connector = aiohttp.TCPConnector(ssl=site.context, resolver=Here())
    async with aiohttp.ClientSession(site.url, connector=connector) as session:
        for _ in range(3):
            async with session.post("/upload", data=BODY) as response:
                assert (await response.json())["sha256"] == DIGEST
        async with session.ws_connect("/ws") as ws:
            await ws.send_bytes(BODY)
            assert await ws.receive_bytes() == BODY
    async with websockets.connect(
        f"wss://{HOST}:{site.port}/ws", ssl=site.context, host="127.0.0.1", port=site.port
    ) as echo:
        await echo.send(BODY)
        assert await echo.recv() == BODY


class Here(aiohttp.abc.AbstractResolver):
    """Every name is this machine's."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


async def test_load_generators(site: Site, toolbox: Toolbox) -> None:
    toolbox.file("hosts", f"127.0.0.1 {HOST}\n".encode())
    toolbox.run("sh", "-c", "cat /srv/hosts >> /etc/hosts")
    url = f"{site.url}/healthz"
    found = await run(*toolbox.inside("h2load", "--h1", "-n3000", "-c20", "-m4", url), timeout=60)
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in found, found
    for words in (("-k",), ()):
        found = await run(*toolbox.inside("ab", "-q", "-n500", "-c10", "-l", *words, url), timeout=60)
        assert "Non-2xx" not in found, found
        assert "Failed requests:        0" in found, found
