"""Builds with an engine that does what the real one will not do on demand; the real one is in e2e."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from aiohttp import web

from sidegate.adapters.docker.builds import DockerBuilds
from sidegate.core.builds import BuildLine, BuildOrder
from sidegate.errors import EngineError, EngineUnavailableError, InvalidInputError, RefusedError

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
ORDER = BuildOrder("shop:latest", arguments={"A": "x &=y"})


class Engine:
    """An engine on a unix socket that knows `POST /build` only; `answer` is what it does there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: Answer = self.nothing
        self.query: dict[str, str] = {}
        self.received = 0
        self.gone = asyncio.Event()

    async def nothing(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def ping(self, _: web.Request) -> web.Response:
        return web.Response(headers={"Api-Version": "1.41"})

    async def build(self, request: web.Request) -> web.StreamResponse:
        self.query = dict(request.query)
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.gone.set()
            raise

    async def take(self, request: web.Request) -> None:
        while piece := await request.content.readany():
            self.received += len(piece)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path / "docker.sock")
    app = web.Application()
    app.router.add_get("/_ping", engine.ping)
    app.router.add_post("/v1.41/build", engine.build)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.UnixSite(runner, str(engine.path)).start()
    yield engine
    await runner.cleanup()


async def pieces(count: int, size: int = 65536) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def build(engine: Engine, context: AsyncIterator[bytes], order: BuildOrder = ORDER) -> list[BuildLine]:
    async with aclosing(DockerBuilds(f"unix://{engine.path}").build(context, order)) as said:
        return [line async for line in said]


def lines(*documents: object) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\r\n" for document in documents)


async def test_what_the_engine_says(engine: Engine) -> None:
    async def answer(request: web.Request) -> web.Response:
        await engine.take(request)
        return web.Response(
            body=lines(
                {"stream": "Step 1/1 : FROM x\n"},
                {"status": "Pulling from library/x", "id": "latest"},
                {"status": "Downloading", "progress": "[==>  ]", "progressDetail": {"current": 1}, "id": "abc"},
                {"aux": {"ID": "sha256:123"}},
                {"stream": "x" * 300_000},
                {"errorDetail": {"code": 1, "message": "no"}, "error": "no"},
            )
        )

    engine.answer = answer
    assert await build(engine, pieces(40)) == [
        BuildLine("Step 1/1 : FROM x\n"),
        BuildLine("latest: Pulling from library/x\n"),
        BuildLine(),
        BuildLine(image_id="sha256:123"),
        BuildLine("x" * 300_000),
        BuildLine(error="no"),
    ]
    assert engine.received == 40 * 65536
    assert json.loads(engine.query.pop("buildargs")) == {"A": "x &=y"}
    rest = {"rm": "1", "forcerm": "1", "version": "1", "networkmode": "default"}
    assert engine.query == {"t": "shop:latest", "dockerfile": "Dockerfile", **rest}


async def test_options_go_along(engine: Engine) -> None:
    await build(engine, pieces(1), BuildOrder("x", dockerfile="a/B", no_cache=True, pull=True))
    assert (engine.query["dockerfile"], engine.query["nocache"], engine.query["pull"]) == ("a/B", "1", "1")


async def test_a_context_that_the_engine_refuses_half_way(engine: Engine) -> None:
    """It answers without having read everything."""

    async def answer(request: web.Request) -> web.Response:
        await request.content.readany()
        return web.json_response({"message": "dockerfile parse error line 1"}, status=400)

    engine.answer = answer
    assert await build(engine, pieces(400)) == [BuildLine(error="dockerfile parse error line 1")]


async def test_an_engine_that_fails(engine: Engine) -> None:
    async def answer(request: web.Request) -> web.Response:
        await engine.take(request)
        return web.Response(text="plugin is gone", status=500)

    engine.answer = answer
    with pytest.raises(EngineError, match="cannot build: plugin is gone"):
        await build(engine, pieces(1))


async def test_an_engine_that_dies_in_a_build(engine: Engine) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await engine.take(request)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(lines({"stream": "Step 1/1 : RUN x\n"}))
        assert request.transport is not None
        request.transport.abort()
        return response

    engine.answer = answer
    said: list[BuildLine] = []
    with pytest.raises(EngineUnavailableError, match="broke the build off"):
        async for line in DockerBuilds(f"unix://{engine.path}").build(pieces(1), ORDER):
            said.append(line)
    assert said == [BuildLine("Step 1/1 : RUN x\n")]


async def test_an_engine_that_talks_nonsense(engine: Engine) -> None:
    async def answer(request: web.Request) -> web.Response:
        await engine.take(request)
        return web.Response(text="what?\n")

    engine.answer = answer
    with pytest.raises(EngineError, match="makes no sense"):
        await build(engine, pieces(1))


async def test_no_argument_is_in_what_is_said_of_a_broken_answer(engine: Engine) -> None:
    """An error of the client's has the URL in it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await engine.take(request)
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 abc\r\n\r\n")
        await asyncio.Event().wait()
        raise AssertionError

    engine.answer = answer
    with pytest.raises(EngineUnavailableError, match="broke the build off") as caught:
        await build(engine, pieces(1))
    assert "buildargs" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="does not answer"):
        await build(Engine(tmp_path / "none.sock"), pieces(1))


async def test_an_engine_that_is_reached_by_ssh_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        base_url = "http+docker://ssh"
        api_version = "1.41"

        def _set_auth_headers(self, _: object) -> None: ...

        class _proxy_configs:  # noqa: N801
            @staticmethod
            def get_environment() -> dict[str, str]:
                return {}

    builds = DockerBuilds("ssh://host")
    with pytest.raises(RefusedError, match="docker_host has to be unix:// or tcp://"):
        builds._way(Api())  # type: ignore[arg-type]


async def test_a_context_that_cannot_be_read_says_so_itself(engine: Engine) -> None:
    async def answer(request: web.Request) -> web.Response:
        await engine.take(request)
        return web.Response()

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise InvalidInputError("the upload broke off before its end")

    engine.answer = answer
    with pytest.raises(InvalidInputError, match="broke off before its end"):
        await build(engine, broken())


async def test_a_build_that_is_cancelled_is_cancelled_at_the_engine(engine: Engine) -> None:
    """Also where the engine is silent."""
    begun = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await engine.take(request)
        response = web.StreamResponse()
        await response.prepare(request)
        begun.set()
        await asyncio.Event().wait()
        return response

    engine.answer = answer
    task = asyncio.create_task(build(engine, pieces(1)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(engine.gone.wait(), 30)


async def test_a_context_is_read_as_the_engine_takes_it(engine: Engine) -> None:
    go, stuck, read = asyncio.Event(), asyncio.Event(), 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal read
        async for piece in pieces(400):
            read += 1
            yield piece

    async def answer(request: web.Request) -> web.Response:
        await request.content.readany()
        stuck.set()
        await go.wait()
        await engine.take(request)
        return web.Response()

    engine.answer = answer
    task = asyncio.create_task(build(engine, counted()))
    await stuck.wait()
    before = -1
    while before != read:  # until no more fits in between
        before = read
        await asyncio.sleep(0.05)
    assert read < 400
    go.set()
    await task
    assert read == 400
