"""The store on a disk that is full, a real one of 3 MiB: what closes is saved, all else says why it is not."""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidegate.adapters.store import Store, audit, reserve
from sidegate.core.audit import AuditEntry
from sidegate.core.gates import Entry, Gate
from sidegate.core.model import DatabaseDetails, External, Pair, Variable
from sidegate.errors import DiskFullError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
SHOP = Pair.of("shop", "shop-db")
BROUGHT = (Variable("DB_HOST", "shop-db.internal", source="connection:shop-db"),)
LISTED = Gate(30001, (Entry("10.0.0.0/8"), Entry("192.0.2.0/24")))
ON = External(LISTED, enabled=True)
LARGE = [Variable("LARGE", "x" * 500_000)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "sidegate-test", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
async def store(disk: Path) -> AsyncIterator[Store]:
    """With something to close in it."""
    store = await Store.open(disk)
    await store.add_connection(SHOP, "shop", BROUGHT)
    await store.set_external("shop-db", ON)
    await store.set_database_details("shop-db", DatabaseDetails("u", "p", "s", "r"))
    yield store
    await store.close()


def fill(disk: Path, name: str = "filler") -> Path:
    """Leave no room at all."""
    filler = disk / name
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while file.write(b"x" * 4096) == 4096:
            pass
    return filler


def use_up(disk: Path) -> None:
    """The same, with nothing kept: as after many a closing."""
    (disk / reserve.FILE_NAME).write_bytes(b"")
    fill(disk)


def entry(number: int) -> AuditEntry:
    return AuditEntry(1.5 + number, 1000, 42, "ann", "external off", f"shop-{number}", "done")


def told(store: Store) -> str:
    return "; ".join(problem.text for problem in store.problems())


async def test_the_reserve_is_really_allocated_and_stays_over_a_restart(store: Store, disk: Path) -> None:
    stat = (disk / reserve.FILE_NAME).stat()
    assert (stat.st_size, stat.st_mode & 0o777) == (reserve.SIZE, 0o600)
    assert stat.st_blocks * 512 >= reserve.SIZE
    assert store.problems() == []
    fill(disk)
    await store.look()
    assert (disk / reserve.FILE_NAME).stat().st_size == reserve.SIZE
    assert f"the disk of {disk} is full (No space left on device)" in told(store)
    assert "with 1024 KiB" in told(store)


async def test_what_closes_is_saved_on_a_full_disk_and_what_opens_is_not(store: Store, disk: Path) -> None:
    for number in range(50):
        await store.add_connection(Pair.of(f"app-{number}", "shop-db"), f"app-{number}", BROUGHT)
    filler = fill(disk)
    before = store.intent
    with pytest.raises(
        DiskFullError, match=f"the disk of {disk} is full .*switching off still works.*: free some space"
    ):
        await store.set_variables("shop", LARGE)
    assert store.intent is before
    assert (disk / reserve.FILE_NAME).stat().st_size == reserve.SIZE

    narrower = replace(ON, gate=replace(LISTED, allow=LISTED.allow[:1], deny=(Entry("10.1.0.0/16"),)))
    await store.set_external("shop-db", narrower)
    wider = replace(narrower, gate=replace(narrower.gate, deny=()))
    await store.replace_external("shop-db", narrower, replace(wider, enabled=False))
    for number, pair in enumerate(sorted(store.intent.connections)):
        fill(disk, f"other-{number}")  # what room there is somebody else takes
        await store.remove_connection(pair, keep_variables=False)
    await store.forget_database("shop-db")
    assert not store.intent.connections
    assert not store.intent.externals
    after = store.intent
    await store.close()

    again = await Store.open(disk)
    assert again.intent == after
    filler.unlink()
    await again.look()
    assert again.problems() == []
    assert (disk / reserve.FILE_NAME).stat().st_size == reserve.SIZE
    await again.set_variables("shop", LARGE)
    await again.close()


async def test_a_large_closing_takes_as_much_of_the_reserve_as_it_needs(store: Store, disk: Path) -> None:
    await store.set_variables("shop", LARGE)
    filler = fill(disk)
    await store.forget_app("shop")
    assert "shop" not in store.intent.env
    assert (disk / reserve.FILE_NAME).stat().st_size < reserve.SIZE
    assert "KiB that are kept for them" in told(store)
    filler.unlink()
    await store.look()
    assert store.problems() == []


async def test_when_the_reserve_is_used_up_it_says_so_and_changes_nothing(store: Store, disk: Path) -> None:
    use_up(disk)
    before = store.intent
    many = tuple(Entry(f"10.{n // 256}.{n % 256}.0/24", "d" * 200) for n in range(20_000))
    closing = replace(ON, gate=replace(LISTED, deny=many))
    with pytest.raises(DiskFullError, match=r"what is kept for switching off included: free some space"):
        await store.set_external("shop-db", closing)
    assert store.intent is before
    assert "nothing is left of what is kept for switching off" in told(store)


async def test_a_daemon_starts_on_a_full_disk(store: Store, disk: Path) -> None:
    expected = store.intent
    await store.close()
    fill(disk)
    again = await Store.open(disk)
    assert again.intent == expected
    assert "still work" in told(again)
    await again.set_external("shop-db", replace(ON, enabled=False))
    await again.close()


async def test_the_audit_trail_waits_for_room_and_counts_what_found_no_place(
    store: Store, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "WAITING_MOST", 2)
    large = [replace(entry(n), target="x" * 300_000) for n in range(5)]
    await store.append_audit(entry(0))
    filler = fill(disk)
    for number in (1, 2, 3, 4):
        with pytest.raises(DiskFullError):
            await store.append_audit(large[number])
    assert "waits for room on the disk, in memory: 2 of its entries, and 2 are lost" in told(store)
    filler.unlink()
    await store.append_audit(entry(5))
    kept = await store.audit(10)
    assert [e.at for e in kept] == [6.5, 3.5, 3.5, 2.5, 1.5]
    assert (kept[1].verb, kept[1].target, kept[1].outcome) == ("audit lost", "2 entries after this one", "disk-full")
    await store.look()
    assert store.problems() == []


async def test_entries_that_wait_are_written_at_a_look(store: Store, disk: Path) -> None:
    filler = fill(disk)
    with pytest.raises(DiskFullError, match="kept in memory"):
        await store.append_audit(replace(entry(1), target="x" * 300_000))
    filler.unlink()
    await store.look()
    assert store.problems() == []
    assert len(await store.audit(10)) == 1
