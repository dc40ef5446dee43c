"""The `Engine` of the reconciler on a real Docker engine.

Owns what one look costs (which containers are asked for again, and how long a look waits), the threads, the deadlines,
and which of the engine's refusals mean that what was wanted is so. Decides nothing about networks or containers.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import TypeVar

from sidegate.adapters.docker.admission import Admission
from sidegate.adapters.docker.calls import Lane, no_reply
from sidegate.adapters.docker.client import EngineAnswerError, EngineClient, UnconfirmedError
from sidegate.adapters.docker.documents import ContainerRow, Event, container_of, image_of, network_of
from sidegate.adapters.docker.events import EventStream
from sidegate.adapters.docker.greeter import Greeter
from sidegate.adapters.docker.hold import Hold
from sidegate.adapters.docker.stopping import Stopping, StopRule
from sidegate.adapters.docker.tally import EngineTally
from sidegate.core.model import Container, EngineState
from sidegate.core.newcomers import Newcomers
from sidegate.core.workloads import ImageInfo
from sidegate.errors import EngineError, EngineUnavailableError, NotFoundError, SubnetTakenError
from sidegate.log import get_logger

log = get_logger("sidegate.docker")

T = TypeVar("T")

FILE_LIMIT = 64 * 1024
INSPECT_PATIENCE = 0.05
"""Seconds that a look waits for one more inspection to end. An engine holds a container's lock while it starts it
(measured: 400 ms), and inspecting waits for that lock: one slow start must not delay every other container."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A container as last inspected, how it is told to stop, and what its list row said then."""

    fingerprint: tuple[object, ...]
    container: Container
    stop: StopRule


class DockerEngine:
    """See `sidegate.reconciler.world.Engine` for what each call promises.

    Constructing it connects to nothing. `host` is a Docker URL; empty: DOCKER_HOST, else the default socket.
    `deadline` bounds each call in seconds, the SDK's own waits end earlier; `threads` bounds calls side by side (as
    many again inspect containers). `admit` as of Admission.
    """

    def __init__(
        self,
        host: str = "",
        *,
        deadline: float = 10.0,
        threads: int = 8,
        tally: EngineTally | None = None,
        admit: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        timeout = max(1, int(deadline * 0.8))
        self._client = EngineClient(host, timeout=timeout, pool_size=2 * threads, tally=tally)
        self._deadline = deadline
        self._calls = Lane(threads, "docker-call")
        self._inspections = ThreadPoolExecutor(threads, "docker-inspect")
        self._stream: EventStream | None = None
        host = self._client.host
        self._greeter = Greeter(host.removeprefix("unix://")) if host.startswith("unix://") else None
        self._wake: Callable[[], None] = lambda: None
        self._known: dict[str, Inspected] = {}
        self._outdated: set[str] = set()
        self._inspecting: dict[str, asyncio.Future[tuple[Container, StopRule]]] = {}
        self._stopping = Stopping()
        self._images: dict[str, ImageInfo] = {}
        self._looked = False
        self._admission = Admission(self._client, admit)

    def __repr__(self) -> str:
        return f"<DockerEngine {self._client.host} known={len(self._known)} outdated={len(self._outdated)}>"

    # --- looking --------------------

    async def observe(self, *, full: bool = False) -> EngineState:
        """Two lists, and an inspection of each container that its row or an event shows as changed.

        A container whose inspection takes longer than INSPECT_PATIENCE is given as it was known before, and left out
        where it was not; `wake` is called when the answer is there. Only the very first look waits for the deadline.
        """
        if full:
            self._outdated.update(self._known)
        try:
            rows, networks = await asyncio.gather(
                self._ask("list containers", self._client.containers), self._ask("list networks", self._client.networks)
            )
        except EngineUnavailableError:
            self._admission.lost()
            raise
        await self._admission.check(self._ask)
        await self._inspect([row for row in rows if self._stale(row)])
        present = {row.id for row in rows}
        for gone in self._known.keys() - present:
            del self._known[gone]
        self._outdated &= present
        if self._stopping:
            known = {key: inspected.container for key, inspected in self._known.items()}
            self._stopping.forget(known, asyncio.get_running_loop().time())
        if full:
            used = {row.image_id for row in rows}
            self._images = {image: info for image, info in self._images.items() if image in used}
        self._looked = True
        unseen = {
            network
            for row in rows
            if row.id not in self._known and row.network_settings
            for network in row.network_settings.networks or ()
        }
        observed = EngineState(
            unseen=frozenset(unseen),
            containers=tuple(sorted((i.container for i in self._known.values()), key=lambda c: c.name)),
            networks=tuple(sorted((network_of(n) for n in networks), key=lambda n: n.name)),
        )
        return self.told_to_stop(observed)

    def told_to_stop(self, state: EngineState) -> EngineState:
        if not self._stopping:
            return state
        now = asyncio.get_running_loop().time()
        return replace(state, containers=tuple(self._stopping.shown(c, now) for c in state.containers))

    def _stale(self, row: ContainerRow) -> bool:
        known = self._known.get(row.id)
        return known is None or row.id in self._outdated or known.fingerprint != row.fingerprint()

    async def _inspect(self, rows: Iterable[ContainerRow]) -> None:
        asked, shared = [], set()
        for row in rows:
            if row.id in self._inspecting:
                shared.add(self._inspecting[row.id])  # asked before this row was read: may need another look
            else:
                self._begin_inspection(row)
            asked.append(self._inspecting[row.id])
        late, patience = set(asked), INSPECT_PATIENCE if self._looked else self._deadline
        while late:
            done, late = await asyncio.wait(late, timeout=patience)
            if not done:
                break
            for future in done:
                error = future.exception()
                if error is not None and not _is_missing(error):  # one container must not hide all the others
                    log.warning("a container cannot be looked at", error=str(error))
        for future in late | shared:
            future.add_done_callback(lambda _: self._wake())

    def _begin_inspection(self, row: ContainerRow) -> None:
        self._outdated.discard(row.id)  # an event from now on makes the answer outdated again
        future = asyncio.get_running_loop().run_in_executor(self._inspections, self._describe, row.id)
        self._inspecting[row.id] = future
        fingerprint = row.fingerprint()

        def inspected(answer: asyncio.Future[tuple[Container, StopRule]]) -> None:
            del self._inspecting[row.id]
            if answer.cancelled():
                return
            if error := answer.exception():
                self._outdated.add(row.id)
                if _is_missing(error):
                    self._known.pop(row.id, None)
            else:
                self._known[row.id] = Inspected(fingerprint, *answer.result())

        future.add_done_callback(inspected)

    def _describe(self, container_id: str) -> tuple[Container, StopRule]:
        """Blocking: one container, with what its image gives it (asked for once per image)."""
        document = self._client.container(container_id)
        image = self._images.get(document.image)
        if image is None:
            try:
                image = image_of(self._client.image(document.image))
            except EngineAnswerError as error:
                if error.http_status != 404:
                    raise
                # Which labels were the image's nobody can say any more: all may have been.
                image = ImageInfo(document.image, labels=document.config.labels or {})
            else:
                self._images[document.image] = image
        return container_of(document, image.labels, image.env), StopRule.of(document)

    async def version(self) -> str:
        return await self._ask("say its version", self._client.version)

    async def read_file(self, container_id: str, path: str) -> bytes:
        """Links are followed. Raises NotFoundError where there is no such file or container, EngineError where it is
        no regular file or longer than 64 KiB."""
        where = f"{path} in container {container_id[:12]}"
        try:
            stat, content = await self._ask(
                f"read {where}", lambda: self._client.archive(container_id, path, FILE_LIMIT)
            )
            if target := stat.link_target:
                stat, content = await self._ask(
                    f"read {where}", lambda: self._client.archive(container_id, target, FILE_LIMIT)
                )
        except EngineAnswerError as error:
            if error.http_status == 404:
                raise NotFoundError(f"there is no {where}: {error.said}") from error
            raise
        if not stat.regular:
            raise EngineError(f"cannot read {where}: it is not a regular file")
        if stat.size > FILE_LIMIT:
            raise EngineError(f"cannot read {where}: {stat.size} bytes are more than {FILE_LIMIT}")
        return content

    # --- changing --------------------

    async def create_network(
        self,
        name: str,
        *,
        subnet: IPv4Network,
        device: str,
        labels: Mapping[str, str],
        mtu: int,
        egress: bool = False,
    ) -> None:
        """`device` is the bridge's name on the host, `mtu` 0 for the engine's default."""
        options = {"com.docker.network.bridge.name": device}
        if mtu > 0:
            options["com.docker.network.driver.mtu"] = str(mtu)
        try:
            await self._change(
                f"create network {name}",
                lambda: self._client.create_network(
                    name, subnet=subnet, options=options, labels=labels, internal=not egress
                ),
            )
        except EngineAnswerError as error:
            if f"network with name {name} already exists" in error.said:
                return
            if "overlap" in error.said.lower():
                raise SubnetTakenError(f"subnet {subnet} for network {name} is taken: {error.said}") from error
            if "same bridge name" in error.said or "doesn't match" in error.said:
                raise EngineError(
                    f"cannot create network {name}: a bridge device {device} is there already ({error.said}); "
                    f"if no network uses it, remove it: `ip link delete {device}`"
                ) from error
            raise

    async def remove_network(self, name: str) -> None:
        """Stopped containers that are configured on it are taken off too: their next start would fail."""
        try:
            network = await self._ask(f"inspect network {name}", lambda: self._client.network(name))
        except EngineAnswerError as error:
            if error.http_status == 404:
                return
            raise
        if network.name != name:  # the engine also takes ids, and the beginnings of ids
            return
        rows = await self._ask(f"list the containers on {name}", lambda: self._client.containers_on(name))
        ghosts = {key: attached.name for key, attached in (network.containers or {}).items() if key.startswith("ep-")}
        attached = {row.id for row in rows} | ((network.containers or {}).keys() - ghosts.keys()) | set(ghosts.values())
        await asyncio.gather(*(self.disconnect(container, name) for container in sorted(attached)))
        with _missing_is_fine():
            await self._change(f"remove network {name}", lambda: self._client.remove_network(name))

    async def connect(self, container_id: str, network: str, aliases: frozenset[str]) -> None:
        """A container that does not run takes any network, and cannot start if there is none: look afterwards (not
        before, since a container being created is about to start)."""
        doing = f"connect container {container_id[:12]} to network {network}"
        try:
            await self._change(doing, lambda: self._client.connect(container_id, network, aliases))
        except EngineAnswerError as error:
            if not _says(
                error,
                "already exists in network",
                "already attached to network",
                "no such container",
                "marked for removal",
            ):
                raise
        finally:
            self._outdated.add(container_id)
        try:
            await self._ask(doing, lambda: self._client.network(network))
        except EngineAnswerError as error:
            if _is_missing(error):
                await self.disconnect(container_id, network)
            raise

    async def disconnect(self, container_id: str, network: str) -> None:
        """Also takes the name of a ghost endpoint."""
        try:
            with _missing_is_fine():
                await self._change(
                    f"disconnect container {container_id[:12]} from network {network}",
                    lambda: self._client.disconnect(container_id, network),
                )
        except EngineAnswerError as error:
            if not _says(error, "is not connected to", "marked for removal"):
                raise
        finally:
            self._outdated.add(container_id)

    # --- events and the end --------------------

    def watch(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._stream = EventStream(self._client, self._changed, self._resumed)
        self._stream.start()

    async def expect(self, newcomers: Newcomers) -> None:
        if self._greeter is not None and not self._calls.closed:
            if self._greeter.died:
                Hold.resume(known.container.pid for known in self._known.values() if known.container.pid)
            await self._greeter.tell(newcomers)

    def interrupt(self, *, lost: bool) -> None:
        """Hear no events while `lost`: for showing that a resync alone puts everything right."""
        if self._stream is not None:
            self._stream.interrupt(lost=lost)

    def _changed(self, event: Event) -> None:
        if event.signal:
            self._signalled(event)
        else:
            self._outdated.add(event.container)
            self._wake()

    def _signalled(self, event: Event) -> None:
        """Nothing about the container has changed yet; but if this ends it, others should take its work now."""
        known, loop = self._known.get(event.container), asyncio.get_running_loop()
        if known and (seconds := self._stopping.hear(event, known.container, known.stop, loop.time())):
            loop.call_later(seconds, lambda: self._wake())
            self._wake()

    def _resumed(self) -> None:
        self._outdated.update(self._known)  # whatever was said meanwhile was said to nobody
        self._admission.lost()
        self._wake()

    async def close(self) -> None:
        self._calls.closed, self._wake = True, lambda: None
        if self._greeter is not None:
            await self._greeter.close()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.end()
            await asyncio.get_running_loop().run_in_executor(self._calls.threads, stream.join)
        self._calls.close()
        self._inspections.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    # --- threads and deadlines --------------------

    async def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """Run a blocking read; no answer in time means that the engine is not there."""
        try:
            return await self._calls.run(call, self._deadline)
        except TimeoutError:
            raise no_reply(self._client, doing, self._deadline) from None

    async def _change(self, doing: str, call: Callable[[], None]) -> None:
        """Run a blocking change; no answer in time says nothing about whether it was made."""
        try:
            await self._calls.run(call, self._deadline)
        except TimeoutError:
            raise UnconfirmedError(
                f"the Docker engine did not confirm within {self._deadline:g} s that it could {doing}; "
                "whether it did is seen at the next look"
            ) from None


def _is_missing(error: BaseException) -> bool:
    return isinstance(error, EngineAnswerError) and error.http_status == 404


def _says(error: EngineAnswerError, *parts: str) -> bool:
    said = error.said.lower()
    return any(part in said for part in parts)


@contextlib.contextmanager
def _missing_is_fine() -> Iterator[None]:
    try:
        yield
    except EngineAnswerError as error:
        if error.http_status != 404:
            raise
