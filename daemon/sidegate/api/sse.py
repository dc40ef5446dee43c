"""Events on their way to one follower, as server-sent events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, the event stream format and Last-Event-ID.
"""

import asyncio
import contextlib
from collections.abc import Collection, Sequence

import msgspec
from aiohttp import web

from sidegate.api.events import Event, Hub, Lost, Told
from sidegate.errors import InvalidInputError

EVENT_STREAM = "text/event-stream"
WRITE_SECONDS = 30.0  # that a follower may let what is written lie; then the connection is cut
RETRY = b"retry: 1000\n\n"
BEAT = b": still here\n\n"


def wanted(request: web.Request) -> bool:
    """Whether the caller is to be given the stream; who asks for JSON alone is given a list."""
    accepted = [part.partition(";")[0].strip() for part in request.headers.get("Accept", "").split(",")]
    return "application/json" not in accepted or EVENT_STREAM in accepted


def last_event_id(request: web.Request) -> int | None:
    """The id that a follower who comes again saw last. Raises InvalidInputError for one that is no id."""
    given = request.headers.get("Last-Event-ID")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) < 20):
        raise InvalidInputError("Last-Event-ID is not an id of an event: leave it out")
    return int(given)


async def send(request: web.Request, hub: Hub, since: int, kinds: Collection[str]) -> web.StreamResponse:
    """Tell what happens after `since` until the follower leaves, reads nothing for too long, or the daemon stops."""
    response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store"})
    response.force_close()
    with contextlib.suppress(OSError):
        await response.prepare(request)
        await response.write(RETRY)
        try:
            async with contextlib.aclosing(hub.follow(since, kinds)) as batches:
                async for batch in batches:
                    async with asyncio.timeout(WRITE_SECONDS):
                        await response.write(_encoded(batch))
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
    return response


def _encoded(batch: Sequence[Told]) -> bytes:
    return b"".join(_block(told) for told in batch)


def _block(told: Told) -> bytes:
    match told:
        case Event():
            return told.wire
        case Lost():
            text = "events are missing here: they are not kept any more"
            return b"event: lost\ndata: %s\n\n" % msgspec.json.encode({"since": told.since, "text": text})
        case None:
            return BEAT
