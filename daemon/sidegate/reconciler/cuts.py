"""What comes of cuts: the problems of those that failed, and the KILLs that go on beside passes and switches.

A server is told whose session was cut by a login, which may take seconds where it hangs: nobody else waits for that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from sidegate.core.cutting import KillCut
from sidegate.core.model import Problem
from sidegate.core.plan import Action, CutAction, CutForwarded, KillSessions
from sidegate.errors import MissingRightsError
from sidegate.reconciler.apply import Failure


class Cuts:
    """`carry_out` has a server end sessions and says how that failed; `wake` asks for a pass, which tells of it."""

    def __init__(self, carry_out: Callable[[KillCut], Awaitable[Failure | None]], wake: Callable[[], None]) -> None:
        self._carry_out = carry_out
        self._wake = wake
        self._problems: dict[str, Problem] = {}
        self._killing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Cuts problems={len(self._problems)} killing={len(self._killing)}>"

    @property
    def problems(self) -> frozenset[Problem]:
        return frozenset(self._problems.values())

    def begin(self, actions: Iterable[Action]) -> None:
        """These are tried now: what was said of them holds no longer."""
        for action in actions:
            self._problems.pop(action.what, None)

    def note(self, failure: Failure) -> None:
        """Keep what a failed cut means; failures of anything else say it themselves."""
        if isinstance(failure.error, MissingRightsError):  # of the host, and said once
            self._problems[str(failure.error)] = Problem("host", str(failure.error))
        elif isinstance(failure.action, CutAction | CutForwarded | KillCut):
            self._problems[failure.action.what] = _problem(failure)

    def kill_soon(self, action: KillCut) -> None:
        """Have it done beside all else."""
        task = asyncio.create_task(self.kill(action), name=_name(action.database))
        self._killing.add(task)
        task.add_done_callback(self._killing.discard)

    async def kill(self, action: KillCut) -> None:
        """Have it done; that it could not be is a problem."""
        self.begin((action,))
        if failure := await self._carry_out(action):
            self.note(failure)
            self._wake()

    def under_way(self, database: str) -> frozenset[asyncio.Task[None]]:
        """What goes on at a database."""
        return frozenset(task for task in self._killing if task.get_name() == _name(database))

    async def end(self) -> None:
        """Nothing goes on after this."""
        for task in self._killing:
            task.cancel()
        await asyncio.gather(*self._killing, return_exceptions=True)


def _name(database: str) -> str:
    return f"kill at {database}"


def _problem(failure: Failure) -> Problem:
    """What may go on although its connection was cut."""
    action = failure.action
    if isinstance(action, KillSessions | KillCut):
        text = f"a query that was running when its connection was cut may run on: {failure.error}"
        return Problem(action.database, text)
    return Problem("sidegate", f"sessions may hang at one end: {action.what}: {failure.error}")
