"""The verbs of certificates, through the socket and the command line. No key ever comes out of either."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_daemon import MemoryDaemon, running
from pairs import pair
from sidegate.adapters.certificates import Certificates
from sidegate.api import schemas
from sidegate.errors import InvalidInputError, NotFoundError, RefusedError

CHAIN, KEY = pair("shop.example", "www.shop.example")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    """A daemon with TLS, an app and its domain."""
    source = Certificates(tmp_path / "certificates", tmp_path / "authority", base_domain="localhost", managed=True)
    try:
        async with running(tmp_path, certificates=source) as daemon:
            daemon.app("shop", labels={"sidegate.domains": "shop.example,*.shops.example"})
            yield await daemon.settled()
    finally:
        await source.close()


async def add(node: MemoryDaemon, name: str, chain: str = CHAIN, key: str = KEY) -> schemas.CertificateView:
    return await node.commands.certificates.add(name, schemas.CertificateRequest(chain=chain, key=key))


def named(found: list[schemas.CertificateView]) -> dict[str, schemas.CertificateView]:
    return {view.name or ",".join(view.names): view for view in found}


async def test_all_that_is_presented_is_listed(node: MemoryDaemon, tmp_path: Path) -> None:
    added = await add(node, "shop")
    assert (added.name, added.source, added.issuer, added.used_by) == ("shop", "file", "shop.example", ["shop"])
    assert added.names == ["shop.example", "www.shop.example"]
    (tmp_path / "certificates" / "bad.crt").write_text(CHAIN)
    await node.settled()
    found = named(await node.commands.certificates.ls())
    assert list(found) == ["bad", "shop", "*.shops.example", "localhost,127.0.0.1,::1", "shop.localhost"]
    assert found["shop"] == added
    assert found["bad"].expires is None
    assert "put its key beside it" in found["bad"].problems[0]
    assert (found["*.shops.example"].source, found["*.shops.example"].used_by) == ("local authority", ["shop"])


async def test_what_is_added_is_presented_at_once_and_gone_at_once(node: MemoryDaemon) -> None:
    def presented() -> str:
        certified = node.data_plane.certified()
        assert certified
        return certified.pairs[certified.hosts["shop.example"]].chain

    await add(node, "shop")
    assert presented() == CHAIN
    chain, key = pair("shop.example")
    await add(node, "shop", chain, key)
    assert presented() == chain
    removed = await node.commands.certificates.rm("shop")
    assert removed.names == ["shop.example"]
    assert presented() not in (chain, CHAIN)
    with pytest.raises(NotFoundError, match="no certificate 'shop'"):
        await node.commands.certificates.rm("shop")


async def test_what_is_added_comes_with_what_is_wrong_with_it(node: MemoryDaemon) -> None:
    added = await add(node, "early", *pair("shop.example", since=-2))
    assert "is not valid before" in added.problems[0]
    assert named(await node.commands.certificates.ls())["early"] == added


async def test_what_cannot_be_right_is_refused_and_nothing_is_kept(node: MemoryDaemon, tmp_path: Path) -> None:
    for fault, name, chain, key in (
        ("does not belong", "shop", CHAIN, pair("x.example")[1]),
        ("has expired", "shop", *pair("x.example", days=-0.5)),
        ("names no host", "shop", *pair()),
        ("cannot be read", "shop", "", KEY),
        ("is encrypted", "shop", *pair("x.example", password=b"secret")),
        ("cannot name a certificate", "../shop", CHAIN, KEY),
        ("cannot name a certificate", "a..b", CHAIN, KEY),
        ("cannot name a certificate", ".shop", CHAIN, KEY),
        ("cannot name a certificate", "authority", CHAIN, KEY),
    ):
        with pytest.raises(InvalidInputError, match=fault) as caught:
            await add(node, name, chain, key)
        assert "PRIVATE" not in str(caught.value)
    assert not (tmp_path / "certificates").exists()


async def test_without_tls_the_verbs_say_so(daemon: MemoryDaemon) -> None:
    for call in (
        daemon.commands.certificates.ls(),
        daemon.commands.certificates.authority(),
        add(daemon, "shop"),
        daemon.commands.certificates.rm("shop"),
    ):
        with pytest.raises(RefusedError, match="https_port"):
            await call


async def test_the_audit_trail_names_them_and_holds_no_key(node: MemoryDaemon) -> None:
    body = schemas.CertificateRequest(chain=CHAIN, key=KEY)
    await node.call("PUT", "/v1/certificates/shop", schemas.CertificateView, body=body)
    await node.call("DELETE", "/v1/certificates/shop", schemas.CertificateRemoved)
    trail = await node.store.audit(10)
    assert [(entry.verb, entry.target, entry.outcome) for entry in trail] == [
        ("cert rm", "shop", "done"),
        ("cert add", "shop", "done"),
    ]


async def test_the_command_line_adds_lists_and_removes(node: MemoryDaemon, tmp_path: Path) -> None:
    """The name is the file's, or the directory's where the file is called as everybody's."""
    live = tmp_path / "live" / "Shop.example"
    live.mkdir(parents=True)
    (live / "fullchain.pem").write_text(CHAIN)
    (live / "privkey.pem").write_text(KEY)
    files = ("--cert", str(live / "fullchain.pem"), "--key", str(live / "privkey.pem"))
    added = await node.sidegate("cert", "add", *files)
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["name"] == "shop.example"
    assert "shop2" in (await node.sidegate("cert", "add", *files, "--name", "shop2", "--table")).stdout
    listed = await node.sidegate("cert", "ls", "--table")
    assert "local authority" in listed.stdout
    assert "www.shop.example" in listed.stdout
    removed = await node.sidegate("cert", "rm", "shop2", "--table")
    assert "shop2" in removed.stdout
    gone = await node.sidegate("cert", "rm", "shop2")
    assert (gone.returncode, "PRIVATE" in gone.stderr) == (4, False)
    for done in (added, listed, removed):
        assert "PRIVATE" not in done.stdout + done.stderr


async def test_files_that_cannot_be_read_are_a_matter_of_usage(node: MemoryDaemon, tmp_path: Path) -> None:
    (tmp_path / "der").write_bytes(b"\xff\xfe")
    (tmp_path / "key").write_text(KEY)
    for chain, fault in (("none", "No such file"), ("der", "convert it with openssl")):
        failed = await node.sidegate("cert", "add", "--cert", str(tmp_path / chain), "--key", str(tmp_path / "key"))
        assert failed.returncode == 2
        assert fault in failed.stderr
    mixed = await node.sidegate("cert", "add", "--cert", str(tmp_path / "key"), "--key", str(tmp_path / "key"))
    assert mixed.returncode == 2
    assert "PRIVATE" not in mixed.stderr


async def test_the_authority_is_printed_as_it_is(node: MemoryDaemon, tmp_path: Path) -> None:
    printed = await node.sidegate("cert", "ca")
    assert printed.stdout == await node.commands.certificates.authority()
    assert printed.stdout.startswith("-----BEGIN CERTIFICATE-----\n")
    assert printed.stdout in (tmp_path / "authority" / "authority.pem").read_text()
    assert "PRIVATE" not in printed.stdout
    assert printed.stderr == ""


async def test_on_a_terminal_it_comes_with_how_to_trust_it(node: MemoryDaemon) -> None:
    master, slave = pty.openpty()
    environ = os.environ | {"SIDEGATE_RUNTIME_DIR": str(node.path.parent)}
    command = [sys.executable, "-m", "sidegate", "cert", "ca"]
    with os.fdopen(master, "rb"):
        with subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE, env=environ) as process:
            assert process.stderr
            hint = (await _read(process)).decode()
        os.close(slave)
    assert "update-ca-certificates" in hint
    assert "Firefox" in hint


async def _read(process: subprocess.Popen[bytes]) -> bytes:
    return (await asyncio.to_thread(process.communicate))[1]
