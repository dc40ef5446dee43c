"""Which engine this is, told before anything is done with what it says: see `sidegate.adapters.instance`."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from sidegate.adapters.docker.client import EngineAnswerError, EngineClient


class Ask(Protocol):
    """Runs a blocking read of the engine, with a deadline."""

    async def __call__(self, doing: str, call: Callable[[], str]) -> str: ...


class Admission:
    """`admit` gets the id of an engine that is new, or was away; what it raises is for whoever looks at the engine."""

    def __init__(self, client: EngineClient, admit: Callable[[str], Awaitable[None]] | None) -> None:
        self._client = client
        self._admit = admit
        self._due = True

    def lost(self) -> None:
        """The engine was away: it may come back as another one."""
        self._due = True

    async def check(self, ask: Ask) -> None:
        """Raises EngineUnavailableError, and what `admit` does."""
        if self._admit is None or not self._due:
            return
        self._due = False
        try:
            await self._admit(await self._identity(ask))
        except BaseException:
            self._due = True
            raise

    async def _identity(self, ask: Ask) -> str:
        """The id that the engine has wherever it is reached (`GET /info`); its address where it does not say."""
        doing = "say which it is"
        try:
            said = await ask(doing, lambda: self._client.call(doing, lambda api: str(api.info().get("ID") or "")))
        except EngineAnswerError:  # such as from a proxy that lets only some calls through
            said = ""
        return said or self._client.host
