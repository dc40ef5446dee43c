"""Answers that take longer than people like to wait: lines of JSON while the verb runs, its result or problem last.

Source: https://github.com/ndjson/ndjson-spec; a line is `{"progress": "…"}`, `{}` when there was nothing to say for
SILENT_SECONDS, and the last one `{"result": …}` or `{"problem": {…}}`, a problem document as of RFC 9457.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
from aiohttp import web

from sidegate.api.schemas import ProblemDocument
from sidegate.errors import InvalidInputError, SidegateError

NDJSON = "application/x-ndjson"
SILENT_SECONDS = 10.0
LOOK_SECONDS = 0.5  # between two looks whether the caller is still there
PENDING_MOST = 10_000  # lines that a slow reader may leave lying; then the oldest go, and he is told how many
PENDING_SIZE_MOST = 1 << 22  # characters, likewise


class AbandonedError(SidegateError):
    """A verb was cancelled because its caller went away; for the audit trail, since nobody is there to read it."""

    code = "abandoned"


def wanted(request: web.Request) -> bool:
    """Whether the caller takes lines."""
    return any(part.partition(";")[0].strip() == NDJSON for part in request.headers.get("Accept", "").split(","))


def gone(request: web.Request) -> bool:
    """Whether the caller has left; one who only closed his side for writing counts as gone too."""
    return request.transport is None or request.transport.is_closing()


async def upload(request: web.Request, seconds: float) -> AsyncIterator[bytes]:
    """The body in pieces as they come; nothing is read ahead of the reader, so the caller waits with him.

    Raises InvalidInputError when it breaks off, or when a piece takes longer than `seconds`.
    """
    while True:
        try:
            async with asyncio.timeout(seconds):
                piece = await request.content.readany()
        except TimeoutError:
            raise InvalidInputError(f"the upload has stood still for {seconds:.0f} s") from None
        except (OSError, web.RequestPayloadError):
            raise InvalidInputError("the upload broke off before its end") from None
        if not piece:
            return
        yield piece


class Teller:
    """Tells one caller how a verb gets on, then how it ended.

    `problem` words an error that comes after the first line.
    """

    def __init__(self, request: web.Request, problem: Callable[[BaseException], ProblemDocument]) -> None:
        self._request = request
        self._problem = problem
        self._wanted = wanted(request)
        self._pending: deque[str] = deque()
        self._size = 0  # of what is pending
        self._dropped = 0
        self._news = asyncio.Event()
        self._response: web.StreamResponse | None = None
        self._deaf = False

    def say(self, text: str) -> None:
        """Have a line told, soon; on the event loop's thread."""
        if not self._wanted or self._deaf:
            return
        self._pending.append(text)
        self._size += len(text)
        while len(self._pending) > PENDING_MOST or self._size > max(PENDING_SIZE_MOST, len(text)):
            self._size -= len(self._pending.popleft())
            self._dropped += 1
        self._news.set()

    async def accompany(self, verb: Coroutine[Any, Any, Any], *, attended: bool) -> Any:
        """Run the verb to its end and tell meanwhile; its result or error comes back.

        It is cancelled when this is, and where it is `attended` also when the caller leaves.
        """
        running = asyncio.create_task(verb)
        clock = asyncio.get_running_loop().time
        told = clock()
        try:
            while not running.done():
                await self._wait(running)
                self._deaf = self._deaf or gone(self._request)
                if self._deaf and attended:
                    running.cancel()
                if await self._tell(beat=not running.done() and clock() - told >= SILENT_SECONDS):
                    told = clock()
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            raise
        if running.cancelled():
            raise AbandonedError("the caller went away")
        return running.result()

    async def _wait(self, running: asyncio.Task[Any]) -> None:
        """Until the verb has something to say or is done, LOOK_SECONDS at most."""
        news = asyncio.create_task(self._news.wait())
        await asyncio.wait({running, news}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        news.cancel()

    async def finish(self, result: Any) -> web.StreamResponse | None:
        """The last line of an answer that was begun in lines, or is all of it; None: nobody wants lines."""
        if not self._wanted:
            return None
        await self._tell(beat=False)
        await self._write({"result": result})
        return await self._end()

    async def fail(self, error: BaseException) -> web.StreamResponse | None:
        """The same for an error; None: no line was told, so it can have its own status."""
        if self._response is None:
            return None
        await self._tell(beat=False)
        await self._write({"problem": self._problem(error)})
        return await self._end()

    async def _tell(self, beat: bool) -> bool:
        """Write what is pending, or a sign of life. Nothing before the upload is through: a caller that is answered
        while he still sends takes it for a refusal."""
        self._news.clear()
        if not self._wanted or self._deaf or not self._request.content.at_eof():
            return False
        lines: list[object] = [{"progress": text} for text in self._pending]
        if self._dropped:
            lines.insert(0, {"progress": f"… {self._dropped} lines are left out: they were not read in time"})
        self._pending.clear()
        self._size = self._dropped = 0
        if not lines and beat:
            lines = [{}]
        await self._write(*lines)
        return bool(lines)

    async def _write(self, *lines: object) -> None:
        """Write lines and wait until they are on their way; a caller that has gone is not an error."""
        if not lines or self._deaf:
            return
        try:
            if self._response is None:
                self._response = web.StreamResponse(headers={"Content-Type": NDJSON})
                await self._response.prepare(self._request)
            await self._response.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        except OSError:
            self._deaf = True

    async def _end(self) -> web.StreamResponse:
        assert self._response is not None or self._deaf
        with contextlib.suppress(OSError):
            if self._response is not None:
                await self._response.write_eof()
        return self._response or web.Response()
