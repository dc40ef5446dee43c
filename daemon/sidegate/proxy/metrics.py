"""What a worker counts of HTTP: a few numbers in lists, found once for each request head and then only added to.

Nobody asks for them more often than every few seconds, so whatever can be counted then is not counted before.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from sidegate.core.tally import BOUNDS, CODES, GRACE, METHODS, OTHER

# The columns of a row, after the buckets.
SECONDS: Final = len(BOUNDS) + 1
SENT: Final = SECONDS + 1
RECEIVED: Final = SENT + 1
WIDTH: Final = RECEIVED + 1
QUICK: Final = BOUNDS[0]
"""Most requests are over by then: their bucket is the first."""

Row = list[float]

_METHODS = {name.encode(): name for name in METHODS}


class AppMeter:
    """One app's numbers in this worker, or nobody's: what was asked of no app. Outlives every snapshot of the routes.

    `dials` are connections to replicas, `left` clients that went before they had their answer, `answers` what the
    proxy answered itself, `sent` and `received` the bytes of tunnels that are over.
    """

    __slots__ = (
        "_rows", "answers", "dial_failures", "dials", "left", "name", "received", "retries", "sent", "tunnels",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.dials = 0
        self.dial_failures = 0
        self.retries = 0
        self.tunnels = 0
        self.sent = 0
        self.received = 0
        self.left = 0
        self.answers: Counter[str] = Counter()
        self._rows: dict[str, list[Row]] = {}

    def __repr__(self) -> str:
        return f"<AppMeter {self.name} methods={sorted(self._rows)}>"

    def rows(self, method: bytes) -> list[Row]:
        """A row for each first digit of a status; for all strange ones the same."""
        name = _METHODS.get(method, OTHER)
        rows = self._rows.get(name)
        if rows is None:
            other, *known = (_empty() for _ in range(len(CODES) + 1))
            rows = self._rows[name] = [other, *known, other, other, other, other]
        return rows

    def counted(self) -> Iterator[tuple[str, Row]]:
        """What there is, by the keys of core.tally."""
        for method, rows in self._rows.items():
            for code, row in zip((OTHER, *CODES), rows[: len(CODES) + 1], strict=True):
                if row[0] or row[SECONDS]:  # whatever is not in the first bucket took some time
                    yield f"requests {self.name} {method} {code}", row
        totals: Row = [self.dials, self.dial_failures, self.retries, self.left, self.tunnels, self.sent, self.received]
        if any(totals):
            yield f"app {self.name}", totals
        for reason, count in self.answers.items():
            yield f"answers {self.name} {reason}", [count]


def _empty() -> Row:
    return [0] * WIDTH


def count(row: Row, seconds: float, sent: int, received: int) -> None:
    """A request that is over; http1.backend_done has the same in line."""
    row[SECONDS] += seconds
    row[SENT] += sent
    row[RECEIVED] += received
    row[bisect_left(BOUNDS, seconds)] += 1


class ForwarderMeter:
    """A database's forwarder in this worker, however often it is opened anew: sessions that reached the database, the
    bytes of those that are over, and whom it refused."""

    __slots__ = ("received", "refused", "sent", "sessions")

    def __init__(self) -> None:
        self.sessions = 0
        self.received = 0
        self.sent = 0
        self.refused: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<ForwarderMeter sessions={self.sessions} refused={self.refused.total()}>"


class Meters:
    """The meters of all apps of a worker, those that are gone for a while included."""

    def __init__(self) -> None:
        self.nobody = AppMeter("")
        self._apps: dict[str, AppMeter] = {}
        self._gone: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Meters apps={len(self._apps)} gone={len(self._gone)}>"

    def __iter__(self) -> Iterator[AppMeter]:
        yield self.nobody
        yield from self._apps.values()

    def of(self, app: str) -> AppMeter:
        meter = self._apps.get(app)
        if meter is None:
            meter = self._apps[app] = AppMeter(app)
        return meter

    def retain(self, apps: Collection[str], tick: int) -> None:
        """These are there now, in the worker's second `tick`; the others are forgotten in time."""
        for name in self._apps.keys() - apps:
            if tick - self._gone.setdefault(name, tick) > GRACE:
                del self._apps[name], self._gone[name]
        for name in self._gone.keys() & apps:
            del self._gone[name]
