"""The docker SDK, and the only file that imports it: one blocking method per endpoint of the engine.

Owns the connection, the API version in use and the translation of every error. Decides nothing, retries nothing but
a read whose connection broke, and never runs on the event loop's thread.
"""

import base64
import contextlib
import io
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Network
from typing import TypeVar

import docker
import msgspec
import requests
import urllib3
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from docker.types import CancellableStream, IPAMConfig, IPAMPool
from docker.utils import kwargs_from_env

from sidegate.adapters.docker.documents import (
    ContainerDocument,
    ContainerRow,
    Event,
    ImageDocument,
    NetworkDocument,
    PathStat,
)
from sidegate.adapters.docker.lines import whole_lines
from sidegate.adapters.docker.tally import EngineTally
from sidegate.errors import EngineError, EngineUnavailableError

T = TypeVar("T")
Api = docker.APIClient
Cancellable = CancellableStream

NEWEST_API = "1.44"
"""The newest API version that this code was written against. Engine 29 accepts nothing older; newer ones accept it."""

DEFAULT_HOST = "unix:///var/run/docker.sock"
EVENT_IDLE_SECONDS = 60.0
TAR_OVERHEAD = 16_384
"""Headers and padding around one file in a tar archive, generously."""

EVENT_FILTERS = {
    "type": ["container", "network"],
    "event": [
        *("create", "start", "die", "kill", "stop", "destroy", "rename", "update"),
        *("pause", "unpause", "health_status", "oom", "connect", "disconnect"),
    ],
}


class EngineAnswerError(EngineError):
    """The engine answered with an error: its HTTP status, and its own words."""

    def __init__(self, doing: str, http_status: int, said: str) -> None:
        super().__init__(f"the Docker engine cannot {doing}: {said} (HTTP {http_status})")
        self.http_status = http_status
        self.said = said


class UnconfirmedError(EngineError):
    """A change was sent and its answer did not come in time: done or not, only another look can tell."""


class EngineClient:
    """Blocking calls to one engine; safe to use from several threads.

    Connects when first used. After any failure to talk it begins anew, version negotiation included: the engine
    may have been restarted as another version. `timeout` bounds each wait for the engine, in whole seconds.
    """

    def __init__(self, host: str, *, timeout: int, pool_size: int, tally: EngineTally | None = None) -> None:
        environment = {**os.environ, "DOCKER_HOST": host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST}
        self.host = environment["DOCKER_HOST"]
        self._environment = environment
        self.timeout = timeout
        self._pool_size = pool_size
        self._tally = tally or EngineTally()
        self._lock = threading.Lock()
        self._api: docker.APIClient | None = None

    def __repr__(self) -> str:
        return f"<EngineClient {self.host} API {self._api.api_version if self._api else 'not negotiated'}>"

    # --- reading --------------------

    def version(self) -> str:
        """The engine's version, such as 20.10.24 (`GET /version`)."""
        return str(self.call("say its version", lambda api: api.version()["Version"]))

    def containers(self) -> list[ContainerRow]:
        """`GET /containers/json?all=1`."""
        return self.call(
            "list containers", lambda api: msgspec.convert(api.containers(all=True), type=list[ContainerRow])
        )

    def containers_on(self, network: str) -> list[ContainerRow]:
        """Containers configured on a network, stopped ones included (`GET /containers/json?filters=`)."""
        return self.call(
            f"list the containers on {network}",
            lambda api: msgspec.convert(
                api.containers(all=True, filters={"network": network}), type=list[ContainerRow]
            ),
        )

    def networks(self) -> list[NetworkDocument]:
        """`GET /networks`; without what is attached to them."""
        return self.call("list networks", lambda api: msgspec.convert(api.networks(), type=list[NetworkDocument]))

    def container(self, container_id: str) -> ContainerDocument:
        """`GET /containers/{id}/json`. Waits for the container's lock, which a start holds for its whole length."""
        return self.call(
            f"inspect container {container_id[:12]}",
            lambda api: msgspec.convert(api.inspect_container(container_id), type=ContainerDocument),
        )

    def network(self, name: str) -> NetworkDocument:
        """`GET /networks/{name}`."""
        return self.call(
            f"inspect network {name}",
            lambda api: msgspec.convert(api.inspect_network(name), type=NetworkDocument),
        )

    def image(self, image_id: str) -> ImageDocument:
        """`GET /images/{id}/json`."""
        return self.call(
            f"inspect image {image_id[:19]}",
            lambda api: msgspec.convert(api.inspect_image(image_id), type=ImageDocument),  # type: ignore[no-untyped-call]
        )

    def archive(self, container_id: str, path: str, limit: int) -> tuple[PathStat, bytes]:
        """A path's stat (`GET /containers/{id}/archive`), and the content of a file of at most `limit` bytes."""

        def get(api: docker.APIClient) -> tuple[PathStat, bytes]:
            url = f"{api.base_url}/v{api.api_version}/containers/{container_id}/archive"
            # Not the SDK's get_archive: it takes the timeout off the socket and gives no way to stop half-way.
            with api.get(url, params={"path": path}, stream=True, timeout=self.timeout) as response:
                if not response.ok:
                    _ = response.content  # the engine's reason, before the connection is let go
                response.raise_for_status()
                stat = msgspec.json.decode(
                    base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]), type=PathStat
                )
                content = b""
                if stat.regular and stat.size <= limit:
                    packed = io.BytesIO(response.raw.read(limit + TAR_OVERHEAD))
                    with tarfile.open(fileobj=packed) as archive:
                        member = archive.next()
                        file = archive.extractfile(member) if member else None
                        content = file.read() if file else b""
                return stat, content

        return self.call(f"read {path} in container {container_id[:12]}", get)

    def events(self, since: str) -> "EventFeed":
        """Subscribe (`GET /events`), on a connection of its own; `since` is a Unix time of the engine's clock or empty.

        A time always goes along: the engine sends its headers before the subscription holds (moby's getEvents), and
        what happened between would be lost.
        """
        with self._translated("send its events", changes=False):
            api, now = self._connect()
            try:
                response = api.get(
                    f"{api.base_url}/v{api.api_version}/events",
                    params={"since": since or now, "filters": msgspec.json.encode(EVENT_FILTERS).decode()},
                    stream=True,
                    timeout=(self.timeout, EVENT_IDLE_SECONDS),
                )
                response.raise_for_status()
            except BaseException:
                api.close()
                raise
            return EventFeed(api, response, since or now)

    # --- changing --------------------

    def create_network(
        self, name: str, *, subnet: IPv4Network, options: Mapping[str, str], labels: Mapping[str, str], internal: bool
    ) -> None:
        """A bridge network (`POST /networks/create`); containers on an `internal` one reach nothing but each other."""
        # The gateway is said although it is the default: `GET /networks` lists only what was asked for.
        ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet), gateway=str(subnet.network_address + 1))])
        self.call(
            f"create network {name} with subnet {subnet}",
            lambda api: api.create_network(
                name,
                driver="bridge",
                options=dict(options),
                ipam=ipam,
                check_duplicate=True,
                internal=internal,
                labels=dict(labels),
            ),
            changes=True,
        )

    def remove_network(self, name: str) -> None:
        """`DELETE /networks/{name}`."""
        self.call(f"remove network {name}", lambda api: api.remove_network(name), changes=True)

    def connect(self, container: str, network: str, aliases: frozenset[str]) -> None:
        """`POST /networks/{id}/connect`."""
        self.call(
            f"connect container {container[:12]} to network {network}",
            lambda api: api.connect_container_to_network(container, network, aliases=sorted(aliases)),
            changes=True,
        )

    def disconnect(self, container: str, network: str) -> None:
        """`POST /networks/{id}/disconnect` with force; `container` may be the name of a ghost endpoint."""
        self.call(
            f"disconnect container {container[:12]} from network {network}",
            lambda api: api.disconnect_container_from_network(container, network, force=True),
            changes=True,
        )

    def close(self) -> None:
        """Close idle connections. Safe to call twice; a later call would connect again."""
        with self._lock:
            api, self._api = self._api, None
        if api is not None:
            api.close()

    # --- connecting, and what goes wrong --------------------

    def call(self, doing: str, call: Callable[[docker.APIClient], T], *, changes: bool = False) -> T:
        """Run one call of the SDK, also for the modules beside this one; `doing` completes "the engine cannot …".

        A read whose kept-alive connection turns out broken is made again on a new one.
        """
        with self._tally.timed(doing, (EngineUnavailableError, UnconfirmedError)):
            return self._call(doing, call, changes=changes)

    def _call(self, doing: str, call: Callable[[docker.APIClient], T], *, changes: bool) -> T:
        try:
            with self._translated(doing, changes=changes):
                return call(self._client())
        except EngineUnavailableError as error:
            self.close()
            if changes or not isinstance(error.__cause__, requests.ConnectionError):
                raise
        with self._translated(doing, changes=changes):
            return call(self._client())

    def _client(self) -> docker.APIClient:
        with self._lock:
            if self._api is None:
                self._api, _ = self._connect()
            return self._api

    def _connect(self) -> tuple[docker.APIClient, str]:
        """A client speaking the newest API version that both sides know, and the engine's time (whole seconds)."""
        with contextlib.closing(self._session(NEWEST_API)) as probe:
            ping = probe.get(f"{probe.base_url}/_ping", timeout=self.timeout)
            ping.raise_for_status()
        offered = ping.headers.get("Api-Version", NEWEST_API)
        version = min(offered, NEWEST_API, key=lambda v: tuple(int(n) for n in v.split(".")))
        now = int(parsedate_to_datetime(ping.headers["Date"]).timestamp())
        return self._session(version), str(now)

    def _session(self, version: str) -> docker.APIClient:
        settings = kwargs_from_env(environment=self._environment)
        api = docker.APIClient(version=version, timeout=self.timeout, max_pool_size=self._pool_size, **settings)
        if self.host.startswith("unix://"):
            api.mount(
                "http+docker://", OneSocketAdapter(f"http+{self.host}", self.timeout, max_pool_size=self._pool_size)
            )
        return api

    @contextlib.contextmanager
    def _translated(self, doing: str, *, changes: bool) -> Iterator[None]:
        """What the SDK and requests raise, as sentences for the operator."""
        try:
            yield
        except requests.HTTPError as error:  # the SDK's APIError is one as well
            status, said = _answer(error)
            raise EngineAnswerError(doing, status, said) from error
        except (requests.Timeout, TimeoutError) as error:
            if changes:
                raise UnconfirmedError(
                    f"the Docker engine did not confirm within {self.timeout:g} s that it could {doing}; "
                    "whether it did is seen at the next look"
                ) from error
            raise EngineUnavailableError(
                f"the Docker engine at {self.host} does not answer: no reply within {self.timeout:g} s"
            ) from error
        except (
            requests.RequestException,
            docker.errors.DockerException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            raise EngineUnavailableError(self._unreachable(error)) from error
        except (msgspec.MsgspecError, KeyError, ValueError, tarfile.TarError) as error:
            raise EngineError(f"the Docker engine cannot {doing}: its answer makes no sense to us ({error})") from error

    def _unreachable(self, error: BaseException) -> str:
        cause = _root(error)
        said = (cause.strerror or str(cause)).lower() if isinstance(cause, OSError) else str(cause)
        advice = "is dockerd running? `systemctl start docker`"
        if isinstance(cause, PermissionError):
            advice = "run as root, or join the group docker: `sudo usermod -aG docker $USER`, then log in again"
        elif not isinstance(cause, OSError):
            advice = "check the setting docker_host"
        return f"the Docker engine at {self.host} does not answer ({said}): {advice}"


class UnixConnection(UnixHTTPConnection):
    """The SDK's own leaves its socket open when connecting fails."""

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self.unix_socket)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class UnixPool(UnixHTTPConnectionPool):
    """Connections to one unix socket."""

    def _new_conn(self) -> UnixConnection:  # type: ignore[override]  # urllib3 and the stubs disagree
        return UnixConnection(self.base_url, self.socket_path, self.timeout)  # type: ignore[arg-type]


class OneSocketAdapter(UnixHTTPAdapter):
    """One pool for the one socket. The SDK's own keeps one per URL, so that no connection is ever used twice and a
    pool may be thrown out by another thread while a call is about to use it."""

    def get_connection(self, url: str | bytes, proxies: Mapping[str, str] | None = None) -> UnixHTTPConnectionPool:
        with self.pools.lock:
            pool = self.pools.get("engine")
            if pool is None:
                pool = UnixPool("http+docker://localhost", self.socket_path, self.timeout, maxsize=self.max_pool_size)
                self.pools["engine"] = pool
            return pool


class EventFeed:
    """An open event stream. Iterating blocks; it ends when the engine, `cancel` or EVENT_IDLE_SECONDS end it.

    An idle engine sends nothing, and so does a dead TCP connection: after a silent minute the caller subscribes again.
    """

    def __init__(self, api: docker.APIClient, response: requests.Response, since: str) -> None:
        self.since = since
        self._api, self._response = api, response
        self._stream = CancellableStream(whole_lines(response.iter_content(chunk_size=None)), response)

    def __iter__(self) -> Iterator[Event]:
        for line in self._stream:
            try:
                yield msgspec.json.decode(line, type=Event)
            except msgspec.MsgspecError as error:
                raise EngineError(f"the Docker engine sent an event that makes no sense to us ({error})") from error

    def cancel(self) -> None:
        """Shut the connection down under a reader in another thread."""
        with contextlib.suppress(OSError, AttributeError):  # it ended by itself meanwhile
            self._stream.close()

    def close(self) -> None:
        """Release the connection; for the reading thread."""
        self._response.close()
        self._api.close()


def _answer(error: requests.HTTPError) -> tuple[int, str]:
    if error.response is None:
        return 0, str(error)
    try:
        return error.response.status_code, msgspec.json.decode(error.response.content, type=dict[str, str])["message"]
    except (msgspec.MsgspecError, KeyError):
        return error.response.status_code, error.response.text.strip() or error.response.reason


def _root(error: BaseException) -> BaseException:
    """The innermost cause: an operating system error where there is one."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
