"""What the workers count, and how it is added up: named rows of numbers, merged over processes that come and go. Pure.

A row's key is words with a space between: its kind, the app or database, then words of our own choosing. Rows only
grow, whatever becomes of a worker: what one has counted outlives it.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from operator import add, gt

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the buckets of a request's duration, in seconds; beyond the last there is one more."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CODES = ("1xx", "2xx", "3xx", "4xx", "5xx")
OTHER = "other"
"""Whatever else a stranger, or his app, makes up."""

ANSWERS = (
    "bad_gateway", "body_too_large", "expectation", "head_too_large", "maintenance", "malformed", "max_forwards",
    "no_app", "paused", "redirect", "slow_client", "target_too_long", "timeout", "unavailable", "unsupported",
)  # fmt: skip
"""Why the proxy itself answered a request."""

REFUSALS = ("client_left", "denied", "limit", "no_answer", "not_running", "unreachable")
"""Why a forwarder refused a client."""

NAMED = "*"
"""In `COUNTERS` and `GAUGES`: the name of an app or a database, or of nobody."""

GRACE = 3600
"""Seconds after which an app or a database that is not there any more is forgotten, with its rows."""

Rows = Mapping[str, Sequence[float]]
Shape = tuple[int, tuple[str | frozenset[str], ...]]
"""How many numbers a row has, and which words follow its kind."""

COUNTERS: Mapping[str, Shape] = {
    # Requests in each bucket of durations; seconds, bytes of responses, bytes of requests in all.
    "requests": (len(BOUNDS) + 4, (NAMED, frozenset((*METHODS, OTHER)), frozenset((*CODES, OTHER)))),
    # Dials, those that failed, retries, clients that left; tunnels, bytes out and in through them.
    "app": (7, (NAMED,)),
    "answers": (1, (NAMED, frozenset(ANSWERS))),
    "connections": (2, (frozenset(("http", "https")),)),  # accepted, refused
    "handshakes": (2, ()),  # done, failed
    "shed": (1, ()),
    "forwarder": (3, (NAMED,)),  # sessions, bytes from clients, bytes to clients
    "refusals": (1, (NAMED, frozenset(REFUSALS))),
    "cpu": (1, ()),
}

GAUGES: Mapping[str, Shape] = {
    "now": (3, (NAMED,)),  # requests in hand, those of them that wait for a paused app; tunnels
    "open": (1, (frozenset(("http", "https")),)),
    "sessions": (1, (NAMED,)),
    "process": (2, ()),  # resident bytes, open files
}

_OWN = frozenset(("cpu", "process"))  # kinds that are told of each worker by itself


@dataclass(frozen=True, slots=True)
class Tally:
    """What all workers have counted, and how things stood when they told last. "cpu" and "process" are followed by the
    number of the worker."""

    counters: Rows = field(default_factory=dict)
    gauges: Rows = field(default_factory=dict)


class Histogram:
    """How often something took how long: a count for each bucket, the last without an end, and all seconds."""

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def __repr__(self) -> str:
        return f"<Histogram {sum(self.counts)} in {self.seconds:.3f} s>"

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds

    def copy(self) -> "Histogram":
        made = Histogram(self.bounds)
        made.counts, made.seconds = list(self.counts), self.seconds
        return made


class Ledger:
    """Adds up what workers tell. They read what strangers send, so nothing that they say is taken for more than it can
    be: only rows as they ought to be, of names that were published, that never shrink."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset(("",))
        self._gone: dict[str, float] = {}
        self._base: dict[str, Sequence[float]] = {}
        self._counters: dict[int, dict[str, Sequence[float]]] = {}
        self._gauges: dict[int, Rows] = {}
        self._sizes: dict[str, int] = {}  # of rows whose keys were found to be as they ought to be

    def __repr__(self) -> str:
        return f"<Ledger names={len(self._names)} gone={len(self._gone)} base={len(self._base)}>"

    def publish(self, names: Iterable[str], now: float) -> None:
        """These are the apps and databases from now on; `now` by any clock that never goes back."""
        present = frozenset(("", *names))
        for name in self._names - present:
            self._gone[name] = now
        for name in self._gone.keys() & present:
            del self._gone[name]
        self._forget(now)
        if present != self._names:
            self._sizes.clear()
        self._names = present

    def take(self, worker: int, counters: Rows, gauges: Rows) -> None:
        """What a worker has counted since its process began."""
        before = self._counters.get(worker, {})
        taken: dict[str, Sequence[float]] = {}
        for key, row in self._valid(counters, COUNTERS, worker):
            was = before.get(key)
            taken[key] = list(map(max, row, was)) if was is not None and any(map(gt, was, row)) else row
        for key in before.keys() - taken.keys():  # it has forgotten an app, and begins anew if that comes back
            self._keep(key, before[key])
        self._counters[worker] = taken
        self._gauges[worker] = dict(self._valid(gauges, GAUGES, worker))

    def lost(self, worker: int) -> None:
        """Its process is gone; the next one counts from 0."""
        for key, row in self._counters.pop(worker, {}).items():
            self._keep(key, row)
        self._gauges.pop(worker, None)

    def total(self, now: float) -> Tally:
        """Everything, less what has been gone for too long."""
        self._forget(now)
        return Tally(_sum((self._base, *self._counters.values())), _sum(self._gauges.values()))

    def _forget(self, now: float) -> None:
        forgotten = {name for name, since in self._gone.items() if now - since > GRACE}
        if not forgotten:
            return
        self._sizes.clear()
        for name in forgotten:
            del self._gone[name]
        for rows in (self._base, *self._counters.values()):
            for key in [key for key in rows if _name(key) in forgotten]:
                del rows[key]

    def _keep(self, key: str, row: Sequence[float]) -> None:
        _add(self._base, key, row)

    def _valid(self, rows: Rows, kinds: Mapping[str, Shape], worker: int) -> Iterable[tuple[str, Sequence[float]]]:
        for key, row in rows.items():
            size = self._sizes.get(key)
            if size is None:
                size = self._size(key, kinds)
            if len(row) == size > 0 and min(row) >= 0 and sum(row) < math.inf:
                yield (f"{key} {worker}" if key in _OWN else key), row

    def _size(self, key: str, kinds: Mapping[str, Shape]) -> int:
        """How many numbers the row of that key has; 0: there is no such row."""
        kind, *words = key.split(" ")
        size, allowed = kinds.get(kind, (0, ()))
        if len(words) != len(allowed) or not all(starmap(self._may_be, zip(words, allowed, strict=True))):
            return 0
        self._sizes[key] = size
        return size

    def _may_be(self, word: str, allowed: str | frozenset[str]) -> bool:
        if isinstance(allowed, frozenset):
            return word in allowed
        return word in self._names or word in self._gone


def _name(key: str) -> str:
    """Whose a counter is; empty: nobody's."""
    kind, *words = key.split(" ")
    return words[0] if COUNTERS[kind][1][:1] == (NAMED,) else ""


def _sum(parts: Iterable[Rows]) -> Rows:
    found: dict[str, Sequence[float]] = {}
    for rows in parts:
        for key, row in rows.items():
            _add(found, key, row)
    return found


def _add(rows: dict[str, Sequence[float]], key: str, row: Sequence[float]) -> None:
    before = rows.get(key)
    rows[key] = row if before is None else list(map(add, before, row))
