"""A directory of certificates as people, certbot or `sidegate cert add` keep it. Blocking; called from a thread.

NAME.pem or NAME.crt beside NAME.key, NAME.pem that holds its key too, or NAME/fullchain.pem beside NAME/privkey.pem
(links, as certbot makes them). What is unfinished or broken does not replace what was good before.
"""

import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from sidegate.adapters.certificates import files
from sidegate.adapters.certificates.pem import parse
from sidegate.core.certificates import Certificate, day
from sidegate.core.model import Problem

LARGEST = 1 << 20
"""Bytes of a certificate's file that are read."""

_SETTLED = 2_000_000_000  # nanoseconds: a younger file may change again within one tick of its file system's clock
_KEY_IN_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)

Stamp = tuple[int, ...]
_NO_FILE: Stamp = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a pair was when it was read last. `settled`: its files were old enough that their stamps tell all."""

    stamp: Stamp
    settled: bool
    certificate: Certificate | None
    fault: str


class Directory:
    """What lies there. Not for several threads at a time."""

    def __init__(self, path: Path, *, ours: bool = True) -> None:
        """`ours`: nothing is wrong if it is not there yet."""
        self.path = path
        self._ours = ours
        self._read: dict[str, _Read] = {}

    def scan(self) -> tuple[tuple[Certificate, ...], tuple[Problem, ...]]:
        """The pairs by name, and what is wrong with others. Reads only files that have changed since."""
        try:
            found = self._pairs()
        except OSError as error:
            text = f"cannot be listed ({error.strerror}): see to its owner and mode"
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                text = "is no directory: make it, or change certificates in the settings"
            kept = [read.certificate for read in self._read.values() if read.certificate]
            return tuple(kept), (Problem(str(self.path), text),)
        self._read = {name: self._current(name, *pair) for name, pair in sorted(found.items())}
        problems = [Problem(f"certificate {name}", read.fault) for name, read in self._read.items() if read.fault]
        return tuple(r.certificate for r in self._read.values() if r.certificate), tuple(problems)

    def changed(self) -> bool:
        """Whether `scan` would find something else than last time."""
        try:
            found = self._pairs()
        except OSError:
            return False
        return found.keys() != self._read.keys() or any(
            self._read[name].stamp != _stamp(certificate) + _stamp(key) for name, (certificate, key) in found.items()
        )

    def add(self, name: str, chain: str, key: str) -> Certificate:
        """Check a pair and keep it as NAME.pem, in one file so that there is never half of it; it takes the place of
        NAME.crt and NAME.key. Raises ValueError or OSError."""
        certificate = parse(name, chain, key)
        if certificate.not_after <= time.time():
            raise ValueError("the certificate has expired: have it issued again")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(self.path / f"{name}.pem", certificate.pair.chain + certificate.pair.key)
        for ending in (".crt", ".key"):
            files.remove(self.path / f"{name}{ending}")
        return certificate

    def remove(self, name: str) -> bool:
        """Remove NAME's files; whether there were any. Raises OSError, ValueError for what is a directory."""
        removed = [files.remove(self.path / f"{name}{ending}") for ending in (".pem", ".crt", ".key")]
        if not any(removed) and (self.path / name).is_dir():
            raise ValueError(f"{self.path / name} is a directory that Sidegate did not make: remove it yourself")
        return any(removed)

    def _pairs(self) -> dict[str, tuple[Path, Path]]:
        """Certificate and key by name, whether or not both are there. Raises OSError."""
        found: dict[str, tuple[Path, Path]] = {}
        try:
            with os.scandir(self.path) as entries:
                listed = {entry.name: _is_directory(entry) for entry in entries if not entry.name.startswith(".")}
        except FileNotFoundError:
            if not self._ours:
                raise
            return {}
        for entry, is_directory in listed.items():
            stem, dot, ending = entry.rpartition(".")
            if not is_directory and dot and ending in ("pem", "crt", "key"):
                certificate = ".crt" if f"{stem}.pem" not in listed else ".pem"
                found[stem] = (self.path / f"{stem}{certificate}", self.path / f"{stem}.key")
        for entry, is_directory in listed.items():
            if is_directory and entry not in found:
                pair = (self.path / entry / "fullchain.pem", self.path / entry / "privkey.pem")
                if any(map(os.path.lexists, pair)):
                    found[entry] = pair
        return found

    def _current(self, name: str, certificate: Path, key: Path) -> _Read:
        known = self._read.get(name)
        stamp = _stamp(certificate) + _stamp(key)
        if known and known.settled and known.stamp == stamp:
            return known
        settled = time.time_ns() - max(stamp[0], stamp[len(_NO_FILE)]) > _SETTLED
        good = known.certificate if known else None
        try:
            read = parse(name, *_texts(certificate, key))
        except ValueError as error:
            fault = str(error)
        except OSError as error:
            fault = f"{error.filename} cannot be read ({error.strerror}): see to its owner and mode"
        else:
            if not good or good.id == read.id or read.not_after >= min(good.not_after, time.time()):
                return _Read(stamp, settled, good if good and good.id == read.id else read, "")
            fault = f"the new certificate expired on {day(read.not_after)}: have it issued again"
        return _Read(stamp, settled, good, f"{fault}; the one before it stays in use" if good else fault)


def _texts(certificate: Path, key: Path) -> tuple[str, str]:
    if not certificate.exists():
        raise ValueError(f"{key.name} lies there without {certificate.name}: put the certificate beside it")
    text = _text(certificate)
    if inside := _KEY_IN_PEM.search(text):
        return _KEY_IN_PEM.sub("", text), inside[0]
    if not key.exists():
        raise ValueError(f"{certificate.name} lies there without {key.name}: put its key beside it")
    return text, _text(key)


def _text(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would have us wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path.name} is not a regular file: put one in its place")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST:
        raise ValueError(f"{path.name} is too large to be a certificate")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not PEM (DER, perhaps): convert it with openssl x509 or pkey") from None


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Links followed; one that leads nowhere, or to itself, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(path: Path) -> Stamp:
    """When a file changed last, links followed, and which one it is."""
    try:
        found = path.stat()
    except OSError:
        return _NO_FILE
    return (max(found.st_mtime_ns, found.st_ctime_ns), found.st_size, found.st_ino, found.st_dev)
