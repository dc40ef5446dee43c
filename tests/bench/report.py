"""What was measured, as a table for people, a document for the checkout and JSON for programs. Measures nothing."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

HEAD = """# Benchmarks

Written by `scripts/bench`, which measures each section anew and leaves the sections that it did not measure alone.
Servers of a case take turns, so that what disturbs one disturbs all; the median of the rounds counts. Compare servers
within a section, never across machines or days. Each server has one core to itself unless its section says otherwise,
the load and the backend have the others; `cores` is what the server took of them: where that is well below one,
something else was the limit. Rows with `+log` write an access log. The configurations are in tests/bench/configs.
"""
SECTION = re.compile(r"^## (?P<case>\S+)\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Result:
    """One server's rounds in one case, in the order in which they were measured. `busy`: cores it took meanwhile."""

    case: str
    server: str
    unit: str
    rounds: tuple[float, ...]
    busy: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


def as_json(results: Iterable[Result]) -> str:
    """A list of {"case", "server", "unit", "median", "rounds"}; `rounds` is the list of what each round measured."""
    documents = [
        {"case": r.case, "server": r.server, "unit": r.unit, "median": r.median, "rounds": list(r.rounds)}
        for r in results
    ]
    return json.dumps(documents, indent=2) + "\n"


def as_table(results: Sequence[Result], subject: str, *, less_is_better: bool = False) -> str:
    """One case, a line per server: median, what the subject has of it, cores that the server took, rounds."""
    return "\n".join("".join(_padded(cells)) for cells in _cells(results, subject, less_is_better))


def as_section(
    about: str,
    results: Sequence[Result],
    subject: str,
    verdicts: Sequence[str],
    conditions: str,
    *,
    less_is_better: bool = False,
) -> str:
    """One case as it stands in docs/benchmarks.md."""
    head, *rows = ["| " + " | ".join(cells) + " |" for cells in _cells(results, subject, less_is_better)]
    table = "\n".join([head, "| --- | ---: | ---: | ---: | --- |", *rows])
    floors = "".join(f"- {verdict}\n" for verdict in verdicts)
    return f"## {results[0].case}\n\n{about}\n\n{table}\n\n{floors}\n{conditions}\n".replace("\n\n\n", "\n\n")


def merged(document: str, sections: Mapping[str, str], order: Sequence[str]) -> str:
    """The document with these sections replaced; `order` names every case there is: sections of others are dropped."""
    present = {match["case"]: match[0].rstrip() + "\n" for match in SECTION.finditer(document)} | dict(sections)
    return "\n".join([HEAD, *(present[case] for case in order if case in present)])


def _cells(results: Sequence[Result], subject: str, less_is_better: bool) -> list[tuple[str, ...]]:
    medians = {r.server: r.median for r in results}
    head = ("server", results[0].unit, f"{subject} takes" if less_is_better else f"{subject} is", "cores", "rounds")
    return [head, *(_row(r, medians, subject) for r in results)]


def _row(result: Result, medians: Mapping[str, float], subject: str) -> tuple[str, ...]:
    # A variant is compared with the subject's own of the same kind.
    _, plus, variant = result.server.partition("+")
    own = medians.get(subject + plus + variant, medians.get(subject, 0.0))
    busy = f"{statistics.median(result.busy):.2f}" if result.busy else ""
    ratio = f"{own / result.median:.2f} of it" if result.median else "-"
    return result.server, _number(result.median), ratio, busy, ", ".join(map(_number, result.rounds))


def _padded(cells: tuple[str, ...]) -> tuple[str, ...]:
    server, median, ratio, busy, rounds = cells
    return f"{server:<24}", f"{median:>16}", f"{ratio:>24}", f"{busy:>8}", f"   {rounds}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
