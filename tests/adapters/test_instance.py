"""One daemon per instance, with real sockets and processes. Names are of each test's own: they are the machine's."""

import asyncio
import contextlib
import hashlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from adapters.scripted_engine import ScriptedEngine
from sidegate.adapters import instance as module
from sidegate.adapters.docker import DockerEngine, admission
from sidegate.adapters.instance import Instance
from sidegate.errors import AlreadyRunningError, EngineUnavailableError

ANN, BOB = 60931, 60932
ENGINE = "ABCD:EFGH"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

DAEMON = """
import asyncio, concurrent.futures.thread, os, sys  # all of it while we may still read it
from sidegate.adapters import instance as module
from sidegate.adapters.instance import Instance
from sidegate.errors import AlreadyRunningError

module.PATIENCE = 30

async def main():
    instance = Instance(sys.argv[1], {"state_dir": "/var/of/a", "runtime_dir": "/run/of/a"})
    await instance.hold_engine(sys.argv[3])
    print("runs", *(problem.text for problem in instance.problems()), flush=True)
    await instance.run()

if int(sys.argv[2]):
    os.setresuid(*3 * [int(sys.argv[2])])
try:
    asyncio.run(main())
except AlreadyRunningError as error:
    print("ends:", error, flush=True)
"""
STRANGER = """
import os, socket, sys
os.setresuid(*3 * [int(sys.argv[2])])
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1].replace("@", chr(0)))
if sys.argv[3] != "deaf":
    sock.listen(0)
waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
if sys.argv[3] == "full":
    assert [each.connect_ex(sock.getsockname()) for each in waiting][-1]
print("runs", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 30)
    monkeypatch.setattr(admission, "PATIENCE", 30)


@contextlib.asynccontextmanager
async def held(name: str, *, engine: str = ENGINE) -> AsyncIterator[Instance]:
    """A daemon in this process."""
    instance = Instance(name, {"state_dir": "/here"})
    try:
        await instance.hold_engine(engine)
        yield instance
    finally:
        instance.close()


@contextlib.contextmanager
def process(code: str, *words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the line that says whether it runs."""
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as child:
        try:
            assert child.stdout
            yield child, next(line for line in child.stdout if line.startswith(("runs", "ends")))
        finally:
            child.kill()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def address(name: str, engine: str = ENGINE) -> str:
    """The abstract name that is held on an engine, with @ for its first byte."""
    return f"@sidegate/{name}/engine/{hashlib.sha256(engine.encode()).hexdigest()[:32]}"


async def test_the_second_is_told_who_the_first_is_and_what_to_do(name: str) -> None:
    with process(DAEMON, name, 0, ENGINE) as (child, line):
        assert line == "runs\n"
        with pytest.raises(AlreadyRunningError) as caught:
            async with held(name):
                pass
    user, said = pwd.getpwuid(os.geteuid()).pw_name, str(caught.value)
    assert f"(pid {child.pid}, user {user}, state_dir /var/of/a, runtime_dir /run/of/a)" in said
    assert f"has the instance {name!r} on this Docker engine" in said
    assert "stop that one, or start this one with SIDEGATE_INSTANCE=NAME (the setting `instance`)" in said


async def test_another_instance_or_another_engine_is_somebody_elses_business(name: str) -> None:
    async with held(name), held(f"{name}x"), held(name, engine="WXYZ") as third:
        assert third.problems() == []


async def test_a_killed_holder_holds_nothing(name: str) -> None:
    with process(DAEMON, name, 0, ENGINE) as (child, _):
        child.kill()
        child.wait()
        async with held(name) as instance:
            assert instance.problems() == []


async def test_one_that_stands_still_holds_it_all_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    with process(DAEMON, name, 0, ENGINE) as (child, _):
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(AlreadyRunningError, match=rf"\(pid {child.pid}, user [^,]*\) has the instance"):
            async with held(name):
                pass


async def test_a_program_that_we_start_does_not_inherit_it(name: str) -> None:
    async with held(name):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with child:
        async with held(name) as instance:
            assert instance.problems() == []


async def test_of_many_at_once_one_gets_it(name: str) -> None:
    instances = [Instance(name) for _ in range(8)]
    try:
        outcomes = await asyncio.gather(*(i.hold_engine(ENGINE) for i in instances), return_exceptions=True)
        assert sum(isinstance(outcome, AlreadyRunningError) for outcome in outcomes) == 7
    finally:
        for instance in instances:
            instance.close()


async def test_an_engine_that_came_back_as_another_one_is_held_instead(name: str) -> None:
    async with held(name) as instance:
        await instance.hold_engine("another")
        async with held(name):
            with pytest.raises(AlreadyRunningError):
                await Instance(name).hold_engine("another")


async def test_the_host_is_held_beside_the_engine(name: str) -> None:
    async with held(name) as first:
        second = Instance(name)
        await first.hold_host()
        with pytest.raises(AlreadyRunningError, match="on this host, and two would undo each other's work"):
            await second.hold_host()
        first.close()
        await second.hold_host()
        second.close()


async def test_asking_again_for_what_is_held_changes_nothing(name: str) -> None:
    async with held(name) as instance:
        await instance.hold_engine(ENGINE)
        assert instance.problems() == []


@AS_ROOT
async def test_an_ordinary_users_daemon_believes_root(name: str) -> None:
    async with held(name):
        words = [sys.executable, "-c", DAEMON, name, str(ANN), ENGINE]
        child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, cwd="/")
        said, _ = await asyncio.wait_for(child.communicate(), 30)
    assert said.decode().startswith(
        f"ends: another sidegate daemon (pid {os.getpid()}, user root, state_dir /here) has"
    )


@AS_ROOT
async def test_an_ordinary_users_daemon_gives_way_to_roots(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root starts all the same, and has the instance once the other has ended."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    with process(DAEMON, name, ANN, ENGINE) as (child, line):
        assert line == "runs\n"
        async with held(name) as instance:
            (problem,) = instance.problems()
            assert problem.subject == "host"
            assert f"somebody (pid {child.pid}, user {ANN}) who is not root holds the name" in problem.text
            assert child.stdout
            said = await asyncio.to_thread(child.stdout.readline)
            assert f"ends: a sidegate daemon of root's (pid {os.getpid()}, user root) has come up" in said
            assert "SIDEGATE_INSTANCE=NAME" in said
            woken = asyncio.Event()
            trying = asyncio.create_task(instance.run(woken.set))
            await asyncio.wait_for(woken.wait(), 30)
            assert instance.problems() == []
            trying.cancel()
            with pytest.raises(AlreadyRunningError):
                await Instance(name).hold_engine(ENGINE)


@AS_ROOT
async def test_two_ordinary_users_are_told_of_each_other(name: str) -> None:
    with process(DAEMON, name, ANN, ENGINE) as (first, _), process(DAEMON, name, BOB, ENGINE) as (_, line):
        assert line.startswith(f"runs somebody (pid {first.pid}, user {ANN}) who is not root nor {BOB} holds the name")
        assert first.poll() is None


@AS_ROOT
@pytest.mark.parametrize("kind", ["silent", "deaf", "full"])
async def test_a_stranger_keeps_nobody_from_starting(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never answers, never listens, or has no room for us."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    with process(STRANGER, address(name), ANN, kind) as (child, line):
        assert line == "runs\n"
        async with held(name) as instance:
            (problem,) = instance.problems()
            assert "this one runs all the same" in problem.text
            trying = asyncio.create_task(instance.run())
            child.kill()
            child.wait()
            await until(lambda: not instance.problems())
            trying.cancel()


async def test_a_name_that_cannot_be_taken_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module, "_bind", refused)
    async with held(name) as instance:
        (problem,) = instance.problems()
        assert "cannot be told: [Errno 1] Operation not permitted" in problem.text


async def test_what_a_holder_says_is_bounded_and_printable(name: str) -> None:
    first = Instance(name, {"state_dir": "/\x1b[2J\n" + "x" * 5000})
    await first.hold_engine(ENGINE)
    with pytest.raises(AlreadyRunningError) as caught:
        await Instance(name).hold_engine(ENGINE)
    first.close()
    assert "state_dir /?[2J?xxx" in str(caught.value)
    assert len(str(caught.value)) < 1600


# --- the engine's word --------------------


@pytest.fixture
def script(tmp_path: Path) -> Iterator[ScriptedEngine]:
    script = ScriptedEngine(tmp_path / "docker.sock")
    script.replies["GET", "/info"] = 200, {"ID": ENGINE}
    script.start()
    yield script
    script.stop()


async def test_an_engine_is_held_before_anything_is_believed_of_it(name: str, script: ScriptedEngine) -> None:
    async with held(name):
        second = Instance(name)
        engine = DockerEngine(script.url, deadline=60, admit=second.hold_engine)
        for _ in range(2):
            with pytest.raises(AlreadyRunningError):
                await engine.observe()
        await engine.close()


async def test_it_is_asked_once_and_again_when_it_was_away(script: ScriptedEngine) -> None:
    seen: list[str] = []

    async def admit(identity: str) -> None:
        seen.append(identity)

    engine = DockerEngine(script.url, deadline=60, admit=admit)
    for _ in range(2):
        await engine.observe(full=True)
    assert seen == [ENGINE]
    script.stop()
    with pytest.raises(EngineUnavailableError):
        await engine.observe()
    script.replies["GET", "/info"] = 200, {"ID": "another"}
    script.start()
    await engine.observe()
    assert seen == [ENGINE, "another"]
    await engine.close()


@pytest.mark.parametrize("reply", [(403, {"message": "this proxy lets nobody ask"}), (200, {"ID": ""})])
async def test_one_that_does_not_say_is_known_by_its_address(
    script: ScriptedEngine, reply: tuple[int, dict[str, str]]
) -> None:
    seen: list[str] = []

    async def admit(identity: str) -> None:
        seen.append(identity)

    script.replies["GET", "/info"] = reply
    engine = DockerEngine(script.url, deadline=60, admit=admit)
    await engine.observe()
    assert seen == [script.url]
    await engine.close()


async def test_one_that_does_not_get_round_to_saying_is_looked_at_all_the_same(
    script: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def admit(identity: str) -> None:
        seen.append(identity)

    async def observed(patience: float) -> list[str]:
        """Once, after the engine was away."""
        script.stop()
        with pytest.raises(EngineUnavailableError):
            await engine.observe()
        script.gates["/info"] = gate = threading.Event()
        if patience > 1:
            gate.set()
        script.start()
        monkeypatch.setattr(admission, "PATIENCE", patience)
        await engine.observe()
        gate.set()
        return seen

    engine = DockerEngine(script.url, deadline=60, admit=admit)
    assert await observed(0.05) == [script.url]
    assert await observed(30) == [script.url, ENGINE]
    assert await observed(0.05) == [script.url, ENGINE]  # what it said once still holds
    await engine.close()
