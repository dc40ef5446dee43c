"""`/metrics` over TCP for a Prometheus that cannot reach the control socket: that one page, and nothing else.

Whoever can connect may read it, so it is off unless an address is given. A client has one request and little time, and
only a few are served at once.
"""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from ipaddress import ip_address

from aiohttp import web

from sidegate.api.metrics import CONTENT_TYPE, MetricsVerbs
from sidegate.errors import PortInUseError, SidegateError
from sidegate.log import get_logger

MOST = 16
"""Clients at once."""

SECONDS = 20.0
"""What each of them has, from its connect to the end of the page."""

log = get_logger("api")


@contextlib.asynccontextmanager
async def serve(metrics: MetricsVerbs, address: tuple[str, int] | None) -> AsyncIterator[None]:
    """Serve on that address for as long as the block lasts; None: nowhere. Raises PortInUseError, SidegateError."""
    if address is None:
        yield
        return
    host, port = address
    if ip_address(host).is_unspecified:
        log.warning("metrics are served on every address, also to containers: name one instead", metrics_listen=host)
    runner = web.AppRunner(_application(metrics), access_log=None, keepalive_timeout=0, shutdown_timeout=1.0)
    await runner.setup()
    try:
        server = await asyncio.get_running_loop().create_server(_Bounded(runner).client, host, port)
    except OSError as error:
        await runner.cleanup()
        where = f"metrics_listen: port {port} of {host}"
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"{where} is held by another process: choose another port") from None
        raise SidegateError(f"{where} cannot be bound: {(error.strerror or str(error)).lower()}") from None
    try:
        log.info("metrics are served", address=host, port=port)
        yield
    finally:
        server.close()
        await runner.cleanup()


def _application(metrics: MetricsVerbs) -> web.Application:
    async def scrape(_: web.Request) -> web.Response:
        answer = web.Response(text=await metrics.scrape(), content_type=CONTENT_TYPE)
        answer.force_close()
        return answer

    application = web.Application(client_max_size=1)
    application.router.add_get("/metrics", scrape)
    return application


class _Bounded:
    """Makes the protocol of each connection: aiohttp's, for so many at a time and so long."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self._loop = asyncio.get_running_loop()

    def client(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or len(server.connections) >= MOST:
            return _TurnedAway()
        handler = server()
        self._loop.call_later(SECONDS, _cut, handler)
        return handler


def _cut(handler: web.RequestHandler) -> None:
    if handler.transport is not None:
        handler.transport.abort()


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
