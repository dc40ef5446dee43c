"""A build's context as a tar archive that is made while it is sent: never in memory, never on the disk.

Source: https://docs.docker.com/build/concepts/context/; the archive is what `docker build` sends.
"""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidegate.cli.dockerignore import Ignore
from sidegate.errors import InvalidInputError

PIECE = 1 << 16  # bytes
RECORD = 512  # bytes: tar's unit
IGNORE_FILE = ".dockerignore"
FOREIGN_DOCKERFILE = ".dockerfile-from-elsewhere"


@dataclass(frozen=True, slots=True)
class Context:
    """A directory to build from; `dockerfile` is a name in its archive."""

    root: Path
    dockerfile: str
    _foreign: Path | None
    _ignore: Ignore
    _ignored: str

    @classmethod
    def of(cls, root: Path, dockerfile: str = "") -> "Context":
        """Look at a directory. `dockerfile` is relative to where we are (as `docker build --file` is), else to `root`;
        it may lie outside of it. Raises InvalidInputError when there is nothing to build from."""
        if not _looked_at(root, Path.is_dir):
            raise InvalidInputError(f"{root} is not a directory: give the one with the Dockerfile")
        here = dockerfile and _looked_at(Path(dockerfile), Path.is_file)
        given = Path(dockerfile) if here else root / (dockerfile or "Dockerfile")
        if not _looked_at(given, Path.is_file):
            hint = "" if dockerfile else ": name it with --file"
            raise InvalidInputError(f"there is no {given}{hint}")
        try:
            ignored = (root / IGNORE_FILE).read_text("utf-8-sig")
        except FileNotFoundError:
            ignored = ""
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{root / IGNORE_FILE} cannot be read: {error}") from None
        inside = Path(os.path.relpath(given.resolve(), root.resolve()))
        foreign = inside.parts[0] == os.pardir
        name = FOREIGN_DOCKERFILE if foreign else inside.as_posix()
        try:
            # The engine needs these two, and takes them out again where they are left out.
            ignore = Ignore([*ignored.splitlines(), f"!{IGNORE_FILE}", f"!{_literal(name)}"])
        except ValueError as error:
            raise InvalidInputError(f"{root / IGNORE_FILE}: {error}") from None
        return cls(root, name, given if foreign else None, ignore, ignored)

    def pieces(self) -> Iterator[bytes]:
        """The archive, in pieces. Raises InvalidInputError for a file that cannot be read."""
        with tarfile.open(fileobj=io.BytesIO(), mode="w") as scratch:  # it knows how to describe files
            for path in self._paths():
                if self._foreign and path in (IGNORE_FILE, FOREIGN_DOCKERFILE):
                    continue
                yield from self._member(scratch, path)
        if self._foreign:
            yield from _text(FOREIGN_DOCKERFILE, _read(self._foreign))
            yield from _text(IGNORE_FILE, f"{self._ignored}\n{IGNORE_FILE}\n{FOREIGN_DOCKERFILE}\n".encode())
        yield bytes(2 * RECORD)

    def _paths(self) -> Iterator[str]:
        """What belongs in, relative to the context, parents first and in the order of names."""
        pending = _entries(self.root, "")
        while pending:  # no recursion: directories may lie deeper in each other than calls may
            path, entry = pending.pop()
            out = self._ignore.leaves_out(path)
            if not out:
                yield path
            if entry.is_dir(follow_symlinks=False) and (not out or self._ignore.may_bring_back_below(path)):
                pending += _entries(Path(entry.path), f"{path}/")

    def _member(self, scratch: tarfile.TarFile, path: str) -> Iterator[bytes]:
        full = self.root / path
        try:
            if stat.S_ISSOCK(full.lstat().st_mode):  # an archive has no word for sockets
                return
            described = scratch.gettarinfo(full, arcname=path)
            described.uid = described.gid = 0  # as `docker build`: who owned a file here means nothing there
            described.uname = described.gname = ""
            if not described.isreg():
                yield _header(described)
                return
            with full.open("rb") as file:
                described.size = os.fstat(file.fileno()).st_size
                yield _header(described)
                yield from _content(file, described.size)
        except EOFError:
            raise InvalidInputError(f"{full} became shorter while it was sent") from None
        except OSError as error:
            raise InvalidInputError(f"{full} cannot be read: {error.strerror}; leave it out in .dockerignore") from None


def _entries(directory: Path, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
    """What is in a directory, each with its path in the context; the first in the order of names comes last."""
    try:
        found = [(prefix + entry.name, entry) for entry in os.scandir(directory)]
    except OSError as error:
        raise InvalidInputError(f"{directory} cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda pair: pair[0], reverse=True)


def _looked_at(path: Path, kind: Callable[[Path], bool]) -> bool:
    """What `kind` says of a path. Raises InvalidInputError where nobody lets us look."""
    try:
        return kind(path)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from None


def _content(file: io.BufferedReader, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = file.read(min(left, PIECE))
        if not piece:
            raise EOFError
        left -= len(piece)
        yield piece
    yield bytes(-size % RECORD)


def _header(described: tarfile.TarInfo) -> bytes:
    return described.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _text(name: str, content: bytes) -> Iterator[bytes]:
    described = tarfile.TarInfo(name)
    described.size = len(content)
    yield _header(described) + content + bytes(-len(content) % RECORD)


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return "".join(f"\\{c}" if c in "*?[]\\!#^-" else c for c in name)
