"""The listener's TLS: which certificate, which versions, resumption in any worker, swaps that nobody notices."""

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import cast

import msgspec
import pytest
import uvloop

from pairs import Handshake, client_context, key_pair, pair, presented
from sidegate.core.certificates import CertificateSet, KeyPair
from sidegate.proxy import tickets, tls
from sidegate.proxy.tls import TlsContexts, ignore_bad_names


@pytest.fixture
def contexts() -> TlsContexts:
    """Certificates for an exact host, two wildcards and everybody else."""
    made = TlsContexts()
    made.replace(
        presented(shop="shop.example", wild="*.shop.example", deep="*.eu.shop.example", default="default.example")
    )
    return made


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("shop.example", "shop.example"),
        ("SHOP.Example", "shop.example"),
        ("www.shop.example", "*.shop.example"),
        ("a.b.shop.example", "*.shop.example"),
        ("www.eu.shop.example", "*.eu.shop.example"),
        ("eu.shop.example", "*.shop.example"),
        ("other.example", "default.example"),
        ("localhost", "default.example"),
        (None, "default.example"),
        ("192.0.2.1", "default.example"),
    ],
)
def test_the_name_chooses_the_certificate(contexts: TlsContexts, host: str | None, shown: str) -> None:
    assert Handshake(contexts.context, host).names == [shown]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_suites_and_protocol(contexts: TlsContexts, version: ssl.TLSVersion) -> None:
    client = client_context("h2", "http/1.1")
    client.minimum_version = client.maximum_version = version
    made = Handshake(contexts.context, "shop.example", client)
    assert made.client.version() == version.name.replace("_", ".")
    assert made.client.selected_alpn_protocol() == "http/1.1"
    assert made.client.compression() is None
    suite = made.client.cipher()
    assert suite
    assert "GCM" in suite[0] or "CHACHA20" in suite[0]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_older_versions_are_refused(contexts: TlsContexts) -> None:
    client = client_context()
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        Handshake(contexts.context, "shop.example", client)


@pytest.mark.parametrize("suites", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256"])
def test_suites_that_are_not_forward_secret_and_authenticated_are_refused(contexts: TlsContexts, suites: str) -> None:
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(suites)
    with pytest.raises(ssl.SSLError):
        Handshake(contexts.context, "shop.example", client)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_goes_on_at_another_worker(version: ssl.TLSVersion) -> None:
    certificates = presented(shop="shop.example", default="default.example")
    one, other, stranger = TlsContexts(), TlsContexts(), TlsContexts()
    one.replace(certificates)
    other.replace(certificates)
    stranger.replace(replace(certificates, ticket_key="66" * 80))
    client = client_context()
    client.minimum_version = client.maximum_version = version
    session = Handshake(one.context, "shop.example", client).client.session
    assert session
    assert session.has_ticket
    assert Handshake(other.context, "shop.example", client, session).client.session_reused
    assert not Handshake(stranger.context, "shop.example", client, session).client.session_reused


def test_a_session_goes_on_in_another_process() -> None:
    """As after SO_REUSEPORT gave a client to the other worker."""
    certificates = presented(default="shop.example")
    here = TlsContexts()
    here.replace(certificates)
    client = client_context()
    session = Handshake(here.context, "shop.example", client).client.session
    with (
        _server(certificates) as port,
        socket.create_connection(("127.0.0.1", port)) as sock,
        client.wrap_socket(sock, server_hostname="shop.example", session=session) as tls_sock,
    ):
        assert tls_sock.recv(2) == b"ok"
        assert tls_sock.session_reused


@contextlib.contextmanager
def _server(certificates: CertificateSet):  # type: ignore[no-untyped-def]
    """A process that gave up its privileges as workers do, serving on the port that this gives."""
    code = """
import os, socket, sys
import msgspec
from sidegate.core.certificates import CertificateSet
from sidegate.proxy import privileges
from sidegate.proxy.tls import TlsContexts
if os.geteuid() == 0:
    privileges.drop(60913, 60913)
contexts = TlsContexts(lambda text: print(text, file=sys.stderr))
contexts.replace(msgspec.json.decode(sys.stdin.readline(), type=CertificateSet))
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        with contexts.context.wrap_socket(listener.accept()[0], server_side=True) as sock:
            sock.sendall(b"ok")
            sock.recv(1)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    with process:
        try:
            process.stdin.write(msgspec.json.encode(certificates) + b"\n")
            process.stdin.flush()
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_where_tickets_cannot_be_shared_each_worker_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "_LOADED", None)
    notes: list[str] = []
    contexts = TlsContexts(notes.append)
    contexts.replace(presented(default="shop.example"))
    client = client_context()
    session = Handshake(contexts.context, "shop.example", client).client.session
    assert Handshake(contexts.context, "shop.example", client, session).client.session_reused
    assert notes == ["session tickets are not shared between workers: this Python or OpenSSL is not known"]


def test_a_context_of_another_kind_is_not_touched() -> None:
    assert not tickets.share(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), bytes(tickets.KEY_BYTES))
    with pytest.raises(ValueError, match="80 bytes"):
        tickets.share(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), b"short")


def test_a_swap_keeps_open_connections_and_the_contexts_of_what_stays(contexts: TlsContexts) -> None:
    open_one = Handshake(contexts.context, "shop.example")
    kept = contexts._loaded["shop"]
    before = contexts._certificates
    new = replace(before, pairs={**before.pairs, "wild": key_pair("new.example")})
    changed = replace(new, wildcards={".shop.example": "wild2"}, pairs={**new.pairs, "wild2": key_pair("new.example")})
    contexts.replace(changed)
    open_one.say(b"still here")
    assert Handshake(contexts.context, "www.shop.example").names == ["new.example"]
    assert Handshake(contexts.context, "shop.example").names == ["shop.example"]
    assert contexts._loaded["shop"] is kept


def _bad(change: Callable[[CertificateSet], CertificateSet]) -> CertificateSet:
    return change(presented(shop="shop.example", default="default.example"))


CHAIN, KEY = pair("x.example")


@pytest.mark.parametrize(
    "broken",
    [
        KeyPair("nonsense", KEY),
        KeyPair(CHAIN, "nonsense"),
        KeyPair(CHAIN.replace("CERTIFICATE", "TEAPOT"), KEY),
        KeyPair(CHAIN[: len(CHAIN) // 2], KEY),
        KeyPair(CHAIN.replace("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nA"), KEY),
    ],
    ids=["no chain", "no key", "another label", "half", "no DER"],
)
def test_what_is_no_pem_is_refused_and_changes_nothing(contexts: TlsContexts, broken: KeyPair) -> None:
    before = contexts._certificates
    with pytest.raises(ValueError, match="PEM"):
        contexts.replace(replace(before, pairs={**before.pairs, "new": broken}))
    assert Handshake(contexts.context, "shop.example").names == ["shop.example"]
    assert contexts._certificates is before


def test_a_default_that_does_not_load_is_refused(contexts: TlsContexts) -> None:
    before = contexts._certificates
    for fault, bad in (
        ("cannot be loaded", replace(before, default="d2", pairs={**before.pairs, "d2": KeyPair(CHAIN, pair("y")[1])})),
        ("no key pair has the id gone", replace(before, default="gone")),
        ("no key pair has the id gone", replace(before, hosts={"x": "gone"})),
        ("80 bytes", replace(before, ticket_key="00")),
    ):
        with pytest.raises(ValueError, match=fault):
            contexts.replace(bad)
    assert contexts._certificates is before


def test_a_pair_that_does_not_load_later_gives_way_to_the_default() -> None:
    notes: list[str] = []
    contexts = TlsContexts(notes.append)
    made = presented(default="default.example")
    mismatch = KeyPair(CHAIN, pair("y.example")[1])
    contexts.replace(replace(made, hosts={"x.example": "x"}, pairs={**made.pairs, "x": mismatch}))
    for _ in range(2):
        assert Handshake(contexts.context, "x.example").names == ["default.example"]
    (note,) = notes
    assert "the certificate x cannot be used" in note
    assert "PRIVATE" not in note


class Unlucky:
    def __del__(self) -> None:
        raise KeyError("said")


def test_names_that_are_no_names_end_the_handshake_and_are_not_logged(
    contexts: TlsContexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    ignore_bad_names()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(to_client, to_server, server_hostname="aaaaaaaa.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    to_server.write(to_server.read().replace(b"aaaaaaaa", b"\xff\xfe\n\taaaa"))
    with pytest.raises(ssl.SSLError):
        contexts.context.wrap_bio(to_server, to_client, server_side=True).do_handshake()
    assert reported == []
    Unlucky()
    assert reported == [KeyError]


def test_without_descriptors_a_client_gets_what_is_loaded(
    contexts: TlsContexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none_left)
    monkeypatch.setattr(os, "pipe", none_left)
    assert Handshake(contexts.context, "shop.example").names == ["default.example"]
    contexts.replace(replace(contexts._certificates, ticket_key="11" * 80))
    with pytest.raises(ValueError, match="Too many open files"):
        contexts.replace(replace(contexts._certificates, default="wild"))
    monkeypatch.undo()
    assert Handshake(contexts.context, "shop.example").names == ["shop.example"]


def test_without_certificates_a_client_gets_an_alert() -> None:
    with pytest.raises(ssl.SSLError):
        Handshake(TlsContexts().context, "shop.example")


def test_certificates_are_loaded_when_asked_for_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "KEPT_CONTEXTS", 3)
    made = presented(default="default.example")
    hosts = {f"h{n}.example": f"h{n}" for n in range(6)}
    contexts = TlsContexts()
    contexts.replace(replace(made, hosts=hosts, pairs={**made.pairs, **{i: key_pair(h) for h, i in hosts.items()}}))
    assert set(contexts._loaded) == {"default"}
    for host in ("h0.example", "h1.example", "h2.example", "h1.example", "h3.example", "h1.example", "other"):
        Handshake(contexts.context, host)
    assert list(contexts._loaded) == ["h3", "h1", "default"]


@contextlib.asynccontextmanager
async def serving(contexts: TlsContexts) -> AsyncIterator[int]:
    """An echo behind `contexts`, accepted the way workers do it; gives its port."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    listener.setblocking(False)

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def accept() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                sock, _ = await loop.sock_accept(listener)
                shake = loop.connect_accepted_socket(Echo, sock, ssl=contexts.context, ssl_handshake_timeout=10)
                tasks.create_task(shake)

    task = asyncio.create_task(accept())
    try:
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()


def test_swaps_under_load_cost_no_connection() -> None:
    """On uvloop, as in a worker: an open connection and new ones all through 50 swaps."""

    async def story() -> None:
        contexts = TlsContexts()
        sets = [presented(default="default.example", **{f"shop{n}": "shop.example"}) for n in range(2)]
        sets = [replace(made, ticket_key=f"{n}" * 160) for n, made in enumerate(sets)]
        contexts.replace(sets[0])
        done = asyncio.Event()
        served = 0

        async def visit(port: int) -> None:
            nonlocal served
            client = client_context()
            while not done.is_set():
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=client, server_hostname="shop.example"
                )
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
                await writer.wait_closed()
                served += 1

        async with serving(contexts) as port:
            client = client_context()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="a.example")
            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(visit(port))
                for swap in range(50):
                    before = served
                    contexts.replace(sets[swap % 2])
                    writer.write(b"kept")
                    assert await reader.readexactly(4) == b"kept"
                    while served == before:
                        await asyncio.sleep(0)
                done.set()
            writer.close()
            await writer.wait_closed()

    uvloop.run(story())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give up")
def test_a_worker_without_privileges_presents_them() -> None:
    with (
        _server(presented(default="shop.example")) as port,
        socket.create_connection(("127.0.0.1", port)) as sock,
        client_context().wrap_socket(sock) as tls_sock,
    ):
        assert tls_sock.recv(2) == b"ok"
