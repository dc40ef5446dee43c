"""The daemon and a service manager: what it tells one, and the unit, users and files that it is installed with."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.node import Node, need_engine, run, wait_for
from notify_socket import NotifySocket

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "config/sidegated.service"
WATCHDOG = 2.0
EXPOSURE = 36
"""What `systemd-analyze security` of systemd 252 finds, in tenths of ten: what is left is what the daemon is for."""
BROKEN_OFF_AT = (1, 2, 4, 6, 9, 14, 24)
"""The count-th file, directory or link that scripts/install makes beside its release."""
POOL, PORTS = "10.232.0.0/20", "32500-32509"


class Manager(NotifySocket):
    """One that remembers."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory / "notify"))
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        """Everything that has been told since the last call."""
        new = self.waiting()
        self.heard += new
        return new

    def hears(self, wanted: str) -> Callable[[], bool]:
        """Whether that has come since the last look."""
        return lambda: any(line.startswith(wanted) for line in self.listen())

    def has_heard(self, wanted: str) -> Callable[[], bool]:
        """Whether that has ever come."""
        return lambda: any(line.startswith(wanted) for line in (*self.heard, *self.listen()))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


@contextlib.contextmanager
def served(manager: Manager, directory: Path, docker: str = "") -> Iterator[Node]:
    """A daemon with one worker that has been told of a service manager with a watchdog."""
    need_engine()
    node = Node(directory, "sgsystemd", pool=POOL, ports=PORTS, docker=docker, settings={"workers": "1"}, form="host")
    node.environ |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": f"{WATCHDOG * 1e6:.0f}"}
    try:
        node.start(ready=False)
        yield node
    finally:
        if not docker:
            node.close()
        else:  # there is nothing to purge, and nobody to ask
            with contextlib.suppress(AssertionError):
                node.stop()


def silent(manager: Manager, seconds: float) -> bool:
    """Whether no beat comes for so long."""
    manager.listen()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if "WATCHDOG=1" in manager.listen():
            return False
        time.sleep(0.05)
    return True


def test_it_beats_while_it_lives_and_says_when_it_stops(manager: Manager, tmp_path: Path) -> None:
    with served(manager, tmp_path) as node:
        wait_for("it is ready", manager.hears("READY=1"))
        assert node.is_ready()
        assert f"MAINPID={node.pid}" in manager.heard
        wait_for("a beat", manager.hears("WATCHDOG=1"))

        worker = node.json("status")["workers"][0]["pid"]
        os.kill(worker, signal.SIGSTOP)  # the supervisor's business; the control plane lives
        wait_for("a beat beside a hung worker", manager.hears("WATCHDOG=1"))
        wait_for("it is replaced", lambda: node.json("status")["workers"][0]["pid"] != worker)

        with node.paused():
            assert silent(manager, WATCHDOG)
        wait_for("a beat", manager.hears("WATCHDOG=1"))

        for child in run("pgrep", "-P", str(node.pid)).stdout.split():
            assert "NOTIFY_SOCKET" not in Path(f"/proc/{child}/environ").read_text()

        node.app("shop")
        wait_for("the status tells of the app", manager.has_heard("STATUS=1 apps"))
        assert node.stop() == 0
        manager.listen()
        assert manager.heard[-3:-1] == ["STOPPING=1", "STATUS=stopping"]
        assert manager.heard.count("READY=1") == 1


def test_without_an_engine_it_is_ready_and_lives_and_an_abort_tells_where_it_was(
    manager: Manager, tmp_path: Path
) -> None:
    with served(manager, tmp_path, docker=f"unix://{tmp_path}/nobody.sock") as node:
        wait_for("it is ready", manager.hears("READY=1"))
        status = "STATUS=0 apps, 0 databases, 0 external connections on; engine: "
        wait_for("it says what is missing", manager.has_heard(status))
        wait_for("a beat", manager.hears("WATCHDOG=1"))
        assert node.stop(signal.SIGABRT) == -signal.SIGABRT
        assert "Current thread" in node.log.read_text()


# --- the unit --------------------


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"there is no {name} here (package systemd)")
    return found


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    text = UNIT.read_text().replace("/usr/local/bin/sidegate", "/bin/true")
    made = tmp_path / UNIT.name
    made.write_text(text)
    return made


def test_the_unit_is_sound(unit: Path) -> None:
    done = run(tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(unit), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_is_as_closed_as_it_is_said_to_be(unit: Path) -> None:
    run(tool("systemd-analyze"), "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", str(unit))


def test_every_capability_of_the_unit_is_explained() -> None:
    text = UNIT.read_text()
    given = next(line for line in text.splitlines() if line.startswith("CapabilityBoundingSet=")).partition("=")[2]
    page = (ROOT / "docs/systemd.md").read_text()
    for capability in given.split():
        assert f"`{capability}`" in page, capability


def test_every_line_of_the_unit_is_in_its_page() -> None:
    page = (ROOT / "docs/systemd.md").read_text()
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            assert f"`{line.partition('=')[0]}" in page or f"`{line}`" in page, line


# --- installing --------------------


def copy_of_checkout(place: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("config", "daemon", "scripts"):
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    for name in ("README.md", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, place)
    return place


def test_install_puts_everything_below_destdir_and_uninstall_takes_it_away(tmp_path: Path) -> None:
    """As a package is made, from a checkout that stays as it was; also where a run was broken off."""
    checkout, target = copy_of_checkout(tmp_path / "check out"), tmp_path / "target [1] & more"
    environ = {**os.environ, "DESTDIR": str(target)}
    (target / "usr/local/bin").mkdir(parents=True)
    before, sources = _tree(target), _tree(checkout)
    run(str(checkout / "scripts/install"), env=environ, timeout=300)
    made = _tree(target)
    assert (target / "usr/local/bin/sidegate").readlink() == Path("/opt/sidegate/current/bin/sidegate")
    program = (target / "opt/sidegate/current").resolve()
    command = (program / "bin/sidegate").read_text()
    assert f'"/opt/sidegate/releases/{program.name}/bin/python"' in command
    assert str(target) not in command
    assert "usage" in run(str(program / "bin/python"), "-m", "sidegate", "--help").stdout.lower()
    for name in ("systemd/system/sidegated.service", "sysusers.d/sidegate.conf", "tmpfiles.d/sidegate.conf"):
        assert stat.S_IMODE((target / "usr/local/lib" / name).stat().st_mode) == 0o644

    settings = target / "etc/sidegate/sidegate.toml"
    assert settings.read_text() == (ROOT / "config/sidegate.toml").read_text()
    settings.write_text("http_port = 8080\n")
    assert "making" not in run(str(checkout / "scripts/install"), env=environ).stdout
    assert settings.read_text() == "http_port = 8080\n"
    assert _tree(target) == made
    assert _tree(checkout) == sources

    kept, releases = tmp_path / "releases", target / "opt/sidegate/releases"
    run("cp", "-al", str(releases), str(kept))
    broken = {**environ, "PATH": f"{tmp_path / 'shims'}:{environ['PATH']}"}
    for count in BROKEN_OFF_AT:
        run(str(checkout / "scripts/uninstall"), env=environ)
        releases.parent.mkdir()
        run("cp", "-al", str(kept), str(releases))
        (releases.parent / "installed").touch()
        _break_off_at(count, tmp_path / "shims")
        assert run(str(checkout / "scripts/install"), env=broken, check=False).returncode == -signal.SIGKILL
        assert (releases.parent / "unfinished").exists() == (count > BROKEN_OFF_AT[0])
        run(str(checkout / "scripts/uninstall"), env=environ)
        assert before <= _tree(target) <= before | {"etc", "etc/sidegate", "etc/sidegate/sidegate.toml", "opt"}, count

    run(str(checkout / "scripts/uninstall"), env=environ)
    assert before <= _tree(target) <= before | {"etc", "etc/sidegate", "etc/sidegate/sidegate.toml", "opt"}
    run(str(checkout / "scripts/uninstall"), "--purge", env=environ)
    assert not (target / "etc/sidegate").exists()


@pytest.mark.parametrize("prefix", ["/home/sidegate", "/tmp/sidegate", "relative", "/with space"])
def test_a_prefix_that_the_service_could_not_use_is_refused(prefix: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts/install", "--prefix", prefix],
        env={**os.environ, "DESTDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "prefix" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_else_has_put_there_is_left_alone(tmp_path: Path) -> None:
    releases, command = tmp_path / "opt/sidegate/releases/2026", tmp_path / "usr/local/bin/sidegate"
    command.parent.mkdir(parents=True)
    command.symlink_to("/root/.local/bin/sidegate")
    assert "is not ours" in refused(tmp_path)
    command.unlink()
    releases.mkdir(parents=True)
    assert "is not ours" in refused(tmp_path)
    assert "absolute path" in refused(tmp_path.name)

    record = tmp_path / "opt/sidegate/installed"
    record.write_text("/usr/local/bin/sidegate\n")
    command.write_text("theirs")
    (tmp_path / "etc/sidegate/certificates").mkdir(parents=True)
    run(str(ROOT / "scripts/uninstall"), "--purge", env={**os.environ, "DESTDIR": str(tmp_path)})
    assert command.read_text() == "theirs"
    assert (tmp_path / "etc/sidegate/certificates").is_dir()
    assert not record.exists()


def test_one_installation_leaves_what_another_uses(tmp_path: Path) -> None:
    command, unit = tmp_path / "usr/local/bin/sidegate", tmp_path / "usr/local/lib/systemd/system/sidegated.service"
    for directory in (command.parent, unit.parent, tmp_path / "opt/sidegate/releases/1"):
        directory.mkdir(parents=True)
    command.symlink_to("/srv/sidegate/current/bin/sidegate")
    unit.touch()
    (tmp_path / "opt/sidegate/installed").write_text(
        f"/{command.relative_to(tmp_path)}\n/{unit.relative_to(tmp_path)}\n"
    )
    environ = {**os.environ, "DESTDIR": str(tmp_path)}
    scripts = str(ROOT / "scripts/uninstall")
    purge = run(scripts, "--prefix", "/opt/sidegate", "--purge", env=environ, check=False)
    assert (purge.returncode, "nothing was done" in purge.stderr) == (1, True)
    run(scripts, "--prefix", "/opt/sidegate", env=environ)
    assert command.is_symlink()
    assert unit.exists()
    assert not (tmp_path / "opt/sidegate").exists()


def test_a_package_that_the_lock_lacks_is_named() -> None:
    done = run(sys.executable, str(ROOT / "scripts/.locked"), "msgspec", "no-such-thing", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "requirements.lock has no no-such-thing, which is asked for: make it anew\n"


def refused(target: Path | str) -> str:
    """What scripts/install says."""
    done = run(str(ROOT / "scripts/install"), env={**os.environ, "DESTDIR": str(target)}, check=False)
    assert done.returncode != 0
    return done.stderr


def _break_off_at(count: int, directory: Path) -> None:
    """Have scripts/install killed at the count-th file, directory or link that it makes."""
    directory.mkdir(exist_ok=True)
    counted = directory / "count"
    counted.write_text("0")
    for name in ("install", "ln", "mkdir", "mv"):
        shim = directory / name
        shim.write_text(
            f"#!/bin/sh\nn=$(($(cat '{counted}') + 1))\necho $n >'{counted}'\n"
            f"""[ $n -ne {count} ] || kill -9 $PPID\nexec {shutil.which(name)} "$@"\n"""
        )
        shim.chmod(0o755)


def _tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if "releases/" not in str(path)}
