"""How sessions end where the daemon may not enter containers' network namespaces: by their database's engine alone.

An app's connection to another app, or to a database whose engine cannot be asked, stays with its two ends until they
give up by themselves; nothing passes any more all the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from sidegate.core.plan import Action, DestroySockets, DisconnectContainer, ForgetFlows, KillSessions


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSessions(KillSessions):
    """The same while the path is still there: for where no socket can be destroyed, so that clients hear of it."""

    rank: ClassVar[int] = 0

    @property
    def what(self) -> str:
        return f"end sessions of {self.database} with {self.peers}"


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
