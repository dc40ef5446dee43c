"""A client's connection as such: over TLS, when it is over, who is shed, and what an idle one keeps."""

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.wire import HOST, Client, Proxy, answering, backend, proxying, until
from sidegate.core.routes import AppRoute, Policy, Upstream
from sidegate.proxy.http1 import ClientConnection
from sidegate.proxy.secure import SecureConnection

OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"
GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
UPGRADE = f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".encode()
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


class Secure:
    """A TLS listener in front of a proxy's gateway."""

    def __init__(self, proxy: Proxy, certificate: Path) -> None:
        self.proxy = proxy
        self.over = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trust.check_hostname = False
        self._trust.verify_mode = ssl.CERT_NONE

    async def __aenter__(self) -> "Secure":
        self._server = await asyncio.get_running_loop().create_server(
            lambda: SecureConnection(self.proxy.gateway, ended=self._ended),
            "127.0.0.1",
            0,
            ssl=self._context,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def _ended(self) -> None:
        self.over += 1

    async def client(self) -> Client:
        port = self._server.sockets[0].getsockname()[1]
        return Client(*await asyncio.open_connection("127.0.0.1", port, ssl=self._trust))


async def test_requests_over_tls_say_so_and_their_responses_keep_browsers_there(certificate: Path) -> None:
    heads: list[bytes] = []
    own = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nstrict-transport-security: max-age=1\r\n\r\nhello"
    async with (
        backend(answering(OK, heads)) as port,
        backend(answering(own)) as other,
        proxying(port) as proxy,
        Secure(proxy, certificate) as secure,
        await secure.client() as client,
    ):
        assert "strict-transport-security" not in (await client.get()).headers
        assert b"\r\nX-Forwarded-Proto: https\r\n" in heads[0]
        policy = Policy(hsts=99, https_redirect=True)
        proxy.route(AppRoute((Upstream("shop", "127.0.0.1", port),)), policy)
        for _ in range(2):
            found = await client.get()
            assert (found.body, found.headers["strict-transport-security"]) == (b"hello", "max-age=99")
        proxy.route(AppRoute((Upstream("shop", "127.0.0.1", other),)), policy)
        assert (await client.get()).headers["strict-transport-security"] == "max-age=1"
        proxy.route(AppRoute(), policy)
        found = await client.get()
        assert (found.status, found.headers["strict-transport-security"]) == (503, "max-age=99")


async def test_closing_over_tls_loses_nothing(certificate: Path) -> None:
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    async with backend(answering(big)) as port, proxying(port) as proxy, Secure(proxy, certificate) as secure:
        async with await secure.client() as client:
            client.writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            assert len(await client.rest()) > 1_000_000
        async with await secure.client() as client:
            client.writer.write(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
            assert (await client.response()).status == 400
            assert await client.rest() == b""
        await until(lambda: not proxy.gateway.clients)
        assert secure.over == 2


async def test_a_tunnel_over_tls_ends_when_either_side_does(certificate: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        while (data := await reader.read(100)) not in (b"", b"end"):
            writer.write(data)

    async with backend(echo) as port, proxying(port) as proxy, Secure(proxy, certificate) as secure:
        for last in (b"end", b""):
            async with await secure.client() as client:
                client.writer.write(UPGRADE + b"early")
                assert await client.head() == SWITCH
                assert await client.exactly(5) == b"early"
                if last:
                    client.writer.write(last)
                    assert await client.rest() == b""
            await until(lambda: not proxy.gateway.tunnels)
        assert secure.over == 2


async def test_what_a_client_sent_last_through_a_tunnel_over_tls_arrives(certificate: Path) -> None:
    received: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        received.append(await reader.read())

    async with backend(collect) as port, proxying(port) as proxy, Secure(proxy, certificate) as secure:
        client = await secure.client()
        client.writer.write(UPGRADE)
        await client.head()
        client.writer.write(b"x" * 1_000_000)
        client.writer.close()
        await client.writer.wait_closed()
        await until(lambda: bool(received))
        assert len(received[0]) == 1_000_000
        await until(lambda: not proxy.gateway.tunnels)


async def test_a_connection_is_over_once_whatever_became_of_it() -> None:
    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        await reader.read()

    over: list[str] = []
    async with backend(switch) as port, proxying(port) as proxy:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: ClientConnection(proxy.gateway, ended=lambda: over.append("")), "127.0.0.1", 0
        )
        address = server.sockets[0].getsockname()
        async with Client(*await asyncio.open_connection(*address)) as client:
            client.writer.write(UPGRADE)
            await client.head()
            assert not proxy.gateway.clients
            assert not over
        await until(lambda: len(over) == 1)
        async with Client(*await asyncio.open_connection(*address)) as client:
            client.writer.write(b"junk\r\n\r\n")
            await client.rest()
        await until(lambda: len(over) == 2)
        server.close()
        await until(lambda: not proxy.gateway.tunnels and not proxy.gateway.clients)
        assert len(over) == 2


async def test_shedding_closes_the_longest_idle_and_nobody_else() -> None:
    asked = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/slow" not in head:
                writer.write(OK)
            asked.set()

    async with backend(slow) as port, proxying(port) as proxy:
        clients = []
        for _ in range(4):
            clients.append(await proxy.client())
            await clients[-1].get()
            proxy.pass_time(1)
        asked.clear()
        clients[0].writer.write(GET.replace(b"/ ", b"/slow "))
        await asked.wait()
        proxy.pass_time(1)
        newest = await proxy.client()
        await newest.get()
        assert proxy.gateway.shed(2) == 2
        assert [await client.rest() for client in clients[1:3]] == [b"", b""]
        assert proxy.gateway.shed(10) == 1
        assert await clients[3].rest() == b""
        assert proxy.gateway.shed(10) == 0
        assert (await newest.get()).body == b"hello"
        for client in [*clients, newest]:
            client.writer.transport.abort()


def kept(client: ClientConnection) -> tuple[object, bytes]:
    return client._request, client._first


async def test_an_idle_connection_keeps_nothing_of_its_last_request_and_goes_on() -> None:
    async with backend(answering(OK)) as port, proxying(port) as proxy, await proxy.client() as client:
        await client.get()
        (served,) = proxy.gateway.clients
        assert isinstance(served, ClientConnection)
        assert kept(served) != (None, b"")
        proxy.pass_time(6)
        assert kept(served) == (None, b"")
        for _ in range(2):
            assert (await client.get()).body == b"hello"
