"""From a container's labels to certificates at the workers, through the real loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_daemon import MemoryDaemon, running
from pairs import pair
from sidegate.adapters.certificates import Certificates
from sidegate.core.certificates import CertificateSet
from sidegate.errors import DataPlaneError


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Certificates]:
    """The certificates of a state directory."""
    made = Certificates(tmp_path / "certificates", tmp_path / "authority", base_domain="localhost", managed=True)
    yield made
    await made.close()


@pytest.fixture
async def node(tmp_path: Path, source: Certificates) -> AsyncIterator[MemoryDaemon]:
    """A daemon with TLS and an app."""
    async with running(tmp_path, certificates=source) as daemon:
        daemon.app("shop", labels={"sidegate.domains": "shop.example,*.shop.example"})
        yield await daemon.settled()


def certified(node: MemoryDaemon) -> CertificateSet:
    found = node.data_plane.certified()
    assert found is not None
    return found


async def test_every_routed_name_has_a_certificate_before_its_route(node: MemoryDaemon) -> None:
    found = certified(node)
    assert set(found.hosts) == {"shop.example", "shop.localhost"}
    assert set(found.wildcards) == {".shop.example"}
    assert len(set(found.hosts.values())) == 2
    assert found.default in found.pairs
    calls = [call for call in node.data_plane.calls if call.startswith("publish")]
    assert calls[-2:] == ["publish_certificates", "publish"]
    node.app("late")
    node.data_plane.calls.clear()
    await node.settled()
    assert "late.localhost" in certified(node).hosts
    assert [call for call in node.data_plane.calls if call.startswith("publish")] == ["publish_certificates", "publish"]


async def test_a_second_pass_does_nothing(node: MemoryDaemon) -> None:
    assert (await node.loop.settle()).actions == 0


async def test_a_file_takes_the_place_of_the_authoritys(node: MemoryDaemon, tmp_path: Path) -> None:
    chain, key = pair("shop.example")
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "shop.pem").write_text(chain + key)
    await node.settled()
    assert certified(node).pairs[certified(node).hosts["shop.example"]].chain == chain
    (tmp_path / "certificates" / "shop.pem").write_text("half")
    passed = await node.loop.settle()
    assert certified(node).pairs[certified(node).hosts["shop.example"]].chain == chain
    (problem,) = [p for p in passed.problems if p.subject == "certificate shop"]
    assert problem.text.endswith("the one before it stays in use")


async def test_a_change_of_files_is_taken_up_by_itself(
    node: MemoryDaemon, source: Certificates, tmp_path: Path
) -> None:
    source.watch(node.loop.wake)
    watching = asyncio.create_task(source.run())
    chain, key = pair("shop.example")
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "shop.pem").write_text(chain + key)
    async with asyncio.timeout(20):
        while certified(node).pairs[certified(node).hosts["shop.example"]].chain != chain:
            await asyncio.sleep(0.01)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def test_http_goes_on_where_the_authority_cannot(tmp_path: Path, source: Certificates) -> None:
    (tmp_path / "authority").write_text("in the way")
    async with running(tmp_path, certificates=source) as node:
        node.app("shop")
        passed = await node.loop.settle()
        published = node.data_plane.published()
        assert published is not None
        assert "shop.localhost" in published.hosts
        assert any(p.subject == "certificates" and "cannot be kept" in p.text for p in passed.problems)
        assert (await node.loop.settle()).actions == 0


async def test_routes_go_out_where_certificates_cannot(node: MemoryDaemon) -> None:
    node.data_plane.fail_next["publish_certificates"] = DataPlaneError("worker 0 does not answer")
    node.app("late")
    await node.settled()
    published = node.data_plane.published()
    assert published is not None
    assert "late.localhost" in published.hosts
    await node.settled()
    assert "late.localhost" in certified(node).hosts


async def test_a_purge_leaves_certificates_alone(node: MemoryDaemon, tmp_path: Path) -> None:
    await node.loop.purge()
    assert (tmp_path / "authority" / "authority.pem").exists()
