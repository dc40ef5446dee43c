"""Log frames become lines however they are cut, and long answers are read at the consumer's pace."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing

import pytest

from sidegate.adapters.docker.logs import LINE_LIMIT, Lines
from sidegate.adapters.docker.streams import AHEAD, Reading
from sidegate.core.workloads import LogLine


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def lines_of(*parts: bytes, terminal: bool = False) -> list[LogLine]:
    lines = Lines(terminal=terminal)
    return [line for part in parts for line in lines.feed(part)] + list(lines.end())


def test_frames_are_put_together_wherever_they_are_cut() -> None:
    """One read, two or one per byte: the same lines, each of its stream, an unfinished one last."""
    sent = b"".join(
        (frame(1, b"one\ntwo"), frame(2, b"bad \xff\n"), frame(1, b" more\r\n"), frame(1, b""), frame(1, b"\nlast"))
    )
    expected = [
        LogLine("one"),
        LogLine("bad \ufffd", "stderr"),
        LogLine("two more"),
        LogLine(""),
        LogLine("last"),
    ]
    assert lines_of(sent) == expected
    assert lines_of(*(bytes([byte]) for byte in sent)) == expected
    for cut in range(len(sent)):
        assert lines_of(sent[:cut], sent[cut:]) == expected


def test_a_terminal_has_no_frames() -> None:
    """What comes is what was written."""
    assert lines_of(b"a\r\nb", b"c\n", terminal=True) == [LogLine("a"), LogLine("bc")]


def test_a_line_without_end_is_cut() -> None:
    """Nothing grows without bounds, and no byte is lost."""
    written = bytes(range(97, 123)) * (LINE_LIMIT // 8)
    for parts in (
        (frame(1, written + b"\n"),),
        tuple(frame(1, written[i : i + 999]) for i in range(0, len(written), 999)),
    ):
        found = lines_of(*parts)
        assert "".join(line.text for line in found) == written.decode()
        assert max(len(line.text) for line in found) == LINE_LIMIT


async def test_a_reader_waits_for_its_consumer() -> None:
    """It is AHEAD items ahead at most, however much there is, and all arrive in order."""
    emitted = 0

    def read(emit: Callable[[int], None]) -> None:
        nonlocal emitted
        for number in range(AHEAD * 10):
            emit(number)
            emitted = number + 1

    got = []
    async with asyncio.timeout(20), aclosing(Reading("numbers", read, lambda: None).items()) as items:
        async for item in items:
            got.append(item)
            assert emitted <= len(got) + AHEAD + 1
    assert got == list(range(AHEAD * 10))


async def test_a_readers_error_comes_after_what_it_read() -> None:
    """The consumer raises it."""

    def read(emit: Callable[[str], None]) -> None:
        emit("first")
        raise ValueError("broken")

    async with aclosing(Reading("failing", read, lambda: None).items()) as items:
        assert await anext(items) == "first"
        with pytest.raises(ValueError, match="broken"):
            await anext(items)


async def test_a_consumer_that_leaves_ends_the_reader() -> None:
    """Whether it waits for the engine or for room."""
    stopped, ended = threading.Event(), threading.Event()

    def waits(emit: Callable[[int], None]) -> None:
        emit(1)
        stopped.wait(20)
        ended.set()

    async with aclosing(Reading("waiting", waits, stopped.set).items()) as items:
        assert await anext(items) == 1
    assert await asyncio.to_thread(ended.wait, 20)
    ended.clear()

    def floods(emit: Callable[[int], None]) -> None:
        try:
            while True:
                emit(1)
        finally:
            ended.set()

    async with aclosing(Reading("flooding", floods, lambda: None).items()) as items:
        assert await anext(items) == 1
    assert await asyncio.to_thread(ended.wait, 20)
