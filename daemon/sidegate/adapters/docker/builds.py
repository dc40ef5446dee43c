"""Builds, by the engine's own builder (`POST /build`, version 1, which every engine has).

Not through the SDK: a context comes in and output goes out for minutes, each at the other side's pace, and a build ends
at once when it is cancelled. That is one connection on the event loop, closed. The engine then kills what it runs.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from sidegate.adapters.docker.client import Api, EngineClient
from sidegate.core.builds import BuildLine, BuildOrder
from sidegate.errors import EngineError, EngineUnavailableError, RefusedError, SidegateError

CONNECT_SECONDS = 10.0
LINE_MOST = 1 << 22  # bytes of one line: a piece of output, escaped
UNIX = "unix://"


class Said(msgspec.Struct):
    """A line of the answer. Source: moby's pkg/jsonmessage."""

    stream: str = ""
    status: str = ""
    progress: str = ""
    id: str = ""
    error: str = ""
    aux: dict[str, Any] = {}  # msgspec gives every value a dict of its own

    def line(self) -> BuildLine:
        text = self.stream
        if self.status and not self.progress:  # bars are for terminals
            text = f"{self.id}: {self.status}\n" if self.id else f"{self.status}\n"
        return BuildLine(text, image_id=str(self.aux.get("ID", "")), error=self.error)


@dataclass(frozen=True, slots=True)
class Way:
    """How to the engine: `path` of its socket or empty, the URL that calls begin with, TLS where it is used; headers
    with the logins at registries that `docker login` left, variables for the proxy that its configuration names."""

    path: str
    base: str
    tls: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    proxies: dict[str, str] = field(default_factory=dict, repr=False)


class DockerBuilds:
    """See `sidegate.api.world.Builder` for what it promises.

    Constructing it connects to nothing. `host` is a Docker URL; empty: DOCKER_HOST, else the default socket. `deadline`
    bounds asking the engine for its version, in seconds; nothing bounds a build.
    """

    def __init__(self, host: str = "", *, deadline: float = 10.0) -> None:
        self._client = EngineClient(host, timeout=max(1, int(deadline * 0.8)), pool_size=1)

    async def build(self, context: AsyncIterator[bytes], order: BuildOrder) -> AsyncGenerator[BuildLine, None]:
        """Build, on the default network: no connection of ours is there. The context is read as the engine takes it."""
        way = await asyncio.to_thread(self._client.call, "build an image", self._way)
        parameters = {
            "t": order.tag,
            "dockerfile": order.dockerfile,
            "buildargs": msgspec.json.encode({**way.proxies, **order.arguments}).decode(),
            "networkmode": "default",
            "rm": "1",
            "forcerm": "1",
            "version": "1",
            **({"nocache": "1"} if order.no_cache else {}),
            **({"pull": "1"} if order.pull else {}),
        }
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(way.path) if way.path else aiohttp.TCPConnector(ssl=way.tls or True)
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # a step may be silent for long
        headers = {"Content-Type": "application/x-tar", **way.headers}
        await asyncio.to_thread(self._client.close)  # builds are rare
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=LINE_MOST) as session:
            with self._translated():
                async with session.post(
                    f"{way.base}/build", params=parameters, data=context, headers=headers
                ) as answer:
                    if answer.status >= 400:
                        reason = _reason(await answer.read())
                        if answer.status >= 500:
                            raise EngineError(f"the Docker engine cannot build: {reason}")
                        yield BuildLine(error=reason)
                        return
                    async for line in answer.content:
                        yield msgspec.json.decode(line, type=Said).line()

    def _way(self, api: Api) -> Way:
        """Ask the SDK, which has read the environment and negotiated the version. Raises RefusedError for ssh."""
        headers: dict[str, str] = {}
        api._set_auth_headers(headers)  # type: ignore[attr-defined]  # not in the stubs
        configured = api._proxy_configs.get_environment()  # type: ignore[attr-defined]
        proxies = {key: value for key, value in configured.items() if value}
        host, version = self._client.host, f"v{api.api_version}"
        if host.startswith(UNIX):
            return Way(host.removeprefix(UNIX), f"http://docker/{version}", None, headers, proxies)
        if not api.base_url.startswith(("http://", "https://")):
            raise RefusedError(f"an engine at {host} cannot be built with: docker_host has to be unix:// or tcp://")
        return Way("", f"{api.base_url}/{version}", _tls(api), headers, proxies)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What aiohttp raises, as sentences for the operator."""
        try:
            yield
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, SidegateError):
                cause = cause.__cause__ or cause.__context__
            if cause is not None:  # the context could not be read
                raise cause from None
            # The whole of such an error has the URL, and that has the arguments.
            said = error.message if isinstance(error, aiohttp.ClientResponseError) else error
            raise EngineUnavailableError(
                f"the Docker engine at {self._client.host} broke the build off ({said}): is dockerd running?"
            ) from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise EngineError(f"the Docker engine's build output makes no sense to us ({error})") from error


def _tls(api: Api) -> ssl.SSLContext | None:
    """As DOCKER_CERT_PATH and DOCKER_TLS_VERIFY have it."""
    if not api.base_url.startswith("https://"):
        return None
    context = ssl.create_default_context(cafile=api.verify if isinstance(api.verify, str) else None)
    if not api.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if isinstance(api.cert, tuple):
        context.load_cert_chain(*api.cert)
    return context


def _reason(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, str])["message"])
    except (msgspec.MsgspecError, KeyError):
        return body.decode(errors="replace").strip()
