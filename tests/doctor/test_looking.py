"""What is looked at: real files, sockets, locks and processes."""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from memory_daemon import running
from pairs import pair
from ports import free_port
from sidegate.adapters.lock import hold
from sidegate.core.model import Problem
from sidegate.doctor.examination import choose
from sidegate.doctor.looking import daemon, engine, files, firewall, host, ports, processes
from sidegate.doctor.snapshot import Engine, File, Firewall, HostRoute, Unseen, Viewer
from sidegate.settings import DEFAULTS, Settings

NOBODY = 65534


def modes(found: tuple[File, ...] | Unseen) -> dict[str, int]:
    assert not isinstance(found, Unseen)
    return {file.path.name: file.mode for file in found}


# --- files and locks --------------------


def test_files_with_their_modes_and_only_those_that_hold_keys(tmp_path: Path) -> None:
    chain, key = pair("shop.example")
    (tmp_path / "authority").mkdir()
    made = tmp_path / "certificates" / "letsencrypt"
    made.mkdir(parents=True)
    for path, text in {
        tmp_path / "sidegate.db": "",
        tmp_path / "authority/authority.pem": chain + key,
        made.parent / "both.pem": chain + key,
        made.parent / "chain.pem": chain,
        made.parent / "a.key": key,
        made / "fullchain.pem": chain,
        made / "privkey.pem": key,
    }.items():
        path.write_text(text)
        path.chmod(0o640)
    tmp_path.chmod(0o711)
    found = files.look(Settings(state_dir=tmp_path), tmp_path / "control.sock")
    assert isinstance(found.state_dir, File)
    assert (found.state_dir.mode, found.state_dir.uid) == (0o711, os.geteuid())
    assert modes(found.state) == {"sidegate.db": 0o640}
    assert modes(found.keys) == dict.fromkeys(("authority.pem", "a.key", "both.pem", "privkey.pem"), 0o640)
    assert found.control is None


def test_there_is_nothing_yet(tmp_path: Path) -> None:
    found = files.look(Settings(state_dir=tmp_path / "x"), tmp_path / "y")
    assert (found.state_dir, found.state, found.keys, found.control) == (None, (), (), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not look")
def test_what_is_closed_is_unseen(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    code = (
        "import os, sys; from pathlib import Path; from sidegate.doctor.looking import files, daemon;"
        "from sidegate.doctor.snapshot import Unseen; from sidegate.settings import Settings;"
        f"os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY});"
        "path = Path(sys.argv[1]); found = files.look(Settings(state_dir=path / 'state'), path / 's');"
        "kinds = [type(x).__name__ for x in (found.state_dir, found.state, found.keys, found.control)];"
        "print(*kinds, daemon.lock_holder(path), daemon.look(path / 's', path).denied)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(closed)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Unseen"] * 4 + ["None", "True"]


def test_who_holds_the_lock_without_touching_it(tmp_path: Path) -> None:
    assert daemon.lock_holder(tmp_path) == 0
    with hold(tmp_path, "state_dir"):
        assert daemon.lock_holder(tmp_path) == os.getpid()
    assert daemon.lock_holder(tmp_path) == 0


# --- the daemon --------------------


async def test_a_daemon_that_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        node.app("shop")
        await node.settled()
        found = await asyncio.to_thread(daemon.look, node.path, tmp_path)
        assert found.status is not None
        assert (found.file, found.pid, found.uid) == ("socket", os.getpid(), os.geteuid())
        assert (found.status.version, found.status.ready) == ("0.0.0-test", True)
        assert IPv4Network(found.status.pool).is_private
        assert all(isinstance(problem, Problem) for problem in found.status.problems)
        assert await asyncio.to_thread(daemon.apps, node.path) == ["shop"]


def test_a_socket_that_nobody_listens_at(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    assert daemon.look(path, tmp_path).file == ""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    found = daemon.look(path, tmp_path)
    assert (found.file, found.stale, found.status) == ("socket", True, None)
    path.unlink()
    path.write_text("")
    assert daemon.look(path, tmp_path).file == "other"


def test_which_settings_are_looked_with(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "SIDEGATE_STATE_DIR": str(tmp_path / "state")}
    chosen = choose(None, "/x/s", {**home, "SIDEGATE_HTTP_PORT": "8080"})
    assert (chosen.settings.http_port, chosen.control, chosen.faults) == (8080, Path("/x/s"), ())
    wrong = choose(None, None, {"SIDEGATE_HTTP_PORT": "x", "SIDEGATE_HTTPS_PORT": "y"})
    assert wrong.settings == DEFAULTS
    assert len(wrong.faults) == 2
    dev = choose(None, None, home, dev=True)
    assert (dev.settings.discover, dev.control.parent) == ("all", dev.settings.runtime_dir)
    assert dev.file.is_relative_to(tmp_path)


# --- processes and ports --------------------


@pytest.mark.parametrize(
    ("words", "daemon"),
    [
        ("/v/bin/python /v/bin/sidegate run", True),
        ("/usr/bin/sidegate run --config /etc/x", True),
        ("python3 -m sidegate run", True),
        ("python /v/bin/sidegate --socket x run", True),
        ("python /v/bin/sidegate status", False),
        ("sudo sidegate run", False),
        ("bash -c sidegate_run", False),
        ("python -m pytest sidegate run", False),
        ("", False),
    ],
)
def test_what_is_a_daemon(words: str, daemon: bool) -> None:
    assert processes.is_daemon(words.split()) is daemon


@pytest.mark.parametrize(
    ("words", "file"), [("run --config a", "a"), ("run --config=b", "b"), ("run", ""), ("run --config", "")]
)
def test_its_settings_file(words: str, file: str) -> None:
    assert processes.config_option(words.split()) == file


def test_a_process_that_claims_to_be_one_is_read(tmp_path: Path) -> None:
    """Its environment and its file, and its children."""
    script = tmp_path / "sidegate"
    script.write_text(
        "import subprocess, sys\n"
        "with subprocess.Popen(['sleep', '60']) as child:\n"
        "    print(child.pid, flush=True)\n    sys.stdin.read()\n    child.kill()\n"
    )
    config = tmp_path / "c.toml"
    config.write_text("http_port = 8079\n")
    words = [sys.executable, str(script), "run", "--config", "c.toml"]
    environ = {"PATH": os.environ["PATH"], "SIDEGATE_INSTANCE": "sgother"}
    with subprocess.Popen(words, stdin=-1, stdout=-1, cwd=tmp_path, env=environ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        found = next(d for d in processes.daemons() if d.pid == process.pid)
        process.communicate()
    assert found.settings is not None
    assert (found.settings.instance, found.settings.http_port) == ("sgother", 8079)
    assert found.family == {process.pid, child}


def test_a_file_that_has_no_end_is_not_read(tmp_path: Path) -> None:
    """Whoever runs containers may have a process that claims to be a daemon."""
    script = tmp_path / "sidegate"
    script.write_text("import sys\nprint(flush=True)\nsys.stdin.read()\n")
    os.mkfifo(tmp_path / "c.toml")
    words = [sys.executable, str(script), "run", "--config", "c.toml"]
    with subprocess.Popen(words, stdin=-1, stdout=-1, cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid not in {daemon.pid for daemon in processes.daemons()}
        process.communicate()


def test_capabilities() -> None:
    everything = (1 << 41) - 1
    assert processes.lacking(everything) == ()
    assert processes.lacking(everything & ~(1 << 12)) == ("CAP_NET_ADMIN",)
    assert processes.lacking(0) == ()  # an ordinary user's, which is meant


def test_listeners_of_the_ports_that_matter() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("::1", 0), family=socket.AF_INET6):
        (found,) = ports.look({port, 1})
    assert (found.port, found.pid) == (port, os.getpid())
    assert found.holder.endswith(f" (pid {os.getpid()})")


# --- the host --------------------


def test_ports_of_the_kernel_s_lists() -> None:
    assert list(host.ports("80,30000-30002,9")) == [80, 30000, 30001, 30002, 9]
    assert list(host.ports("")) == []


async def test_routes_devices_and_the_uplink() -> None:
    routes, links, uplink = await host.network()
    assert isinstance(routes, tuple)
    assert isinstance(links, tuple)
    assert "lo" in {link.name for link in links}
    assert not any(route.device == "lo" for route in routes)
    assert bool(uplink) == any(not route.network.prefixlen for route in routes)


async def test_without_ip_the_main_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    table = "Iface\tDestination\tGateway\tFlags\nwg0\t0000D50A\t0\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    (tmp_path / "net").mkdir()
    (tmp_path / "net/route").write_text(table)
    monkeypatch.setattr(host, "PROC", tmp_path)
    routes, links, uplink = await host.network()
    assert (routes, uplink) == ((HostRoute(IPv4Network("10.213.0.0/16"), "wg0"),), "")
    assert isinstance(links, Unseen)


async def test_limits_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    found = await host.limits(tmp_path / "a/b", "", 0)
    (disk,) = found.disks
    assert (disk.path, 0 < disk.free < disk.size) == (tmp_path, True)
    assert found.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


async def test_names_that_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await host.unresolved("example.com", ["shop"]) == ()

    async def resolve(name: str) -> bool:
        return name == "shop.localhost"

    monkeypatch.setattr(host, "_is_loopback", resolve)
    assert await host.unresolved("localhost", ["shop", "blog"]) == ("blog.localhost",)
    assert await host.unresolved("my.localhost", []) == ("sidegate-doctor.my.localhost",)
    several = await host.unresolved("localhost", [f"app{n}" for n in range(50)])
    assert isinstance(several, tuple)
    assert len(several) == 5


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("echo 127.0.0.1 STREAM; echo ::1 STREAM", ()),
        ("echo 192.0.2.1", ("a.localhost",)),
        ("exit 2", ("a.localhost",)),
    ],
)
async def test_how_names_are_looked_up(
    answer: str, wrong: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _command(tmp_path / "getent", answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await host.unresolved("localhost", ["a"]) == wrong


async def test_name_servers_that_do_not_answer_hold_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _command(tmp_path / "getent", "exec sleep 600")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(host, "RESOLVE_SECONDS", 0.2)
    assert await host.unresolved("localhost", ["a"]) == ("a.localhost",)
    monkeypatch.setenv("PATH", "")
    assert isinstance(await host.unresolved("localhost", ["a"]), Unseen)


def _command(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


# --- the firewall --------------------


@pytest.mark.parametrize("answer", ["echo no JSON", "echo '{}'", "exit 1"])
async def test_an_nft_that_fails_is_not_one_that_has_no_rules(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _command(tmp_path / "iptables", "echo -P INPUT ACCEPT")
    _command(tmp_path / "nft", answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert isinstance(await firewall.look(Viewer()), Unseen)
    _command(tmp_path / "nft", "echo '{\"nftables\": []}'")
    assert isinstance(await firewall.look(Viewer()), Firewall)


async def test_a_moment_in_which_docker_changes_its_rules_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "looks").write_text("2")
    _command(
        tmp_path / "iptables",
        f"""cd {tmp_path}; read left <looks; echo -N DOCKER-USER
        [ $left = 0 ] && echo -A FORWARD -j DOCKER-USER || case "$*" in *-S) echo $((left - 1)) >looks ;; esac
        echo -A FORWARD -j DOCKER-ISOLATION-STAGE-1""",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(firewall, "PAUSE_SECONDS", 0.01)
    found = await firewall.look(Viewer())
    assert isinstance(found, Firewall)
    assert "-A FORWARD -j DOCKER-USER" in found.iptables.splitlines()


# --- the engine --------------------


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("unix:///nowhere/docker.sock", "missing"),
        ("unix://{tmp}/stale.sock", "refused"),
        ("tcp://127.0.0.1:1", "refused"),
        ("ssh://root@host", "other"),
    ],
)
async def test_an_engine_that_cannot_be_reached(url: str, fault: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "stale.sock"))
    reach, found = await engine.look(url.format(tmp=tmp_path))
    assert (reach.fault, reach.url) == (fault, url.format(tmp=tmp_path))
    assert isinstance(found, Unseen)


async def test_an_engine_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SECONDS", 1.3)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen(100)
        reach, found = await engine.look(f"unix://{tmp_path}/s")
    assert (reach.fault, type(found)) == ("silent", Unseen)


def test_settings_of_the_engine_that_cannot_be_seen_may_be_there(tmp_path: Path) -> None:
    """They are not to be written over."""
    file = tmp_path / "docker/daemon.json"
    assert not engine.may_be(file)
    file.parent.mkdir()
    assert not engine.may_be(file)
    file.touch()
    assert engine.may_be(file)
    file.parent.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from sidegate.doctor.looking import engine;"
        f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY}) if os.geteuid() == 0 else None;"
        "print(engine.may_be(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    file.parent.chmod(0o700)
    assert done.stdout == "True\n"


@pytest.mark.engine
async def test_a_real_engine() -> None:
    reach, found = await engine.look("")
    assert reach.fault == ""
    assert isinstance(found, Engine)
    assert found.version
    assert found.root_dir.startswith("/")
    assert "bridge" in {network.name for network in found.state.networks}


# --- the verb --------------------


def doctor(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SIDEGATE_")}
    command = [sys.executable, "-m", "sidegate", "doctor", *words]
    given = clean | {"DOCKER_HOST": "unix:///nowhere/docker.sock", **environ}
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False)


def test_the_verb_s_exit_status_and_its_two_forms(tmp_path: Path) -> None:
    places = {"SIDEGATE_STATE_DIR": str(tmp_path), "SIDEGATE_RUNTIME_DIR": str(tmp_path), "SIDEGATE_HTTP_PROT": "1"}
    done = doctor(**places)
    document = json.loads(done.stdout)
    faults = [f["check"] for f in document["findings"] if f["level"] == "fault"]
    assert (done.returncode, done.stderr) == (1, "")
    assert faults[:2] == ["settings", "engine"]
    assert sum(document["counts"].values()) == len(document["findings"])
    shown = doctor("--table", **places).stdout
    assert "there is no such setting; did you mean SIDEGATE_HTTP_PORT?" in shown
    assert "\n           systemctl start docker\n" in shown or "\n           apt-get install docker.io\n" in shown
    assert "not looked at\n" in shown


def test_what_it_is_not_given_right_is_usage() -> None:
    assert doctor("--config", "/nowhere/c.toml").returncode == 2
    assert doctor("--frobnicate").returncode == 2
