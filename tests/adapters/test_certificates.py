"""Certificates on a real disk: files as people and certbot leave them, the local authority, crashes, full disks."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from pairs import DAY, Handshake, client_context, pair
from sidegate.adapters.certificates import TICKET_KEY_SECONDS, Certificates, files
from sidegate.adapters.certificates.authority import Authority
from sidegate.adapters.certificates.directory import Directory
from sidegate.core.certificates import CertificateSet
from sidegate.errors import CertificateError, InvalidInputError, NotFoundError, RefusedError, StoreError
from sidegate.proxy.tls import TlsContexts

SECRET = "PRIVATE KEY"


def put(directory: Path, name: str, *texts: str) -> None:
    """NAME.crt and NAME.key, or for a NAME with a slash what certbot makes of it."""
    endings = ("/fullchain.pem", "/privkey.pem") if name.endswith("/") else (".crt", ".key")
    for ending, text in zip(endings, texts, strict=False):
        path = directory / f"{name.rstrip('/')}{ending}"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)


def age(directory: Path) -> None:
    """As if written long ago: then their stamps are enough to tell whether they have changed."""
    for path in directory.rglob("*.*"):
        os.utime(path, (1e9, 1e9))


def seen(directory: Directory) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    found, problems = directory.scan()
    assert not any(SECRET in str(problem) for problem in problems)
    return {c.name: c.names for c in found}, {p.subject.removeprefix("certificate "): p.text for p in problems}


def test_each_layout_is_read_and_names_come_from_the_certificate(tmp_path: Path) -> None:
    put(tmp_path, "one", *pair("Shop.example", "*.shop.example"))
    chain, key = pair("two.example", "192.0.2.1", "::1")
    (tmp_path / "two.pem").write_text(chain)
    (tmp_path / "two.key").write_text(key)
    (tmp_path / "both.pem").write_text("".join(pair("both.example")))
    archive = tmp_path / ".archive" / "shop"
    put(tmp_path / ".archive", "shop/", *pair("live.example"))
    (tmp_path / "live").mkdir()
    for file in ("fullchain.pem", "privkey.pem"):
        (tmp_path / "live" / file).symlink_to(archive / file)
    (tmp_path / "README").write_text("of certbot's")
    (tmp_path / "empty").mkdir()
    assert seen(Directory(tmp_path)) == (
        {
            "both": ("both.example",),
            "live": ("live.example",),
            "one": ("shop.example", "*.shop.example"),
            "two": ("two.example", "192.0.2.1", "::1"),
        },
        {},
    )


def test_a_directory_of_others_must_be_there_and_what_was_in_it_is_kept(tmp_path: Path) -> None:
    live = tmp_path / "live"
    directory = Directory(live, ours=False)
    [problem] = directory.scan()[1]
    assert (problem.subject, problem.text[:16]) == (str(live), "is no directory:")
    assert not directory.changed()
    live.mkdir()
    put(live, "shop", *pair("shop.example"))
    assert directory.changed()
    assert seen(directory) == ({"shop": ("shop.example",)}, {})
    live.rename(tmp_path / "away")
    found, problems = directory.scan()
    assert ([c.name for c in found], len(problems)) == (["shop"], 1)


def test_a_directory_that_is_not_there_is_empty(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "none")
    assert seen(directory) == ({}, {})
    assert not directory.changed()


CHAIN, KEY = pair("shop.example")
OTHER_CHAIN, OTHER_KEY = pair("other.example")


@pytest.mark.parametrize(
    ("chain", "key", "fault"),
    [
        (CHAIN, OTHER_KEY, "the key does not belong to the certificate: replace both together"),
        (OTHER_CHAIN + CHAIN, KEY, "the key is not the first certificate's: put the leaf before"),
        (CHAIN[:300], KEY, "the certificate cannot be read: it must be PEM, whole"),
        (CHAIN, KEY[:100], "the key cannot be read: it must be PEM, whole and not encrypted"),
        ("", KEY, "the certificate cannot be read"),
        (CHAIN, "", "the key cannot be read"),
        (CHAIN, None, "bad.crt lies there without bad.key: put its key beside it"),
        (None, KEY, "bad.key lies there without bad.crt: put the certificate beside it"),
        (*pair("x.example", password=b"secret"), "the key is encrypted: store it without a passphrase"),
        (*pair(), "the certificate names no host (subjectAltName)"),
        (
            *pair("x.example", private=rsa.generate_private_key(65537, 1024)),
            "TLS cannot use the certificate (ee key too",
        ),
        ("x" * (2 << 20), KEY, "bad.crt is too large to be a certificate"),
    ],
)
def test_a_bad_pair_is_a_problem_with_what_to_do(
    tmp_path: Path, chain: str | None, key: str | None, fault: str
) -> None:
    for ending, text in (("crt", chain), ("key", key)):
        if text is not None:
            (tmp_path / f"bad.{ending}").write_text(text)
    put(tmp_path, "good", CHAIN, KEY)
    found, problems = seen(Directory(tmp_path))
    assert found == {"good": ("shop.example",)}
    assert problems["bad"].startswith(fault)


def test_binary_files_are_told_from_pem(tmp_path: Path) -> None:
    put(tmp_path, "der", CHAIN, KEY)
    (tmp_path / "der.crt").write_bytes(b"0\x82\xff\xfe")
    assert "convert it with openssl" in seen(Directory(tmp_path))[1]["der"]


def test_what_is_no_file_is_a_problem_and_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe has its reader wait for a writer, /dev/zero never ends, a link to itself cannot be followed."""
    put(tmp_path, "good", *pair("good.example"))
    os.mkfifo(tmp_path / "pipe.pem")
    (tmp_path / "zero.pem").symlink_to("/dev/zero")
    (tmp_path / "loop.crt").symlink_to("loop.crt")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.key").touch()
    names, faults = seen(Directory(tmp_path))
    assert names == {"good": ("good.example",)}
    assert faults == {
        "pipe": "pipe.pem is not a regular file: put one in its place",
        "zero": "zero.pem is not a regular file: put one in its place",
        "loop": "loop.key lies there without loop.crt: put the certificate beside it",
    }


def test_what_was_good_stays_in_use_until_there_is_better(tmp_path: Path) -> None:
    """A renewal seen between its two files, then a broken one, then the removal."""
    directory = Directory(tmp_path)
    put(tmp_path, "shop", CHAIN, KEY)
    (before,), _ = directory.scan()
    new_chain, new_key = pair("shop.example")
    put(tmp_path, "shop", new_chain)
    (kept,), (problem,) = directory.scan()
    assert kept is before
    assert problem.text.endswith("replace both together; the one before it stays in use")
    put(tmp_path, "shop", new_chain, new_key)
    (renewed,), problems = directory.scan()
    assert (renewed.pair.chain, problems) == (new_chain, ())
    put(tmp_path, "shop", *pair("shop.example", days=-0.5))
    (kept,), (problem,) = directory.scan()
    assert kept.pair.chain == new_chain
    assert problem.text.startswith("the new certificate expired on")
    (tmp_path / "shop.crt").unlink()
    assert directory.scan()[0] == (kept,)
    (tmp_path / "shop.key").unlink()
    assert directory.scan() == ((), ())


def test_an_expired_one_is_given_out_all_the_same(tmp_path: Path) -> None:
    """The core says so, and prefers others."""
    put(tmp_path, "old", *pair("shop.example", days=-0.5))
    assert seen(Directory(tmp_path)) == ({"old": ("shop.example",)}, {})


def test_files_are_read_again_only_when_they_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "shop", CHAIN, KEY)
    directory = Directory(tmp_path)
    (first,), _ = directory.scan()
    future = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: future)
    (again,), _ = directory.scan()
    assert again is first
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read again"))
    assert directory.scan()[0] == (first,)
    monkeypatch.undo()
    chain, key = pair("shop.example")
    for text, ending in ((chain, "crt"), (key, "key")):
        new = tmp_path / f".new.{ending}"
        new.write_text(text)
        new.rename(tmp_path / f"shop.{ending}")
    age(tmp_path)
    assert directory.changed()
    assert directory.scan()[0][0].pair.chain == chain


def test_certbots_renewal_is_seen_through_its_links(tmp_path: Path) -> None:
    live = tmp_path / "live" / "shop"
    live.mkdir(parents=True)
    directory = Directory(tmp_path / "live")
    for number in (1, 2):
        put(tmp_path / "archive", f"shop{number}/", *pair(f"v{number}.example"))
        for file in ("fullchain.pem", "privkey.pem"):
            link = live / f".{file}"
            link.symlink_to(tmp_path / "archive" / f"shop{number}" / file)
            link.rename(live / file)
        assert directory.changed()
        assert seen(directory)[0] == {"shop": (f"v{number}.example",)}


def test_what_is_added_is_one_file_for_nobody_else(tmp_path: Path) -> None:
    put(tmp_path, "shop", *pair("old.example"))
    directory = Directory(tmp_path)
    directory.add("shop", CHAIN, KEY)
    (path,) = tmp_path.iterdir()
    assert path.name == "shop.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert seen(directory) == ({"shop": ("shop.example",)}, {})
    with pytest.raises(ValueError, match="expired"):
        directory.add("shop", *pair("shop.example", days=-0.5))
    with pytest.raises(ValueError, match="does not belong"):
        directory.add("shop", CHAIN, OTHER_KEY)
    assert path.read_text() == CHAIN + KEY
    assert directory.remove("shop")
    assert not directory.remove("shop")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write(path, "before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, "after")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_is_killed_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """SIGKILL at many moments of a process that does nothing but write."""
    path = tmp_path / "file"
    texts = {letter * 100_000 for letter in "ab"}
    code = """
import sys
from pathlib import Path
from sidegate.adapters.certificates import files
path = Path(sys.argv[1])
files.write(path, "a" * 100_000)
print("ready", flush=True)
while True:
    files.write(path, "b" * 100_000)
    files.write(path, "a" * 100_000)
"""
    for number in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(0.003 * number)
            process.send_signal(signal.SIGKILL)
        assert path.read_text() in texts
    files.write(path, "c")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- the authority


def test_the_authority_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    made = Authority(tmp_path / "authority")
    path = tmp_path / "authority" / "authority.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert Authority(tmp_path / "authority").pem == made.pem
    assert SECRET not in made.pem
    assert made.title.startswith("Sidegate local authority (")
    ca = made.certificate.extensions
    basic = ca.get_extension_for_class(x509.BasicConstraints)
    assert (basic.value.ca, basic.value.path_length, basic.critical) == (True, 0, True)
    years = (made.certificate.not_valid_after_utc - made.certificate.not_valid_before_utc).days / 365.25
    assert 9.9 < years < 10.1


@pytest.mark.parametrize("content", ["", "nonsense", CHAIN, CHAIN + OTHER_KEY])
def test_an_authority_that_is_broken_is_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "authority.pem").write_text(content)
    with pytest.raises(ValueError, match="restore it from a backup, or remove it"):
        Authority(tmp_path)
    assert (tmp_path / "authority.pem").read_text() == content


def test_an_authority_that_ends_is_said_in_time(tmp_path: Path) -> None:
    Authority(tmp_path)
    with pytest.raises(ValueError, match="ends on"):
        Authority(tmp_path, clock=lambda: time.time() + 9.9 * 365.25 * DAY)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (("shop.example",), "shop.example"),
        (("*.shop.example",), "www.shop.example"),
        (("localhost", "127.0.0.1", "::1"), "localhost"),
        (("localhost", "127.0.0.1", "::1"), "127.0.0.1"),
        (("localhost", "127.0.0.1", "::1"), "::1"),
        ((f"{'a' * 60}.{'b' * 60}.example",), f"{'a' * 60}.{'b' * 60}.example"),
    ],
)
def test_a_client_that_trusts_the_authority_takes_its_leafs(tmp_path: Path, names: tuple[str, ...], host: str) -> None:
    """Checked as a strict client does it: RFC 5280 to the letter, name included."""
    authority = Authority(tmp_path)
    leaf = authority.issue(*names)
    contexts = TlsContexts()
    contexts.replace(CertificateSet(pairs={leaf.id: leaf.pair}, default=leaf.id))
    client = ssl.create_default_context(cadata=authority.pem)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    Handshake(contexts.context, host, client)
    with pytest.raises(ssl.SSLCertVerificationError):
        Handshake(contexts.context, "else.example", ssl.create_default_context(cadata=authority.pem))


def test_no_leaf_tells_of_another(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.issue("one.example"), authority.issue("other.example")
    assert one.pair.key == other.pair.key
    assert one.id != other.id
    assert one.names == ("one.example",)
    assert 89 * DAY < one.not_after - one.not_before < 398 * DAY


# --- both together


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
async def source(tmp_path: Path, clock: Clock) -> AsyncIterator[Certificates]:
    """Certificates of a fresh state directory."""
    made = Certificates(
        tmp_path / "certificates", tmp_path / "authority", base_domain="x.test", managed=True, clock=clock
    )
    yield made
    await made.close()


async def test_leafs_are_issued_when_asked_for_and_again_in_time(source: Certificates, clock: Clock) -> None:
    assert (await source.observe()).issued == {}
    await source.issue(["shop.example", ""])
    state = await source.observe()
    assert state.issued["shop.example"].names == ("shop.example",)
    assert state.issued[""].names == ("localhost", "127.0.0.1", "::1", "x.test")
    assert state.due == frozenset()
    clock.now += 59 * DAY
    assert (await source.observe()).due == frozenset()
    clock.now += 2 * DAY
    assert (await source.observe()).due == {"shop.example", ""}
    await source.issue(["shop.example"])
    renewed = await source.observe()
    assert renewed.due == {""}
    assert renewed.issued["shop.example"].id != state.issued["shop.example"].id
    clock.now += 30 * DAY
    assert set((await source.observe()).issued) == {"shop.example"}


async def test_a_long_job_goes_on_while_passes_do_not_wait(
    source: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidegate.adapters.certificates.PATIENCE", 0.0)
    woken, gate = asyncio.Event(), threading.Event()
    source.watch(woken.set)
    source._signer.submit(gate.wait)
    await source.issue([f"h{n}.example" for n in range(50)])
    state = await source.observe()
    assert state.issuing
    assert state.issued == {}
    gate.set()
    async with asyncio.timeout(30):
        await woken.wait()
    state = await source.observe()
    assert not state.issuing
    assert len(state.issued) == 50


async def test_an_authority_that_cannot_be_written_is_a_fault_until_it_can(
    source: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "authority").write_text("in the way")
    with pytest.raises(CertificateError, match="cannot be kept in"):
        await source.issue(["shop.example"])
    assert "cannot be kept in" in (await source.observe()).fault
    with pytest.raises(CertificateError):
        await source.authority()
    (tmp_path / "authority").unlink()
    assert (await source.observe(full=True)).fault == ""
    await source.issue(["shop.example"])
    assert "shop.example" in (await source.observe()).issued


async def test_the_ticket_key_is_made_anew_every_twelve_hours(source: Certificates, clock: Clock) -> None:
    first = (await source.observe()).ticket_key
    assert len(bytes.fromhex(first)) == 80
    clock.now += TICKET_KEY_SECONDS - 1
    assert (await source.observe()).ticket_key == first
    clock.now += 1
    second = (await source.observe()).ticket_key
    assert second not in (first, "")
    assert second not in repr(await source.observe())


@pytest.mark.parametrize(
    "change",
    [
        lambda d: put(d, "new", CHAIN, KEY),
        lambda d: put(d, "there", *pair("there.example")),
        lambda d: (d / "there.key").unlink(),
    ],
    ids=["added", "changed", "removed"],
)
async def test_a_change_wakes(source: Certificates, tmp_path: Path, change: Callable[[Path], None]) -> None:
    put(tmp_path / "certificates", "there", CHAIN, KEY)
    woken = asyncio.Event()
    source.watch(woken.set)
    await source.observe()
    watching = asyncio.create_task(source.run())
    change(tmp_path / "certificates")
    async with asyncio.timeout(20):
        await woken.wait()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_adding_and_removing_say_what_is_wrong(source: Certificates, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="does not belong"):
        await source.add("shop", CHAIN, OTHER_KEY)
    with pytest.raises(NotFoundError, match="no certificate 'shop'"):
        await source.remove("shop")
    put(tmp_path / "certificates", "live/", CHAIN, KEY)
    with pytest.raises(RefusedError, match="remove it yourself"):
        await source.remove("live")
    shutil.rmtree(tmp_path / "certificates")
    await source.add("shop", CHAIN, KEY)
    await source.remove("shop")
    (tmp_path / "certificates").rmdir()
    (tmp_path / "certificates").write_text("in the way")
    with pytest.raises(StoreError, match="the certificate was not kept"):
        await source.add("shop", CHAIN, KEY)


async def test_a_directory_of_others_is_not_written_to(tmp_path: Path) -> None:
    source = Certificates(tmp_path / "live", tmp_path / "authority", base_domain="x.test", managed=False)
    with pytest.raises(RefusedError, match="is kept by others"):
        await source.add("shop", CHAIN, KEY)
    with pytest.raises(RefusedError, match="is kept by others"):
        await source.remove("shop")
    await source.close()
    await source.close()


def test_clients_that_do_not_trust_the_authority_refuse(tmp_path: Path) -> None:
    leaf = Authority(tmp_path).issue("shop.example")
    contexts = TlsContexts()
    contexts.replace(CertificateSet(pairs={leaf.id: leaf.pair}, default=leaf.id))
    assert Handshake(contexts.context, "shop.example", client_context()).names == ["shop.example"]
    with pytest.raises(ssl.SSLCertVerificationError):
        Handshake(contexts.context, "shop.example", ssl.create_default_context())
