"""The verb build over the control socket, with an engine in memory that says what a test tells it to."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from memory_daemon import MemoryDaemon
from sidegate.api import schemas
from sidegate.api.builds import BuildVerbs
from sidegate.api.client import Upload
from sidegate.core.builds import BuildLine, BuildOrder
from sidegate.core.model import Variable
from sidegate.errors import BuildFailedError, InvalidInputError, RefusedError, SidegateError

IMAGE = "sha256:" + "ab" * 32
GOOD = [BuildLine("Step 1/1 : RUN make\n"), BuildLine("made\n"), BuildLine(image_id=IMAGE)]


@dataclass
class MemoryBuilder:
    """Takes the whole context, then says `script`. `stuck`: it then says nothing more until it is closed."""

    script: list[BuildLine] = field(default_factory=lambda: list(GOOD))
    stuck: bool = False
    orders: list[BuildOrder] = field(default_factory=list)
    contexts: list[bytes] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def build(self, context: AsyncIterator[bytes], order: BuildOrder) -> AsyncGenerator[BuildLine, None]:
        self.orders.append(order)
        self.contexts.append(b"".join([piece async for piece in context]))
        try:
            for line in self.script:
                yield line
            if self.stuck:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    daemon.app("shop")
    daemon.app("api")
    daemon.database("shop-db")
    return await daemon.settled()


@pytest.fixture
def builder(node: MemoryDaemon) -> MemoryBuilder:
    builder = MemoryBuilder()
    node.commands.builds = BuildVerbs(replace(node.commands.world, builds=builder))
    return builder


async def build(node: MemoryDaemon, app: str = "shop", **query: str) -> tuple[schemas.Built, list[str]]:
    told: list[str] = []
    upload = Upload("application/x-tar", [b"tar", b"ball"])
    reply = await asyncio.to_thread(
        lambda: node.client.stream(
            "POST", f"/v1/apps/{app}/builds", schemas.Built, told.append, query=query, upload=upload
        )
    )
    return reply.value, told


async def failure(node: MemoryDaemon, **query: str) -> str:
    with pytest.raises(BuildFailedError) as caught:
        await build(node, **query)
    assert caught.value.exit_status == 1
    return str(caught.value)


async def test_a_build_gives_the_image_and_what_the_engine_says(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    done, told = await build(node)
    assert (done.app, done.tag, done.image_id, done.notes) == ("shop", "sidegate/shop:latest", IMAGE, [])
    assert told == ["Step 1/1 : RUN make", "made"]
    assert builder.contexts == [b"tarball"]
    assert builder.orders == [BuildOrder("sidegate/shop:latest")]


async def test_a_build_has_the_variables_of_its_scopes_and_what_is_given(
    node: MemoryDaemon, builder: MemoryBuilder
) -> None:
    """R23: build and both, never runtime; what is given for this build wins."""
    variables = [Variable("A", "1", "build"), Variable("B", "2", "runtime"), Variable("C", "3", "both")]
    await node.store.set_variables("shop", variables)
    given = json.dumps({"C": "4", "D": "$x 'y'\n"})
    done, _ = await build(node, build_args=given, tag="team/shop", file="x/Dockerfile", no_cache="true", pull="true")
    assert done.arguments == ["A", "C", "D"]
    (order,) = builder.orders
    assert order.arguments == {"A": "1", "C": "4", "D": "$x 'y'\n"}
    assert (order.tag, order.dockerfile, order.no_cache, order.pull) == ("team/shop:latest", "x/Dockerfile", True, True)


async def test_an_app_that_is_yet_to_come_can_be_built(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    done, _ = await build(node, "blog")
    assert done.tag == "sidegate/blog:latest"


@pytest.mark.parametrize(
    ("app", "query", "kind", "words"),
    [
        ("shop-db", {}, RefusedError, "shop-db is a database"),
        ("Shop", {}, InvalidInputError, "is not a name"),
        ("shop", {"tag": "No"}, InvalidInputError, "not an image's name"),
        ("shop", {"build_args": "[]"}, InvalidInputError, "no JSON object"),
        ("shop", {"build_args": '{"a b": "x"}'}, InvalidInputError, "not a variable's name"),
        ("shop", {"build_args": '{"A": "\\u0000"}'}, InvalidInputError, "NUL"),
    ],
)
async def test_what_cannot_be_built(
    node: MemoryDaemon, builder: MemoryBuilder, app: str, query: dict[str, str], kind: type[SidegateError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await build(node, app, **query)
    assert builder.orders == []


async def test_an_internal_host_is_named_before_the_build(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    """R21, before: whether the step that needs it comes or not, and it does not stop the build."""
    await node.connect("shop", "shop-db", env=True, scope="both")
    done, told = await build(node)
    assert told[0].startswith("warning: DB_CONNECTION_URL, DB_HOST lead to shop-db.internal, an internal connection")
    assert "move the command that needs shop-db to the start command of shop" in told[0]
    assert "`sidegate external on shop-db`" in told[0]
    assert "`sidegate env rename shop DB_HOST --new-scope runtime`" in told[0]
    assert told[1:] == ["Step 1/1 : RUN make", "made"]
    assert [f"warning: {note}" for note in done.notes] == told[:1]


async def test_variables_of_run_time_alone_are_no_reason_to_warn(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    """R24: the same key for the build with other details."""
    await node.connect("shop", "shop-db", env=True)
    await node.store.set_variables("shop", [Variable("DB_HOST", "192.0.2.1", "build")])
    done, _ = await build(node)
    assert (done.arguments, done.notes) == (["DB_HOST"], [])


async def test_a_failed_look_up_is_explained_after_the_build(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    """R21, after."""
    builder.script = [
        BuildLine("Step 1/3 : FROM x\n ---> 12\n"),
        BuildLine("Step 2/3 : RUN ./migrate\nERROR 2005 (HY000): Unknown server host 'shop-db.internal' (-2)\n"),
        BuildLine(error="The command '/bin/sh -c ./migrate' returned a non-zero code: 1"),
    ]
    text = await failure(node)
    assert text.splitlines()[:3] == [
        "the build of shop failed in step 2/3 (RUN ./migrate): exit status 1",
        "its last lines:",
        "  ERROR 2005 (HY000): Unknown server host 'shop-db.internal' (-2)",
    ]
    assert text.splitlines()[3].startswith(
        "shop-db.internal is an internal connection, and those are there at run time"
    )
    assert "sidegate env set shop DB_HOST=… --scope build" in text
    await node.commands.externals.on("shop-db")
    assert "with the external details (203.0.113.7:30000)" in await failure(node)
    assert [entry.outcome for entry in await node.store.audit(1)] == ["build-failed"]


async def test_a_failure_of_another_kind_is_not_explained_away(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    builder.script = [BuildLine("Step 1/1 : RUN make\nmake: *** [all] Error 2\n"), BuildLine(error="code: 2")]
    assert "internal connection" not in await failure(node)


async def test_a_base_image_that_is_not_there_says_what_to_do(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    builder.script = [
        BuildLine("Step 1/2 : FROM --platform=linux/amd64 nosuch:1 AS x\n"),
        BuildLine(error="no such host"),
    ]
    assert "`docker pull nosuch:1` where there is a network" in await failure(node)


async def test_what_only_looks_like_a_step_is_no_stumbling_block(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    """A program of the customer's may say anything."""
    builder.script = [BuildLine("Step 9/9 : FROM --x\n"), BuildLine(error="exit status 1")]
    assert "failed in step 9/9" in await failure(node)


async def test_what_a_terminal_would_obey_is_not_in_the_error_either(
    node: MemoryDaemon, builder: MemoryBuilder, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM x")
    builder.script = [BuildLine("Step 1/1 : RUN x\n\x1b]0;title\x08\n"), BuildLine(error="\x1b[2J is not found")]
    done = await node.sidegate("build", "shop", str(tmp_path))
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert "?[2J is not found" in done.stderr


async def test_arguments_that_are_too_long_for_a_call_are_quoted_nowhere(
    node: MemoryDaemon, builder: MemoryBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("aiohttp.server").addHandler(handler := logging.StreamHandler())
    try:
        with pytest.raises(InvalidInputError, match="too long for one call: build_args may have 128 KiB"):
            await build(node, build_args="secret" + "x" * (1 << 17))
        line = b"POST /v1/apps/shop/builds?build_args=secret" + b"x" * (1 << 17)
        answer = await node.raw(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    finally:
        logging.getLogger("aiohttp.server").removeHandler(handler)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert "secret" not in "".join(capsys.readouterr())


async def test_a_builder_that_ends_without_a_word(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    builder.script = []
    assert "ended without an image" in await failure(node)


async def test_external_details_while_that_connection_is_off(node: MemoryDaemon, builder: MemoryBuilder) -> None:
    """R25."""
    await node.commands.externals.on("shop-db")
    await node.store.set_variables("shop", [Variable("DB_URL", "mysql://shop:x@203.0.113.7:30000/shop", "build")])
    assert (await build(node))[0].notes == []
    await node.commands.externals.off("shop-db")
    assert (await build(node))[0].notes == [
        "DB_URL holds the external details of shop-db, whose external connection is off: this build cannot reach it "
        "before `sidegate external on shop-db`"
    ]


async def test_secret_values_are_nowhere(
    node: MemoryDaemon, builder: MemoryBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    await node.store.set_variables("shop", [Variable("TOKEN", "Secret-1-value", "build", secret=True)])
    builder.script = [
        BuildLine("Step 1/1 : RUN env\nTOKEN=Secret-1-value\n"),
        BuildLine(error="code 1 (Secret-1-value)"),
    ]
    given = json.dumps({"OTHER": "Secret-2-value"})
    text = await failure(node, build_args=given)
    assert "TOKEN=***" in text
    shown = capsys.readouterr()
    kept = text + repr(builder.orders) + str(await node.store.audit(10)) + shown.out + shown.err
    assert "Secret-1" not in kept
    assert "Secret-2" not in kept


async def test_the_command_line_packs_builds_and_says_what_came_of_it(
    node: MemoryDaemon, builder: MemoryBuilder, tmp_path: Path
) -> None:
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx" / "Dockerfile").write_text("FROM sidegate-base\n")
    words = ("build", "shop", str(tmp_path / "ctx"), "--build-arg", "A=1", "--build-arg", "NOT_THERE", "--tag", "x:1")
    done = await node.sidegate(*words)
    assert json.loads(done.stdout)["image_id"] == IMAGE
    assert done.stderr == "Step 1/1 : RUN make\nmade\n"
    assert b"FROM sidegate-base\n" in builder.contexts[0]
    assert builder.orders[0] == BuildOrder("x:1", arguments={"A": "1"})
    done = await node.sidegate(*words, "--json")
    assert done.stderr == ""
    done = await node.sidegate(*words, "--table")
    assert done.stdout.startswith("built x:1 (abababababab) in ")
    builder.script = [BuildLine("Step 1/1 : RUN make\n"), BuildLine(error="code 2")]
    done = await node.sidegate(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("sidegate: the build of shop failed in step 1/1 (RUN make): code 2\n")


async def test_without_a_dockerfile_nothing_is_asked_for(
    node: MemoryDaemon, builder: MemoryBuilder, tmp_path: Path
) -> None:
    done = await node.sidegate("build", "shop", str(tmp_path), "--file", "nothing")
    assert done.returncode == 2
    assert "there is no" in done.stderr
    assert builder.orders == []


async def test_ctrl_c_ends_the_build_at_the_engine(node: MemoryDaemon, builder: MemoryBuilder, tmp_path: Path) -> None:
    builder.stuck = True
    (tmp_path / "Dockerfile").write_text("FROM sidegate-base\n")
    environ = os.environ | {"SIDEGATE_RUNTIME_DIR": str(node.path.parent)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidegate", "build", "shop", str(tmp_path)),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"made" not in (line := await process.stderr.readline()):
            assert line, "it ended"
        process.send_signal(signal.SIGINT)
        await builder.closed.wait()
        assert await process.wait() == 1
        while not (entries := await node.store.audit(1)):
            await asyncio.sleep(0.001)
    assert entries[0].outcome == "abandoned"
