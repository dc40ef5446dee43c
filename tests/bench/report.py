"""What was measured, as a table for people, a document for the checkout and JSON for programs. Measures nothing."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

HEAD = """# Benchmarks

Written by `scripts/bench`, which measures each section anew and leaves the sections that it did not measure alone.
Servers of a case take turns, so that what disturbs one disturbs all; the median of the rounds counts. Compare servers
within a section, never across machines or days.
"""
SECTION = re.compile(r"^## (?P<case>\S+)\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Result:
    """One server's rounds in one case, in the order in which they were measured."""

    case: str
    server: str
    unit: str
    rounds: tuple[float, ...]

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


def as_table(results: Sequence[Result], subject: str) -> str:
    """One case, a line per server; the last column is what the subject reaches of that server."""
    return "\n".join("".join(_padded(cells)) for cells in _cells(results, subject))


def as_section(about: str, results: Sequence[Result], subject: str, conditions: str) -> str:
    """One case as it stands in docs/benchmarks.md."""
    head, *rows = ["| " + " | ".join(cells) + " |" for cells in _cells(results, subject)]
    table = "\n".join([head, "| --- | ---: | ---: | --- |", *rows])
    return f"## {results[0].case}\n\n{about}\n\n{table}\n\n{conditions}\n"


def merged(document: str, sections: Mapping[str, str], order: Sequence[str]) -> str:
    """The document with these sections replaced; `order` names every case there is: sections of others are dropped."""
    present = {match["case"]: match[0].rstrip() + "\n" for match in SECTION.finditer(document)} | dict(sections)
    return "\n".join([HEAD, *(present[case] for case in order if case in present)])


def _cells(results: Sequence[Result], subject: str) -> list[tuple[str, str, str, str]]:
    own = next(r.median for r in results if r.server == subject)
    head = ("server", results[0].unit, f"{subject} is", "rounds")
    return [
        head,
        *((r.server, _number(r.median), _ratio(own, r.median), ", ".join(map(_number, r.rounds))) for r in results),
    ]


def _padded(cells: tuple[str, str, str, str]) -> tuple[str, ...]:
    server, median, ratio, rounds = cells
    return f"{server:<24}", f"{median:>12}", f"{ratio:>24}", f"   {rounds}"


def _ratio(own: float, other: float) -> str:
    return f"{own / other:.2f} of it" if other else "-"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
