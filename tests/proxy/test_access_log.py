"""The access log: real files, several processes on one of them, rotation, a disk that is full."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from proxy.wire import DEADLINE, until
from sidegate.errors import SettingsError
from sidegate.proxy import log_writer, messages
from sidegate.proxy.access_log import AccessLog
from sidegate.proxy.log_file import LogFile
from sidegate.proxy.record import Entry

AT = 1767225599.9876


def entry(path: str = "/", status: int = 200, upstream: float = 0.25, host: str = "shop.test") -> Entry:
    return (AT, "192.0.2.7", "https", b"GET", host, path, status, 3, 5, 0.5, upstream, "shop", "shop-1", b"abc")


def append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


class Reports(list[messages.Note]):
    @property
    def events(self) -> list[str]:
        return [note.event for note in self]


async def written(path: Path, entries: list[Entry], sample: int = 1) -> list[dict[str, object]]:
    reports = Reports()
    log = AccessLog(append(path), sample, reports.append)
    for one in entries:
        log.add(one)
    await log.close(DEADLINE)
    assert not reports
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


async def test_a_line_says_all_about_a_request(tmp_path: Path) -> None:
    (line,) = await written(tmp_path / "log", [entry("/a")])
    assert line == {
        "time": "2025-12-31T23:59:59.987Z", "client": "192.0.2.7", "scheme": "https", "method": "GET",
        "host": "shop.test", "path": "/a", "status": 200, "bytes_in": 3, "bytes_out": 5, "seconds": 0.5,
        "upstream_seconds": 0.25, "app": "shop", "replica": "shop-1", "request_id": "abc",
    }  # fmt: skip


async def test_no_replica_answered_no_time_of_its(tmp_path: Path) -> None:
    (line,) = await written(tmp_path / "log", [entry(upstream=-1.0)])
    assert "upstream_seconds" not in line


@pytest.mark.parametrize("path", ['/"}\n{"status":200', "/\x00\x1b[31m", "/\xff\xfe", "/\udcff", "/ü→\u2028"])
async def test_strangers_cannot_break_a_line(tmp_path: Path, path: str) -> None:
    lines = await written(tmp_path / "log", [entry(path), entry("/next")])
    assert [line["path"] for line in lines] == [path.replace("\udcff", "?"), "/next"]


async def test_of_a_sample_errors_are_always_kept(tmp_path: Path) -> None:
    entries = [entry(f"/{number}", 502 if number % 10 == 3 else 200) for number in range(100)]
    lines = await written(tmp_path / "log", entries, sample=30)
    assert len([line for line in lines if line["status"] == 200]) == 3
    assert len([line for line in lines if line["status"] == 502]) == 10


async def test_nothing_waits_longer_than_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(append(path), 1, lambda _: None)
    log.add(entry())
    assert path.read_text() == ""
    log.flush()
    await until(lambda: path.read_text().endswith("\n"))
    await log.close(DEADLINE)


WRITER = """
import asyncio, os, sys
from sidegate.proxy.access_log import AccessLog

async def main():
    path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    log = AccessLog(descriptor, 1, lambda note: sys.exit(str(note)))
    for number in range(count):
        log.add((1.0, "c", "http", b"GET", "h", f"/{name}/{number}/" + "x" * (number % 3000), 200, 0, 0, 0.0, -1.0,
                 "", "", b""))
        if number % 100 == 0:
            log.flush()
            await asyncio.sleep(0)
    await log.close(60)

asyncio.run(main())
"""


def writers(path: Path, count: int) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(count)]) for name in ("a", "b")]


def paths_in(*files: Path) -> list[str]:
    """The paths in all lines; raises where a line is torn."""
    return [json.loads(line)["path"] for file in files for line in file.read_bytes().split(b"\n")[:-1]]


async def test_processes_share_a_file_and_no_line_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    for process in writers(path, 3000):
        assert await asyncio.to_thread(process.wait, 60) == 0
    found = [path.rsplit("/", 1)[0] for path in paths_in(path)]
    assert sorted(found) == sorted(f"/{name}/{number}" for name in "ab" for number in range(3000))


async def test_a_rotation_loses_nothing(tmp_path: Path) -> None:
    path, count = tmp_path / "log", 0
    log, files = AccessLog(append(path), 1, lambda _: None), [path]
    for rotation in range(5):
        for _ in range(700):
            log.add(entry(f"/{count}"))
            count += 1
        files.append(path.rename(tmp_path / f"log.{rotation}"))
        log.reopen(append(path))
        log.add(entry(f"/{count}"))
        count += 1
    await log.close(DEADLINE)
    assert sorted(paths_in(*files), key=lambda path: int(path[1:])) == [f"/{number}" for number in range(count)]
    assert all(file.stat().st_size for file in files)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
async def test_a_full_disk_tears_no_line_delays_nobody_and_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_RETRY", 0.01)
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
        try:
            path, filler, reports = Path(place, "log"), Path(place, "filler"), Reports()
            filler.write_bytes(b"x" * 40_000)
            log = AccessLog(append(path), 1, reports.append)
            for number in range(150):
                log.add(entry(f"/{number}"))

            def reported() -> bool:
                log.flush()
                return "access log cannot be written" in reports.events

            await until(reported)
            assert "space" in reports[0].detail
            before = paths_in(path)
            assert before == [f"/{number}" for number in range(len(before))]
            assert path.read_bytes().endswith(b"}\n")
            assert len(before) < 150
            filler.unlink()
            await log.close(DEADLINE)
            assert paths_in(path) == [f"/{number}" for number in range(150)]
        finally:
            subprocess.run(["umount", place], check=True)


async def test_what_a_disk_never_takes_is_dropped_beyond_8_mib_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_RETRY", 0.01)
    reports = Reports()
    log = AccessLog(os.open("/dev/full", os.O_WRONLY), 1, reports.append)
    for _ in range(4000):
        log.add(entry("/" + "x" * 4000))
    log.flush()
    assert "access log lines dropped" in reports.events
    dropped = int(next(note.detail.split()[0] for note in reports if "dropped" in note.event))
    assert 1500 < dropped < 2300
    reader, writer = os.pipe()
    log.reopen(writer)  # a file that takes them: nothing of what was kept is lost
    closing = asyncio.create_task(log.close(DEADLINE), name="close")
    data = await asyncio.to_thread(lambda: b"".join(iter(lambda: os.read(reader, 65536), b"")))
    await closing
    os.close(reader)
    assert data.count(b"\n") == 4000 - dropped


async def test_a_pipe_that_nobody_reads_keeps_room_for_others() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    log = AccessLog(os.dup(writer), 1, lambda _: None)
    for _ in range(500):
        log.add(entry("/" + "x" * 2100))
    log.flush()
    await asyncio.to_thread(lambda: os.write(writer, b"y" * 4096))  # the daemon's own log
    read = bytearray()

    def all_there() -> bool:
        try:
            read.extend(os.read(reader, 1 << 20))
        except BlockingIOError:
            return False
        return read.count(b"\n") >= 500

    await until(all_there)
    await log.close(DEADLINE)
    os.close(reader)
    os.close(writer)
    assert all(json.loads(line) for line in re.sub(rb"y{4096}", b"", bytes(read)).splitlines())


def test_a_file_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r'access_log = ".*/none/log": cannot be opened \(No such file'):
        LogFile(str(tmp_path / "none" / "log"))
    with pytest.raises(SettingsError, match="Is a directory"):
        LogFile(str(tmp_path))


@pytest.mark.parametrize("how", ["rename", "removal", "directory"])
async def test_a_rotation_is_noticed(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidegate.proxy.log_file._LOOK", 0.01)
    place = tmp_path / "logs"
    place.mkdir()
    path = place / "log"
    file = LogFile(str(path))
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()
    warnings: list[str] = []
    changes = 0

    async def changed() -> None:
        nonlocal changes
        changes += 1

    stopping = asyncio.Event()
    following = asyncio.create_task(file.follow(stopping, changed, warnings.append), name="follow")
    if how == "rename":
        path.rename(place / "log.1")
    elif how == "removal":
        path.unlink()
    else:
        place.rename(tmp_path / "away")
        await until(lambda: len(warnings) == 1)
        os.write(file.descriptor, b"still there")
        place.mkdir()
    await until(lambda: changes == 1)
    os.write(file.descriptor, b"x\n")
    assert path.read_bytes() == b"x\n"
    stopping.set()
    await following
    file.close()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
