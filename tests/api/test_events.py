import asyncio
import contextlib
import json
import select
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory_daemon import PASSWORD, MemoryDaemon, running
from sidegate.api import events as events_module
from sidegate.api import schemas, sse
from sidegate.api.client import Client, ServerSent
from sidegate.api.events import Event, Hub, Lost, Told
from sidegate.core.kinds import KINDS
from sidegate.errors import InvalidInputError


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    daemon.app("shop")
    daemon.database("shop-db")
    return await daemon.settled()


def hub(**options: Any) -> Hub:
    """One that began at the id 1,000,000."""
    return Hub(wall=lambda: 1.0, **options)


def emit(some: Hub, *texts: str, kind: str = "app.appeared") -> None:
    for text in texts:
        some.emit(kind, "shop", text)


async def told(some: Hub, since: int, **options: Any) -> list[str]:
    """All that a follower of a hub that was closed is given, as words."""
    found: list[str] = []
    async for batch in some.follow(since, **options):
        found += [_word(one) for one in batch]
    return found


def _word(one: Told) -> str:
    match one:
        case Event():
            return one.view.text
        case Lost():
            return f"lost after {one.since}"
        case _:
            return "beat"


# --- the hub


async def test_ids_rise_and_begin_with_the_time() -> None:
    some = Hub(wall=lambda: 1_700_000_000.5)
    emit(some, "one", "two")
    assert [e.id for e in some.last(10)] == [1_700_000_000_500_000, 1_700_000_000_500_001]
    assert some.last(10)[0].at == 1_700_000_000.5


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (0, ["c", "d", "e"]),
        (1_000_001, ["c", "d", "e"]),
        (1_000_002, ["d", "e"]),
        (1_000_004, []),
        (1_000_000, ["lost after 1000000", "c", "d", "e"]),
        (999_000, ["lost after 999000", "c", "d", "e"]),
        (1_000_005, ["lost after 1000005", "c", "d", "e"]),
    ],
    ids=["all", "just in reach", "later", "nothing new", "out of reach", "an earlier daemon's", "never given"],
)
async def test_a_follower_resumes_as_far_as_the_ring_reaches(since: int, expected: list[str]) -> None:
    some = hub(kept=3)
    emit(some, *"abcde")
    some.close()
    assert await told(some, since) == expected


async def test_a_follower_that_comes_again_after_a_restart_is_told_of_the_gap() -> None:
    some = hub()
    some.close()
    assert await told(some, 999_990) == ["lost after 999990"]
    assert await told(some, 999_999) == []


async def test_what_happens_reaches_every_follower_in_order() -> None:
    some = hub(beat=60)
    followers = [asyncio.create_task(told(some, 0)) for _ in range(100)]
    for number in range(500):
        emit(some, str(number))
        if number % 50 == 0:
            await asyncio.sleep(0)
    some.close()
    assert await asyncio.gather(*followers) == [[str(number) for number in range(500)]] * 100


async def test_silence_is_broken_by_signs_of_life() -> None:
    some = hub(beat=0.01)
    follower = some.follow(0)
    assert await anext(follower) == [None]
    assert await anext(follower) == [None]
    await follower.aclose()


async def test_one_that_falls_behind_is_told_once_and_goes_on_with_what_is_kept() -> None:
    some = hub(kept=3)
    emit(some, "a")
    follower = some.follow(0)
    assert [_word(one) for one in await anext(follower)] == ["a"]
    emit(some, *"bcdef")
    some.close()
    assert [_word(one) async for batch in follower for one in batch] == ["lost after 1000000", "d", "e", "f"]
    assert some.lost == 1


async def test_only_some_kinds() -> None:
    some = hub()
    emit(some, "a")
    emit(some, "b", kind="engine.lost")
    emit(some, "c")
    some.close()
    assert await told(some, 0, kinds={"engine.lost"}) == ["b"]
    assert [e.text for e in some.last(1, kinds={"app.appeared"})] == ["c"]
    assert some.start_of(1, {"engine.lost"}) == 1_000_000
    assert some.start_of(0) == 1_000_002


async def test_a_novel_is_cut_short() -> None:
    some = hub()
    emit(some, "x" * 5000)
    assert len(some.last(1)[0].text) == events_module.TEXT_MOST


# --- the stream


@contextlib.asynccontextmanager
async def stream(node: MemoryDaemon, query: str = "", *headers: str) -> AsyncIterator[asyncio.StreamReader]:
    """What comes after the head of an answer, chunks and all."""
    reader, writer = await asyncio.open_unix_connection(node.path)
    lines = [f"GET /v1/events{query} HTTP/1.1", "Host: sidegate", "Accept: text/event-stream", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head, head + await reader.read(1000)
        assert b"Content-Type: text/event-stream" in head
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


def _has_ended(sock: socket.socket) -> bool:
    """Whether the other end has hung up on a socket that nobody reads."""
    poll = select.poll()
    poll.register(sock, select.POLLHUP | select.POLLERR)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


async def block(reader: asyncio.StreamReader) -> dict[str, str]:
    """The next event, as its fields; comments and the lines of chunked coding are left out."""
    async with asyncio.timeout(20):
        while True:
            fields: dict[str, str] = {}
            while line := (await reader.readline()).decode().strip("\r\n"):
                name, colon, value = line.partition(": ")
                if colon and name:
                    fields[name] = value
            if "data" in fields:
                return fields
            assert not reader.at_eof()


async def test_what_happens_is_streamed_as_it_happens(node: MemoryDaemon) -> None:
    async with stream(node) as reader:
        node.app("blog")
        found = await block(reader)
        assert found["event"] == "app.appeared"
        event = json.loads(found["data"])
        assert (event["kind"], event["subject"], event["text"]) == ("app.appeared", "blog", "has 1 container")
        assert str(event["id"]) == found["id"]
        assert event["details"] == {"containers": 1}


async def test_a_stream_goes_on_where_the_last_one_ended(node: MemoryDaemon) -> None:
    before = node.events.last(1)[0].id if node.events.last(1) else 0
    for name in ("a", "b", "c"):
        node.events.emit("app.gone", name, "test")
    first, second, third = node.events.last(3)
    async with stream(node, "", f"Last-Event-ID: {second.id}") as reader:
        assert (await block(reader))["id"] == str(third.id)
    async with stream(node, f"?since={first.id}") as reader:
        assert (await block(reader))["id"] == str(second.id)
    async with stream(node, "?limit=1") as reader:
        assert (await block(reader))["id"] == str(third.id)
    async with stream(node, "?since=5") as reader:
        found = await block(reader)
        assert found["event"] == "lost"
        assert json.loads(found["data"])["since"] == 5
        assert "id" not in found
        assert int((await block(reader))["id"]) <= (before or first.id)


async def test_only_the_kinds_that_were_asked_for(node: MemoryDaemon) -> None:
    async with stream(node, "?kind=engine,app.gone") as reader:
        node.app("blog")
        await node.settled()
        node.events.emit("app.gone", "blog", "test")
        assert (await block(reader))["event"] == "app.gone"


async def test_a_list_is_what_who_asks_for_json_gets(node: MemoryDaemon) -> None:
    node.events.emit("app.gone", "a", "test")
    node.events.emit("app.gone", "b", "test", number=1)
    found: list[schemas.EventView] = await node.call(
        "GET", "/v1/events", list[schemas.EventView], query={"kind": "app.gone"}
    )
    assert [(e.subject, e.details) for e in found] == [("a", {}), ("b", {"number": 1})]
    later = await node.call("GET", "/v1/events", list[schemas.EventView], query={"since": str(found[0].id)})
    assert [e.subject for e in later] == ["b"]
    assert len(await node.call("GET", "/v1/events", list[schemas.EventView], query={"limit": "1"})) == 1
    with pytest.raises(InvalidInputError, match="no kind of event 'apps'"):
        await node.call("GET", "/v1/events", bytes, query={"kind": "apps"})


async def test_a_last_event_id_that_is_none_is_refused(node: MemoryDaemon) -> None:
    head = b"GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nLast-Event-ID: x\r\n\r\n"
    assert b"422" in (await node.raw(head)).splitlines()[0]


async def test_a_reader_that_does_not_read_is_cut_off(node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once what was written for it has lain for WRITE_SECONDS; others are not held up by it."""
    monkeypatch.setattr(sse, "WRITE_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.connect(str(node.path))
        stuck.sendall(b"GET /v1/events HTTP/1.1\r\nHost: sidegate\r\n\r\n")
        async with stream(node) as well:
            for number in range(1000):
                node.events.emit("app.gone", str(number), "x" * 1000)
                assert (await block(well))["event"] == "app.gone"
            async with asyncio.timeout(20):
                while not _has_ended(stuck):
                    await asyncio.sleep(0.01)


async def test_a_reader_that_is_too_slow_is_told_so(node: MemoryDaemon) -> None:
    async with stream(node) as slow:
        for number in range(3 * events_module.KEPT):
            node.events.emit("app.gone", str(number), "x" * 1000)
            if number == 10:
                assert (await block(slow))["event"] == "app.gone"
        seen = [await block(slow)]
        async with asyncio.timeout(30):
            while json.loads(seen[-1]["data"]).get("subject") != str(number):
                seen.append(await block(slow))
        assert [one["event"] for one in seen].count("lost") == 1


async def test_a_stream_ends_with_the_daemon(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with running(tmp_path) as daemon:
            await daemon.settled()
            reader = await stack.enter_async_context(stream(daemon))
            daemon.events.emit("daemon.stopping", "sidegate", "the daemon stops")
        found = await block(reader)
        assert found["event"] == "daemon.stopping"
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"0\r\n\r\n")


async def test_the_client_reads_what_is_streamed(node: MemoryDaemon) -> None:
    node.events.emit("app.gone", "a", "test")
    node.events.emit("app.gone", "b", "zwei\nZeilen")

    def first(count: int, **options: Any) -> list[ServerSent]:
        found = Client(node.path, seconds=20).events("/v1/events", **options)
        with contextlib.closing(found):
            return [event for event in (next(found) for _ in range(count + 1)) if event.kind]

    one, other = await asyncio.to_thread(first, 2, query={"limit": "2"})
    assert json.loads(other.data)["text"] == "zwei\nZeilen"
    (again,) = await asyncio.to_thread(first, 1, query={}, last_event_id=one.id)
    assert again == other


# --- what is announced


async def kinds_of(node: MemoryDaemon, *, after: int) -> list[str]:
    node.announcer.look()
    return [f"{e.kind} {e.subject}" for e in node.events.last(1000, since=after)]


async def test_commands_and_containers_make_events_without_secrets(node: MemoryDaemon) -> None:
    start = node.events.start_of(0)
    await node.connect("shop", "shop-db", env=True)
    await node.commands.externals.on("shop-db")
    await node.commands.externals.edit("shop-db", schemas.ExternalEdit(allow=["192.0.2.0/24=office"]))
    await node.commands.externals.off("shop-db")
    await node.commands.apps.change("shop", schemas.AppRequest(options={"https": "redirect"}))
    await node.commands.databases.set("shop-db", schemas.DatabaseRequest(password="wrong-secret"))
    await node.commands.connections.disconnect("shop", "shop-db", keep_variables=False)
    node.engine.remove(next(c.id for c in node.engine_containers() if c.name == "shop-1"))
    await node.settled()
    found = await kinds_of(node, after=start)
    for expected in (
        "connection.made shop",
        "app.variables shop",
        "external.on shop-db",
        "external.changed shop-db",
        "external.off shop-db",
        "app.options shop",
        "password.changed shop-db",
        "login.fault shop-db",
        "connection.cut shop",
        "replica.gone shop",
        "app.unavailable shop",
    ):
        assert expected in found, found
    everything = b"".join(event.wire for event in node.events._ring)
    assert b"secret" not in everything
    assert PASSWORD.encode() not in everything
    assert json.dumps(PASSWORD)[1:-1].encode() not in everything


async def test_an_end_by_itself_is_told_with_its_cause(node: MemoryDaemon) -> None:
    start = node.events.start_of(0)
    await node.commands.externals.on("shop-db", None, schemas.ExternalRequest(enabled=True, expires_in="1s"))
    async with asyncio.timeout(20):
        while "external.expired shop-db" not in await kinds_of(node, after=start):
            await node.loop.settle()
    event = next(e for e in node.events.last(100) if e.kind == "external.expired")
    assert event.text == "port 30000 is closed: its time is over"
    await node.commands.externals.on("shop-db", None, schemas.ExternalRequest(enabled=True, expires_in="1h"))
    await node.commands.externals.off("shop-db")
    await node.settled()
    assert (await kinds_of(node, after=event.id))[-1] == "external.off shop-db"


async def test_an_engine_that_goes_and_comes_back(node: MemoryDaemon) -> None:
    start = node.events.start_of(0)
    node.engine.unavailable = "gone"
    await node.settled()
    node.engine.unavailable = ""
    await node.settled()
    found = await kinds_of(node, after=start)
    assert found == [
        "engine.lost engine",
        "problem.appeared engine",
        "engine.back engine",
        "problem.solved engine",
    ]


async def test_a_rollout_is_told_step_by_step(node: MemoryDaemon) -> None:
    start = node.events.start_of(0)
    await node.commands.deployments.redeploy("shop", lambda _: None)
    found = [e for e in node.events.last(100, since=start) if e.kind.startswith("deployment.")]
    assert found[0].kind == "deployment.started"
    assert [e.kind for e in found[1:-1]] == ["deployment.step"] * (len(found) - 2)
    assert found[-1].kind == "deployment.done"


async def test_a_worker_that_was_replaced_is_told(node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    node.announcer.look()
    start = node.events.start_of(0)
    (worker,) = node.data_plane.workers()
    replaced = (replace(worker, pid=4343, restarts=1),)
    monkeypatch.setattr(node.data_plane, "workers", lambda: replaced)
    assert await kinds_of(node, after=start) == ["worker.died worker 0", "worker.serving worker 0"]


def test_each_kind_has_a_subject_and_a_sentence() -> None:
    for kind, sentence in KINDS.items():
        assert kind.count(".") == 1
        assert sentence[0].islower()
