"""A backend that writes down every byte it gets and reads it with h11: what a strict server made of what we sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import h11

from proxy.wire import Proxy, backend

OK = b"HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\nright"


@dataclass
class Message:
    """A complete request as h11 read it. Names are lower case."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Link:
    """One connection that the proxy made."""

    seen: bytearray = field(default_factory=bytearray)
    requests: list[Message] = field(default_factory=list)
    ended: bool = False


@dataclass
class Recorder:
    port: int = 0
    links: list[Link] = field(default_factory=list)

    @property
    def seen(self) -> bytes:
        return b"".join(bytes(link.seen) for link in self.links)

    @property
    def requests(self) -> list[Message]:
        return [request for link in self.links for request in link.requests]


def spares(proxy: Proxy) -> int:
    """How many connections to backends wait for another request."""
    return sum(len(backend.spare) for backend in proxy.gateway.table.backends.values())


@contextlib.asynccontextmanager
async def recording(response: bytes = OK, *, ends: bool = False) -> AsyncIterator[Recorder]:
    """A backend that answers each complete request with `response`; with `ends` it closes after the first."""
    recorder = Recorder()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link()
        recorder.links.append(link)
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        message: Message | None = None
        try:
            while data := await reader.read(65536):
                link.seen += data
                with contextlib.suppress(h11.RemoteProtocolError):
                    parser.receive_data(data)
                    while not isinstance(event := parser.next_event(), type):
                        if isinstance(event, h11.Request):
                            message = Message(event.method, event.target, list(event.headers))
                        elif message is not None and isinstance(event, h11.Data):
                            message.body += bytes(event.data)
                        elif message is not None and isinstance(event, h11.EndOfMessage):
                            message.trailers = list(event.headers)
                            link.requests.append(message)
                            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                            parser.send(h11.EndOfMessage())
                            parser.start_next_cycle()
                            writer.write(response)
                            if ends:
                                return
        finally:
            link.ended = True

    async with backend(handler) as port:
        recorder.port = port
        yield recorder
