"""Where requests for paused apps wait, in order of arrival."""

from collections.abc import Iterator
from typing import Protocol

from sidegate.core.routes import PAUSED
from sidegate.proxy.table import Table


class Parked(Protocol):
    """A client whose request waits."""

    def resume(self) -> None:
        """Its app is not paused any more, or not there."""


class Parking:
    """The requests that wait, by app. A client waits for one app at a time."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[Parked, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Parked]:
        return (client for waiting in self._waiting.values() for client in waiting)

    def add(self, app: str, client: Parked, most: int) -> bool:
        """Let `client` wait for `app`; False: `most` do already."""
        waiting = self._waiting.setdefault(app, {})
        if len(waiting) >= most:
            return False
        waiting[client] = None
        return True

    def remove(self, app: str, client: Parked) -> None:
        """It waits no longer. Safe for one that does not wait."""
        waiting = self._waiting.get(app)
        if waiting is not None:
            waiting.pop(client, None)
            if not waiting:
                del self._waiting[app]

    def resume(self, table: Table) -> None:
        """Let go who waits for an app that is not paused in `table`, the longest waiting first."""
        for name in list(self._waiting):
            app = table.apps.get(name)
            if app is None or app.mode != PAUSED:
                for client in self._waiting.pop(name):
                    client.resume()
