"""Named volumes of the engine: whether there is one, and removing it. Containers make those that they are given."""

from typing import Any
from urllib.parse import quote

from sidegate.adapters.docker.calls import EngineCalls
from sidegate.adapters.docker.client import EngineAnswerError, UnconfirmedError
from sidegate.adapters.docker.tally import EngineTally
from sidegate.errors import RefusedError


class DockerVolumes:
    """Implements `sidegate.api.world.Volumes`. Constructing it connects to nothing; arguments as of DockerWorkloads."""

    def __init__(self, host: str = "", *, deadline: float = 10.0, tally: EngineTally | None = None) -> None:
        self._calls = EngineCalls(host, deadline=deadline, threads=2, tally=tally)

    async def exists(self, name: str) -> bool:
        """Raises EngineUnavailableError, EngineError."""
        try:
            await self._calls.get(f"inspect volume {name}", f"/volumes/{quote(name)}", dict[str, Any])
        except EngineAnswerError as error:
            if error.http_status == 404:
                return False
            raise
        return True

    async def remove(self, name: str) -> None:
        """Not there is success. Raises RefusedError where a container has it, else as `exists` does."""
        doing = f"remove volume {name}"
        try:
            await self._calls.change(doing, "DELETE", f"/volumes/{quote(name)}", None, self._calls.deadline)
        except UnconfirmedError:
            if await self.exists(name):
                raise
        except EngineAnswerError as error:
            if error.http_status == 409:
                raise RefusedError(f"the volume {name} was not removed: {error.said}") from error
            if error.http_status != 404:
                raise

    async def close(self) -> None:
        """Safe to call twice."""
        self._calls.close()
