import asyncio
import io
import json
import os
import pty
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import pytest

import patient
from memory_daemon import PASSWORD, MemoryDaemon, running
from pairs import pair
from sidegate.adapters.certificates import Certificates
from sidegate.api.calls import CALLS
from sidegate.api.client import Reply
from sidegate.cli import session, sidegate, tables
from sidegate.core.options import OPTIONS

WITHOUT_CALL = {"run", "doctor", "help", "completion", "man"}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    """A daemon with an app and a database."""
    async with running(tmp_path) as daemon:
        daemon.app("shop")
        daemon.database("shop-db")
        yield await daemon.settled()


def verbs(group: click.Group = sidegate, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{path}{name} ")
        else:
            yield path + name, command


async def terminal(node: MemoryDaemon, *words: str, typed: str = "", at: str = "[y/N]: ") -> tuple[int, str]:
    """The command line on a terminal of its own: exit status and all that it shows. `typed` once `at` is shown."""
    return await asyncio.to_thread(_terminal, node.path.parent, words, typed, at)


def _terminal(runtime_dir: Path, words: tuple[str, ...], typed: str, at: str) -> tuple[int, str]:
    master, slave = pty.openpty()
    environ = os.environ | {"SIDEGATE_RUNTIME_DIR": str(runtime_dir), "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sidegate", *words], stdin=slave, stdout=slave, stderr=slave, env=environ
    )
    os.close(slave)
    shown = b""
    try:
        while select.select([master], [], [], 20)[0] and (chunk := os.read(master, 4096)):
            shown += chunk
            if typed and at.encode() in shown:
                os.write(master, typed.encode())
                typed = ""
    except OSError:
        pass  # the other end has closed: the process is done
    finally:
        os.close(master)
        if process.poll() is None:
            process.terminate()
    return process.wait(10), shown.decode().replace("\r\n", "\n")


def test_every_verb_has_its_call_and_every_call_its_verb() -> None:
    """Those of WITHOUT_CALL work without a daemon."""
    assert {name for name, _ in verbs()} - WITHOUT_CALL == {verb for call in CALLS for verb in call.verbs}


def test_these_are_the_verbs() -> None:
    assert {name for name, _ in verbs()} == {
        *("help", "completion", "man", "events"),
        *("run", "doctor", "status", "metrics", "audit", "purge", "connect", "disconnect", "connections", "build"),
        *("app ls", "app show"),
        *("env ls", "env set", "env unset", "env rename", "env export"),
        *("app set", "app unset", "app pause", "app resume", "app maintenance"),
        *("app deploy", "app redeploy", "app port", "app domains", "app rm", "app logs"),
        *("db ls", "db show", "db set", "db credentials", "db password", "db create", "db rm"),
        *("external on", "external off", "external show", "external ls", "external sessions"),
        *("external allow", "external deny", "external extend", "external kick"),
        *("cert ls", "cert add", "cert rm", "cert ca"),
    }


@pytest.mark.parametrize(("name", "command"), list(verbs()), ids=lambda x: x if isinstance(x, str) else "")
def test_each_verb_has_a_help_text_with_an_example_and_the_common_options(name: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=f"sidegate {name}"))
    assert "Example" in text
    assert f"sidegate {name}" in text.split("Example")[1]
    if name not in WITHOUT_CALL - {"doctor"}:
        assert "--json" in text
        assert "--socket" in text


async def test_a_pipe_gets_json_and_a_terminal_tables(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True)
    piped = await node.sidegate("connections")
    assert (json.loads(piped.stdout)[0]["a"], piped.stderr, piped.returncode) == ("shop", "", 0)
    forced = await node.sidegate("connections", "--table")
    assert forced.stdout.startswith("one end")
    assert (await node.sidegate("--no-json", "connections")).stdout == forced.stdout
    assert "\x1b" not in forced.stdout
    status, shown = await terminal(node, "connections")
    assert status == 0
    assert "sidegate-shop--shop-db" in shown
    assert "\x1b[" in shown
    status, shown = await terminal(node, "connections", "--json")
    assert json.loads(shown)[0]["b"] == "shop-db"


async def test_every_table_is_drawn(node: MemoryDaemon) -> None:
    """Empty ones and full ones."""
    empty = {
        "connections": "no connections",
        "audit": "nothing yet",
        "env ls shop": "no variables",
        "external sessions shop-db": "nobody is connected",
    }
    for words, text in empty.items():
        assert text in (await node.sidegate(*words.split(), "--table")).stdout
    full = {
        "connect shop shop-db --env": "DB_CONNECTION_URL",
        "status": "pool",
        "app ls": "http://shop.localhost:8080",
        "app show shop": "172.17.0.2",
        "app set shop https=redirect max-body=10m": "https=redirect (by command), max-body=10m (by command)",
        "app unset shop https": "max-body=10m (by command)\n",
        "app pause shop": "paused",
        "app maintenance on shop": "shop was paused: that is over",
        "app maintenance off shop": "serving",
        "app resume shop": "serving",
        "env ls shop": "(hidden: --reveal)",
        "env set shop A=1 B=2 --scope both": "set for shop: A (both), B (both)",
        "env rename shop A C --new-scope build": "set for shop: C (build)",
        "env unset shop B C": "removed for shop: B (both), C (build)",
        "env ls shop --reveal --scope runtime": "w`ord",
        "db ls": "shop-db.internal:3306",
        "db show shop-db": "shop-db-1",
        "db set shop-db --schema shop": "shop-db-1",
        "db credentials shop-db": "mariadb -h shop-db.internal -P 3306 -u shop -p shop\n",
        "connections": "sidegate-shop--shop-db",
        "external on shop-db": "mariadb -h 203.0.113.7 -P 30000 -u shop -p shop\n",
        "external show shop-db": "203.0.113.7:30000",
        "external ls": "30000",
        "external off shop-db": "sessions cut",
        "audit --limit 3": "external off",
        "disconnect shop shop-db --yes": "removed variables: DB_CONNECTION_URL",
        "purge --yes": "the daemon has stopped",
    }
    for words, text in full.items():
        done = await node.sidegate(*words.split(), "--table")
        assert done.returncode == 0, done.stderr
        assert text in done.stdout, words


async def test_a_mode_is_seen_in_lists_and_status(node: MemoryDaemon) -> None:
    await node.store.set_app("shop", "maintenance")
    await node.settled()
    for words, text in {
        "app ls": "maintenance",
        "app show shop": "maintenance",
        "status": "shop (maintenance)",
    }.items():
        assert text in (await node.sidegate(*words.split(), "--table")).stdout


@pytest.mark.parametrize(
    ("words", "status", "parts"),
    [
        ("connect shop shop-bd", 4, ["shop-bd", "did you mean shop-db?"]),
        ("connect Shop! shop-db", 2, ["'Shop!'", "a-z"]),
        ("connect home shop-db", 2, ["reserved"]),
        ("connect shop shop", 5, ["itself"]),
        ("connect shop", 2, ["Usage", "TARGET"]),
        ("connect shop shop-db --rename X", 2, ["OLD=NEW"]),
        ("connect shop shop-db --rename X=Y --rename X=Z", 2, ["X is renamed twice"]),
        ("connect shop shop-db --rename DB_HOST=X", 2, ["--env"]),
        ("connect shop shop-db --env --rename DB_HOTS=X", 2, ["DB_HOTS", "DB_HOST"]),
        ("connect shop shop-db --env --scope never", 2, ["build, runtime or both"]),
        ("disconnect shop shop-db --yes", 4, ["not connected"]),
        ("disconnect shop shop-db", 2, ["--yes"]),
        ("purge", 2, ["--yes"]),
        ("app show nothing", 4, ["nothing", "known: shop"]),
        ("app set shop", 2, ["OPTION=VALUE"]),
        ("app set shop max-body", 2, ["'max-body' is not OPTION=VALUE"]),
        ("app set shop hsts=1d hsts=2d", 2, ["hsts is given twice"]),
        ("app set shop hsts=1d max-body=big", 2, ["max-body: 'big' is not a size such as 512k, 10m or 1g"]),
        ("app set shop max-bodies=1m", 2, ["no option 'max-bodies'", "did you mean max-body?"]),
        ("app set shop health=", 2, ["a path that begins with /, or off"]),
        ("app set nothing hsts=1d", 4, ["nothing", "known: shop"]),
        ("app set shop-db hsts=1d", 4, ["shop-db is a database"]),
        ("app unset shop hts", 2, ["no option 'hts'"]),
        ("app unset shop", 2, ["OPTION"]),
        ("app pause nothing", 4, ["nothing", "known: shop"]),
        ("app resume Shop!", 2, ["'Shop!'"]),
        ("app maintenance shop", 2, ["'shop' is not one of 'on', 'off'"]),
        ("app maintenance on", 2, ["APP"]),
        ("env ls nothing", 4, ["nothing"]),
        ("env set shop", 2, ["nothing to set"]),
        ("env set shop s3cret", 2, ["KEY=VALUE"]),
        ("env set shop A=1 A=2", 2, ["A is given twice"]),
        ("env set shop A=1 --stdin A", 2, ["A is given twice"]),
        ("env set shop --file - --stdin A", 2, ["standard input"]),
        ("env set shop --file /nowhere/.env", 2, ["/nowhere/.env cannot be read: No such file"]),
        ("env set shop 1A=1", 2, ["'1A' is not a variable's name"]),
        ("env set shop A=1 --scope never", 2, ["'build', 'runtime', 'both'"]),
        ("env set shop PORT=9000", 5, ["sidegate app port shop NUMBER"]),
        ("env set shop-db A=1", 4, ["shop-db is a database"]),
        ("env unset shop A", 4, ["shop has no variable A (it has none)"]),
        ("env rename shop A B", 4, ["shop has no variable A"]),
        ("env export shop --format yaml", 2, ["dotenv, shell, json, docker or build-args"]),
        ("env export shop --scope both", 2, ["build or runtime"]),
        ("db show nothing", 4, ["nothing", "known: shop-db"]),
        ("db set shop-db", 2, ["nothing to set"]),
        ("db set shop-db --port 5432", 5, ["the internal port is 3306 and cannot be changed"]),
        ("db set shop-db --password-stdin", 2, ["holds no password"]),
        ("db credentials shop", 4, ["shop is an app"]),
        ("external on shop-db --port 80", 2, ["30000-30003"]),
        ("external on nothing", 4, ["nothing"]),
        ("audit --limit 0", 2, ["between 1 and 1000"]),
        ("frobnicate", 2, ["frobnicate"]),
        ("--socket /nowhere/s status", 3, ["/nowhere/s", "sidegate run", "--socket"]),
        ("status --socket /nowhere/s", 3, ["/nowhere/s"]),
        ("run --config /nowhere/c.toml", 2, ["/nowhere/c.toml"]),
    ],
)
async def test_each_mistake_has_its_exit_status_and_its_sentence(
    node: MemoryDaemon, words: str, status: int, parts: list[str]
) -> None:
    before = node.store.intent
    done = await node.sidegate(*words.split())
    assert done.returncode == status, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert node.store.intent == before


def test_the_help_of_app_set_has_every_option() -> None:
    text = next(command for name, command in verbs() if name == "app set").get_help(click.Context(sidegate))
    listed = [line.split()[0] for line in text.split("\n\n")[2].splitlines()]
    assert listed == list(OPTIONS)


async def test_failures_are_exit_status_1(node: MemoryDaemon) -> None:
    node.engine.unavailable = "gone"
    await node.settled()
    done = await node.sidegate("connect", "shop", "shop-db")
    assert (done.returncode, done.stderr) == (
        1,
        "sidegate: the Docker engine does not answer (gone)\n",
    )


async def test_a_no_changes_nothing_and_a_yes_does(node: MemoryDaemon) -> None:
    """R34."""
    await node.connect("shop", "shop-db", env=True)
    before = node.store.intent
    for verb in (["disconnect", "shop", "shop-db", "--keep-env"], ["purge"]):
        status, shown = await terminal(node, *verb, typed="n\n")
        assert status == 1
        assert "nothing was changed" in shown
    assert node.store.intent == before
    status, shown = await terminal(node, "disconnect", "shop", "shop-db", "--keep-env", typed="y\n")
    assert status == 0
    assert "kept variables" in shown
    assert not node.store.intent.connections
    assert node.store.intent.env["shop"]


@pytest.mark.parametrize(("answer", "status"), [("cancel", 1), ("", 1), ("keep", 0), ("remove", 0)])
async def test_without_a_word_about_the_variables_it_asks_with_their_list(
    node: MemoryDaemon, answer: str, status: int
) -> None:
    """R34, R36."""
    await node.connect("shop", "shop-db", env=True, renames={"DB_HOST": "MYSQL_HOST"})
    before = node.store.intent
    asked = "(remove, keep, cancel) [cancel]: "
    ended, shown = await terminal(node, "disconnect", "shop", "shop-db", typed=f"{answer}\n", at=asked)
    assert ended == status
    assert "shop has DB_CONNECTION_URL, DB_NAME, DB_PASSWORD, DB_PORT, DB_USER, MYSQL_HOST" in shown
    if status:
        assert "nothing was changed" in shown
        assert node.store.intent == before
    else:
        assert not node.store.intent.connections
        assert bool(node.store.intent.env) is (answer == "keep")


async def test_values_come_from_standard_input_and_files(node: MemoryDaemon, tmp_path: Path) -> None:
    """In no process list: as they are, less one line end; a dotenv file whole or not at all."""
    done = await node.sidegate("env", "set", "shop", "--stdin", "API_KEY", "--secret", text="a=b 'c'\n\n")
    assert (done.returncode, done.stderr) == (0, "")
    await node.sidegate("env", "set", "shop", "--file", "-", "--scope", "build", text="A=1\nB='x y'\n")
    (tmp_path / ".env").write_text("\ufeffC=3\n")
    done = await node.sidegate("env", "set", "shop", "D=4", "--file", str(tmp_path / ".env"))
    assert [v["key"] for v in json.loads(done.stdout)["set"]] == ["D", "C"]
    stored = {v.key: (v.value, v.scope, v.secret) for v in node.store.intent.env["shop"]}
    assert stored == {
        "API_KEY": ("a=b 'c'\n", "runtime", True),
        "A": ("1", "build", False),
        "B": ("x y", "build", False),
        "C": ("3", "runtime", False),
        "D": ("4", "runtime", False),
    }
    before = node.store.intent
    done = await node.sidegate("env", "set", "shop", "--file", "-", text="GOOD=1\nMIIEs3cret\n")
    assert (done.returncode, "line 2" in done.stderr, "s3cret" in done.stderr) == (2, True, False)
    assert node.store.intent == before


async def test_a_secret_on_the_command_line_is_warned_of(node: MemoryDaemon) -> None:
    done = await node.sidegate("env", "set", "shop", "A=s3cret", "--secret")
    assert (done.returncode, "process lists" in done.stderr, "s3cret" in done.stderr) == (0, True, False)
    _, shown = await terminal(node, "env", "set", "shop", "--stdin", "B", typed="hidden\n", at="Value of B: ")
    assert "hidden" not in shown
    assert node.store.intent.env["shop"][-1].value == "hidden"


async def test_an_end_of_input_is_a_no(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db")
    status, _ = await terminal(node, "disconnect", "shop", "shop-db", typed="\x04")
    assert status == 1
    assert node.store.intent.connections


async def test_passwords_come_from_standard_input(node: MemoryDaemon) -> None:
    """Whatever they hold, less one line end; two of them are two lines."""
    await node.sidegate("db", "set", "shop-db", "--user", "u", "--password-stdin", text="p a'$\"ss\n")
    assert node.store.intent.databases["shop-db"].password == "p a'$\"ss"
    both = ("--password-stdin", "--root-password-stdin")
    done = await node.sidegate("db", "set", "shop-db", *both, text="user-1\nroot-2\n")
    assert done.returncode == 0
    assert "user-1" not in done.stdout
    details = node.store.intent.databases["shop-db"]
    assert (details.user, details.password, details.root_password) == ("u", "user-1", "root-2")
    done = await node.sidegate("db", "set", "shop-db", *both, text="one\n")
    assert done.returncode == 2
    assert "two lines" in done.stderr


async def test_what_is_not_utf_8_is_a_usage_error(node: MemoryDaemon) -> None:
    environ = os.environ | {"SIDEGATE_RUNTIME_DIR": str(node.path.parent)}

    def run(words: list[bytes], given: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [os.fsencode(sys.executable), b"-m", b"sidegate", *words]
        return subprocess.run(command, input=given, capture_output=True, check=False, env=environ)

    for words in ([b"app", b"show", b"\xff"], [b"connect", b"\xff", b"shop-db"], [b"db", b"set", b"x", b"--user=\xff"]):
        done = await asyncio.to_thread(run, words, b"")
        assert (done.returncode, b"not UTF-8" in done.stderr) == (2, True), done.stderr
    done = await asyncio.to_thread(run, [b"db", b"set", b"shop-db", b"--password-stdin"], b"\xff\n")
    assert (done.returncode, b"not UTF-8" in done.stderr) == (2, True), done.stderr


async def test_on_a_terminal_a_password_is_asked_for_and_not_shown(node: MemoryDaemon) -> None:
    status, shown = await terminal(node, "db", "set", "shop-db", "--password-stdin", typed="Secret-1\n", at="user: ")
    assert status == 0, shown
    assert "Secret-1" not in shown
    assert node.store.intent.databases["shop-db"].password == "Secret-1"
    assert "Password of user" in shown


async def test_an_export_is_the_format_and_nothing_else(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True)
    for form in ("dotenv", "shell"):
        done = await node.sidegate("env", "export", "shop", "--format", form)
        _, shown = await terminal(node, "env", "export", "shop", "--format", form)
        assert done.stdout == shown
    script = done.stdout + 'printf %s "$DB_PASSWORD"'
    read = await asyncio.to_thread(subprocess.run, ["/bin/sh", "-c", script + "; echo ."], capture_output=True)
    assert read.stdout.decode() == PASSWORD + ".\n"
    done = await node.sidegate("env", "export", "shop", "--format", "json")
    assert json.loads(done.stdout)["DB_PASSWORD"] == PASSWORD


def complete(words: str, runtime_dir: str) -> str:
    count = str(len(words.split()) - 1)
    environ = {"_SIDEGATE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    environ["SIDEGATE_RUNTIME_DIR"] = runtime_dir
    return subprocess.run(patient.COMMAND, env=os.environ | environ, capture_output=True, text=True).stdout


async def test_certificates_are_completed_though_the_authority_s_have_no_name(tmp_path: Path) -> None:
    source = Certificates(tmp_path / "files", tmp_path / "authority", base_domain="localhost", managed=True)
    try:
        async with running(tmp_path, certificates=source) as node:
            node.app("shop", labels={"sidegate.domains": "shop.example"})
            await source.add("mine", *pair("other.example"))
            await node.settled()
            assert {c.name for c in await node.commands.certificates.ls()} == {"mine", None}
            completed = await asyncio.to_thread(complete, "sidegate cert rm m", str(node.path.parent))
            assert completed == "plain,mine\n"
    finally:
        await source.close()


async def test_names_are_completed_from_the_daemon(node: MemoryDaemon) -> None:
    runtime_dir = str(node.path.parent)
    assert await asyncio.to_thread(complete, "sidegate db show sh", runtime_dir) == "plain,shop-db\n"
    assert await asyncio.to_thread(complete, "sidegate connect sh", runtime_dir) == "plain,shop-db\nplain,shop\n"
    assert await asyncio.to_thread(complete, "sidegate db show sh", "/nowhere") == "\n"


def test_it_starts_fast_since_it_imports_little() -> None:
    """What only tables, the daemon or the server need is not loaded for a verb that prints JSON."""
    code = "import sys, sidegate.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("rich", "aiohttp", "asyncio", "docker", "sqlite3", "structlog", "uvloop", "sidegate.main")
    assert not [module for module in loaded if module.split(".")[0] in heavy or module in heavy]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_shows_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, screen = threading.Event(), Screen()
    real = screen.write

    def write(text: str) -> int:
        if "connecting" in text:
            shown.set()
        return real(text)

    screen.write = write  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(session, "PROGRESS_AFTER", 0.0)
    with session.progress("connecting shop and shop-db"):
        assert shown.wait(10)


def test_what_is_quick_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(session, "PROGRESS_AFTER", 600.0)
    with session.progress("connecting"):
        pass
    assert screen.getvalue() == ""


def test_colours_are_for_those_who_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """no-color.org: NO_COLOR takes the colours away and leaves what is bold; a dumb terminal shows neither."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert tables.style("ok", "green") == "\x1b[32mok\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert (tables.style("ok", "green"), tables.style("ok", bold=True)) == ("ok", "\x1b[1mok\x1b[0m")
    monkeypatch.setenv("TERM", "dumb")
    assert tables.style("ok", "green", bold=True) == "ok"


def test_a_terminal_never_obeys_what_a_name_says(capsys: pytest.CaptureFixture[str]) -> None:
    tables.facts([("name", "\x1b[2Jevil"), ("list", ["\x07", "[bold]x"])])
    tables.table(("a",), [["\x1b]0;x"], ["[red]:smile:"]], empty="")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]:smile:" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (75, "1 min 15 s"), (7384, "2 h 3 min"), (200_000, "2 d 7 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert tables.ago(seconds) == text


def test_a_terminal_never_obeys_json_either(capsys: pytest.CaptureFixture[str]) -> None:
    session.Session(as_json=True).show(Reply('["\x9b2J é \x7f"]'.encode(), None), print)
    printed = capsys.readouterr().out
    assert printed == '[\n  "\\u009b2J é \\u007f"\n]\n'
    assert json.loads(printed) == ["\x9b2J é \x7f"]


@pytest.mark.parametrize(
    ("words", "closed", "status", "says"),
    [
        ("db password shop-db --stdin", "<&-", 2, "standard input holds no password"),
        ("env set shop --stdin KEY", "<&-", 0, ""),
        ("disconnect shop shop-db", "<&-", 2, "there is nobody to ask here"),
        ("env ls shop", ">&- 2>&-", 0, ""),
    ],
)
async def test_a_stream_that_is_closed_is_an_empty_one(
    node: MemoryDaemon, words: str, closed: str, status: int, says: str
) -> None:
    environ = os.environ | {"SIDEGATE_RUNTIME_DIR": str(node.path.parent)}
    process = await asyncio.create_subprocess_shell(
        f"{shlex.quote(sys.executable)} -m sidegate {words} {closed}", env=environ, stderr=subprocess.PIPE
    )
    _, shown = await process.communicate()
    assert (process.returncode, says in shown.decode()) == (status, True)
    assert b"Traceback" not in shown


async def test_the_version_needs_no_daemon(node: MemoryDaemon) -> None:
    done = await node.sidegate("--version")
    assert done.stdout == "sidegate 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["external", "off", "shop-db"],
            "not waiting any longer; what was asked for goes on: see `sidegate audit`",
        ),
        (["connect", "shop-db", "shop"], "what was asked for goes on: see `sidegate audit`"),
        (["app", "redeploy", "shop"], "it goes on: see `sidegate app show shop`"),
        (["db", "password", "shop-db", "--generate"], "`sidegate db credentials shop-db` tells which password counts"),
        (["app", "ls"], "Aborted!"),
    ],
    ids=["external off", "connect", "app redeploy", "db password", "app ls"],
)
def test_who_leaves_while_a_change_is_made_is_told_that_it_goes_on(tmp_path: Path, words: list[str], told: str) -> None:
    """The daemon never answers here; Ctrl-C comes once it has been asked."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        command = [sys.executable, "-m", "sidegate", "--socket", str(path), *words]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as asking:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1 << 16)
                asking.send_signal(signal.SIGINT)
                _, shown = asking.communicate(timeout=60)
    assert told in shown
    assert asking.returncode == (1 if told == "Aborted!" else 130)


def test_who_leaves_at_once_sees_no_traceback() -> None:
    early = """
import runpy, sys
class Impatient:
    def find_spec(self, name, *_):
        if name == "sidegate.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
runpy.run_module("sidegate", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
