"""Answers in lines and bodies in pieces, over a real unix socket: verbs of the tests' own beside the real ones."""

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from memory_daemon import MemoryDaemon, running
from sidegate.api import http, openapi, streams
from sidegate.api.calls import CALLS, Asked, Call
from sidegate.api.calls.base import always
from sidegate.api.client import Client, Upload
from sidegate.api.schemas.base import Result
from sidegate.cli.telling import telling
from sidegate.errors import DaemonUnreachableError, NotFoundError, RefusedError

NDJSON = b"Accept: application/x-ndjson\r\n"


class Done(Result):
    text: str


class Verbs:
    """Verbs that do as the test says."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.ended = ""
        self.received = 0

    async def long(self, asked: Asked) -> Done:
        self.begun.set()
        match asked.path["how"]:
            case "refused":
                raise RefusedError("not today")
            case "late":
                asked.progress("first")
                await self.go.wait()
                raise RefusedError("not any more")
            case "broken":
                asked.progress("first")
                raise RuntimeError("secret inside")
            case "chatty":
                for number in range(streams.PENDING_MOST + 5):
                    asked.progress(str(number))
            case "wordy":
                for number in range(9):
                    asked.progress(str(number) + "x" * (streams.PENDING_SIZE_MOST // 4))
            case "silent":
                await self.go.wait()
            case _:
                asked.progress("first")
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    self.ended = "cancelled"
                    raise
                asked.progress("sec\nond")
        self.ended = "done"
        return Done("well")

    async def upload(self, asked: Asked) -> Done:
        assert asked.upload is not None
        if asked.path["how"] == "nowhere":
            raise NotFoundError("there is no such app")
        asked.progress("receiving")
        try:
            async for piece in asked.upload:
                self.received += len(piece)
                self.begun.set()
                if asked.path["how"] == "slow":
                    await self.go.wait()
        except Exception as error:
            self.ended = str(error)
            raise
        return Done(str(self.received))


@pytest.fixture
def verbs() -> Verbs:
    return Verbs()


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verbs: Verbs) -> AsyncIterator[MemoryDaemon]:
    """A daemon that serves the tests' verbs too."""
    extra = (
        Call("POST", "/v1/long/{how}", ("long",), "x", Done, lambda _, a: verbs.long(a), audited=always, streams=True),
        Call(
            *("POST", "/v1/watched/{how}", ("watched",), "x", Done, lambda _, a: verbs.long(a)),
            audited=always,
            streams=True,
            attended=True,
        ),
        Call(
            *("POST", "/v1/upload/{how}", ("upload",), "x", Done, lambda _, a: verbs.upload(a)),
            audited=always,
            streams=True,
            upload="application/x-tar",
        ),
    )
    monkeypatch.setattr(http, "CALLS", (*CALLS, *extra))
    monkeypatch.setattr(openapi, "CALLS", (*CALLS, *extra))
    async with running(tmp_path) as daemon:
        yield daemon


async def stream(node: MemoryDaemon, path: str, **options: Any) -> tuple[Done, list[str]]:
    """Through the real client."""
    told: list[str] = []
    reply = await asyncio.to_thread(lambda: node.client.stream("POST", path, Done, told.append, **options))
    return reply.value, told


@contextlib.asynccontextmanager
async def caller(
    node: MemoryDaemon, path: str, headers: bytes = NDJSON
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The head of a request; the caller leaves with the block."""
    reader, writer = await asyncio.open_unix_connection(node.path)
    writer.write(b"POST %s HTTP/1.1\r\nHost: sidegate\r\n%s\r\n" % (path.encode(), headers))
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def trail(node: MemoryDaemon) -> list[tuple[str, str]]:
    """The audit trail once there is something in it."""
    while not (entries := await node.store.audit(10)):
        await asyncio.sleep(0.001)
    return [(entry.verb, entry.outcome) for entry in entries]


async def test_progress_comes_while_the_verb_runs_and_the_result_last(node: MemoryDaemon, verbs: Verbs) -> None:
    async with caller(node, "/v1/long/well") as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        assert b"Content-Type: application/x-ndjson" in head
        await reader.readuntil(b'{"progress":"first"}\n')
        verbs.go.set()
        await reader.readuntil(b'{"progress":"sec\\nond"}\n')
        await reader.readuntil(b'{"result":{"text":"well"}}\n')
    assert await trail(node) == [("long", "done")]


async def test_the_client_hands_progress_over_and_gives_the_result(node: MemoryDaemon, verbs: Verbs) -> None:
    verbs.go.set()
    assert await stream(node, "/v1/long/well") == (Done("well"), ["first", "sec\nond"])


async def test_whoever_does_not_ask_for_lines_gets_the_result_alone(node: MemoryDaemon, verbs: Verbs) -> None:
    verbs.go.set()
    assert await node.call("POST", "/v1/long/well", Done) == Done("well")
    with pytest.raises(RefusedError, match="not any more"):
        await node.call("POST", "/v1/long/late", Done)


async def test_an_error_before_the_first_line_has_its_own_status(node: MemoryDaemon) -> None:
    raw = await node.raw(b"POST /v1/long/refused HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % NDJSON)
    assert b"409 Conflict" in raw
    assert b"application/problem+json" in raw
    with pytest.raises(RefusedError, match="not today"):
        await stream(node, "/v1/long/refused")


async def test_an_error_after_it_is_the_last_line(node: MemoryDaemon, verbs: Verbs) -> None:
    verbs.go.set()
    with pytest.raises(RefusedError, match="not any more"):
        await stream(node, "/v1/long/late")
    assert await trail(node) == [("long", "refused")]


async def test_an_error_that_nobody_expected_shows_nothing_of_the_inside(node: MemoryDaemon) -> None:
    raw = await node.raw(b"POST /v1/long/broken HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % NDJSON)
    assert b'"problem":{"title":"Internal Server Error","status":500,"code":"internal"' in raw
    assert b"secret" not in raw


async def test_a_verb_with_nothing_to_say_shows_that_it_is_at_it(
    node: MemoryDaemon, verbs: Verbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SILENT_SECONDS", 0.0)
    async with caller(node, "/v1/long/silent") as (reader, _):
        await reader.readuntil(b"{}\n")
        verbs.go.set()
        await reader.readuntil(b'{"result":{"text":"well"}}\n')


async def test_what_is_said_faster_than_it_can_be_told_is_counted(node: MemoryDaemon) -> None:
    done, told = await stream(node, "/v1/long/chatty")
    assert done == Done("well")
    assert told[0] == "… 5 lines are left out: they were not read in time"
    assert told[1] == "5"
    assert len(told) == streams.PENDING_MOST + 1


async def test_long_lines_that_nobody_reads_are_counted_too(node: MemoryDaemon) -> None:
    done, told = await stream(node, "/v1/long/wordy")
    assert done == Done("well")
    assert [line[:3] for line in told] == ["… 6", "6xx", "7xx", "8xx"]


async def test_a_caller_that_goes_away_ends_the_telling_and_not_the_verb(node: MemoryDaemon, verbs: Verbs) -> None:
    async with caller(node, "/v1/long/well") as (reader, _):
        await reader.readuntil(b"first")
    verbs.go.set()
    assert await trail(node) == [("long", "done")]
    assert verbs.ended == "done"


@pytest.mark.parametrize("headers", [NDJSON, b""], ids=["lines", "whole"])
async def test_a_verb_that_needs_its_caller_ends_with_him(node: MemoryDaemon, verbs: Verbs, headers: bytes) -> None:
    async with caller(node, "/v1/watched/well", headers):
        await verbs.begun.wait()
    assert await trail(node) == [("watched", "abandoned")]
    assert verbs.ended == "cancelled"


async def test_a_verb_that_fails_after_its_caller_went_away_is_written_down(node: MemoryDaemon, verbs: Verbs) -> None:
    async with caller(node, "/v1/long/late") as (reader, _):
        await reader.readuntil(b"first")
    verbs.go.set()
    assert await trail(node) == [("long", "refused")]


def tar(pieces: int) -> Upload:
    return Upload("application/x-tar", (b"x" * 65536 for _ in range(pieces)))


async def test_an_upload_has_no_limit_and_is_answered_when_it_is_through(node: MemoryDaemon) -> None:
    done, told = await stream(node, "/v1/upload/well", upload=tar(160))
    assert (done, told) == (Done(str(160 * 65536)), ["receiving"])


async def test_an_upload_waits_for_the_verb(node: MemoryDaemon, verbs: Verbs) -> None:
    """The verb does not read, so the pieces stay where they are."""
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(160):
            sent += 1
            yield b"x" * 65536

    task = asyncio.create_task(stream(node, "/v1/upload/slow", upload=Upload("application/x-tar", pieces())))
    await verbs.begun.wait()
    before = -1
    while before != sent:  # until no more fits in between
        before = sent
        await asyncio.sleep(0.05)
    assert sent < 160
    verbs.go.set()
    assert (await task)[0] == Done(str(160 * 65536))


async def test_an_upload_that_is_refused_is_not_sent_to_its_end(node: MemoryDaemon) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    with pytest.raises(NotFoundError, match="no such app"):
        await stream(node, "/v1/upload/nowhere", upload=Upload("application/x-tar", endless()))


async def test_an_upload_of_another_kind_is_refused(node: MemoryDaemon) -> None:
    body = b"POST /v1/upload/well HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    assert b"this call takes application/x-tar, not application/octet-stream" in await node.raw(body)


async def test_an_upload_that_breaks_off_fails_the_verb(node: MemoryDaemon, verbs: Verbs) -> None:
    kind = b"Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n"
    async with caller(node, "/v1/upload/well", NDJSON + kind) as (_, writer):
        writer.write(b"3\r\nabc\r\n")
        await verbs.begun.wait()
    assert await trail(node) == [("upload", "invalid")]
    assert verbs.ended == "the upload broke off before its end"


async def test_an_upload_that_stands_still_is_given_up_on(
    node: MemoryDaemon, verbs: Verbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)
    kind = b"Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n"
    async with caller(node, "/v1/upload/well", kind) as (reader, _):
        assert b"422" in await reader.readline()
    assert "stood still" in verbs.ended


async def test_a_daemon_that_ends_on_the_way_is_told_from_one_that_is_done(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{"progress":"a"}\n')
        writer.close()

    path = tmp_path / "control.sock"
    client = Client(path)
    async with await asyncio.start_unix_server(answer, path):
        with pytest.raises(DaemonUnreachableError, match="ended before it was done"):
            await asyncio.to_thread(lambda: client.stream("POST", "/x", Done, lambda _: None))


def test_both_kinds_of_answer_are_described(node: MemoryDaemon) -> None:
    operation = openapi.document("x")["paths"]["/v1/upload/{how}"]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/x-ndjson"}
    assert set(operation["requestBody"]["content"]) == {"application/x-tar"}
    json.dumps(operation)


def test_progress_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with telling("working") as shown:
        shown.status("unseen")
        shown.say("one\x1b[2J")
        shown.say("two")
    assert capsys.readouterr() == ("", "one?[2J\ntwo\n")


def on_a_terminal(code: str) -> str:
    """What a process shows on a terminal of 40 columns that is its standard error."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 40))
    source = f"from sidegate.cli.telling import telling\n{code}"
    with subprocess.Popen([sys.executable, "-c", source], stderr=slave, stdout=subprocess.PIPE) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end has closed
            while piece := os.read(master, 4096):
                shown += piece
        assert process.wait(20) == 0
    os.close(master)
    return shown.decode()


def test_progress_on_a_terminal_is_one_line_that_is_rewritten() -> None:
    shown = on_a_terminal("with telling('working') as shown:\n shown.say('one')\n shown.say('x' * 200)")
    assert "\n" not in shown
    lines = shown.split("\r\x1b[K")
    assert lines[1].startswith("one  ")
    assert lines[2].startswith("xxx")
    assert max(map(len, lines)) < 40
    assert lines[-1] == ""


def test_wide_characters_take_two_columns() -> None:
    shown = on_a_terminal("with telling('working') as shown:\n shown.say('建' * 40)")
    assert 10 < shown.count("建") < 20


def test_lines_that_are_kept_scroll_above_it() -> None:
    shown = on_a_terminal(
        "with telling('working', keep=True) as shown:\n shown.say('one')\n shown.status('step 2')\n shown.say('two')"
    )
    assert "\r\x1b[Kone\r\n\r\x1b[Kworking  " in shown
    assert "\r\x1b[Ktwo\r\n\r\x1b[Kstep 2  " in shown
    assert shown.endswith("\r\x1b[K")


def test_progress_is_silent_where_it_was_asked_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    with telling("working", silent=True) as shown:
        shown.say("one")
    assert capsys.readouterr() == ("", "")
