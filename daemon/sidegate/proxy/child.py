"""One worker slot as the parent sees it: its listening sockets, its present process, and calls to it with a deadline.

Never decides what a worker should do: it carries requests, and kills a process that does not answer.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable

import msgspec

from sidegate.proxy import messages
from sidegate.proxy.channel import Channel
from sidegate.proxy.log_file import LogFile

_SECOND_LOOK = 0.25
_ANSWER = 1.0  # seconds a worker has for an acknowledgement
_TAKEN_IN = 8 * 1024 * 1024  # bytes per second that one takes in, at the least: a big message gets that much longer
_LARGEST_FRAME = 32 * 1024 * 1024  # a worker reads what strangers send: it may become one
_START = 5.0  # seconds from its start to its first one
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
# uvloop gives each TLS connection a buffer of 256 KiB of which it touches little. glibc moves such blocks to the heap
# once some were freed, where what is touched stays: 46 KiB an idle connection instead of 29 with these (mallopt(3)).
# What is read at once, 250 KiB at most, had better be on the heap.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(255 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(1024 * 1024),
}


class WorkerLostError(Exception):
    """The process is gone, or was killed because it did not answer."""


class Slot:
    """A place for one worker. `sockets` are its own members of each port's group, by listener.

    They outlive the process: its replacement adopts them with whatever waits in their backlogs. `log` is where the
    access log goes.
    """

    def __init__(
        self,
        index: int,
        uid: int | None,
        gid: int | None,
        told: Callable[[int, messages.Told], None],
    ) -> None:
        self.index = index
        self.sockets: dict[str, socket.socket] = {}
        self.log: LogFile | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.version = 0
        self.restarts = -1
        self.serving = asyncio.Event()
        self.gone = asyncio.Event()
        self.gone.set()
        self._identity = ("-" if uid is None else str(uid), "-" if gid is None else str(gid))
        self._told = told
        self._channel: Channel | None = None
        self._number = 0
        self._waiting: dict[int, asyncio.Future[messages.Reply]] = {}
        self._unanswered: dict[int, int] = {}  # the sizes of those that wait
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(messages.FromWorker)

    def __repr__(self) -> str:
        return f"<Slot {self.index} pid={self.pid} serving={self.serving.is_set()} sockets={sorted(self.sockets)}>"

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    async def spawn(self) -> None:
        """Start a process that reads the channel; raises OSError when there can be none."""
        self.process = None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",
                    "-m",
                    "sidegate.proxy.worker",
                    str(theirs.fileno()),
                    *self._identity,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ} | _ALLOCATOR,
                )
            except BaseException:
                ours.close()
                raise
        self.restarts += 1
        self.gone.clear()
        self._channel = Channel(ours, self._received, self._lost, largest=_LARGEST_FRAME, welcome=False)

    async def introduce(self, state: list[Callable[[int], messages.Request]]) -> None:
        """Tell a new process all it must know, then count it as serving. Raises WorkerLostError."""
        replies = [self._send(make) for make in state]
        try:
            async with asyncio.timeout(_START + self._intake()):
                for reply in replies:
                    await reply
        except TimeoutError:
            await self.kill()
            raise WorkerLostError from None
        self.serving.set()

    async def call(self, make: Callable[[int], messages.Request]) -> messages.Reply:
        """Send a request made with its number; kills the worker if it does not answer. Raises WorkerLostError."""
        reply = self._send(make)
        patience = (_ANSWER if self.serving.is_set() else _START) + self._intake()
        # Twice: if it was we who stood still, the answer lies unread when the first time is up.
        for seconds in (patience - _SECOND_LOOK, _SECOND_LOOK):
            done, _ = await asyncio.wait((reply,), timeout=seconds)
            if done:
                return reply.result()
        self._told(self.index, messages.Note("worker does not answer", "warning", f"pid {self.pid}, {patience:g} s"))
        await self.kill()
        raise WorkerLostError

    async def ask(self, make: Callable[[int], messages.Request], seconds: float) -> None:
        """Send a request and wait for its reply, so long at most: one that gives none is left alone."""
        reply = self._send(make)
        await asyncio.wait((reply,), timeout=seconds)
        if reply.done():
            reply.exception()  # it is lost, and that is seen elsewhere

    async def kill(self) -> None:
        """SIGKILL, and wait a moment until the kernel has taken back what it held."""
        self._lost()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER):
                    await self.process.wait()

    def hang_up(self) -> None:
        """Close the channel: the worker stops listening, drains and ends."""
        self._lost()

    def _intake(self) -> float:
        """Seconds for what this worker has yet to take in."""
        return sum(self._unanswered.values()) / _TAKEN_IN

    def _send(self, make: Callable[[int], messages.Request]) -> asyncio.Future[messages.Reply]:
        self._number += 1
        reply: asyncio.Future[messages.Reply] = asyncio.get_running_loop().create_future()
        if self._channel is None:
            reply.set_exception(WorkerLostError())
            return reply
        request = make(self._number)
        self._waiting[self._number] = reply
        descriptor = None
        if isinstance(request, messages.Listen):
            descriptor = self.sockets[request.listener].fileno()
        elif isinstance(request, messages.WriteLog) and self.log is not None:
            descriptor = self.log.descriptor
        encoded = self._encode(request)
        self._unanswered[self._number] = len(encoded)
        self._channel.send(encoded, descriptor)
        return reply

    def _received(self, payload: bytes) -> None:
        try:
            message = self._decoder.decode(payload)
        except msgspec.DecodeError:
            self._told(self.index, messages.Note("worker talks nonsense", "error"))
            self._lost()
            if self.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
            return
        if isinstance(message, messages.Told):
            self._told(self.index, message)
            return
        self._unanswered.pop(message.number, None)
        reply = self._waiting.pop(message.number, None)
        if reply is not None and not reply.done():
            reply.set_result(message)

    def _lost(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self.serving.clear()
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(WorkerLostError())
                reply.exception()  # whoever waited for an earlier one may not come to this one
        self._waiting.clear()
        self._unanswered.clear()
        self.gone.set()
