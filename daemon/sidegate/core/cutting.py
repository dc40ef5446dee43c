"""How sessions end at a database's server: those that were cut, and all where nothing but the server can end them.

Where the daemon may not enter containers' network namespaces an app's connection to another app, or to a database whose
engine cannot be asked, stays with its two ends until they give up by themselves; nothing passes any more all the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from sidegate.core.plan import (
    Action,
    DestroySockets,
    DisconnectContainer,
    ForgetFlows,
    ForwarderAction,
    KillSessions,
)
from sidegate.core.sessions import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSessions(KillSessions):
    """The same while the path is still there: for where no socket can be destroyed, so that clients hear of it."""

    rank: ClassVar[int] = 0

    @property
    def what(self) -> str:
        return f"end sessions of {self.database} with {self.peers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KillCut(ForwarderAction):
    """End a database server's threads for exactly those external clients that its chain has cut before, `clients` as
    the database knew them: a destroyed socket does not stop a running query. Nothing waits for it, since a login may
    take long."""

    rank: ClassVar[int] = 8
    essential: ClassVar[bool] = False
    clients: frozenset[Client] = field(repr=False, default=frozenset())

    @property
    def what(self) -> str:
        return f"kill the sessions of {self.database} that were cut on port {self.port}"


def by_engines_alone(actions: Iterable[Action]) -> Iterator[Action]:
    """The same without what cannot be done. Clients hear of the end while there is a way to them still; who came back
    meanwhile is ended after it has gone."""
    planned = tuple(actions)
    parted = {action.chain for action in planned if isinstance(action, DisconnectContainer)}
    for action in planned:
        if isinstance(action, KillSessions) and action.chain in parted:
            yield EndSessions(
                database=action.database, peers=action.peers, of_chain=action.of_chain, cause=action.cause
            )
        if not isinstance(action, DestroySockets | ForgetFlows):
            yield action
