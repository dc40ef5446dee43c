"""Host tools as processes: what they are given, what becomes of them."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from sidegate.adapters.tools import Tools
from sidegate.errors import HostToolError

BEGIN = 'touch "$1"; exec tail -f "$1"'
"""Shows that it has begun, and does not end."""


def running(word: object) -> list[bytes]:
    """The command lines that have it, of all processes: a tool that has to be gone may not even have begun."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(place.read_bytes())
    return [line for line in found if str(word).encode() in line]


async def test_what_it_printed_and_how_it_ended() -> None:
    result = await Tools().run("sh", "-c", "cat; echo wrong >&2; exit 3", text="x" * 200_000)
    assert (result.status, result.output, result.complaint) == (3, "x" * 200_000, "wrong\n")


async def test_without_input_it_reads_nothing() -> None:
    assert (await Tools().run("cat")).output == ""


async def test_its_words_are_in_english_and_it_inherits_only_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("here")
    kept, other = (os.open(tmp_path / "kept", os.O_RDONLY | os.O_CLOEXEC) for _ in range(2))
    try:
        script = f"echo $LC_ALL; cat /proc/self/fd/{kept}; test ! -e /proc/self/fd/{other}"
        result = await Tools().run("sh", "-c", script, keep=kept)
        assert (result.status, result.output) == (0, "C\nhere")
    finally:
        os.close(kept)
        os.close(other)


async def test_one_that_is_not_there_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostToolError, match=r"conntrack is not installed: `apt-get install conntrack`"):
        await Tools().run("conntrack", "-L")


async def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostToolError, match=r"did not end within 1 s"):
        await Tools(deadline=1).run("tail", "-f", str(tmp_path / "file"))
    assert running(tmp_path) == []


async def test_one_that_nobody_waits_for_any_more_is_killed_before_its_caller_goes_on(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    task = asyncio.create_task(Tools(deadline=1000).run("sh", "-c", BEGIN, "sh", str(begun)))
    async with asyncio.timeout(20):
        while not begun.exists():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running(tmp_path) == []


async def test_no_more_than_so_many_run_at_once_and_one_that_waits_can_be_given_up(tmp_path: Path) -> None:
    tools = Tools(deadline=1000, at_once=1)
    first = asyncio.create_task(tools.run("sh", "-c", BEGIN, "sh", str(tmp_path / "first")))
    async with asyncio.timeout(20):
        while not (tmp_path / "first").exists():
            await asyncio.sleep(0.01)
    second = asyncio.create_task(tools.run("touch", str(tmp_path / "second")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first, second))
    assert first.cancelled()
    assert second.cancelled()
    assert not (tmp_path / "second").exists()
