"""A worker process: `python -m sidegate.proxy.worker CHANNEL UID GID`. Started by the supervisor only.

Loads all it needs, gives up its privileges, then reads its channel. It holds listening sockets, the routing snapshot
and the connections it serves; no Docker, no store, no names of files. When the channel closes, nobody can turn a
forwarder off any more: it stops listening and cuts database sessions at once, and lets HTTP requests in flight end.
"""

import asyncio
import contextlib
import encodings.idna  # noqa: F401  # loaded on first use otherwise, when its file may be out of reach
import signal
import socket
import sys
import traceback

import msgspec
import uvloop

from sidegate.core.routes import Routes
from sidegate.proxy import messages, privileges
from sidegate.proxy.channel import Channel
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.http1 import ClientConnection
from sidegate.proxy.limits import Limits
from sidegate.proxy.listener import Listener
from sidegate.proxy.tcp import Forwarder

_LARGEST_FRAME = 256 * 1024 * 1024
_RESERVED_FILES = 64
_FILES_PER_CLIENT = 2


class Worker:
    """Does what the messages say. `run` returns when the channel has closed and everything has ended."""

    def __init__(self, channel: socket.socket, open_files: int) -> None:
        self._sock = channel
        self._open_files = open_files
        self._limits = Limits()
        self._listeners: dict[str, Listener] = {}
        self._forwarders: dict[str, Forwarder] = {}
        self._ending = asyncio.Event()
        self._requests = msgspec.json.Decoder(messages.Request)
        self._encode = msgspec.json.Encoder().encode
        self._gateway: Gateway
        self._channel: Channel
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_error)
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        async with asyncio.TaskGroup() as self._tasks:
            self._gateway = Gateway(self._limits, self._tasks, self._report)
            self._channel = Channel(self._sock, self._received, self._ending.set, largest=_LARGEST_FRAME, welcome=True)
            sweep = self._tasks.create_task(self._sweep(), name="sweep")
            await self._ending.wait()
            self._channel.close()  # the supervisor starts a replacement when it sees this
            await self._drain()
            sweep.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._gateway.sweep()

    async def _drain(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        for forwarder in self._forwarders.values():
            forwarder.close()
        self._gateway.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain):
                await self._gateway.quiet()
        self._gateway.abort()
        await asyncio.sleep(0)  # one turn for the connections to be gone

    def _received(self, payload: bytes) -> None:
        request = self._requests.decode(payload)
        reply: messages.Reply
        match request:
            case messages.Start(number, limits):
                self._limits = self._gateway.limits = limits
                reply = messages.Done(number)
            case messages.Publish(number, _, routes):
                self._gateway.publish(msgspec.json.decode(routes, type=Routes))
                reply = messages.Done(number)
            case messages.Listen(number, database):
                self._listen(database, socket.socket(fileno=self._channel.take_descriptor()))
                reply = messages.Done(number)
            case messages.Close(number, database):
                reply = messages.Done(number, self._close(database))
            case messages.ListSessions(number, database):
                forwarder = self._forwarders.get(database)
                reply = messages.SessionList(number, tuple(forwarder.sessions()) if forwarder else ())
            case messages.Ping(number):
                reply = messages.Done(number)
        self._channel.send(self._encode(reply))

    def _listen(self, database: str, sock: socket.socket) -> None:
        if database in self._listeners:
            sock.close()  # told twice: once as part of the state at the start
        elif not database:
            self._listeners[database] = Listener(sock, self._http_accepted)
        else:
            gateway = self._gateway
            forwarder = Forwarder(
                database,
                lambda: gateway.table.routes.databases.get(database),
                gateway.spawn,
                self._limits.connect,
            )
            self._forwarders[database] = forwarder
            self._listeners[database] = Listener(sock, forwarder.accepted)

    def _close(self, database: str) -> int:
        listener, forwarder = self._listeners.pop(database, None), self._forwarders.pop(database, None)
        if listener is not None:
            listener.close()
        return forwarder.close() if forwarder is not None else 0

    def _http_accepted(self, sock: socket.socket) -> None:
        most = self._limits.connections or (self._open_files - _RESERVED_FILES) // _FILES_PER_CLIENT
        if len(self._gateway.clients) >= most:
            self._listeners[""].pause()  # whoever waits in the backlog is served when there is room
        self._gateway.spawn(self._serve(sock), "accept")

    async def _serve(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: ClientConnection(self._gateway), sock)
        except OSError:
            sock.close()  # gone already

    def _report(self, error: BaseException) -> None:
        detail = "".join(traceback.format_exception(error))
        self._channel.send(self._encode(messages.Note("worker error", "error", detail)))

    def _loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self._report(error)
        else:
            self._channel.send(self._encode(messages.Note("worker error", "error", str(context.get("message")))))


def main() -> None:
    descriptor, uid, gid = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    privileges.close_inherited(descriptor)
    open_files = privileges.raise_open_files()
    privileges.drop(int(uid) if uid != "-" else None, int(gid) if gid != "-" else None)

    async def serve() -> None:
        await Worker(socket.socket(fileno=descriptor), open_files).run()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
