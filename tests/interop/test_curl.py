"""curl through a worker, in front of the sample app."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interop.plane import HOST, Plane, outcome, plane, run, sample_app

pytestmark = pytest.mark.engine
BIG = bytes(range(256)) * 40_000
QUIET = ("curl", "-sS", "--max-time", "20")


@pytest.fixture
async def shop() -> AsyncIterator[Plane]:
    async with sample_app() as port, plane(port) as found:
        yield found


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    return path


def received(answer: str) -> dict[str, object]:
    """What the sample app says of the body that it got."""
    found: dict[str, object] = json.loads(answer)
    return found


WHOLE = {"bytes": len(BIG), "sha256": hashlib.sha256(BIG).hexdigest()}


async def test_an_upload_waits_for_the_apps_own_100_continue(shop: Plane, big: Path) -> None:
    status, out, said = await outcome(*QUIET, "-v", "-H", "Expect: 100-continue", "-T", str(big), f"{shop.url}/upload")
    assert status == 0
    assert received(out) == WHOLE
    assert said.index("< HTTP/1.1 100") < said.index("We are completely uploaded") < said.index("< HTTP/1.1 200")


async def test_uploads_arrive_whole_with_a_length_in_chunks_and_as_a_form(shop: Plane, big: Path) -> None:
    for words in (
        ("-T", str(big)),
        ("-H", "Transfer-Encoding: chunked", "-T", str(big)),
        ("-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-T", str(big)),
        ("--data-binary", f"@{big}"),
        ("-0", "--data-binary", f"@{big}"),
    ):
        assert received(await run(*QUIET, *words, f"{shop.url}/upload")) == WHOLE
    piped = await run(*QUIET, "-T", "-", f"{shop.url}/upload", given=BIG)
    assert received(piped) == WHOLE
    form = json.loads(await run(*QUIET, "-F", f"file=@{big}", "-F", "word=tea", f"{shop.url}/echo"))
    assert form["method"] == "POST"
    assert form["body"]["bytes"] > len(BIG)


async def test_head_has_the_headers_of_get_and_no_body(shop: Plane) -> None:
    head = await run(*QUIET, "-I", f"{shop.url}/stream?bytes=1000000")
    assert head.startswith("HTTP/1.1 200 ")
    assert "content-length: 1000000\r\n" in head.lower()
    again = await run(*QUIET, "-I", f"{shop.url}/healthz", f"{shop.url}/healthz", "-w", "%{num_connects} ")
    assert [line[0] for line in again.splitlines() if line.endswith(" ")][-1:] == ["0"]


async def test_downloads_are_whole_with_a_length_in_chunks_and_for_http_1_0(shop: Plane) -> None:
    report = ("-o", "/dev/null", "-w", "%{http_version} %{response_code} %{size_download}")
    for words in ((), ("-0",), ("--http1.0", "-H", "Connection: keep-alive"), ("--raw",)):
        for chunked in ("", "&chunked=1"):
            found = await run(*QUIET, *words, *report, f"{shop.url}/stream?bytes=10000000{chunked}")
            _, code, size = found.split()
            assert code == "200"
            assert int(size) == 10_000_000 or (words == ("--raw",) and chunked)


async def test_an_http_1_0_client_never_sees_chunks(shop: Plane) -> None:
    answer = await run(*QUIET, "-0", "-i", f"{shop.url}/stream?bytes=5&chunked=1")
    head, _, body = answer.partition("\r\n\r\n")
    assert "transfer-encoding" not in head.lower()
    assert len(body) == 5


async def test_one_connection_serves_many_requests_of_every_method(shop: Plane, big: Path) -> None:
    url = f"{shop.url}/echo/x"
    parts: list[str] = []
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        body = [] if method in ("GET", "OPTIONS") else ["--data-binary", f"@{big}"]
        parts += [
            "--next",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{response_code}/%{num_connects} ",
            "-X",
            method,
            *body,
            url,
        ]
    assert await run("curl", *parts[1:]) == "200/1 " + "200/0 " * 5


async def test_many_transfers_at_once(shop: Plane) -> None:
    found = await run(
        *QUIET, "-Z", "--parallel-max", "50", "-w", "%{response_code}\n", "-o", "/dev/null",
        f"{shop.url}/stream?bytes=100000&n=[1-300]", timeout=60,
    )  # fmt: skip
    assert found.split() == ["200"] * 300


async def test_the_absolute_form_is_taken_and_its_host_counts(shop: Plane) -> None:
    target = f"http://{HOST}/echo/a%2Fb?c=%20d"
    found = json.loads(await run(*QUIET, "--request-target", target, "-H", "Host: other.localhost", shop.address))
    assert found["target"] == "/echo/a%2Fb?c=%20d"
    assert [value for name, value in found["headers"] if name.lower() == "host"] == [HOST]


async def test_what_a_client_says_to_a_proxy_is_not_passed_on(shop: Plane) -> None:
    words = ("--tr-encoding", "-H", "Keep-Alive: 5", "-H", "Proxy-Connection: keep-alive", "-H", "X-Tea: green")
    found = json.loads(await run(*QUIET, *words, "-H", "X-Tea: black", f"{shop.url}/echo"))
    names = [name.lower() for name, _ in found["headers"]]
    assert not {"te", "keep-alive", "proxy-connection"} & set(names)
    assert [value for name, value in found["headers"] if name == "X-Tea"] == ["green", "black"]
    given = dict(found["headers"])
    assert given["X-Forwarded-Host"].split(":")[0] == HOST
    assert (given["X-Forwarded-For"], given["X-Forwarded-Proto"]) == ("127.0.0.1", "http")


async def test_encoded_paths_arrive_as_they_were_sent(shop: Plane) -> None:
    for path in ("/echo/a%2Fb//c/../d/%7e?q=a%20b&&=", "/echo/%e2%82%ac?", "/echo/;a=1,b|c"):
        found = json.loads(await run(*QUIET, "--path-as-is", f"{shop.url}{path}"))
        assert found["target"] == path


async def test_a_client_that_gives_up_leaves_nothing_behind(shop: Plane) -> None:
    status, _, _ = await outcome("curl", "-sS", "--max-time", "0.3", f"{shop.url}/slow?seconds=2")
    assert status == 28
    slow = ("--limit-rate", "200k", "--max-time", "0.5", "-o", "/dev/null")
    status, _, _ = await outcome("curl", "-sS", *slow, f"{shop.url}/stream?bytes=100000000")
    assert status == 28
    assert await run(*QUIET, f"{shop.url}/healthz") == "ok"


async def test_unknown_hosts_and_paths_have_small_pages_by_accept(shop: Plane) -> None:
    host = ("-H", "Host: nobody.localhost")
    page = await run(*QUIET, *host, "-H", "Accept: text/html", "-w", " %{response_code} %{content_type}", shop.url)
    assert "<html" in page.lower()
    assert " 404 text/html" in page
    shown = await run(*QUIET, *host, "-H", "Accept: application/json", "-w", "\n%{response_code}", shop.url)
    document, _, code = shown.rpartition("\n")
    assert json.loads(document)
    assert code == "404"
