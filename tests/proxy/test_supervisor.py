"""The supervisor with real worker processes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import h11
import pytest
import structlog

from pairs import client_context, key_pair, presented
from ports import free_port
from proxy.wire import DEADLINE, HOST, Client, answering, backend, closed_port, until
from sidegate.core.certificates import CertificateSet, KeyPair
from sidegate.core.gates import Gate
from sidegate.core.routes import AppRoute, DatabaseTarget, PathRoute, Policy, Routes, Upstream
from sidegate.errors import DataPlaneError, PortInUseError, SettingsError
from sidegate.proxy import supervisor as supervisor_module
from sidegate.proxy.limits import Limits
from sidegate.proxy.supervisor import Supervisor
from sidegate.reconciler.world import DataPlane

OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"
GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
NOBODY = 65534
ROOT = os.getuid() == 0


def routes(port: int) -> Routes:
    return Routes(
        hosts={HOST: (PathRoute("", "shop"),)},
        apps={"shop": AppRoute((Upstream("shop-1", "127.0.0.1", port),))},
        databases={"db": DatabaseTarget("127.0.0.1", port)},
    )


def as_the_reconciler_sees_it(supervised: Supervisor) -> DataPlane:
    """mypy holds the supervisor to the protocol."""
    return supervised


def supervisor(
    workers: int = 2,
    port: int = 0,
    *,
    https_port: int | None = None,
    access_log: str = "",
    on_health: Callable[[], None] = lambda: None,
) -> Supervisor:
    identity = NOBODY if ROOT else None
    return Supervisor(
        workers=workers,
        http_port=port,
        https_port=https_port,
        log=structlog.get_logger(),
        address="127.0.0.1",
        uid=identity,
        gid=identity,
        limits=Limits(drain=DEADLINE),
        access_log=access_log,
        on_health=on_health,
    )


@contextlib.asynccontextmanager
async def plane(
    workers: int = 2,
    port: int = 0,
    *,
    https_port: int | None = None,
    access_log: str = "",
    on_health: Callable[[], None] = lambda: None,
) -> AsyncIterator[Supervisor]:
    supervised = supervisor(workers, port, https_port=https_port, access_log=access_log, on_health=on_health)
    await supervised.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised.run(), name="workers")
            try:
                yield supervised
            finally:
                await supervised.stop()
    finally:
        await supervised.stop()


async def connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


async def get(port: int) -> bytes:
    async with await connect(port) as client:
        client.writer.write(GET)
        return (await client.response()).body


async def replaced(supervised: Supervisor, slot: int, pid: int) -> None:
    await until(lambda: supervised.workers()[slot].pid != pid and supervised.workers()[slot].state == "serving")


async def test_workers_serve_what_is_published_and_publishing_it_again_is_nothing() -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        assert as_the_reconciler_sees_it(supervised).published() is None
        assert await supervised.publish(routes(port)) == 1
        assert await supervised.publish(routes(port)) == 1
        assert supervised.published() == routes(port)
        assert [(worker.state, worker.version, worker.restarts) for worker in supervised.workers()] == [
            ("serving", 1, 0)
        ] * 2
        for _ in range(8):
            assert await get(supervised.http_port) == b"hello"


async def test_a_snapshot_of_ten_thousand_routes_is_taken_in_by_the_workers_that_are_there() -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        apps = {f"app-{number}": AppRoute((Upstream("x", "10.0.0.1", 80),)) for number in range(10_000)}
        hosts = {f"{name}.example.com": (PathRoute("", name),) for name in apps}
        big = Routes(hosts | dict(routes(port).hosts), {}, apps | dict(routes(port).apps))
        before = [worker.pid for worker in supervised.workers()]
        await supervised.publish(big)
        assert [worker.pid for worker in supervised.workers()] == before
        assert await get(supervised.http_port) == b"hello"


@pytest.mark.skipif(not ROOT, reason="only root can give up root")
async def test_workers_give_up_everything_they_do_not_need() -> None:
    async with plane() as supervised:
        for worker in supervised.workers():
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
            assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
            assert status["Groups"].split() == []
            assert status["NoNewPrivs"] == "1"
            assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}


async def test_a_worker_holds_its_channel_its_listener_and_nothing_of_the_parent() -> None:
    with Path(__file__).open() as secret:
        os.set_inheritable(secret.fileno(), True)
        async with plane() as supervised:
            mine = {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
            for worker in supervised.workers():
                held = [str(entry.readlink()) for entry in Path(f"/proc/{worker.pid}/fd").iterdir()]
                assert secret.name not in held
                outputs = {str(Path(f"/proc/{worker.pid}/fd/{number}").readlink()) for number in (1, 2)}
                rest = [name for name in held if name not in outputs]
                # The event loop accepts on a duplicate of the listener.
                assert len({name for name in rest if name in mine and name.startswith("socket:")}) == 1
                # libuv's own: epoll, io_uring, wake-up pipes, a spare descriptor; then the channel and the listener.
                assert all(name.startswith(("socket:", "anon_inode:", "pipe:", "/dev/null")) for name in rest)


async def test_a_worker_killed_under_load_is_replaced_and_nothing_hangs() -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        await supervised.publish(routes(port))
        outcomes: list[str] = []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                try:
                    async with asyncio.timeout(DEADLINE):
                        outcomes.append((await get(supervised.http_port)).decode())
                except (OSError, h11.RemoteProtocolError) as error:
                    outcomes.append(type(error).__name__)

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(load(), name=f"load {number}")
            await until(lambda: len(outcomes) > 200)
            for slot in (0, 1):
                pid = supervised.workers()[slot].pid
                os.kill(pid, signal.SIGKILL)
                await replaced(supervised, slot, pid)
            seen = len(outcomes)
            await until(lambda: len(outcomes) > seen + 200)
            stop.set()
        failed = [outcome for outcome in outcomes if outcome != "hello"]
        assert len(failed) <= 16, failed  # what the two had accepted: at most one per client each
        assert "TimeoutError" not in failed
        assert [worker.restarts for worker in supervised.workers()] == [1, 1]


async def test_what_waits_in_the_backlog_of_a_killed_worker_is_served_by_its_replacement() -> None:
    async with backend(answering(OK)) as port, plane(workers=1) as supervised:
        await supervised.publish(routes(port))
        pid = supervised.workers()[0].pid
        os.kill(pid, signal.SIGSTOP)
        clients = [await connect(supervised.http_port) for _ in range(20)]
        for client in clients:
            client.writer.write(GET)
        os.kill(pid, signal.SIGKILL)
        for client in clients:
            async with client:
                assert (await client.response()).body == b"hello"


async def test_off_refuses_at_once_cuts_sessions_and_frees_the_port() -> None:
    public = free_port()
    async with backend(answering(b"hi")) as port, plane() as supervised:
        await supervised.publish(routes(port))
        await supervised.open_forwarder("db", Gate(public))
        assert supervised.listeners()["db"].gate.port == public
        await supervised.open_forwarder("db", Gate(public))
        async with await connect(public) as one, await connect(public) as two:
            for client in (one, two):
                client.writer.write(GET)
                assert await client.exactly(2) == b"hi"
            sessions = await supervised.sessions("db")
            assert [(session.bytes_sent, session.bytes_received) for session in sessions] == [(len(GET), 2)] * 2
            assert await supervised.close_forwarder("db") == 2
            for client in (one, two):
                with pytest.raises(ConnectionResetError):
                    await client.rest()
        with pytest.raises(ConnectionRefusedError):
            await connect(public)
        assert supervised.listeners() == {}
        assert await supervised.close_forwarder("db") == 0
        await supervised.open_forwarder("db", Gate(public))  # the same port again
        async with await connect(public) as client:
            client.writer.write(GET)
            assert await client.exactly(2) == b"hi"


@pytest.mark.usefixtures("impatient")
async def test_off_holds_while_a_worker_hangs_and_the_worker_is_replaced() -> None:
    public = free_port()
    async with backend(answering(b"hi")) as port, plane() as supervised:
        await supervised.publish(routes(port))
        await supervised.open_forwarder("db", Gate(public))
        pid = supervised.workers()[0].pid
        os.kill(pid, signal.SIGSTOP)
        closing = asyncio.create_task(supervised.close_forwarder("db"), name="off")
        await until(lambda: not supervised.listeners())
        with pytest.raises(ConnectionRefusedError):
            await connect(public)
        async with asyncio.timeout(DEADLINE):
            await closing
        await replaced(supervised, 0, pid)
        with socket.create_server(("127.0.0.1", public)):
            pass  # nobody holds it any more


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_hangs_is_noticed_and_publishing_waits_for_its_replacement() -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        pid = supervised.workers()[1].pid
        os.kill(pid, signal.SIGSTOP)
        assert await supervised.publish(routes(port)) == 1
        worker = supervised.workers()[1]
        assert (worker.pid != pid, worker.state, worker.version) == (True, "serving", 1)


async def test_a_replacement_knows_routes_and_forwarders() -> None:
    async with backend(answering(OK)) as port, plane(workers=1) as supervised:
        await supervised.publish(routes(port))
        await supervised.open_forwarder("db", Gate(0))
        pid = supervised.workers()[0].pid
        os.kill(pid, signal.SIGTERM)  # as an operator might: it drains, another takes over
        await replaced(supervised, 0, pid)
        assert await get(supervised.http_port) == b"hello"
        assert await get(supervised.listeners()["db"].gate.port) == b"hello"


async def test_workers_whose_parent_is_gone_stop_listening_cut_databases_and_finish_requests() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await go_on.wait()
        writer.write(OK)

    async with backend(slow) as port, backend(answering(b"hi")) as database, plane(workers=1) as supervised:
        known = routes(port)
        await supervised.publish(Routes(known.hosts, {}, known.apps, {"db": DatabaseTarget("127.0.0.1", database)}))
        await supervised.open_forwarder("db", Gate(0))
        async with (
            await connect(supervised.http_port) as client,
            await connect(supervised.listeners()["db"].gate.port) as session,
        ):
            session.writer.write(GET)
            assert await session.exactly(2) == b"hi"
            client.writer.write(GET)
            await asked.wait()
            stopping = asyncio.create_task(supervised.stop(), name="stop")
            with pytest.raises(ConnectionResetError):
                await session.rest()
            with pytest.raises(ConnectionRefusedError):
                await connect(supervised.http_port)
            go_on.set()
            found = await client.response()
            assert (found.body, found.headers["connection"]) == (b"hello", "close")
            client.writer.close()
            async with asyncio.timeout(DEADLINE):
                await stopping


PARENT = """
import asyncio, sys, structlog
from sidegate.core.gates import Gate
from sidegate.core.routes import DatabaseTarget, Routes
from sidegate.proxy import child
from sidegate.proxy.supervisor import Supervisor

async def main():
    child._START = child._ANSWER = 60.0
    http, public = map(int, sys.argv[2:])
    supervised = Supervisor(workers=2, http_port=http, address="127.0.0.1", log=structlog.get_logger())
    await supervised.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(supervised.run())
        await supervised.publish(Routes(databases={"db": DatabaseTarget("127.0.0.1", int(sys.argv[1]))}))
        await supervised.open_forwarder("db", Gate(public))
        print("pids", *[one.pid for one in supervised.workers()], flush=True)
asyncio.run(main())
"""


async def ended(process: asyncio.subprocess.Process) -> None:
    """Also where the test failed."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def test_after_kill_9_of_the_parent_its_workers_go_and_the_next_one_has_the_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for patience in ("_PREDECESSOR", "_JUST_CLOSED"):
        monkeypatch.setattr(supervisor_module, patience, DEADLINE)
    http, public = free_port(), free_port()
    async with backend(answering(b"hi")) as port, contextlib.AsyncExitStack() as stack:
        parent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PARENT, str(port), str(http), str(public)), stdout=asyncio.subprocess.PIPE
        )
        stack.push_async_callback(ended, parent)
        assert parent.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while not (line := await parent.stdout.readline()).startswith(b"pids"):
                assert line
        pids = list(map(int, line.split()[1:]))
        async with await connect(public) as session:
            session.writer.write(GET)
            assert await session.exactly(2) == b"hi"
            parent.kill()
            with pytest.raises(ConnectionResetError):
                await session.rest()
        async with plane(port=http) as supervised:
            await supervised.publish(routes(port))
            await supervised.open_forwarder("db", Gate(public))
            async with await connect(public) as session:
                session.writer.write(GET)
                assert await session.exactly(2) == b"hi"
            await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


async def test_workers_leave_signals_of_the_terminal_to_the_parent() -> None:
    async with backend(answering(OK)) as port, plane(workers=1) as supervised:
        await supervised.publish(routes(port))
        before = supervised.workers()
        os.kill(before[0].pid, signal.SIGINT)
        os.kill(before[0].pid, signal.SIGHUP)
        assert await get(supervised.http_port) == b"hello"
        assert supervised.workers() == before


async def test_workers_that_cannot_start_are_an_error_and_the_port_is_free_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    supervised = supervisor(port=free_port())
    with pytest.raises(DataPlaneError, match="did not start"):
        await supervised.start()
    with socket.create_server(("127.0.0.1", supervised.http_port)):
        pass


async def test_a_worker_that_dies_again_and_again_is_tried_with_growing_pauses_until_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with backend(answering(OK)) as port, plane(workers=1) as supervised:
        await supervised.publish(routes(port))
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/bin/false")
            begun = time.monotonic()
            os.kill(supervised.workers()[0].pid, signal.SIGKILL)
            await until(lambda: supervised.workers()[0].restarts == 4)
            assert time.monotonic() - begun > 0.1 + 0.2 + 0.4
        async with asyncio.timeout(DEADLINE):
            assert await get(supervised.http_port) == b"hello"  # waited in the backlog all the while


async def test_a_port_that_is_taken_is_refused_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"port {port} is held by this daemon \(pid {os.getpid()}\)"):
            await supervisor(port=port).start()
        async with plane() as supervised:
            with pytest.raises(PortInUseError, match=str(port)):
                await supervised.open_forwarder("db", Gate(port))
            assert supervised.listeners() == {}


async def test_a_second_data_plane_cannot_share_the_port() -> None:
    async with plane() as supervised:
        with pytest.raises(PortInUseError):
            await supervisor(port=supervised.http_port).start()


async def test_both_listeners_serve_and_a_replacement_presents_the_same_certificates() -> None:
    async with backend(answering(OK)) as port, plane(https_port=0) as supervised:
        await supervised.publish(routes(port))
        assert supervised.certified() is None
        certificates = presented(shop=HOST)
        await supervised.publish_certificates(certificates)
        await supervised.publish_certificates(certificates)
        assert supervised.certified() == certificates
        assert supervised.https_port not in (0, supervised.http_port)

        async def get_securely() -> bytes:
            opened = await asyncio.open_connection(
                "127.0.0.1", supervised.https_port, ssl=client_context(), server_hostname=HOST
            )
            async with Client(*opened) as client:
                client.writer.write(GET)
                return (await client.response()).body

        for _ in range(8):
            assert await get_securely() == b"hello"
        for slot in (0, 1):
            pid = supervised.workers()[slot].pid
            os.kill(pid, signal.SIGKILL)
            await replaced(supervised, slot, pid)
        for _ in range(8):
            assert await get_securely() == b"hello"
        assert await get(supervised.http_port) == b"hello"


async def test_ten_thousand_certificates_reach_workers_and_their_replacements() -> None:
    async with plane(https_port=0) as supervised:
        one = key_pair(HOST)
        padded = KeyPair(one.chain * 3, one.key)
        pairs = {f"id-{number}": padded for number in range(10_000)}
        pids = [worker.pid for worker in supervised.workers()]
        await supervised.publish_certificates(CertificateSet({HOST: "id-0"}, {}, pairs, "id-0"))
        assert [worker.pid for worker in supervised.workers()] == pids
        os.kill(pids[0], signal.SIGKILL)
        await replaced(supervised, 0, pids[0])
        opened = await asyncio.open_connection(
            "127.0.0.1", supervised.https_port, ssl=client_context(), server_hostname=HOST
        )
        async with Client(*opened) as client:
            client.writer.write(GET)
            assert (await client.response()).status == 404


async def test_a_port_for_tls_that_is_taken_leaves_none_held() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        supervised = supervisor(port=free_port(), https_port=taken.getsockname()[1])
        with pytest.raises(PortInUseError):
            await supervised.bind()
        with socket.create_server(("127.0.0.1", supervised.http_port)):
            pass


async def test_the_access_log_under_rotation_has_every_request_once(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with backend(answering(OK)) as port, plane(access_log=str(path)) as supervised:
        await supervised.publish(routes(port))
        asked = 0
        files = [path]

        async def ask(count: int) -> None:
            nonlocal asked
            async with await connect(supervised.http_port) as client:
                for _ in range(count):
                    asked += 1
                    assert (await client.get(f"/{asked}")).status == 200

        for rotation in range(3):
            await asyncio.gather(*(ask(50) for _ in range(4)))
            files.append(path.rename(tmp_path / f"access.log.{rotation}"))
            await asyncio.gather(*(ask(50) for _ in range(4)))
            await until(path.exists)
            async with asyncio.timeout(DEADLINE):
                while not path.stat().st_size:
                    await ask(1)
                    await asyncio.sleep(0.05)
        pid = supervised.workers()[0].pid
        os.kill(pid, signal.SIGTERM)
        await replaced(supervised, 0, pid)
        await asyncio.gather(*(ask(5) for _ in range(8)))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted(int(line["path"][1:]) for line in lines) == list(range(1, asked + 1))
    assert {line["status"] for line in lines} == {200}
    assert {line["app"] for line in lines} == {"shop"}


async def test_an_access_log_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    supervised = supervisor(port=free_port(), access_log=str(tmp_path / "none" / "log"))
    with pytest.raises(SettingsError, match="cannot be opened"):
        await supervised.start()
    with socket.create_server(("127.0.0.1", supervised.http_port)):
        pass


async def test_health_is_found_told_and_kept_when_the_worker_that_asks_is_replaced() -> None:
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    async with backend(answering(OK)) as port, plane(on_health=changed) as supervised:
        policy = Policy(health="/healthz", health_interval=1, health_fall=1)
        upstreams = (Upstream("a", "127.0.0.1", port, "a"), Upstream("b", "127.0.0.1", closed_port(), "b"))
        known = Routes(apps={"shop": AppRoute(upstreams)}, policies=(policy,))
        await supervised.publish(known)
        await until(lambda: supervised.health() == {"a": "", "b": "refused the connection"})
        assert changes == 2
        pid = supervised.workers()[0].pid
        os.kill(pid, signal.SIGKILL)
        await replaced(supervised, 0, pid)
        assert supervised.health() == {"a": "", "b": "refused the connection"}
        with socket.create_server(("127.0.0.1", upstreams[1].port)) as server:
            server.setblocking(False)
            async with asyncio.timeout(DEADLINE):
                client, _ = await asyncio.get_running_loop().sock_accept(server)
            client.close()
            await until(lambda: supervised.health()["b"] == "closed the connection without an answer")
        await supervised.publish(Routes(apps={"shop": AppRoute(upstreams[:1])}, policies=(policy,)))
        assert supervised.health() == {"a": ""}


async def test_a_worker_stays_responsive_under_a_hundred_publishes() -> None:
    async with backend(answering(OK)) as port, plane() as supervised:
        await supervised.publish(routes(port))
        pids = [worker.pid for worker in supervised.workers()]
        async with await connect(supervised.http_port) as client:
            for number in range(100):
                known = routes(port)
                await supervised.publish(Routes(known.hosts, {f".n{number}.test": ()}, known.apps))
                assert (await client.get()).body == b"hello"
        assert [worker.pid for worker in supervised.workers()] == pids
