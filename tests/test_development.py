"""What `sidegate run --dev` sets, and where its things are."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from memory_daemon import PASSWORD, running
from sidegate.adapters.user_host import UserHost
from sidegate.api.schemas import ExternalRequest
from sidegate.core.directories import user_config, user_runtime, user_state
from sidegate.core.model import HostState, Rules
from sidegate.development import development_defaults, development_settings, greeting, ordinary_user_hint
from sidegate.errors import RefusedError, SettingsError, SidegateError
from sidegate.settings import DEFAULTS

HOME = {"HOME": "/home/ann"}


@pytest.mark.parametrize(
    ("environ", "state", "runtime", "config"),
    [
        (
            HOME,
            "/home/ann/.local/state/sidegate",
            "/home/ann/.local/state/sidegate/run",
            "/home/ann/.config/sidegate/sidegate.toml",
        ),
        (
            HOME | {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/run/user/1000", "XDG_CONFIG_HOME": "/c"},
            "/s/sidegate",
            "/run/user/1000/sidegate",
            "/c/sidegate/sidegate.toml",
        ),
        (
            {"HOME": "home/ann"},
            "/.local/state/sidegate",
            "/.local/state/sidegate/run",
            "/.config/sidegate/sidegate.toml",
        ),
        (
            HOME | {"XDG_STATE_HOME": "s", "XDG_RUNTIME_DIR": "", "XDG_CONFIG_HOME": "."},
            "/home/ann/.local/state/sidegate",
            "/home/ann/.local/state/sidegate/run",
            "/home/ann/.config/sidegate/sidegate.toml",
        ),
    ],
)
def test_a_users_things_are_in_the_xdg_directories(
    environ: dict[str, str], state: str, runtime: str, config: str
) -> None:
    assert (user_state(environ), user_runtime(environ), user_config(environ)) == (
        Path(state),
        Path(runtime),
        Path(config),
    )


def test_it_differs_from_a_nodes_in_these_settings_only() -> None:
    assert development_defaults(HOME) == replace(
        DEFAULTS,
        state_dir=Path("/home/ann/.local/state/sidegate"),
        runtime_dir=Path("/home/ann/.local/state/sidegate/run"),
        http_port=8080,
        https_port=8443,
        listen="loopback",
        discover="all",
        isolation="report",
        forwarder="userspace",
    )


def test_the_users_file_and_variables_win_and_the_nodes_file_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "node.toml"
    node.write_text("http_port = 80")
    monkeypatch.setattr("sidegate.settings.DEFAULT_FILE", node)
    environ = {"HOME": str(tmp_path), "SIDEGATE_HTTPS_PORT": "0"}
    assert development_settings(None, environ) == replace(development_defaults(environ), https_port=0)
    own = tmp_path / ".config/sidegate/sidegate.toml"
    own.parent.mkdir(parents=True)
    own.write_text('http_port = 8081\ndiscover = "labels"')
    found = development_settings(None, environ)
    assert (found.http_port, found.discover, found.listen) == (8081, "labels", "loopback")
    assert development_settings(node, environ).http_port == 80


def test_a_file_of_the_users_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "sidegate/sidegate.toml").mkdir(parents=True)
    for home in (str(tmp_path), f"/{'x' * 300}"):
        with pytest.raises(SettingsError, match=r"cannot be read|cannot read"):
            development_settings(None, {"HOME": "/nowhere", "XDG_CONFIG_HOME": home})


def test_it_says_where_services_answer_and_what_is_wrong_with_the_engine() -> None:
    settings = development_defaults(HOME)
    assert greeting(settings, "").splitlines() == [
        "sidegate: compose services answer at http://SERVICE.PROJECT.localhost:8080",
        "sidegate: `sidegate status` in another terminal says which; its socket is "
        "/home/ann/.local/state/sidegate/run/control.sock",
    ]
    assert "PROJECT.localhost\n" in greeting(replace(settings, http_port=80), "")
    assert greeting(settings, "no engine").endswith("\nsidegate: no engine")


def test_only_an_ordinary_user_is_pointed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "`sidegate run --dev`" in ordinary_user_hint(SettingsError("no rights"))
    assert ordinary_user_hint(SidegateError("something else")) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ordinary_user_hint(SettingsError("no rights")) == ""


async def test_what_takes_root_is_no_fault_of_the_host_for_an_ordinary_user(tmp_path: Path) -> None:
    for name in ("net", "sys/net/bridge", "self"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "self/status").write_text("CapEff:\t0000000000000000\n")
    (tmp_path / "sys/net/bridge/bridge-nf-call-iptables").write_text("1\n")
    header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    (tmp_path / "net/route").write_text(f"{header}eth0 0002A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n")
    assert await UserHost("sidegate", proc=tmp_path).observe() == HostState(routes=("192.168.2.0/24",))


async def test_on_loopback_every_external_connection_is_for_this_machine(tmp_path: Path) -> None:
    async with running(tmp_path, Rules(loopback=True)) as daemon:
        daemon.database("shop-db")
        await daemon.settled()
        on = await daemon.commands.externals.on("shop-db")
        assert (on.local, on.anybody, on.warnings) == (True, False, [])
        with pytest.raises(RefusedError, match="listen = all"):
            await daemon.commands.externals.on("shop-db", terms=ExternalRequest(enabled=True, local=False))


async def test_a_database_of_another_port_is_not_connected_where_nothing_can_redirect(tmp_path: Path) -> None:
    async with running(tmp_path, Rules(namespaces=False)) as daemon:
        daemon.app("shop")
        labels = {"sidegate.database": "shop-db", "sidegate.engine": "postgres"}
        daemon.engine.run("shop-db-1", labels=labels, env={"POSTGRES_PASSWORD": PASSWORD})
        await daemon.settled()
        with pytest.raises(RefusedError, match="listens at 5432, and only a daemon that runs as root"):
            await daemon.connect("shop", "shop-db")
        await daemon.commands.databases.show("shop-db")
        assert daemon.logins.asked[-1].endswith(":5432")


async def test_what_is_left_out_is_in_the_status(tmp_path: Path) -> None:
    async with running(tmp_path, Rules(discover="all")) as daemon:
        daemon.app("shop", labels={"sidegate.enable": "false"})
        await daemon.settled()
        (left,) = (await daemon.commands.node.status()).left_out
        assert left.reason == "has sidegate.enable=false"
