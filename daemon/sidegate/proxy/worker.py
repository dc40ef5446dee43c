"""A worker process: `python -m sidegate.proxy.worker CHANNEL UID GID`. Started by the supervisor only.

Loads all it needs, gives up its privileges, then reads its channel. It holds listening sockets, the routing snapshot
and the connections it serves; no Docker, no store, no names of files. When the channel closes, nobody can turn a
forwarder off any more: it stops listening and cuts database sessions at once, and lets HTTP requests in flight end.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401  # loaded on first use otherwise, when its file may be out of reach
import contextlib
import encodings.idna  # noqa: F401  # the same
import gc
import signal
import socket
import sys
import traceback

import msgspec
import uvloop

from sidegate.core.certificates import CertificateSet
from sidegate.core.routes import Routes
from sidegate.core.sessions import Cut, Listening
from sidegate.proxy import messages, privileges, reading
from sidegate.proxy.acceptor import Acceptor
from sidegate.proxy.access_log import AccessLog
from sidegate.proxy.admission import Admission
from sidegate.proxy.channel import Channel
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.limits import Limits
from sidegate.proxy.listener import Listener
from sidegate.proxy.metrics import ForwarderMeter
from sidegate.proxy.prober import Prober
from sidegate.proxy.refusals import Refusals
from sidegate.proxy.tcp import Forwarder
from sidegate.proxy.tls import TlsContexts, ignore_bad_names

_LARGEST_FRAME = 256 * 1024 * 1024
_COLLECT = (10_000, 20, 50)  # there are few cycles, and thousands of objects that come and go with a burst of clients
_REPORT = 10  # seconds after which what was counted is told unasked: so much is lost with a worker at the most
_WATCHED = 3600  # seconds for which that is done since somebody has asked
_LAST_LINES = 2.0  # seconds for the rest of the access log when everything else has ended


class Worker:
    """Does what the messages say. `run` returns when the channel has closed and everything has ended."""

    def __init__(self, channel: socket.socket, open_files: int) -> None:
        self._sock = channel
        self._open_files = open_files
        self._limits = Limits()
        self._admission = Admission(self._limits, open_files)
        self._contexts = TlsContexts(self._warn)
        self._acceptors: dict[str, Acceptor] = {}
        self._listeners: dict[str, Listener] = {}
        self._forwarders: dict[str, Forwarder] = {}
        self._meters: dict[str, ForwarderMeter] = {}
        self._watched_until = 0
        self._refusals = Refusals()
        self._ending = asyncio.Event()
        self._requests = msgspec.json.Decoder(messages.Request)
        self._encode = msgspec.json.Encoder().encode
        self._prober: Prober | None = None
        self._probing: asyncio.Task[None] | None = None
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
            for acceptor in self._acceptors.values():
                acceptor.sweep()
            for forwarder in self._forwarders.values():
                if forwarder.sweep():
                    self._send(messages.Used(forwarder.name, forwarder.count))
            for refused in self._refusals.take():
                self._send(refused)
            if self._gateway.log is not None:
                self._gateway.log.flush()
            if self._gateway.tick % _REPORT == 0:
                for gone in self._meters.keys() - self._forwarders.keys() - self._gateway.table.routes.databases.keys():
                    del self._meters[gone]
                if self._gateway.tick < self._watched_until:
                    self._report_counts()

    async def _drain(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
        for acceptor in self._acceptors.values():
            acceptor.close()
        for listener in self._listeners.values():
            listener.close()
        for forwarder in self._forwarders.values():
            forwarder.close()
        await asyncio.sleep(0)  # one turn for what was just accepted to be a client
        self._gateway.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain):
                await self._gateway.quiet()
        self._gateway.abort()
        await asyncio.sleep(0)  # one turn for the connections to be gone
        if self._gateway.log is not None:
            await self._gateway.log.close(_LAST_LINES)

    def _received(self, payload: bytes) -> None:
        request = self._requests.decode(payload)
        cut = Cut()
        match request:
            case messages.Start():
                self._start(request)
            case messages.Publish(_, _, encoded):
                routes = msgspec.json.decode(encoded, type=Routes)
                self._gateway.publish(routes)
                if self._prober is not None:
                    self._prober.publish(routes)
            case messages.Certify(_, encoded):
                self._certify(msgspec.json.decode(encoded, type=CertificateSet))
            case messages.Listen(_, listener, terms):
                self._listen(listener, socket.socket(fileno=self._channel.take_descriptor()), terms)
            case messages.Admit(_, database, terms):
                if forwarder := self._forwarders.get(database):
                    self._listeners[database].take()  # who is there already came under the former terms
                    cut = forwarder.admit(terms)
            case messages.Kick(_, database, client):
                if forwarder := self._forwarders.get(database):
                    cut = forwarder.kick(client)
            case messages.Close(_, database):
                cut = Cut(self._close(database))
            case messages.WriteLog(_, on):
                self._write_log(self._channel.take_descriptor() if on else None)
            case messages.Report():
                self._watched_until = self._gateway.tick + _WATCHED
                self._report_counts()
            case messages.ListSessions(number, database):
                forwarder = self._forwarders.get(database)
                sessions = tuple(forwarder.sessions()) if forwarder else ()
                self._send(messages.SessionList(number, sessions))
                return
        self._send(messages.Done(request.number, cut.count, cut.clients))

    def _send(self, message: messages.FromWorker) -> None:
        self._channel.send(self._encode(message))

    def _report_counts(self) -> None:
        acceptors, forwarders = self._acceptors.values(), self._forwarders.values()
        counters = reading.counters(self._gateway, acceptors, self._meters, forwarders)
        self._send(messages.Counted(counters, reading.gauges(self._gateway, forwarders)))

    def _start(self, start: messages.Start) -> None:
        self._limits = self._gateway.limits = start.limits
        self._admission = Admission(start.limits, self._open_files)
        if start.probes:
            self._prober = Prober(self._gateway.spawn, self._tell, start.health)
            self._probing = self._tasks.create_task(self._prober.run(), name="prober")

    def _tell(self, replica_id: str, fault: str) -> None:
        self._send(messages.Health(replica_id, fault))

    def _certify(self, certificates: CertificateSet) -> None:
        try:
            self._contexts.replace(certificates)
        except ValueError as error:
            self._warn(f"the certificates before these stay: {error}")

    def _warn(self, detail: str) -> None:
        self._send(messages.Note("TLS", "warning", detail))

    def _write_log(self, descriptor: int | None) -> None:
        log = self._gateway.log
        if descriptor is None:
            self._gateway.log = None
            if log is not None:
                self._gateway.spawn(log.close(_LAST_LINES), "access log")
        elif log is not None:
            log.reopen(descriptor)
        else:
            self._gateway.log = AccessLog(descriptor, self._limits.log_sample, self._send)

    def _listen(self, name: str, sock: socket.socket, terms: Listening | None) -> None:
        if name in self._listeners or name in self._acceptors:
            sock.close()  # told twice: once as part of the state at the start
            if terms is not None:
                self._forwarders[name].admit(terms)
        elif terms is None:
            context = self._contexts.context if name == messages.HTTPS else None
            self._acceptors[name] = Acceptor(sock, self._gateway, self._admission, context)
        else:
            gateway = self._gateway
            forwarder = Forwarder(
                name,
                terms,
                target=lambda: gateway.table.routes.databases.get(name),
                spawn=gateway.spawn,
                connect=self._limits.connect,
                refusals=self._refusals,
                meter=self._meters.setdefault(name, ForwarderMeter()),
            )
            self._forwarders[name] = forwarder
            self._listeners[name] = Listener(sock, forwarder.accepted)

    def _close(self, database: str) -> int:
        self._refusals.forget(database)  # or they would be told of the next opening
        listener, forwarder = self._listeners.pop(database, None), self._forwarders.pop(database, None)
        if listener is not None:
            listener.close()
        return forwarder.close() if forwarder is not None else 0

    def _report(self, error: BaseException) -> None:
        detail = "".join(traceback.format_exception(error))
        self._send(messages.Note("worker error", "error", detail))

    def _loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self._report(error)
        else:
            self._send(messages.Note("worker error", "error", str(context.get("message"))))


def main() -> None:
    descriptor, uid, gid = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    privileges.close_inherited(descriptor)
    open_files = privileges.raise_open_files()
    privileges.drop(int(uid) if uid != "-" else None, int(gid) if gid != "-" else None)
    ignore_bad_names()
    gc.freeze()  # modules are never garbage: do not look at them again and again
    gc.set_threshold(*_COLLECT)

    async def serve() -> None:
        await Worker(socket.socket(fileno=descriptor), open_files).run()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
