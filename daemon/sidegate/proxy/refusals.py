"""Clients that forwarders refused: every one is counted, and as many as a log can bear are named. Pure."""

from collections import Counter, defaultdict

from sidegate.proxy.messages import Refusal, Refused

_BURST = 10
_PER_SECOND = 2


class Refusals:
    """One per worker. `take` once a second: a scan of any size comes to ten lines of the log, then two a second."""

    def __init__(self) -> None:
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by database
        self._seen: Counter[tuple[str, str, str]] = Counter()  # database, client, reason
        self._others: Counter[str] = Counter()
        self._lines = _BURST

    def __repr__(self) -> str:
        return f"<Refusals lines={self._lines} seen={len(self._seen)} others={self._others.total()}>"

    def note(self, database: str, client: str, reason: str) -> None:
        """Count one; `client` is its address alone."""
        self._reasons[database][reason] += 1
        key = database, client, reason
        if key in self._seen or len(self._seen) < self._lines - 1:  # one line for the others
            self._seen[key] += 1
        else:
            self._others[database] += 1

    def forget(self, database: str) -> None:
        """Count none of those that were not told yet; they are named all the same."""
        self._reasons.pop(database, None)

    def take(self) -> list[Refused]:
        """What there is to tell after another second."""
        told = []
        self._lines -= len(self._seen)
        for database in self._reasons.keys() | self._others.keys() | {name for name, _, _ in self._seen}:
            others = 0
            if database in self._others and self._lines > 0:
                self._lines -= 1
                others = self._others.pop(database)
            seen = [Refusal(who, why, times) for (name, who, why), times in self._seen.items() if name == database]
            reasons = self._reasons[database]
            if reasons or seen or others:
                told.append(Refused(database, dict(reasons), tuple(seen), others))
        self._reasons.clear()
        self._seen.clear()
        self._lines = min(_BURST, self._lines + _PER_SECOND)
        return told
