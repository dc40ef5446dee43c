"""What a case works with: rounds that alternate, on a quiet machine. Knows no case, writes no report."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.programs import Programs
from bench.report import Result

SPREAD = 0.15
"""Rounds further apart than this, against their median, are followed by more."""
QUIET = 0.85
"""The share of the machine's time that must be idle before a round begins."""
WARM_UP = 0.4
"""Seconds of the round that does not count."""

Measure = Callable[[float], float]
"""Takes how long it shall last, in seconds."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing worth measuring. `subject` is the server whose ratio to each other one is shown; `quick` says whether
    it takes part in a --quick run that does not name it."""

    name: str
    unit: str
    subject: str
    about: str
    run: Callable[["Bench"], None]
    quick: bool = True
    less_is_better: bool = False


@dataclass(slots=True)
class Bench:
    """One case being measured. `seconds`: how long a round lasts. `rounds`, `most`: how many there are, and may be
    where they differ. `patience`: seconds that the case may wait for a quiet machine, in all. `disturbed`: how many
    measurements waited in vain. `busy`: by server, how much of a core it took in each round. `cycles`: how often the
    case that switches does so. `notes`: lines that stand below the table."""

    case: Case
    programs: Programs
    seconds: float
    rounds: int
    most: int
    patience: float
    quick: bool
    cycles: int = 100
    notes: list[str] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)
    disturbed: int = 0

    def alternate(self, servers: Mapping[str, Measure], rounds: int = 0, *, warm_up: bool = True) -> None:
        """Measure each server once a round, by default after a short one that does not count."""
        least = rounds or self.rounds
        if warm_up:
            for measure in servers.values():
                measure(min(WARM_UP, self.seconds / 2))
            self.busy.clear()
        new: dict[str, list[float]] = {server: [] for server in servers}
        for number in range(1, max(least, self.most) + 1):
            for server, measure in servers.items():
                value = self._undisturbed(measure)
                new[server].append(value)
                progress(f"{self.case.name}: round {number}: {server}: {value:,.4g} {self.case.unit}")
            if number >= least and all(_steady(values) for values in new.values()):
                break
        for server, values in new.items():
            self.measured.setdefault(server, []).extend(values)

    def results(self) -> list[Result]:
        return [
            Result(self.case.name, server, self.case.unit, tuple(values), tuple(self.busy.get(server, ())))
            for server, values in self.measured.items()
        ]

    def _undisturbed(self, measure: Measure) -> float:
        """Measure while the machine is otherwise quiet; out of patience, whatever came last stands."""
        if self.quick:
            return measure(self.seconds)
        while True:
            before = _idle_share(0.2)
            if before < QUIET and self.patience > 0:
                self.patience -= 0.2
                continue
            began = time.monotonic()
            value = measure(self.seconds)
            if min(before, _idle_share(0.2)) >= QUIET:
                return value
            self.patience -= time.monotonic() - began
            if self.patience <= 0:
                self.disturbed += 1
                progress("the machine is busy with other things: measured all the same")
                return value


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _steady(values: Sequence[float]) -> bool:
    middle = sorted(values)[len(values) // 2]
    return max(values) - min(values) <= SPREAD * abs(middle)


def _idle_share(seconds: float) -> float:
    """Of all cores' time; what the hypervisor steals is not idle."""
    before = _cpu_times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_cpu_times(), before, strict=True)]
    return (spent[3] + spent[4]) / max(1, sum(spent))


def _cpu_times() -> list[int]:
    """proc(5), /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, in clock ticks."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    return [int(word) for word in first.split()[1:9]]
