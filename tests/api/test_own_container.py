"""External connections of a daemon in a container with a network of its own: only what is published can be reached."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from memory_daemon import MemoryDaemon, running
from sidegate.api import schemas
from sidegate.api.commands import Commands
from sidegate.core.gates import Gate
from sidegate.core.guest import UNKNOWN_HOST, OwnContainer
from sidegate.core.sessions import Listening
from sidegate.errors import RefusedError

OWN = OwnContainer("id", "gate", gateways=frozenset({"172.30.0.1"}), published=frozenset({8080, 30001, 30003}))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    async with running(tmp_path) as daemon:
        daemon.commands = Commands(replace(daemon.commands.world, container=OWN))
        daemon.database("shop-db")
        daemon.database("other-db")
        daemon.database("third-db")
        yield await daemon.settled()


async def test_ports_that_are_not_published_are_passed_over(node: MemoryDaemon) -> None:
    await node.commands.externals.on("shop-db")
    await node.commands.externals.on("other-db")
    assert node.data_plane.listeners() == {"shop-db": Listening(Gate(30001)), "other-db": Listening(Gate(30003))}
    with pytest.raises(RefusedError, match=r"30000-30003 is free and published by Sidegate's own container"):
        await node.commands.externals.on("third-db")


async def test_one_that_is_asked_for_is_refused_with_what_to_publish(node: MemoryDaemon) -> None:
    with pytest.raises(
        RefusedError, match=r"port 30002 is not published by Sidegate's container gate.* -p 30002:30002"
    ):
        await node.commands.externals.on("shop-db", 30002)
    assert node.data_plane.listeners() == {}


@pytest.mark.parametrize(
    ("terms", "warning"),
    [
        ({"allow": ["203.0.113.0/24"]}, "lists do not tell clients apart whom Docker shows as 172.30.0.1"),
        ({"deny": ["203.0.113.9"]}, "lists do not tell clients apart whom Docker shows as 172.30.0.1"),
        ({"local": True}, "publish port 30001 at 127.0.0.1 instead"),
    ],
)
async def test_what_lists_are_worth_is_said(node: MemoryDaemon, terms: dict[str, object], warning: str) -> None:
    request = schemas.ExternalRequest(enabled=True, **terms)  # type: ignore[arg-type]
    shown = await node.commands.externals.on("shop-db", None, request)
    assert [text for text in shown.warnings if warning in text]


async def test_a_host_that_is_not_known_is_asked_for(node: MemoryDaemon) -> None:
    unknown = Commands(replace(node.commands.world, external_host=lambda: UNKNOWN_HOST))
    shown = await unknown.externals.on("shop-db")
    assert "this machine's address is not known in Sidegate's container: set external_host" in shown.warnings
    known = await node.commands.externals.show("shop-db")
    assert not [text for text in known.warnings if "external_host" in text]
