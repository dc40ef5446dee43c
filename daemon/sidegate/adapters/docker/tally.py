"""Counting calls to the engine: which operation, how it ended, how long it took."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from sidegate.core.tally import Histogram

BOUNDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DONE, REFUSED, UNAVAILABLE = "done", "refused", "unavailable"

# What completes "the engine cannot …" begins with one of these; the rest of it has names.
_OPERATIONS: tuple[tuple[str, str], ...] = (
    ("say its version", "version"),
    ("list containers", "list_containers"),
    ("list the containers on", "list_containers"),
    ("list networks", "list_networks"),
    ("inspect container", "inspect_container"),
    ("inspect network", "inspect_network"),
    ("inspect image", "inspect_image"),
    ("inspect volume", "inspect_volume"),
    ("read the log", "read_log"),
    ("read", "read_file"),
    ("create network", "create_network"),
    ("remove network", "remove_network"),
    ("connect container", "connect"),
    ("disconnect container", "disconnect"),
    ("create container", "create_container"),
    ("start container", "start_container"),
    ("stop container", "stop_container"),
    ("rename container", "rename_container"),
    ("remove container", "remove_container"),
    ("remove volume", "remove_volume"),
    ("pull image", "pull_image"),
)


def operation(doing: str) -> str:
    """Of a closed set: what an operator's names make of it is left out."""
    return next((name for words, name in _OPERATIONS if doing.startswith(words)), "other")


class EngineTally:
    """All calls of one daemon, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, Histogram] = {}

    def __repr__(self) -> str:
        return f"<EngineTally calls={self._outcomes.total()}>"

    @contextlib.contextmanager
    def timed(self, doing: str, unavailable: tuple[type[Exception], ...]) -> Iterator[None]:
        """Count the call that the block makes; one that raises any of `unavailable` got no answer."""
        began, outcome = time.monotonic(), REFUSED
        try:
            yield
            outcome = DONE
        except unavailable:
            outcome = UNAVAILABLE
            raise
        finally:
            seconds, name = time.monotonic() - began, operation(doing)
            with self._lock:
                self._outcomes[name, outcome] += 1
                self._seconds.setdefault(name, Histogram(BOUNDS)).observe(seconds)

    @property
    def outcomes(self) -> Mapping[tuple[str, str], int]:
        """(operation, outcome) -> calls."""
        with self._lock:
            return dict(self._outcomes)

    @property
    def seconds(self) -> Mapping[str, Histogram]:
        """Operation -> how long its calls took, however they ended."""
        with self._lock:
            return {name: histogram.copy() for name, histogram in self._seconds.items()}
