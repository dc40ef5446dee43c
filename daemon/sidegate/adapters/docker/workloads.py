"""The `Workloads` of the reconciler on a real Docker engine.

Owns the threads, the deadlines, which refusals mean that what was wanted is so, and the second look at a change that
the engine did not confirm. How a container is made anew is `recreate`'s, whether it can be, `suitability`'s.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import quote

import msgspec

from sidegate.adapters.docker.calls import EngineCalls, url
from sidegate.adapters.docker.client import Api, Cancellable, EngineAnswerError, UnconfirmedError
from sidegate.adapters.docker.documents import (
    ContainerDocument,
    ImageDocument,
    NetworkDocument,
    container_of,
    image_of,
)
from sidegate.adapters.docker.logs import Lines
from sidegate.adapters.docker.recreate import Creation, Json, copy_of, creation_of, main_network
from sidegate.adapters.docker.suitability import refusal, strategy_fault
from sidegate.adapters.docker.tally import EngineTally
from sidegate.core.workloads import ContainerSpec, ImageInfo, LogLine, Snapshot
from sidegate.errors import EngineError, NotFoundError, RefusedError

LOG_BYTES = 16 * 1024
STOP_SECONDS, LONGEST_STOP = 10, 3600
"""The engine's own patience with a container that sets none, and the most that we wait for one that sets a lot."""
TELLING_SECONDS = 0.25
KNOWN_IMAGES = 512


class DockerWorkloads:
    """See `sidegate.reconciler.world.Workloads` for what each call promises.

    Constructing it connects to nothing. `host` is a Docker URL; empty: DOCKER_HOST, else the default socket.
    `deadline` bounds each quick call in seconds, `slow` those that may copy an image's files into a volume, wait for a
    device or delete a lot; `threads` bounds quick calls side by side, and slow ones.
    """

    def __init__(
        self,
        host: str = "",
        *,
        deadline: float = 10.0,
        slow: float = 120.0,
        threads: int = 8,
        tally: EngineTally | None = None,
    ) -> None:
        self._calls = EngineCalls(host, deadline=deadline, threads=threads, tally=tally)
        self._slow = slow
        self._images: dict[str, ImageInfo] = {}

    def __repr__(self) -> str:
        return f"<DockerWorkloads {self._calls}>"

    # --- looking --------------------

    async def image(self, reference: str) -> ImageInfo:
        path = f"/images/{quote(reference, safe='/:@')}/json"
        try:
            found = await self._calls.get(f"inspect image {reference}", path, ImageDocument)
        except EngineAnswerError as error:
            if error.http_status == 404:
                raise NotFoundError(
                    f"there is no image {reference} on this node: `docker pull {reference}`, or `sidegate build`"
                ) from error
            raise
        image = image_of(found)
        if len(self._images) >= KNOWN_IMAGES:
            self._images.clear()
        self._images[image.id] = image
        return image

    async def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        name, tag = _name_and_tag(reference)
        doing = f"pull image {reference}"

        def read(emit: Callable[[str], None]) -> None:
            told = 0.0

            def consume(api: Api) -> str:
                nonlocal told
                for line in api.pull(name, tag=tag, stream=True, decode=True):
                    if fault := line.get("error"):
                        return str(fault)
                    bar, now = line.get("progress") or "", time.monotonic()
                    if not bar or now - told >= TELLING_SECONDS:
                        told = now if bar else told
                        emit(
                            ": ".join(filter(None, (line.get("id"), " ".join((line.get("status") or "", bar)).strip())))
                        )
                return ""

            if fault := self._calls.client.call(doing, consume, changes=True):
                raise EngineError(f"the Docker engine cannot {doing}: {fault}")

        try:
            async with aclosing(self._calls.read("docker-pull", read, lambda: None)) as lines:
                async for line in lines:
                    progress(line)
        except EngineAnswerError as error:
            if error.http_status == 404:
                raise NotFoundError(f"there is no image {reference} to be pulled: {error.said}") from error
            raise

    async def snapshots(self, names: Collection[str]) -> Mapping[str, Snapshot]:
        found = await asyncio.gather(*(self._snapshot(name) for name in names))
        return {snapshot.name: snapshot for snapshot in found if snapshot}

    async def _snapshot(self, name: str) -> Snapshot | None:
        raw = await self._look(name)
        if raw is None or raw["Name"] != f"/{name}":  # the engine also takes ids, and the beginnings of ids
            return None
        document = msgspec.convert(raw, type=ContainerDocument)
        image = self._images.get(document.image)
        if image is None:
            with suppress(NotFoundError):
                image = await self.image(document.image)
        # Without its image nobody can say which labels were the image's: all may have been.
        labels = image.labels if image else document.config.labels or {}
        return Snapshot(
            container_of(document, labels),
            image_id=document.image,
            exit_code=raw["State"].get("ExitCode", 0),
            restart_count=raw.get("RestartCount", 0),
            strategy_fault=strategy_fault(raw),
            document=raw,
        )

    async def check(self, snapshot: Snapshot) -> None:
        rows, networks = await asyncio.gather(
            self._calls.get("list containers", "/containers/json?all=1", list[dict[str, Any]]), self._networks()
        )
        mode = snapshot.container.network_mode
        why = refusal(snapshot.document, rows)
        if not why and not mode.startswith("container:") and not main_network(mode, networks):
            why = f"the network {mode}, which it was created on, is gone"
        if not why:
            try:
                await self.image(snapshot.image_id)
            except NotFoundError:
                why = f"its image {snapshot.container.image} ({snapshot.image_id[:19]}) is no longer on this node"
        if why:
            raise RefusedError(f"container {snapshot.name} cannot be made anew: {why}")

    async def _look(self, container: str) -> dict[str, Any] | None:
        """Its inspect document; None where it is not there."""
        try:
            return await self._calls.get(
                f"inspect container {container}", f"/containers/{quote(container)}/json", dict[str, Any]
            )
        except EngineAnswerError as error:
            if error.http_status == 404:
                return None
            raise

    async def _networks(self) -> list[NetworkDocument]:
        return await self._calls.get("list networks", "/networks", list[NetworkDocument])

    # --- making --------------------

    async def copy(self, snapshot: Snapshot, name: str, env: Mapping[str, str]) -> str:
        image, networks = await asyncio.gather(self._reference(snapshot), self._networks())
        return await self._make(copy_of(snapshot.document, image, env, networks), name)

    async def create(self, spec: ContainerSpec, name: str) -> str:
        image = spec.image
        if spec.image_id:
            named = None
            with suppress(NotFoundError):
                named = await self.image(spec.image)
            image = spec.image if named and named.id == spec.image_id else spec.image_id
        if main_network(spec.network, await self._networks()) != spec.network:
            raise NotFoundError(f"cannot create container {name}: there is no network {spec.network}")
        return await self._make(creation_of(spec, image), name)

    async def _reference(self, snapshot: Snapshot) -> str:
        """How the original names its image, as long as that is still the same one."""
        with suppress(NotFoundError):
            if (await self.image(snapshot.container.image)).id == snapshot.image_id:
                return snapshot.container.image
        return snapshot.image_id

    async def _make(self, creation: Creation, name: str) -> str:
        doing = f"create container {name}"
        try:
            answer = await self._calls.change(
                doing, "POST", f"/containers/create?name={quote(name)}", creation.body, self._slow
            )
            container = str(msgspec.json.decode(answer, type=dict[str, Any])["Id"])
        except EngineAnswerError as error:
            if error.http_status == 404:
                raise NotFoundError(f"the Docker engine cannot {doing}: {error.said}") from error
            raise
        except UnconfirmedError:
            found = await self._look(name)
            if found is None or not _made_of(creation, found):
                raise
            container = str(found["Id"])
        for network, endpoint in creation.connect.items():
            await self._connect(container, network, endpoint)
        for network in creation.disconnect:
            await self._calls.change(
                f"disconnect container {name} from network {network}",
                "POST",
                f"/networks/{quote(network)}/disconnect",
                {"Container": container, "Force": True},
                self._calls.deadline,
            )
        return container

    async def _connect(self, container: str, network: str, endpoint: Json) -> None:
        """The greeter may have been first; a network that went away meanwhile was taken from the original as well."""
        doing = f"connect container {container[:12]} to network {network}"
        body = {"Container": container, "EndpointConfig": endpoint}
        try:
            await self._calls.change(doing, "POST", f"/networks/{quote(network)}/connect", body, self._calls.deadline)
        except EngineAnswerError as error:
            said = error.said.lower()
            gone = error.http_status == 404 and "network" in said
            if not gone and "already exists in network" not in said and "already attached to network" not in said:
                raise
        except UnconfirmedError:
            found = await self._look(container)
            if found is None or network not in found["NetworkSettings"]["Networks"]:
                raise

    # --- changing --------------------

    async def start(self, container_id: str) -> None:
        async def running() -> bool:
            found = await self._look(container_id)
            return found is not None and bool(found["State"]["Running"])

        await self._act("start", container_id, "POST", "/start", running, self._slow)

    async def stop(self, container_id: str) -> None:
        found = await self._look(container_id)
        if found is None:
            return
        own = found["Config"].get("StopTimeout")
        patience = STOP_SECONDS if own is None else own if 0 <= own < LONGEST_STOP else LONGEST_STOP

        async def ended() -> bool:
            found = await self._look(container_id)
            return found is None or not found["State"]["Running"]

        with suppress(NotFoundError):
            await self._act("stop", container_id, "POST", "/stop", ended, patience + self._calls.deadline)

    async def rename(self, container_id: str, name: str) -> None:
        async def named() -> bool:
            found = await self._look(container_id)
            return found is not None and found["Name"] == f"/{name}"

        if not await named():
            await self._act("rename", container_id, "POST", f"/rename?name={quote(name)}", named, self._calls.deadline)

    async def remove(self, container_id: str, *, volumes: bool = False) -> None:
        async def gone() -> bool:
            return await self._look(container_id) is None

        options = f"?force=1&v={int(volumes)}"
        try:
            await self._act("remove", container_id, "DELETE", options, gone, self._slow)
        except NotFoundError:
            return
        except EngineAnswerError as error:
            if error.http_status != 409 or "already in progress" not in error.said:
                raise
            patience = time.monotonic() + self._slow
            while not await gone():
                if time.monotonic() > patience:
                    raise
                await asyncio.sleep(0.05)

    async def _act(
        self,
        verb: str,
        container_id: str,
        method: str,
        path: str,
        done: Callable[[], Awaitable[bool]],
        seconds: float,
    ) -> None:
        doing = f"{verb} container {container_id[:12]}"
        try:
            await self._calls.change(doing, method, f"/containers/{container_id}{path}", None, seconds)
        except UnconfirmedError:
            if not await done():
                raise
        except EngineAnswerError as error:
            if error.http_status == 404 and "no such container" in error.said.lower():
                raise NotFoundError(f"there is no container {container_id[:12]}") from error
            raise

    # --- logs --------------------

    async def logs(self, container_id: str, tail: int = 20) -> str:
        last: deque[bytes] = deque()
        size = 0
        try:
            async with aclosing(self._lines(container_id, tail, follow=False)) as lines:
                async for line in lines:
                    last.append(line.text.encode(errors="replace"))
                    size += len(last[-1]) + 1
                    while size > LOG_BYTES and len(last) > 1:
                        size -= len(last.popleft()) + 1
        except EngineAnswerError as error:
            return f"(no log: {error.said})"
        return b"\n".join(last)[-LOG_BYTES:].decode(errors="replace")

    async def follow(self, container_id: str, tail: int = 20, since: float = 0.0) -> AsyncGenerator[LogLine, None]:
        async with aclosing(self._lines(container_id, tail, follow=True, since=since)) as lines:
            async for line in lines:
                yield line

    async def _lines(
        self, container_id: str, tail: int, *, follow: bool, since: float = 0.0
    ) -> AsyncGenerator[LogLine, None]:
        found = await self._look(container_id)
        if found is None:
            raise NotFoundError(f"there is no container {container_id[:12]}")
        doing, path = f"read the log of container {container_id[:12]}", f"/containers/{container_id}/logs"
        params: dict[str, int | str] = {"stdout": 1, "stderr": 1, "tail": tail, "follow": int(follow)}
        if since:
            params["since"] = f"{since:.6f}"
        open_streams: list[Any] = []

        def read(emit: Callable[[list[LogLine]], None]) -> None:
            lines = Lines(terminal=bool(found["Config"].get("Tty")))

            def consume(api: Api) -> None:
                waiting = (self._calls.client.timeout, None if follow else self._calls.client.timeout)
                with api.get(url(api, path), params=params, stream=True, timeout=waiting) as response:
                    if not response.ok:
                        _ = response.content  # the engine's reason, before the connection is let go
                    response.raise_for_status()
                    stream = Cancellable(response.iter_content(None), response)
                    open_streams.append(stream)
                    for received in stream:
                        if complete := list(lines.feed(received)):
                            emit(complete)

            self._calls.client.call(doing, consume, changes=True)
            if rest := list(lines.end()):
                emit(rest)

        def stop() -> None:
            for stream in open_streams:
                with suppress(OSError, AttributeError):  # it ended by itself meanwhile
                    stream.close()

        async with aclosing(self._calls.read("docker-log", read, stop)) as batches:
            async for batch in batches:
                for line in batch:
                    yield line

    async def close(self) -> None:
        self._calls.close()


def _made_of(creation: Creation, found: Json) -> bool:
    """Whether a container is the one that was asked for, and not somebody else's of its name."""
    asked: Json = creation.body.get("Labels") or {}
    return asked.items() <= (found["Config"].get("Labels") or {}).items()


def _name_and_tag(reference: str) -> tuple[str, str]:
    """The engine pulls every tag of a name that comes without one."""
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")
