"""What the commands need of whatever takes long: builds, rollouts, password changes. Protocols."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from typing import Protocol

from sidegate.core.builds import BuildLine, BuildOrder
from sidegate.core.passwords import PasswordChanged
from sidegate.core.workloads import ContainerSpec, ImageInfo, LogLine, Snapshot


class Passwords(Protocol):
    """Passwords that are being changed."""

    def expect(self, database: str) -> asyncio.Future[PasswordChanged]:
        """What comes of the change that is kept next."""


class Volumes(Protocol):
    """Named volumes of the engine."""

    async def exists(self, name: str) -> bool:
        """Raises EngineUnavailableError, EngineError."""

    async def remove(self, name: str) -> None:
        """Not there is success. Raises RefusedError where a container has it, else as `exists` does."""


class Builder(Protocol):
    """Builds images, outside of every network of ours."""

    def build(self, context: AsyncIterator[bytes], order: BuildOrder) -> AsyncGenerator[BuildLine, None]:
        """What the engine says, piece by piece; a failed build ends with a line that has an `error`. Closing or
        cancelling it ends the build. Raises EngineUnavailableError, EngineError, and what `context` raises."""


class Workloads(Protocol):
    """Images and containers. What each raises is said where it is made."""

    async def image(self, reference: str) -> ImageInfo: ...

    async def pull(self, reference: str, progress: Callable[[str], None]) -> None: ...

    async def snapshots(self, names: Collection[str]) -> Mapping[str, Snapshot]: ...

    async def check(self, snapshot: Snapshot) -> None:
        """Raise RefusedError where the container cannot be made anew."""

    async def create(self, spec: ContainerSpec, name: str) -> str: ...

    async def start(self, container_id: str) -> None: ...

    async def stop(self, container_id: str) -> None: ...

    async def remove(self, container_id: str, *, volumes: bool = False) -> None: ...

    async def logs(self, container_id: str, tail: int = 20) -> str: ...

    def follow(self, container_id: str, tail: int = 20, since: float = 0.0) -> AsyncGenerator[LogLine, None]: ...


class Rollouts(Protocol):
    """Containers of apps that are being replaced."""

    def under_way(self, app: str) -> str:
        """How far it is, in a sentence; empty where nothing is being replaced."""

    async def carry_out(self, app: str, progress: Callable[[str], None]) -> None:
        """Begin, or watch, what the store holds; returns when it is done. Raises RolloutFailedError, SidegateError."""

    async def answers(self, app: str, path: str) -> bool:
        """Whether every replica that takes requests now answers a path with 2xx or 3xx."""

    async def remove_all(self) -> None:
        """Remove every container that was made of apps, and make no new ones until `resume`."""

    def resume(self) -> None: ...
