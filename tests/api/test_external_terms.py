"""Who may come in through an external connection, for how long, and what carries it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_daemon import MemoryDaemon, running
from sidegate.api import schemas
from sidegate.core.gates import Entry, Gate
from sidegate.core.model import Rules
from sidegate.core.sessions import Listening, Session
from sidegate.errors import HostToolError, InvalidInputError, LoginFailedError, NotFoundError, RefusedError

OFFICE = "203.0.113.0/24=the office"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    """One database, and a kernel that can forward."""
    async with running(tmp_path, Rules(forwarder="auto")) as daemon:
        daemon.database("shop-db")
        yield await daemon.settled()


async def on(node: MemoryDaemon, **terms: object) -> schemas.ExternalView:
    return await node.commands.externals.on("shop-db", None, schemas.ExternalRequest(enabled=True, **terms))  # type: ignore[arg-type]


async def edit(node: MemoryDaemon, **changes: object) -> schemas.ExternalView:
    return await node.commands.externals.edit("shop-db", schemas.ExternalEdit(**changes))  # type: ignore[arg-type]


def gate(node: MemoryDaemon) -> Gate:
    return node.data_plane.listeners()["shop-db"].gate


def session(client: str) -> Session:
    return Session("shop-db", client, 1.0, 10, 20)


async def test_anybody_may_come_in_until_somebody_says_who_and_show_warns(node: MemoryDaemon) -> None:
    shown = await on(node)
    assert (shown.anybody, shown.allow) == (True, [])
    assert any("from anywhere" in warning for warning in shown.warnings)
    shown = await on(node, allow=[OFFICE, "2001:db8::/32"], deny=["203.0.113.66"])
    assert not shown.anybody
    assert [(e.cidr, e.description) for e in shown.allow] == [("203.0.113.0/24", "the office"), ("2001:db8::/32", "")]
    assert [e.cidr for e in shown.deny] == ["203.0.113.66/32"]
    assert not any("from anywhere" in warning for warning in shown.warnings)
    assert gate(node).allow == (Entry("203.0.113.0/24", "the office"), Entry("2001:db8::/32"))


async def test_what_is_left_out_stays_over_off_and_on(node: MemoryDaemon) -> None:
    await on(node, allow=[OFFICE], local=False, max_sessions=3, max_new=9, idle_off="30m", expires_in="2h")
    off = await node.commands.externals.off("shop-db")
    assert (off.max_sessions, off.expires_at, off.carrier) == (3, None, None)
    again = await on(node)
    assert ([e.cidr for e in again.allow], again.max_sessions, again.max_new) == (["203.0.113.0/24"], 3, 9)
    assert (again.idle_off, again.expires_at) == (1800, None)
    none = await on(node, allow=[], max_sessions=0, max_new=0, idle_off="never")
    assert (none.anybody, none.max_sessions, none.max_new, none.idle_off) == (True, 0, 0, None)


@pytest.mark.parametrize(
    ("terms", "fault"),
    [
        ({"allow": ["office.example"]}, "is a name: lists hold addresses"),
        ({"allow": ["203.0.113.9/24"]}, "has bits set beyond /24"),
        ({"deny": ["0.0.0.0/0", "::/0"]}, "nobody could come in"),
        ({"max_sessions": -1}, "is not between 0"),
        ({"expires_in": "soon"}, "'soon' is not a time"),
        ({"idle_off": "30"}, "'30' is not a time"),
        ({"forwarder": "haproxy"}, "is not one of auto, kernel, userspace"),
    ],
)
async def test_terms_that_can_never_be_right_change_nothing(
    node: MemoryDaemon, terms: dict[str, object], fault: str
) -> None:
    with pytest.raises(InvalidInputError, match=fault):
        await on(node, **terms)
    assert node.data_plane.listeners() == {}
    assert not node.store.intent.externals


async def test_a_list_changed_while_on_cuts_only_whom_it_keeps_out(node: MemoryDaemon) -> None:
    await on(node)
    node.data_plane.live["shop-db"] = (session("203.0.113.9:1"), session("198.51.100.9:2"))
    node.kernel.connect(30000, "203.0.113.9")
    node.kernel.connect(30000, "198.51.100.9")
    shown = await edit(node, allow=[OFFICE])
    assert shown.sessions == 2
    assert {s.client for s in await node.commands.externals.sessions("shop-db")} == {
        "203.0.113.9:1",
        "203.0.113.9:50000",
    }
    await edit(node, deny=["203.0.113.9"])
    assert await node.commands.externals.sessions("shop-db") == []
    await edit(node, remove_deny=["203.0.113.9"], allow=["10.0.0.0/8"])
    assert gate(node).allow == (Entry("203.0.113.0/24", "the office"), Entry("10.0.0.0/8"))
    assert gate(node).deny == ()


async def test_lines_are_described_anew_and_taken_away(node: MemoryDaemon) -> None:
    await on(node, allow=[OFFICE, "10.0.0.0/8"])
    await edit(node, allow=["203.0.113.0/24=headquarters"], remove_allow=["10.0.0.0/8"])
    assert gate(node).allow == (Entry("203.0.113.0/24", "headquarters"),)
    with pytest.raises(NotFoundError, match=r"10\.0\.0\.0/8 is not on the allow list: 203\.0\.113\.0/24"):
        await edit(node, remove_allow=["10.0.0.0/8"])
    with pytest.raises(RefusedError, match="an empty allow list lets anybody in"):
        await edit(node, remove_allow=["203.0.113.0/24"])
    assert gate(node).allow == (Entry("203.0.113.0/24", "headquarters"),)


async def test_lists_can_be_edited_while_it_is_off_but_not_before_it_was_on(node: MemoryDaemon) -> None:
    with pytest.raises(RefusedError, match="shop-db has never been on"):
        await edit(node, allow=[OFFICE])
    await on(node)
    await node.commands.externals.off("shop-db")
    assert [e.cidr for e in (await edit(node, allow=[OFFICE])).allow] == ["203.0.113.0/24"]
    assert node.data_plane.listeners() == {}


async def test_a_change_that_fails_is_taken_back(node: MemoryDaemon) -> None:
    await on(node, allow=[OFFICE])

    async def failing(wanted: object) -> None:
        raise HostToolError("nft: no space")

    node.kernel.apply, real = failing, node.kernel.apply  # type: ignore[method-assign]
    with pytest.raises(HostToolError, match="nft: no space"):
        await edit(node, deny=["203.0.113.9"])
    node.kernel.apply = real  # type: ignore[method-assign]
    await node.settled()
    assert (gate(node).deny, node.store.intent.externals["shop-db"].gate.deny) == ((), ())


async def test_it_is_on_for_a_while_and_the_end_can_be_put_off(node: MemoryDaemon) -> None:
    shown = await on(node, expires_in="2h")
    assert shown.expires_in is not None
    assert 7100 < shown.expires_in <= 7200
    extended = await edit(node, expires_in="1h")
    assert extended.expires_at == pytest.approx((shown.expires_at or 0) + 3600)
    assert (await edit(node, expires_in="never")).expires_at is None
    with pytest.raises(RefusedError, match="has no end to put off"):
        await edit(node, expires_in="1h")
    await node.commands.externals.off("shop-db")
    with pytest.raises(RefusedError, match="shop-db is off"):
        await edit(node, expires_in="1h")


async def test_kick_ends_an_addresss_sessions_wherever_they_are(node: MemoryDaemon) -> None:
    await on(node)
    node.data_plane.live["shop-db"] = (
        Session("shop-db", "203.0.113.9:1", 1.0, 10, 20, "10.213.0.1", 40000),
        session("[2001:db8::1]:2"),
    )
    node.kernel.connect(30000, "203.0.113.9")
    node.databases.calls.clear()
    assert (await node.commands.externals.kick("shop-db", "203.0.113.9")).sessions == 2
    assert node.databases.calls == ["kill_clients shop-db 10.213.0.1:40000 10.213.0.1:50000"]
    with pytest.raises(NotFoundError, match=r"203\.0\.113\.9 has no session on shop-db"):
        await node.commands.externals.kick("shop-db", "203.0.113.9")
    assert (await node.commands.externals.kick("shop-db", "[2001:db8::1]:2")).sessions == 1
    node.kernel.connect(30000, "203.0.113.9")
    with pytest.raises(NotFoundError, match=r"203\.0\.113\.9:4 has no session on shop-db"):
        await node.commands.externals.kick("shop-db", "203.0.113.9:4")
    node.databases.fail_next["kill_clients"] = LoginFailedError("refused the user 'root'")
    assert (await node.commands.externals.kick("shop-db", "203.0.113.9:50000")).sessions == 1
    assert node.kernel.clients(30000) == []
    await node.settled()
    (problem,) = (await node.commands.node.status()).problems
    assert (problem.subject, problem.text) == (
        "shop-db",
        "a query that was running when its connection was cut may run on: refused the user 'root'",
    )


async def test_it_says_what_carries_it_and_why(node: MemoryDaemon) -> None:
    shown = await on(node)
    assert (shown.forwarder, shown.carrier, shown.carrier_reason) == ("auto", "kernel", None)
    shown = await on(node, forwarder="userspace")
    assert (shown.carrier, shown.carrier_reason) == ("userspace", "forwarder = userspace")
    assert node.kernel.table == {}
    shown = await on(node, forwarder="", local=True)
    assert (shown.carrier, shown.carrier_reason) == ("userspace", "no IPv4 client from elsewhere may come in")


@pytest.mark.parametrize(
    ("terms", "host"),
    [
        ({"local": True}, "127.0.0.1"),
        ({"allow": ["127.0.0.0/8"]}, "127.0.0.1"),
        ({"allow": ["127.0.0.1", "::1"]}, "127.0.0.1"),
        ({"allow": ["127.0.0.0/8", OFFICE]}, "203.0.113.7"),
        ({"local": True, "deny": ["127.0.0.1"]}, "203.0.113.7"),
        ({}, "203.0.113.7"),
    ],
)
async def test_the_line_to_paste_names_loopback_where_nobody_else_may_come_in(
    node: MemoryDaemon, terms: dict[str, object], host: str
) -> None:
    """A client on this machine that connects to its address comes from that address, which such a list turns away."""
    shown = await on(node, **terms)
    assert shown.host == host
    assert shown.command is not None and f" {host} " in shown.command
    assert (await node.commands.databases.show("shop-db")).external.host == host
    assert (await node.commands.databases.credentials("shop-db")).external.host == host
    assert [found.external for found in await node.commands.databases.ls()] == [f"{host}:30000"]


async def test_auto_stays_in_userspace_and_says_why_where_the_kernel_cannot_be_used(tmp_path: Path) -> None:
    async with running(tmp_path, Rules(forwarder="auto")) as node:
        node.kernel.fault = "iptables' INPUT chain does more than accept"
        node.database("shop-db")
        await node.loop.settle()
        await node.commands.world.kernel.look()  # type: ignore[union-attr]
        shown = await on(node)
        assert (shown.listening, shown.carrier, shown.carrier_reason) == (True, "userspace", node.kernel.fault)
        status = await node.commands.node.status()
        assert (status.forwarder.carrier, status.forwarder.reason) == ("userspace", node.kernel.fault)


async def test_kernel_refuses_with_the_reason_where_it_cannot_be_used(node: MemoryDaemon) -> None:
    node.kernel.fault = "the daemon lacks CAP_NET_ADMIN"
    with pytest.raises(RefusedError, match="the kernel cannot forward here: the daemon lacks CAP_NET_ADMIN"):
        await on(node, forwarder="kernel")
    assert node.data_plane.listeners() == {}
    assert not node.store.intent.externals


async def test_refused_clients_are_counted_by_reason(node: MemoryDaemon) -> None:
    await on(node, allow=[OFFICE])
    node.data_plane.refused["shop-db"] = {"not on the allow list": 4}
    assert (await node.commands.externals.show("shop-db")).refused == {"not on the allow list": 4}


async def test_the_call_takes_all_terms_and_the_audit_trail_names_the_edit(node: MemoryDaemon) -> None:
    path = "/v1/databases/shop-db/external"
    body = schemas.ExternalRequest(
        enabled=True,
        allow=[OFFICE],
        deny=["203.0.113.66"],
        local=False,
        expires_in="2h",
        idle_off="30m",
        max_sessions=2,
    )
    shown = await node.call("PUT", path, schemas.ExternalView, body=body)
    assert (shown.max_sessions, shown.idle_off) == (2, 1800)
    assert node.data_plane.listeners() == {"shop-db": Listening(gate(node), kernel=True)}
    await node.call("PATCH", path, schemas.ExternalView, body=schemas.ExternalEdit(deny=["203.0.113.9"]))
    await node.call("PATCH", path, schemas.ExternalView, body=schemas.ExternalEdit(expires_in="1h"))
    node.kernel.connect(30000, "203.0.113.7")
    kicked = "/v1/databases/shop-db/sessions"
    await node.call("DELETE", kicked, schemas.Kicked, query={"client": "203.0.113.7"})
    assert [(e.verb, e.target) for e in await node.commands.node.audit()] == [
        ("external kick", "shop-db 203.0.113.7"),
        ("external extend", "shop-db 1h"),
        ("external deny", "shop-db 203.0.113.9"),
        ("external on", "shop-db"),
    ]


async def test_the_command_line_has_a_word_for_each(node: MemoryDaemon) -> None:
    words = ["--allow", OFFICE, "--deny", "203.0.113.66", "--for", "2h", "--idle-off", "30m", "--max-sessions", "2"]
    shown = (await node.sidegate("external", "on", "shop-db", *words, "--max-new", "5", "--table")).stdout
    for text in ("203.0.113.0/24 (the office)", "203.0.113.66/32", "2 sessions, 5 new ones", "30 min", "the kernel"):
        assert text in shown
    assert "carried by" in (await node.sidegate("external", "ls", "--table")).stdout
    assert "auto: the kernel" in (await node.sidegate("status", "--table")).stdout
    edited = await node.sidegate("external", "allow", "shop-db", "10.0.0.0/8=home", "--remove", "203.0.113.0/24")
    assert [e["cidr"] for e in json.loads(edited.stdout)["allow"]] == ["10.0.0.0/8"]
    denied = await node.sidegate("external", "deny", "shop-db", "10.9.0.0/16", "--remove", "203.0.113.66")
    assert [e["cidr"] for e in json.loads(denied.stdout)["deny"]] == ["10.9.0.0/16"]
    extended = json.loads((await node.sidegate("external", "extend", "shop-db", "--for", "1h")).stdout)
    assert extended["expires_in"] > 7200
    node.kernel.connect(30000, "10.1.2.3")
    kicked = await node.sidegate("external", "kick", "shop-db", "10.1.2.3", "--table")
    assert kicked.stdout == "ended 1 sessions of 10.1.2.3 on shop-db\n"
    assert json.loads((await node.sidegate("external", "on", "shop-db", "--anybody")).stdout)["anybody"] is True
    assert (await node.sidegate("external", "on", "shop-db", "--anybody", "--allow", "10.0.0.0/8")).returncode == 2
    assert (await node.sidegate("external", "allow", "shop-db")).returncode == 2
    assert (await node.sidegate("external", "on", "shop-db", "--local", "--allow", "127.0.0.1")).returncode == 0
