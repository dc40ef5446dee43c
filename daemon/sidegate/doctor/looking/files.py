"""Whose the files are, and who may read them."""

import contextlib
import grp
import stat
from collections.abc import Iterator
from pathlib import Path

from sidegate.adapters.certificates.authority import FILE_NAME as AUTHORITY
from sidegate.adapters.store.file import FILE_NAME as STATE
from sidegate.doctor.snapshot import AS_ROOT, File, Files, Unseen
from sidegate.settings import Settings

MARK = b"PRIVATE KEY-----"
LARGEST = 1 << 20
"""Bytes of a .pem file that are looked through for a key."""


def look(settings: Settings, control: Path) -> Files:
    """Files that are not there are none; those that we may not look at are said to be unseen."""
    authority = settings.state_dir / "authority" / AUTHORITY
    certificates = settings.certificates or settings.state_dir / "certificates"
    return Files(
        state_dir=_one(settings.state_dir),
        state=_all([settings.state_dir / f"{STATE}{ending}" for ending in ("", "-wal", "-shm")]),
        control=_one(control),
        keys=_all([authority], certificates),
        control_group=_is_group("sidegate"),
    )


def _file(path: Path) -> File | None:
    """Raises PermissionError."""
    try:
        found = path.stat()
    except PermissionError:
        raise
    except OSError:
        return None
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return File(path, stat.S_IMODE(found.st_mode), found.st_uid, group)


def _one(path: Path) -> File | Unseen | None:
    try:
        return _file(path)
    except PermissionError:
        return Unseen(f"{path} is closed to you", AS_ROOT)


def _all(paths: list[Path], directory: Path | None = None) -> tuple[File, ...] | Unseen:
    try:
        found = [*paths, *(_keys(directory) if directory else ())]
        return tuple(file for path in found if (file := _file(path)))
    except PermissionError as error:
        return Unseen(f"{error.filename} is closed to you", AS_ROOT)


def _keys(directory: Path) -> Iterator[Path]:
    """Private keys as `certificates` may have them: NAME.key, NAME.pem with its key, NAME/privkey.pem."""
    try:
        entries = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            if (key := entry / "privkey.pem").exists():
                yield key
        elif entry.suffix == ".key" or (entry.suffix == ".pem" and _holds_key(entry)):
            yield entry


def _holds_key(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return MARK in file.read(LARGEST)
    return False


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
