"""Attaching a container on its create event, before the engine begins to start it.

`docker run` sends its start 2 to 3 ms after the create event (measured), and the engine then holds the container's
lock until the process runs: a connect that comes later waits for that, and the process's first look-up fails. Two
lists, an inspection and a plan take too long, and so does waiting for an interpreter that other threads use. So this is
a small process of its own with real-time priority (measured at a load of 7 on 2 cores: in time 33 of 40 as a thread of
the control plane). It is told beforehand who belongs where, decides nothing, and ends with the control plane.
`docker run -d` still comes first about one time in fifteen; then the process is held until its networks are there.

Speaks to the engine with http.client: the SDK takes 1 ms to send what this sends in 0.1 ms.
"""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import quote

import msgspec

from sidegate.adapters.docker.documents import Event, ImageDocument, ImageRow
from sidegate.adapters.docker.hold import HOLD_SECONDS, Hold
from sidegate.core import compose
from sidegate.core.model import Container
from sidegate.core.newcomers import Join, Newcomers, joins
from sidegate.log import get_logger

FRESH = 10**9
"""Nanoseconds within which a create event is news; a stream that is opened tells older ones again."""
REPLAY = 2.0
"""Seconds of events asked for again: a subscription holds a moment after the engine's headers are out."""
CALL_SECONDS = 8.0
STEP_MILLISECONDS = 0.5
JSON = {"Content-Type": "application/json"}
FIRST_DELAY, LAST_DELAY = 0.05, 1.0
LEAVE_SECONDS = 1.0

log = get_logger("sidegate.greeter")


class Greeter:
    """The parent's side. `path` is the engine's unix socket; over anything else there is no head start."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process: asyncio.subprocess.Process | None = None
        self._told: Newcomers | None = None

    @property
    def died(self) -> bool:
        """Whether the process has ended by itself, perhaps with somebody held."""
        return self._process is not None and self._process.returncode is not None

    async def tell(self, newcomers: Newcomers) -> None:
        """Replace what the process knows; starts it where it does not run."""
        if self._process is None or self.died:
            self._told = None
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-c", f"from {__name__} import main; main()", self._path),
                    stdin=asyncio.subprocess.PIPE,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                )
            except OSError as error:  # only the head start is lost; the next pass tries again
                log.warning("no greeter", error=str(error))
                self._process = None
                return
        if newcomers != self._told and self._process.stdin is not None:
            self._told = newcomers
            self._process.stdin.write(msgspec.json.encode(newcomers) + b"\n")

    async def close(self) -> None:
        """Close its input, on which it ends. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# --- the process --------------------


class EngineConnection(HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path: str, timeout: float | None = CALL_SECONDS) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Door:
    """Hears events and greets. Owns the labels of images by name, kept true by image events in the order they come."""

    def __init__(self, path: str) -> None:
        self.newcomers = Newcomers()
        self._path = path
        self._answers = ThreadPoolExecutor(8, "answers", initializer=_hurry)
        self._images: dict[str, dict[str, str]] = {}
        self._decode = msgspec.json.Decoder(Event).decode

    def listen(self) -> None:
        """Read events until the stream ends. Raises OSError, HTTPException, ValueError."""
        wanted = {"type": ["container", "image"]}
        since = f"{time.time() - REPLAY:.3f}"
        with contextlib.closing(EngineConnection(self._path, None)) as connection:
            connection.request("GET", f"/events?since={since}&filters={quote(json.dumps(wanted))}")
            stream = connection.getresponse()
            self._learn_images()
            while line := stream.readline():
                event = self._decode(line)
                if event.type == "image":
                    self._image_changed(event)
                elif event.action == "create" and (container := self._described(event)):
                    self._attach(container, joins(container, self.newcomers))

    def _image_changed(self, event: Event) -> None:
        """A name may mean another image now. One that was only taken away makes no container until given again."""
        if event.action in ("tag", "pull"):
            name = full_name((event.actor.attributes or {}).get("name", ""))
            self._images.pop(name, None)
            self._labels(name)
        elif event.action not in ("delete", "untag"):
            self._learn_images()

    def _learn_images(self) -> None:
        """All names at once (`GET /images/json`), so that a create event finds them."""
        self._images.clear()
        _, body = self._call("GET", "/images/json")
        for row in msgspec.json.decode(body, type=list[ImageRow]):
            for name in row.repo_tags or ():
                self._images[name] = row.labels or {}

    def _described(self, event: Event) -> Container | None:
        """The engine adds image and name to the labels among an event's attributes.

        None for old news, for what bears no label that counts, and where it is not known which labels are the image's
        own, as for an image given by a shortened id.
        """
        if time.time_ns() - event.time_nano > FRESH:
            return None
        attributes = event.actor.attributes or {}
        labels = {key: value for key, value in attributes.items() if key not in ("image", "name")}
        prefixes = ("sidegate.",) if self.newcomers.services is None else ("sidegate.", compose.PREFIX)
        if not any(key.startswith(prefixes) for key in labels):
            return None
        image_labels = self._labels(full_name(attributes.get("image", "")))
        if image_labels is None:
            return None
        name = attributes.get("name", "")
        return Container(id=event.actor.id, name=name, labels=labels, image_labels=image_labels, state="created")

    def _labels(self, image: str) -> dict[str, str] | None:
        """An image's labels; None: there is no image of that name."""
        if image not in self._images:
            status, body = self._call("GET", f"/images/{quote(image)}/json")
            if status != 200:
                return None
            self._images[image] = dict(msgspec.json.decode(body, type=ImageDocument).labels)
        return self._images[image]

    def _attach(self, container: Container, where: tuple[Join, ...]) -> None:
        """All requests leave before any answer is read: those that wait for the container's lock then wait in line
        before its start."""
        sent = []
        for network, aliases in where:
            body = json.dumps({"Container": container.id, "EndpointConfig": {"Aliases": sorted(aliases)}})
            connection = EngineConnection(self._path)
            connection.request("POST", f"/networks/{quote(network)}/connect", body, JSON)
            sent.append((network, connection))
        if sent:
            self._answers.submit(self._finish, container.id, sent)

    def _finish(self, container: str, sent: Sequence[tuple[str, EngineConnection]]) -> None:
        """The answers; and a network that went meanwhile undone: a container that is configured on one cannot start."""
        self._await_answers(container, [connection for _, connection in sent])
        for network, connection in sent:
            with contextlib.suppress(OSError, HTTPException):
                with contextlib.closing(connection):
                    connection.getresponse().read()
                if self._call("GET", f"/networks/{quote(network)}")[0] == 404:
                    body = json.dumps({"Container": container, "Force": True})
                    self._call("POST", f"/networks/{quote(network)}/disconnect", body)

    def _await_answers(self, container: str, connections: Sequence[EngineConnection]) -> None:
        """Until all are there. Where the start came first, its process is held from when it appears until then."""
        with Hold(container) as hold:
            waited_until = time.monotonic() + CALL_SECONDS
            for connection in connections:
                answer = select.poll()
                answer.register(connection.sock, select.POLLIN)
                while not answer.poll(STEP_MILLISECONDS) and time.monotonic() < waited_until:
                    if hold.grab():
                        waited_until = min(waited_until, time.monotonic() + HOLD_SECONDS)

    def _call(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        with contextlib.closing(EngineConnection(self._path)) as connection:
            connection.request(method, path, body, JSON if body else {})
            response: HTTPResponse = connection.getresponse()
            return response.status, response.read()


def full_name(image: str) -> str:
    """An image's name with its tag, as image events give it: shop -> shop:latest."""
    if image.startswith("sha256:") or "@" in image or ":" in image.rpartition("/")[2]:
        return image
    return f"{image}:latest"


def _hurry() -> None:
    """Real-time priority for this thread: on a busy node an ordinary one wakes too late.

    Where the kernel shares real-time out among cgroups (RT_GROUP_SCHED) a container has none: then the best of the
    ordinary ones, which is nearly as good.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):  # not root, or not Linux: it is a head start, no more
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)


def main() -> None:
    """Greet until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the terminal's Ctrl-C goes to the group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    door = Door(sys.argv[1])

    def learn() -> None:
        decode = msgspec.json.Decoder(Newcomers).decode
        for line in sys.stdin.buffer:
            door.newcomers = decode(line)
        Hold.release_all()
        os._exit(0)

    threading.Thread(target=learn, name="learn", daemon=True).start()
    _hurry()
    delay = FIRST_DELAY
    while True:
        began = time.monotonic()
        with contextlib.suppress(OSError, HTTPException, ValueError):
            door.listen()
        delay = FIRST_DELAY if time.monotonic() - began > LAST_DELAY else min(2 * delay, LAST_DELAY)
        time.sleep(delay)
