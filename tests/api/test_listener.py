import asyncio
import grp
import os
import socket
import stat
from pathlib import Path

import pytest
import uvloop

from memory_daemon import MemoryDaemon, running
from sidegate.api import schemas
from sidegate.api.http import serve
from sidegate.api.listener import listen
from sidegate.errors import AlreadyRunningError, SidegateError


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_the_socket_is_for_its_owner_and_its_group_only(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    group = grp.getgrgid(os.getgid()).gr_name
    control = listen(path, group)
    with control.sock:
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
        assert path.lstat().st_gid == os.getgid()
        assert accepts(path)
        assert [p.name for p in path.parent.iterdir()] == ["control.sock"]
    control.remove()
    assert not path.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file to any group")
def test_the_group_is_given_where_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    other = next(entry for entry in grp.getgrall() if entry.gr_gid != os.getgid())
    with listen(path, other.gr_name).sock:
        assert path.lstat().st_gid == other.gr_gid


def test_no_such_group_is_no_hindrance(tmp_path: Path) -> None:
    with listen(tmp_path / "control.sock", "no-such-group-here").sock:
        assert accepts(tmp_path / "control.sock")


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not accepts(path)
    with listen(path, "").sock:
        assert accepts(path)


def test_a_socket_that_another_daemon_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with listen(path, "").sock:
        with pytest.raises(AlreadyRunningError, match="another daemon answers on"):
            listen(path, "")
        assert accepts(path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(SidegateError, match="is not a socket"):
        listen(path, "")
    assert path.read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SidegateError, match=r"cannot make the control socket .*/file/control.sock"):
        listen(tmp_path / "file" / "control.sock", "")


def test_a_path_as_long_as_the_kernel_allows_fits(tmp_path: Path) -> None:
    """Settings allow 107 bytes; the private directory on the way there must not need more."""
    base = tmp_path / "d"
    directory = base.with_name("d" * (107 - len(str(tmp_path)) - len("//control.sock")))
    path = directory / "control.sock"
    assert len(str(path)) == 107
    with listen(path, "").sock:
        assert accepts(path)


def test_the_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = listen(path, "")
    first.sock.close()
    with listen(path, "").sock:
        first.remove()
        assert accepts(path)


async def test_serving_ends_with_the_block_and_leaves_nothing(daemon: MemoryDaemon, tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    async with serve(daemon.commands, path):
        assert accepts(path)
    assert not path.exists()


async def test_a_call_under_way_is_answered_before_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.database("shop-db")
        await daemon.settled()
        begun, go_on = asyncio.Event(), asyncio.Event()
        real = daemon.loop.settle

        async def slow(deadline: float = 30.0):  # type: ignore[no-untyped-def]
            begun.set()
            await go_on.wait()
            return await real(deadline)

        daemon.loop.settle = slow  # type: ignore[method-assign]
        body = schemas.ConnectRequest(app="later", target="shop-db")
        path = tmp_path / "second.sock"
        server = serve(daemon.commands, path)
        await server.__aenter__()
        client = type(daemon.client)(path)
        call = asyncio.create_task(
            asyncio.to_thread(lambda: client.call("POST", "/v1/connections", schemas.Connected, body=body))
        )
        await begun.wait()
        ending = asyncio.create_task(server.__aexit__(None, None, None))
        while accepts(path):
            await asyncio.sleep(0)
        go_on.set()
        assert (await call).value.app == "later"
        await ending


def test_it_serves_on_uvloop_too(tmp_path: Path) -> None:
    """Peer credentials included: the daemon runs on it."""

    async def main() -> None:
        async with running(tmp_path) as daemon:
            daemon.database("shop-db")
            await daemon.settled()
            await daemon.call("GET", "/v1/databases/shop-db/credentials", schemas.Credentials)
            (entry,) = await daemon.store.audit(10)
            assert (entry.uid, entry.pid) == (os.getuid(), os.getpid())
        assert not daemon.path.exists()

    uvloop.run(main())
