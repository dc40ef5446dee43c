"""What the loop is told of rollouts, and what it tells them: that it has looked again."""

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

    def __repr__(self) -> str:
        return f"<Standing admitted={len(self.admitted)} troubles={len(self.troubles)}>"

    def watch(self, passed: Callable[[], None]) -> Callable[[], None]:
        """Have `passed` called after each pass; returns what ends that."""
        self._watchers.append(passed)
        return lambda: self._watchers.remove(passed)

    def listen(self, switched: Callable[[], None]) -> None:
        """Have `switched` called after each switch of an external connection, for which there may be no pass."""
        self._listeners.append(switched)

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
        return [Problem(app, text) for app, text in self.troubles.items()]
