"""The control API: the table of calls served over HTTP/1.1 on a unix socket, each caller known by its peer credentials.

Never decides anything: it decodes, calls the command, encodes, and writes to the audit trail.
"""

import asyncio
import contextlib
import functools
import logging
import pwd
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import http, web

from sidegate.api import openapi, sse
from sidegate.api.calls import CALLS, Asked, Call, Text
from sidegate.api.client import TARGET_LINE_MOST
from sidegate.api.commands import Commands
from sidegate.api.listener import BACKLOG, listen
from sidegate.api.problems import BODY_MOST, problem_document
from sidegate.api.progress import unheard
from sidegate.api.schemas import EventsQuery
from sidegate.api.streams import AbandonedError, Teller, upload, wanted
from sidegate.core.audit import AuditEntry
from sidegate.errors import InvalidInputError, SidegateError
from sidegate.log import get_logger

HEAD_SECONDS = 30.0  # from the connect, or from an answer, to the end of the next request's head
BODY_SECONDS = 30.0
AUDIT_SECONDS = 5.0
TARGET_MOST = 100  # characters of a target in the audit trail: callers choose them
STOP_SECONDS = 10.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = get_logger("api")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a connection when it was made; uid and pid are -1 where that is unknown."""

    pid: int = -1
    uid: int = -1

    @classmethod
    def of(cls, request: web.Request) -> "Peer":
        """Source: SO_PEERCRED in unix(7), three ints: pid, uid, gid."""
        sock = request.get_extra_info("socket")
        if sock is None:
            return cls()
        try:
            pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return cls()
        return cls(pid, uid)

    @property
    def user(self) -> str:
        return _user_name(self.uid)


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


@contextlib.asynccontextmanager
async def serve(commands: Commands, path: Path, group: str = "sidegate") -> AsyncIterator[None]:
    """Serve on the socket at `path` for as long as the block lasts, then let the calls under way finish (10 s).

    Raises AlreadyRunningError when another daemon answers there, SidegateError when the socket cannot be made.
    """
    runner = web.AppRunner(
        application(commands),
        access_log=None,
        keepalive_timeout=HEAD_SECONDS,
        logger=_server_log(),
        shutdown_timeout=STOP_SECONDS,
        max_line_size=TARGET_LINE_MOST,
    )
    await runner.setup()
    protocols = runner.server
    assert protocols is not None  # made by setup
    try:
        control = listen(path, group)
        try:
            server = await asyncio.get_running_loop().create_unix_server(protocols, sock=control.sock, backlog=BACKLOG)
        except BaseException:
            control.sock.close()
            raise
        try:
            yield
        finally:
            control.remove()
            server.close()
            commands.world.events.close()
    finally:
        await runner.cleanup()


def _server_log() -> logging.Logger:
    """aiohttp's own log, less what callers send that is no HTTP: it quotes that, and a part may be a secret."""
    server_log = logging.getLogger("aiohttp.server")
    server_log.addFilter(_is_ours)
    return server_log


def _is_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], http.HttpProcessingError))


def application(commands: Commands) -> web.Application:
    """The whole API, openapi.json included."""
    app = web.Application(middlewares=[_problems], client_max_size=BODY_MOST)
    for call in CALLS:
        app.router.add_route(call.method, call.path, _handler(commands, call))
    description = msgspec.json.encode(openapi.document(commands.world.version))

    async def describe(_: web.Request) -> web.Response:
        return web.Response(body=description, content_type="application/json")

    app.router.add_route("GET", "/v1/openapi.json", describe)
    return app


def _handler(commands: Commands, call: Call) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        peer = Peer.of(request)
        if call.events:
            last = sse.last_event_id(request)
            if sse.wanted(request):
                return await _follow(commands, call, request, last)
        if not call.streams:
            return _whole(await _run(commands, call, request, peer))
        teller = Teller(request, lambda error: problem_document(error, request))
        try:
            result = await _run(commands, call, request, peer, teller)
        except Exception as error:
            failed = await teller.fail(error)
            if failed is None:
                raise
            return failed
        return await teller.finish(result) or _whole(result)

    return handle


async def _run(commands: Commands, call: Call, request: web.Request, peer: Peer, teller: Teller | None = None) -> Any:
    """Decode, run the verb, and write to the audit trail how it ended. The body is read at once: a caller who leaves
    when he has sent it has still asked."""
    asked = Asked(dict(request.match_info), progress=teller.say if teller and wanted(request) else unheard)
    outcome = "internal"
    try:
        asked = replace(asked, query=_decode_query(request, call))
        if call.upload:
            asked = replace(asked, upload=_upload(request, call))
        else:
            asked = replace(asked, body=await _decode_body(request, call))
        verb = _verb(commands, call, asked)
        result = await (teller.accompany(verb, attended=call.attended) if teller else verb)
        outcome = "done"
    except SidegateError as error:
        outcome = error.code
        raise
    except web.HTTPRequestEntityTooLarge:
        outcome = "too-large"
        raise
    except asyncio.CancelledError:
        outcome = AbandonedError.code
        raise
    finally:
        if call.audited(asked):
            await _audit(commands, peer, call.name(asked), outcome)
    return result


async def _verb(commands: Commands, call: Call, asked: Asked) -> Any:
    return await call.run(commands, asked)


async def _follow(commands: Commands, call: Call, request: web.Request, last: int | None) -> web.StreamResponse:
    query, _ = _decode_query(request, call), await _decode_body(request, call)
    assert isinstance(query, EventsQuery)
    since, kinds = commands.node.follow_from(query, last)
    return await sse.send(request, commands.world.events, since, kinds)


def _whole(result: Any) -> web.Response:
    if isinstance(result, Text):
        return web.Response(text=result, content_type=result.content_type)
    return web.Response(body=msgspec.json.encode(result), content_type="application/json")


def _upload(request: web.Request, call: Call) -> AsyncIterator[bytes]:
    if request.content_type != call.upload:
        raise InvalidInputError(f"this call takes {call.upload}, not {request.content_type}")
    return upload(request, BODY_SECONDS)


def _decode_query(request: web.Request, call: Call) -> object:
    if len(set(request.query)) != len(request.query):
        raise InvalidInputError("the query names a parameter twice")
    try:
        query = msgspec.convert(dict(request.query), call.query, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"the query is wrong: {error}") from None
    for name, text in request.query.items():  # msgspec takes the word null for nothing
        if getattr(query, name, text) is None:
            raise InvalidInputError(f"the query is wrong: {name} is {text!r}; leave it out for none")
    return query


async def _decode_body(request: web.Request, call: Call) -> object:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise InvalidInputError(f"the request's body did not arrive within {BODY_SECONDS:.0f} s") from None
    except (OSError, web.RequestPayloadError):
        raise InvalidInputError("the request's body broke off before its end") from None
    if call.body is None:
        if body:
            raise InvalidInputError("this call takes no body")
        return None
    try:
        return msgspec.json.decode(body, type=call.body)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(f"the request's body is wrong: {error}") from None


async def _audit(commands: Commands, peer: Peer, name: tuple[str, str], outcome: str) -> None:
    verb, target = name
    shown = "".join(c if c.isprintable() else "?" for c in target[:TARGET_MOST])
    entry = AuditEntry(time.time(), peer.uid, peer.pid, peer.user, verb, shown, outcome)
    log.info("call", verb=verb, target=shown, user=peer.user, pid=peer.pid, outcome=outcome)
    try:
        async with asyncio.timeout(AUDIT_SECONDS):
            await commands.world.store.append_audit(entry)
    except (SidegateError, TimeoutError) as error:
        log.warning("not written to the audit trail", verb=verb, target=shown, user=peer.user, error=str(error))


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as a problem document (RFC 9457)."""
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001  # problem_document logs what is not ours
        document = problem_document(error, request)
        allowed = error.allowed_methods if isinstance(error, web.HTTPMethodNotAllowed) else ()
        return web.Response(
            body=msgspec.json.encode(document),
            status=document.status,
            content_type=openapi.PROBLEM_TYPE,
            headers={"Allow": ", ".join(sorted(allowed))} if allowed else None,
        )
