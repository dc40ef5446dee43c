"""Which engine this is, told before anything is done with what it says: see `sidegate.adapters.instance`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from sidegate.adapters.docker.client import EngineAnswerError, EngineClient
from sidegate.errors import EngineUnavailableError

PATIENCE = 3.0
"""Seconds to wait for `GET /info`: it asks storage and plugins, any of which may hang while all else is answered."""


class Ask(Protocol):
    """Runs a blocking read of the engine, with a deadline."""

    async def __call__(self, doing: str, call: Callable[[], str]) -> str: ...


class Admission:
    """`admit` gets the id of an engine that is new, or was away; what it raises is for whoever looks at the engine."""

    def __init__(self, client: EngineClient, admit: Callable[[str], Awaitable[None]] | None) -> None:
        self._client = client
        self._admit = admit
        self._due = True
        self._admitted = False

    def lost(self) -> None:
        """The engine was away: it may come back as another one."""
        self._due = True

    async def check(self, ask: Ask) -> None:
        """Raises what `admit` does. One that does not say which it is counts as the one that it was, and is known by
        its address where it never said."""
        if self._admit is None or not self._due:
            return
        self._due = False
        try:
            said = await self._said(ask)
            if said or not self._admitted:
                await self._admit(said or self._client.host)
                self._admitted = True
        except BaseException:
            self._due = True
            raise

    async def _said(self, ask: Ask) -> str:
        """The id that the engine has wherever it is reached (`GET /info`)."""
        doing = "say which it is"
        try:
            async with asyncio.timeout(PATIENCE):
                return await ask(doing, lambda: self._client.call(doing, lambda api: str(api.info().get("ID") or "")))
        except (TimeoutError, EngineUnavailableError, EngineAnswerError):  # such as a proxy for only some calls
            return ""
