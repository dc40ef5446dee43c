"""The programs that a measurement runs: Debian's, taken out of the benchmark's image, and those of its Python wheels.

They run as processes of the host, like Sidegate: none pays for a container around it.
"""

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from e2e.node import run

IMAGE = "sidegate-bench"
_TREES = ("usr/bin", "usr/sbin", "usr/lib", "usr/share/sysbench")
_UNPACK = 60


class Programs:
    """Command lines of everything there is to run, by its name."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._loader = next(tree.glob("usr/lib/*/ld-linux*.so*"))

    def debian(self, name: str) -> list[str]:
        """A program of the image, with that image's libraries and none of this machine's."""
        (binary,) = (path for directory in ("sbin", "bin") if (path := self._tree / "usr" / directory / name).exists())
        return [str(self._loader), "--library-path", str(self._loader.parent), str(binary)]

    @property
    def nginx_modules(self) -> str:
        return str(self._tree / "usr/lib/nginx/modules")

    @property
    def sysbench_scripts(self) -> str:
        return str(self._tree / "usr/share/sysbench")

    @property
    def websocket(self) -> str:
        return str(self._tree / "usr/bin/websocket")

    @property
    def caddy(self) -> str:
        return str(Path(sys.executable).parent / "caddy")

    @property
    def envoy(self) -> str:
        # The command `envoy` that its wheel installs is Python, which would stand between us and the server.
        package = importlib.util.find_spec("envoy")
        assert package is not None and package.origin is not None, "envoy is not installed: scripts/setup --bench"
        return str(Path(package.origin).parent / "_bin/envoy")


@contextlib.contextmanager
def unpacked(directory: Path) -> Iterator[Programs]:
    """The image's programs in `directory`, which must be empty and on a file system that lets them run."""
    container = run("docker", "create", IMAGE).stdout.strip()
    try:
        with subprocess.Popen(("docker", "export", container), stdout=subprocess.PIPE) as export:
            run("tar", "-C", str(directory), "-x", *_TREES, stdin=export.stdout, timeout=_UNPACK)
    finally:
        run("docker", "rm", "-f", container)
    yield Programs(directory)
