"""Attaching a container on its create event, before the engine begins to start it.

`docker run` sends its start 2 to 3 ms after the create event (measured), and the engine then holds the container's
lock until the process runs: a connect that comes later waits for that, and the process's first look-up fails. Two
lists, an inspection and a plan take too long. So this thread asks a function, given beforehand, where a container that
looks like this one belongs, and sends the connects at once. Nothing else follows from it: the pass that the same event
wakes observes and decides everything anew.

Owns the labels of images by name, kept true by image events. Never connects on its own judgement.
"""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from urllib.parse import quote

import structlog

from sidegate.adapters.docker.client import EngineAnswerError, EngineClient
from sidegate.adapters.docker.documents import Event
from sidegate.core.model import Container
from sidegate.errors import EngineError, EngineUnavailableError

Join = tuple[str, frozenset[str]]
"""A network's name, and the aliases to have there."""

Joins = Callable[[Container], Sequence[Join]]
"""Where a container that was just created belongs. Called on the event thread with what the create event tells (id,
name, image, labels, image labels; no environment and no endpoints). Must be quick, and change nothing."""

FRESH = 10**9
"""Nanoseconds within which a create event is news. A stream that resumes tells older ones again."""

log = structlog.get_logger("sidegate.docker")


class UnixHTTPConnection(HTTPConnection):
    """HTTP/1.1 over a unix socket; a request is on its way within 0.2 ms, where the SDK takes about 1 ms."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Express:
    """`heard` is called on the event thread for each event, `attached(container_id)` on some thread afterwards."""

    def __init__(
        self, client: EngineClient, joins: Joins, threads: ThreadPoolExecutor, attached: Callable[[str], None]
    ) -> None:
        self._client, self._joins, self._threads, self._attached = client, joins, threads, attached
        self._image_labels: dict[str, Mapping[str, str]] = {}
        self._era = 0

    def heard(self, event: Event) -> None:
        if event.type == "image":
            self._image_changed(event)
        elif event.type == "container" and event.action == "create" and time.time_ns() - event.time_nano < FRESH:
            try:
                container = self._described(event)
                self._attach(container.id, self._joins(container))
            except (EngineError, EngineUnavailableError, OSError) as error:
                log.debug("not attached on create", container=event.actor.id[:12], reason=str(error))
            except Exception:
                # a mistake in `joins` must not end the event thread: the pass that follows does it properly
                log.exception("not attached on create", container=event.actor.id[:12])

    def prepare(self, images: Iterable[str]) -> None:
        """Learn the labels of images by name, side by side and not waited for, so that a create event finds them."""
        for image in {full_name(i) for i in images} - self._image_labels.keys():
            self._threads.submit(self._learn, image)

    def _described(self, event: Event) -> Container:
        """The engine adds image, name and exit codes to the labels among an event's attributes."""
        attributes = event.actor.attributes or {}
        image = attributes.get("image", "")
        labels = {key: value for key, value in attributes.items() if key not in ("image", "name")}
        known = self._image_labels.get(full_name(image))
        return Container(
            id=event.actor.id,
            name=attributes.get("name", ""),
            image=image,
            labels=labels,
            image_labels=self._learn(full_name(image)) if known is None else known,
            state="created",
        )

    def _image_changed(self, event: Event) -> None:
        """A name may mean another image now: forget, and learn anew what was named."""
        self._era += 1
        name = full_name((event.actor.attributes or {}).get("name", ""))
        if event.action in ("tag", "pull"):
            self._image_labels.pop(name, None)
            self._threads.submit(self._learn, name)
        else:
            self._image_labels.clear()

    def _learn(self, image: str) -> Mapping[str, str]:
        era = self._era
        try:
            labels = self._client.image(image).labels
        except EngineAnswerError as error:
            if error.http_status != 404:
                raise
            return {}
        if era == self._era:  # else it may have been asked before the name moved
            self._image_labels[image] = labels
        return labels

    def _attach(self, container: str, joins: Sequence[Join]) -> None:
        """All requests leave before any answer is read: those that wait for the container's lock then wait in line
        before its start."""
        sent = [(join, self._send(container, join)) for join in joins]
        if sent:
            self._threads.submit(self._finish, container, sent)

    def _send(self, container: str, join: Join) -> HTTPConnection | None:
        """None: not over a unix socket, or not sent; then `_finish` connects with the SDK."""
        if not self._client.host.startswith("unix://"):
            return None
        network, aliases = join
        body = json.dumps({"Container": container, "EndpointConfig": {"Aliases": sorted(aliases)}})
        connection = UnixHTTPConnection(self._client.host.removeprefix("unix://"), self._client.timeout)
        try:
            connection.request(
                "POST", f"/networks/{quote(network)}/connect", body, {"Content-Type": "application/json"}
            )
        except (OSError, HTTPException):
            connection.close()
            return None
        return connection

    def _finish(self, container: str, sent: Sequence[tuple[Join, HTTPConnection | None]]) -> None:
        """On a thread of the pool: the answers, and a network that went meanwhile undone (see DockerEngine.connect)."""
        for (network, aliases), connection in sent:
            try:
                if connection is None:
                    self._client.connect(container, network, aliases)
                else:
                    with contextlib.closing(connection):
                        connection.getresponse().read()
                self._client.network(network)
            except EngineAnswerError as error:
                if error.http_status == 404:
                    with contextlib.suppress(EngineError, EngineUnavailableError):
                        self._client.disconnect(container, network)
            except (EngineError, EngineUnavailableError, OSError, HTTPException) as error:
                log.debug("attaching on create failed", container=container[:12], network=network, reason=str(error))
        self._attached(container)


def full_name(image: str) -> str:
    """An image's name with its tag, as image events give it: shop -> shop:latest."""
    if image.startswith("sha256:") or "@" in image or ":" in image.rpartition("/")[2]:
        return image
    return f"{image}:latest"
