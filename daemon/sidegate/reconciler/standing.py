"""What the loop is told by what runs beside it, rollouts above all, and what it tells them: it has looked again."""

from collections.abc import Callable, Iterable

from sidegate.core.model import Problem


class Standing:
    """`admitted`: ids of containers that were seen to be ready to take the place of others; `leaving`: of those that
    are not to, after all. `troubles`: app -> what keeps its rollout from going on, for the operator."""

    def __init__(self) -> None:
        self.admitted: set[str] = set()
        self.leaving: set[str] = set()
        self.troubles: dict[str, str] = {}
        self._watchers: list[Callable[[], None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._others: list[Callable[[], Iterable[Problem]]] = []

    def __repr__(self) -> str:
        return f"<Standing admitted={len(self.admitted)} troubles={len(self.troubles)}>"

    def watch(self, passed: Callable[[], None]) -> Callable[[], None]:
        """Have `passed` called after each pass; returns what ends that."""
        self._watchers.append(passed)
        return lambda: self._watchers.remove(passed)

    def listen(self, switched: Callable[[], None]) -> None:
        """Have `switched` called after each switch of an external connection, for which there may be no pass."""
        self._listeners.append(switched)

    def include(self, problems: Callable[[], Iterable[Problem]]) -> None:
        """Have what `problems` gives be among those of each pass."""
        self._others.append(problems)

    def forget(self, ids: Iterable[str]) -> None:
        """Containers whose names say all there is to say."""
        gone = frozenset(ids)
        self.admitted -= gone
        self.leaving -= gone

    def passed(self) -> None:
        """A pass is over."""
        for watcher in tuple(self._watchers):
            watcher()

    def switched(self) -> None:
        """An external connection was switched."""
        for listener in self._listeners:
            listener()

    def problems(self) -> list[Problem]:
        told = [problem for problems in self._others for problem in problems()]
        return [*told, *(Problem(app, text) for app, text in self.troubles.items())]
