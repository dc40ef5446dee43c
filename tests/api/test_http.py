import asyncio
import json
import os
import pwd
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from memory_daemon import PASSWORD, MemoryDaemon, running
from sidegate.api import http, openapi, schemas
from sidegate.api.calls import CALLS
from sidegate.api.client import Client
from sidegate.core.model import Intent
from sidegate.errors import (
    DuplicateConnectionError,
    EngineUnavailableError,
    FixedPortError,
    InvalidInputError,
    NotFoundError,
    PoolExhaustedError,
    SidegateError,
    StoreError,
)


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    daemon.app("shop")
    daemon.database("shop-db")
    return await daemon.settled()


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> schemas.ProblemDocument:
        assert self.headers["content-type"] == "application/problem+json"
        problem = msgspec.json.decode(self.body, type=schemas.ProblemDocument)
        assert problem.status == self.status
        assert problem.type == "about:blank"
        return problem


async def ask(node: MemoryDaemon, method: str, target: str, body: bytes = b"") -> Answer:
    """One request, as bytes on the socket."""
    head = f"{method} {target} HTTP/1.1\r\nHost: sidegate\r\nConnection: close\r\nAccept: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    raw = await node.raw(head.encode() + body)
    first, _, rest = raw.partition(b"\r\n\r\n")
    lines = first.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, rest)


async def trail(node: MemoryDaemon) -> list[tuple[str, str, str]]:
    return [(e.verb, e.target, e.outcome) for e in await node.store.audit(100)]


async def test_every_call_of_the_table_is_served_and_described(node: MemoryDaemon) -> None:
    """The document is valid, is what the daemon serves, and each of its calls answers something else than 404."""
    answer = await ask(node, "GET", "/v1/openapi.json")
    document: dict[str, Any] = json.loads(answer.body)
    validate(document)
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(call.method, call.path) for call in CALLS}
    for method, path in sorted(described):
        if path != "/v1/purge":
            answer = await ask(node, method, re.sub(r"\{\w+\}", "x", path), b"")
            assert answer.status != 405, path
            assert b"no-such-call" not in answer.body, path


async def test_answers_are_what_the_document_says(node: MemoryDaemon) -> None:
    """Each result has all the fields that its schema requires, and no others."""
    await node.connect("shop", "shop-db", env=True)
    components = openapi.document("x")["components"]["schemas"]
    for target, name in {
        "/v1/status": "Status",
        "/v1/apps/shop": "AppView",
        "/v1/databases/shop-db": "DatabaseView",
        "/v1/databases/shop-db/credentials": "Credentials",
        "/v1/databases/shop-db/external": "ExternalView",
    }.items():
        answer = json.loads((await ask(node, "GET", target)).body)
        assert set(answer) == set(components[name]["properties"])
        assert set(components[name]["required"]) <= set(answer)


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code", "words"),
    [
        ("GET", "/v1/nothing", b"", 404, "no-such-call", "/v1/openapi.json"),
        ("GET", "/", b"", 404, "no-such-call", "/"),
        ("POST", "/v1/apps", b"", 405, "method-not-allowed", "GET"),
        ("GET", "/v1/apps/nothing", b"", 404, "not-found", "known: shop"),
        ("GET", "/v1/apps/%2e%2e%2fstatus", b"", 422, "invalid", "'../status' is not a name"),
        ("GET", "/v1/apps?x=1", b"", 422, "invalid", "unknown field `x`"),
        ("GET", "/v1/apps/shop/env?reveal=maybe", b"", 422, "invalid", "$.reveal"),
        ("GET", "/v1/apps/shop/env?scope=a&scope=b", b"", 422, "invalid", "twice"),
        ("GET", "/v1/audit?limit=x", b"", 422, "invalid", "$.limit"),
        ("GET", "/v1/audit?limit=0", b"", 422, "invalid", "between 1 and 1000"),
        ("GET", "/v1/audit?within=soon", b"", 422, "invalid", "'soon' is not a time"),
        ("GET", "/v1/events?limit=0", b"", 422, "invalid", "between 1 and 1000"),
        ("GET", "/v1/events?since=null", b"", 422, "invalid", "since is 'null'"),
        ("GET", "/v1/events?kind=ap", b"", 422, "invalid", "did you mean app?"),
        ("GET", "/v1/status", b"{}", 422, "invalid", "takes no body"),
        ("PATCH", "/v1/apps/shop", b"{}", 422, "invalid", "nothing to change"),
        ("PATCH", "/v1/apps/shop", b"", 422, "invalid", "body is wrong"),
        ("PATCH", "/v1/apps/shop", b'{"mode": 1}', 422, "invalid", "$.mode"),
        ("PATCH", "/v1/apps/shop", b'{"mode": "asleep"}', 422, "invalid", "serving, paused, maintenance"),
        ("PATCH", "/v1/apps/shop", b'{"options": {"hsts": 1}}', 422, "invalid", "$.options"),
        ("PATCH", "/v1/apps/shop", b'{"options": {"hsts": "x"}}', 422, "invalid", "hsts: 'x' is not a time"),
        ("PATCH", "/v1/apps/nothing", b'{"mode": "paused"}', 404, "not-found", "known: shop"),
        ("PUT", "/v1/databases/shop-db", b"", 422, "invalid", "body is wrong"),
        ("PUT", "/v1/databases/shop-db", b"{", 422, "invalid", "body is wrong"),
        ("PUT", "/v1/databases/shop-db", b"\xff", 422, "invalid", "body is wrong"),
        ("PUT", "/v1/databases/shop-db", b"[]", 422, "invalid", "Expected `object`"),
        ("PUT", "/v1/databases/shop-db", b'{"usr": "x"}', 422, "invalid", "unknown field `usr`"),
        ("PUT", "/v1/databases/shop-db", b'{"port": "3306"}', 422, "invalid", "$.port"),
        ("PUT", "/v1/databases/shop-db", b'{"port": 5432}', 409, "fixed-port", "3306 and cannot be changed"),
        ("PUT", "/v1/databases/shop-db/external", b"{}", 422, "invalid", "`enabled`"),
        ("PUT", "/v1/databases/shop-db/external", b'{"enabled": false, "port": 1}', 422, "invalid", "turned on"),
        ("PUT", "/v1/databases/shop-db/external", b'{"enabled": true, "port": 1}', 422, "invalid", "30000-30003"),
        ("POST", "/v1/connections", b'{"app": "shop"}', 422, "invalid", "`target`"),
        ("POST", "/v1/connections", b'{"app": "shop", "target": "nothing"}', 404, "not-found", "nothing"),
        ("POST", "/v1/connections", b'{"app": "shop", "target": "shop"}', 409, "refused", "itself"),
        ("DELETE", "/v1/connections/shop/shop-db", b"", 404, "not-found", "not connected"),
        ("DELETE", "/v1/connections/shop/shop-db?env=some", b"", 422, "invalid", "neither keep nor remove"),
        ("PUT", "/v1/databases/shop-db", b"x" * (1 << 20) + b"x", 413, "too-large", "1048576 bytes"),
    ],
)
async def test_errors_are_problem_documents(
    node: MemoryDaemon, method: str, target: str, body: bytes, status: int, code: str, words: str
) -> None:
    """RFC 9457: the status, a stable code, and a sentence; and nothing was changed."""
    before = node.store.intent
    problem = (await ask(node, method, target, body)).problem
    assert (problem.status, problem.code) == (status, code)
    assert words in problem.detail
    assert node.store.intent == before


async def test_a_method_that_is_not_served_is_told_which_are(node: MemoryDaemon) -> None:
    answer = await ask(node, "PATCH", "/v1/databases/shop-db")
    assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, PUT")


async def test_an_error_of_ours_that_nobody_expected_shows_nothing_of_the_inside(
    node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(type(node.commands.databases), "credentials", lambda *_: broken(_))
    problem = (await ask(node, "GET", "/v1/databases/shop-db/credentials")).problem
    assert (problem.status, problem.code) == (500, "internal")
    assert "secret" not in problem.detail
    assert (await trail(node))[0] == ("db credentials", "shop-db", "internal")


async def test_an_export_travels_as_text(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True)
    answer = await ask(node, "GET", "/v1/apps/shop/env?format=dotenv")
    assert answer.headers["content-type"].startswith("text/plain")
    assert b'DB_HOST="shop-db.internal"\n' in answer.body
    answer = await ask(node, "GET", "/v1/apps/shop/env?format=json&scope=runtime")
    assert answer.headers["content-type"].startswith("application/json")
    assert json.loads(answer.body)["DB_PASSWORD"] == PASSWORD


async def test_what_changes_or_reveals_is_written_down_also_when_refused(node: MemoryDaemon) -> None:
    await ask(node, "GET", "/v1/status")
    await ask(node, "GET", "/v1/apps/shop/env")
    await ask(node, "POST", "/v1/connections", b'{"app": "shop", "target": "shop-db", "env": true}')
    await ask(node, "POST", "/v1/connections", b'{"app": "shop", "target": "shop-db"}')
    await ask(node, "POST", "/v1/connections", b"nonsense")
    await ask(node, "GET", "/v1/apps/shop/env?reveal=true")
    await ask(node, "GET", "/v1/apps/shop/env?format=json")
    await ask(node, "GET", "/v1/apps/shop/env?format=docker")
    await ask(node, "GET", "/v1/databases/shop-db/credentials")
    await ask(node, "PUT", "/v1/databases/shop-db", b'{"password": "Secret-1"}')
    await ask(node, "PUT", "/v1/databases/shop-db/external", b'{"enabled": true}')
    await ask(node, "PUT", "/v1/databases/shop-db/external", b'{"enabled": false}')
    await ask(node, "DELETE", "/v1/connections/shop/shop-db")
    assert (await trail(node))[::-1] == [
        ("connect", "shop shop-db", "done"),
        ("connect", "shop shop-db", "duplicate-connection"),
        ("connect", "", "invalid"),
        ("env ls --reveal", "shop", "done"),
        ("env export", "shop", "done"),
        ("env export", "shop", "refused"),
        ("db credentials", "shop-db", "done"),
        ("db set", "shop-db", "done"),
        ("external on", "shop-db", "done"),
        ("external off", "shop-db", "done"),
        ("disconnect", "shop shop-db", "done"),
    ]
    entry = (await node.store.audit(1))[0]
    assert (entry.uid, entry.pid, entry.user) == (os.getuid(), os.getpid(), pwd.getpwuid(os.getuid()).pw_name)
    answer = await ask(node, "GET", "/v1/audit?limit=1000")
    assert b"Secret-1" not in answer.body


async def test_the_trail_keeps_neither_control_characters_nor_novels(node: MemoryDaemon) -> None:
    await ask(node, "GET", "/v1/databases/%1b%5b2J" + "x" * 500 + "/credentials")
    ((_, target, outcome),) = await trail(node)
    assert target.startswith("?[2Jx")
    assert len(target) == http.TARGET_MOST
    assert outcome == "invalid"


async def test_an_audit_trail_that_cannot_be_written_stops_nobody(
    node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(type(node.store), "append_audit", full)
    assert (await ask(node, "GET", "/v1/databases/shop-db/credentials")).status == 200


async def test_garbage_on_the_socket_ends_that_connection_only(node: MemoryDaemon) -> None:
    for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET /v1/status HTTP/9.9\r\n\r\n"):
        assert b"400" in (await node.raw(garbage))[:20]
    assert (await ask(node, "GET", "/v1/status")).status == 200


async def test_a_head_that_never_ends_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.1)
    async with running(tmp_path) as node:
        assert await node.raw(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: y") == b""
        assert await node.raw(b"") == b""
        answered = await node.raw(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/sta")
        assert re.findall(rb"HTTP/1\.1 ([0-9]+)", answered) == [b"200"]


async def test_a_body_that_never_comes_is_given_up_on(node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)
    head = b"PUT /v1/databases/shop-db HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{"
    assert b"422" in await node.raw(head, until=b"did not arrive within")


@pytest.mark.parametrize(
    ("length", "sent", "outcome"),
    [(100, b'{"app": "shop"', "invalid"), (2 << 20, b"x" * (2 << 20), "too-large")],
)
async def test_a_body_that_is_not_whole_or_too_large_is_the_callers_fault(
    node: MemoryDaemon, length: int, sent: bytes, outcome: str
) -> None:
    _, writer = await asyncio.open_unix_connection(node.path)
    writer.write(f"POST /v1/connections HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + sent)
    if outcome == "invalid":
        writer.write_eof()
    async with asyncio.timeout(30):
        while not (found := await trail(node)):
            await asyncio.sleep(0.01)
    writer.close()
    assert [said for _, _, said in found] == [outcome]


async def test_a_client_that_goes_away_does_not_undo_what_it_asked_for(node: MemoryDaemon) -> None:
    body = b'{"app": "shop", "target": "shop-db"}'
    _, writer = await asyncio.open_unix_connection(node.path)
    writer.write(b"POST /v1/connections HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    while not await trail(node):
        await asyncio.sleep(0)
    assert await trail(node) == [("connect", "shop shop-db", "done")]
    assert len(node.store.intent.connections) == 1


async def test_purge_removes_everything_answers_and_then_stops(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True)
    await node.commands.externals.on("shop-db")
    node.engine.add_network("theirs", "192.168.50.0/24")
    done: schemas.Purged = await node.call("POST", "/v1/purge", schemas.Purged)
    assert done.networks == ["sidegate-home--shop-db", "sidegate-shop--shop-db"]
    assert (done.connections, done.externals, done.variables) == (1, 1, 6)
    assert node.stopped.is_set()
    assert node.data_plane.listeners() == {}
    names = {n.name for n in (await node.engine.observe()).networks}
    assert names == {"bridge", "host", "none", "theirs"}
    assert not node.store.intent.connections
    assert (await trail(node))[0] == ("purge", "", "done")


async def test_a_purge_that_fails_keeps_the_state_and_can_be_asked_for_again(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True)
    node.engine.unavailable = "gone"
    with pytest.raises(EngineUnavailableError, match="still there"):
        await node.call("POST", "/v1/purge", schemas.Purged)
    assert not node.stopped.is_set()
    assert node.store.intent.connections
    node.engine.unavailable = ""
    await node.call("POST", "/v1/purge", schemas.Purged)
    assert node.stopped.is_set()


async def test_a_purge_that_cannot_forget_goes_back_to_work(
    node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: what is at the engine is gone by then, and the daemon goes on with what it remembers."""

    async def fail() -> Intent:
        raise StoreError("sidegate.db: disk is full: nothing was changed")

    await node.connect("shop", "shop-db", env=True)
    with monkeypatch.context() as full:
        full.setattr(node.store, "purge", fail)
        with pytest.raises(StoreError, match="disk is full: what is remembered was not removed"):
            await node.call("POST", "/v1/purge", schemas.Purged)
    assert not node.stopped.is_set()
    await node.settled()
    assert "sidegate-shop--shop-db" in {n.name for n in (await node.engine.observe()).networks}
    await node.call("POST", "/v1/purge", schemas.Purged)
    assert node.stopped.is_set()


async def test_status_says_it_all(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db")
    await node.commands.externals.on("shop-db")
    status: schemas.Status = await node.call("GET", "/v1/status", schemas.Status)
    assert status.ready
    assert not status.degraded
    assert (status.engine.connected, status.engine.version, status.engine.fault) == (True, "20.10.24", None)
    assert status.counts == schemas.CountsView(apps=1, databases=1, connections=1, external_on=1, stale=0)
    assert [w.state for w in status.workers] == ["serving"]
    assert status.pool == schemas.PoolView(cidr="10.213.0.0/16", in_use=2, total=2048)
    assert status.last_pass.finished is not None
    node.engine.unavailable = "gone"
    node.app("bad", labels={"sidegate.port": "70000"})
    await node.settled()
    status = await node.call("GET", "/v1/status", schemas.Status)
    assert status.degraded
    assert status.engine.connected is False
    assert "gone" in (status.engine.fault or "")
    assert any(problem.subject == "engine" for problem in status.problems)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SidegateError("a"), 1),
        (InvalidInputError("b"), 2),
        (NotFoundError("c"), 4),
        (DuplicateConnectionError("d"), 5),
        (PoolExhaustedError("e"), 5),
        (FixedPortError(), 5),
    ],
)
async def test_an_error_is_the_same_on_both_ends(
    node: MemoryDaemon, monkeypatch: pytest.MonkeyPatch, error: SidegateError, status: int
) -> None:
    """Class, sentence and exit status survive the socket."""

    async def failing(_: object) -> None:
        raise error

    monkeypatch.setattr(type(node.commands.node), "status", failing)
    client = Client(node.path)
    with pytest.raises(type(error)) as caught:
        await asyncio.to_thread(client.call, "GET", "/v1/status", schemas.Status)
    assert str(caught.value) == str(error)
    assert caught.value.exit_status == status
