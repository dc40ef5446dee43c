"""Host tools as processes: what they are given, what becomes of them."""

import asyncio
import os
from pathlib import Path

import pytest

from sidegate.adapters.tools import Tools
from sidegate.errors import HostToolError


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and bool(Path(f"/proc/{pid}/cmdline").read_bytes())


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
    with pytest.raises(HostToolError, match=r"did not end within 1 s"):
        await Tools(deadline=1).run("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    assert not runs(int((tmp_path / "pid").read_text()))


async def test_one_that_nobody_waits_for_any_more_is_killed_before_its_caller_goes_on(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    task = asyncio.create_task(Tools(deadline=1000).run("sh", "-c", f"echo $$ > {pid}; exec sleep 1000"))
    async with asyncio.timeout(20):
        while not (pid.exists() and pid.read_text()):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not runs(int(pid.read_text()))


async def test_no_more_than_so_many_run_at_once_and_one_that_waits_can_be_given_up(tmp_path: Path) -> None:
    tools = Tools(deadline=1000, at_once=1)
    first = asyncio.create_task(tools.run("sh", "-c", f"touch {tmp_path}/first; exec sleep 1000"))
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
