"""Real sockets for the proxy's tests: a proxy in this process, scripted backends, raw clients."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import h11
import pytest

from ports import free_port
from sidegate.core.routes import AppRoute, PathRoute, Policy, Routes, Upstream
from sidegate.proxy import child, crew, supervisor
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.http1 import ClientConnection
from sidegate.proxy.limits import Limits
from sidegate.proxy.listener import Listener
from sidegate.proxy.ports import bind_group

DEADLINE = 60.0
HOST = "shop.test"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Proxy:
    """A gateway that listens on `port`; `errors` is what a worker would have reported."""

    gateway: Gateway
    port: int
    errors: list[BaseException] = field(default_factory=list)

    def publish(self, *ports: int, unavailable: str = "", engine_up: bool = True) -> None:
        """Route HOST to backends on these ports."""
        upstreams = tuple(Upstream(f"shop-{port}", "127.0.0.1", port) for port in ports)
        routes = Routes(
            hosts={HOST: (PathRoute("", "shop"),)},
            apps={"shop": AppRoute(upstreams, unavailable)},
            engine_up=engine_up,
        )
        self.gateway.publish(routes)

    def route(self, app: AppRoute, policy: Policy | None = None, *, redirect: str = "") -> None:
        """Route HOST to an app that is treated so."""
        hosts = {HOST: (PathRoute("", "shop", redirect),)}
        self.gateway.publish(Routes(hosts=hosts, apps={"shop": app}, policies=(policy or Policy(),)))

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.gateway.sweep()

    async def client(self) -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Client(reader, writer)

    async def ask(self, raw: bytes) -> bytes:
        """Everything that comes back for `raw` until the proxy closes."""
        async with await self.client() as client:
            client.writer.write(raw)
            return await client.rest()


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    interim: list[int]


@dataclass
class Client:
    """A raw client that can read with h11."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _early: bytes = b""

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def rest(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read()

    async def head(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readexactly(count)

    async def get(self, target: str = "/", *extra: str, method: str = "GET", body: bytes = b"") -> Response:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", *extra]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return await self.response(method)

    async def response(self, method: str = "GET") -> Response:
        """The next response, judged by h11."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("host", HOST)]))
        connection.send(h11.EndOfMessage())
        if self._early:
            connection.receive_data(self._early)
            self._early = b""
        found = Response(0, {}, b"", [])
        async with asyncio.timeout(DEADLINE):
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await self.reader.read(65536))
                elif isinstance(event, h11.InformationalResponse):
                    found.interim.append(event.status_code)
                elif isinstance(event, h11.Response):
                    found.status = event.status_code
                    found.headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    found.body += bytes(event.data)
                else:
                    assert isinstance(event, h11.EndOfMessage), event
                    self._early = bytes(connection.trailing_data[0])
                    return found


@contextlib.asynccontextmanager
async def proxying(*ports: int, limits: Limits | None = None) -> AsyncIterator[Proxy]:
    """A proxy in front of backends on these ports."""
    errors: list[BaseException] = []
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        gateway = Gateway(limits or Limits(), tasks, errors.append)
        (sock,) = bind_group(0, 1, "127.0.0.1")
        proxy = Proxy(gateway, sock.getsockname()[1], errors)

        async def serve(connection: socket.socket) -> None:
            await loop.connect_accepted_socket(lambda: ClientConnection(gateway), connection)

        def unhandled(_loop: object, context: dict[str, object]) -> None:
            error = context.get("exception")
            errors.append(error if isinstance(error, BaseException) else RuntimeError(str(context)))

        loop.set_exception_handler(unhandled)

        def accepted(connection: socket.socket) -> None:
            gateway.spawn(serve(connection), "accept")

        listener = Listener(sock, accepted)
        proxy.publish(*ports)
        try:
            yield proxy
        finally:
            listener.close()
            gateway.abort()
            await asyncio.sleep(0)
            gateway.abort()
            async with asyncio.timeout(DEADLINE):
                await gateway.quiet()
    assert not errors, errors


@contextlib.asynccontextmanager
async def backend(handler: Handler) -> AsyncIterator[int]:
    """A server on a free port that runs `handler` for each connection."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                await handler(reader, writer)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0)


def answering(response: bytes, heads: list[bytes] | None = None) -> Handler:
    """Answer every bodiless request with `response`."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if heads is not None:
                heads.append(head)
            writer.write(response)

    return handler


def closed_port() -> int:
    """A port nobody listens on, and nobody will."""
    return free_port()


@contextlib.contextmanager
def unaccepting_port() -> Iterator[int]:
    """A port where dials hang: its backlog is full."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        stack.enter_context(socket.create_connection(sock.getsockname()))
        while not _waiting(sock):
            time.sleep(0.001)
        yield sock.getsockname()[1]


def _waiting(listener: socket.socket) -> int:
    """How many clients wait to be accepted: of a socket that listens tcpi_unacked tells that (linux/tcp.h)."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int.from_bytes(info[24:], sys.byteorder)


def be_patient(monkeypatch: pytest.MonkeyPatch, *, answer: float = DEADLINE) -> None:
    """No worker is lost because a busy machine lets it wait. `answer`: seconds after which one that is silent hangs."""
    monkeypatch.setattr(child, "_START", DEADLINE)
    monkeypatch.setattr(child, "_ANSWER", answer)
    monkeypatch.setattr(crew, "_REPLACED", DEADLINE)
    monkeypatch.setattr(supervisor, "_REPORT", DEADLINE)


async def until(condition: Callable[[], bool]) -> None:
    """Give others their turn until the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.002)
