"""An engine of our own in a network namespace of its own: it can be stopped and started without harming anybody."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from e2e.node import APP_IMAGE, enter, run, wait_for


class PrivateEngine:
    """dockerd with its own data root, socket, bridges and firewall, in the network namespace `namespace`."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def start(self, *, live_restore: bool) -> None:
        """Start, and wait until it answers."""
        roots = [f"--{what}-root={self.directory}/{what}" for what in ("data", "exec")]
        flags = [
            f"--live-restore={str(live_restore).lower()}",
            f"--pidfile={self.directory}/docker.pid",
            "-H",
            self.url,
        ]
        with (self.directory / "dockerd.log").open("ab") as log:
            command = [*enter(self.namespace), "dockerd", *roots, *flags]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for("the private engine answers", self.answers, 60)

    def answers(self) -> bool:
        return run("docker", "-H", self.url, "version", check=False).returncode == 0

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)

    def load(self, image: str = APP_IMAGE) -> None:
        save = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "-H", self.url, "load"], stdin=save.stdout, check=True, capture_output=True, timeout=120
        )
        assert save.stdout is not None
        save.stdout.close()
        assert save.wait() == 0


@contextlib.contextmanager
def private_engine(directory: Path, namespace: str, *, image: str = APP_IMAGE) -> Iterator[PrivateEngine]:
    """A started engine (with live-restore) that has an image of ours, or none; everything of it goes afterwards."""
    engine = PrivateEngine(directory, namespace)
    run("ip", "netns", "add", namespace)
    try:
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        engine.start(live_restore=True)
        if image:
            engine.load(image)
        yield engine
    finally:
        with contextlib.suppress(Exception):
            if not engine.answers():  # it was to be restarted, and what it runs must not outlive it
                engine.start(live_restore=True)
            containers = run("docker", "-H", engine.url, "ps", "-aq").stdout.split()
            if containers:
                run("docker", "-H", engine.url, "rm", "-f", *containers)
            engine.stop()
        containerd = engine.directory / "exec" / "containerd" / "containerd.pid"
        if containerd.exists():
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(containerd.read_text()), signal.SIGTERM)
        for line in Path("/proc/mounts").read_text().splitlines():
            mount = line.split()[1]
            if mount.startswith(str(engine.directory)):
                run("umount", "-l", mount, check=False)
        run("ip", "netns", "del", namespace, check=False)
