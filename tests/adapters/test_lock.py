import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidegate.adapters.lock import hold
from sidegate.errors import AlreadyRunningError, SettingsError

HOLDER = """
import sys
from pathlib import Path
from sidegate.adapters.lock import hold
with hold(Path(sys.argv[1]), "runtime_dir"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with (
        hold(tmp_path, "runtime_dir"),
        pytest.raises(AlreadyRunningError) as caught,
        hold(tmp_path, "runtime_dir"),
    ):
        pass
    assert str(caught.value) == (
        f"another sidegate daemon (pid {os.getpid()}) holds {tmp_path}: "
        "stop it first, or give this one another runtime_dir"
    )


def test_what_was_let_go_can_be_held_again(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path, "state_dir"):
            pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunningError, match=f"pid {child.pid}"), hold(tmp_path, "runtime_dir"):
            pass
        child.kill()
    assert (tmp_path / "sidegate.lock").read_text() == f"{child.pid}\n"
    with hold(tmp_path, "runtime_dir"):
        assert (tmp_path / "sidegate.lock").read_text() == f"{os.getpid()}\n"


def test_a_program_that_we_start_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with hold(tmp_path, "state_dir"):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with child, hold(tmp_path, "state_dir"):
        pass


def test_a_missing_directory_is_made_with_the_mode_asked_for(tmp_path: Path) -> None:
    with hold(tmp_path / "run" / "sidegate", "runtime_dir", mode=0o700):
        assert (tmp_path / "run" / "sidegate").stat().st_mode & 0o777 == 0o700


def test_a_place_that_is_no_directory_is_the_settings_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match=r"state_dir = .*file/x': cannot be used: Not a directory"),
        hold(tmp_path / "file" / "x", "state_dir"),
    ):
        pass


@pytest.mark.parametrize("system", ["/etc", "/var/lib", "/"])
def test_a_directory_of_the_whole_system_is_not_taken_by_name_or_by_a_link(tmp_path: Path, system: str) -> None:
    link = tmp_path / "state"
    link.symlink_to(system)
    for place, leads in ((Path(system), ""), (link, f"leads to {system}, which ")):
        why = f"state_dir = '{place}': {leads}is a directory of the whole system: give the daemon one of its own"
        with pytest.raises(SettingsError, match=why), hold(place, "state_dir"):
            pass
    assert not (Path(system) / "sidegate.lock").exists()


def test_a_link_to_a_directory_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    link = tmp_path / "state"
    link.symlink_to("own")
    with hold(link, "state_dir"):
        assert (tmp_path / "own" / "sidegate.lock").exists()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SettingsError, match="cannot be used"), hold(tmp_path / "loop", "state_dir"):
        pass
