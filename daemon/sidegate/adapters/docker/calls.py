"""Calls to the engine off the event loop: bounded threads, a deadline for each, and streams in threads of their own."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from sidegate.adapters.docker.client import Api, EngineClient, UnconfirmedError
from sidegate.adapters.docker.recreate import Json
from sidegate.adapters.docker.streams import Reading
from sidegate.adapters.docker.tally import EngineTally
from sidegate.errors import EngineUnavailableError

T = TypeVar("T")


class Lane:
    """Some threads for blocking calls, and who may use them."""

    def __init__(self, threads: int, name: str) -> None:
        self.threads = ThreadPoolExecutor(threads, name)
        self.closed = False
        """Whether new calls are refused."""
        self._slots = asyncio.Semaphore(threads)

    async def run(self, call: Callable[[], T], seconds: float) -> T:
        """Raises TimeoutError after `seconds`, waiting for a thread included, and as `refuse_closed` does."""
        self.refuse_closed()
        async with self._slots, asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(self.threads, call)

    def refuse_closed(self) -> None:
        """Raise EngineUnavailableError where it is closed."""
        if self.closed:
            raise EngineUnavailableError("the connection to the Docker engine is closed")

    def close(self) -> None:
        """Refuse new calls; those under way are not waited for. Safe to call twice."""
        self.closed = True
        self.threads.shutdown(wait=False, cancel_futures=True)


def no_reply(client: EngineClient, doing: str, seconds: float) -> EngineUnavailableError:
    """What to raise for a read that was not answered in time: the engine is not there."""
    return EngineUnavailableError(
        f"the Docker engine at {client.host} was asked to {doing} and did not within {seconds:g} s"
    )


class EngineCalls:
    """An engine's endpoints by their paths. Constructing it connects to nothing.

    `host` and `deadline` as of DockerEngine; `threads` bounds quick calls side by side, and as many may be slow ones.
    """

    def __init__(self, host: str, *, deadline: float, threads: int, tally: EngineTally | None = None) -> None:
        self.client = EngineClient(host, timeout=max(1, int(deadline * 0.8)), pool_size=2 * threads, tally=tally)
        self.deadline = deadline
        self._quick = Lane(threads, "docker-work")
        self._slow = Lane(threads, "docker-slow")
        self._readings: set[Reading[Any]] = set()

    def __repr__(self) -> str:
        return f"{self.client.host} streams={len(self._readings)}"

    async def get(self, doing: str, path: str, kind: type[T]) -> T:
        """A document; raises EngineAnswerError, EngineUnavailableError."""

        def get(api: Api) -> T:
            response = api.get(url(api, path), timeout=self.client.timeout)
            response.raise_for_status()
            return msgspec.json.decode(response.content, type=kind)

        try:
            return await self._quick.run(lambda: self.client.call(doing, get), self.deadline)
        except TimeoutError:
            raise no_reply(self.client, doing, self.deadline) from None

    async def change(self, doing: str, method: str, path: str, body: Json | None, seconds: float) -> bytes:
        """Returns the answer. Raises UnconfirmedError where there is none within `seconds`, else as `get` does."""

        def change(api: Api) -> bytes:
            response = api.request(method, url(api, path), json=body, timeout=seconds)
            response.raise_for_status()
            return response.content

        try:
            # A container that takes minutes to stop must not keep anybody from looking. The client's own wait ends
            # first: a thread that nobody waits for would hold one of few.
            lane = self._slow if seconds > self.deadline else self._quick
            return await lane.run(lambda: self.client.call(doing, change, changes=True), seconds + self.deadline)
        except (UnconfirmedError, TimeoutError) as error:
            raise UnconfirmedError(
                f"the Docker engine did not confirm within {seconds:g} s that it could {doing}"
            ) from error

    async def read(
        self, name: str, read: Callable[[Callable[[T], None]], None], stop: Callable[[], None]
    ) -> AsyncGenerator[T, None]:
        """What `read` emits, on a thread of its own; see Reading."""
        self._quick.refuse_closed()
        reading: Reading[T] = Reading(name, read, stop)
        self._readings.add(reading)
        try:
            async with aclosing(reading.items()) as items:
                async for item in items:
                    yield item
        finally:
            self._readings.discard(reading)

    def close(self) -> None:
        """End the streams and refuse new calls. Safe to call twice."""
        for lane in (self._quick, self._slow):
            lane.close()
        for reading in list(self._readings):
            reading.abandon()
        self.client.close()


def url(api: Api, path: str) -> str:
    """An endpoint's address, in the API version that was negotiated."""
    return f"{api.base_url}/v{api.api_version}{path}"
