"""docs/forms.md: how many of each file's end-to-end tests passed in which form of the daemon, and what a form lacks.

`scripts/test --form` has it written: each file that was run whole replaces what was there of it in that form.
"""

import datetime
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TABLE = Path(__file__).parent.parent / "docs/forms.md"
FORMS = ("host", "dev", "image", "bridge")
HEAD = """# The daemon in its forms, and their tests

The end-to-end tests run against the daemon in each form that it comes in, with `scripts/test --form FORM`, which also
writes this page. `host`: as root on the host. `dev`: `sidegate run --dev` as an ordinary user in docker's group.
`image`: the image with the host's network, and the capabilities of `config/compose.yaml`. `bridge`: the image with a
network of its own and published ports. Only the daemon differs: clients, containers and other hosts are the same.

Files that are not here start their own daemons, each in a form of its own, in every run.
"""

_ROW = re.compile(r"^\| `(test_\w+)` \| (.+) \|$", re.MULTILINE)
_SKIP = re.compile(r"^\| (\w+) \| `(test_\w+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
_DATE = re.compile(r"^\| last run \| (.+) \|$", re.MULTILINE)


@dataclass
class Outcomes:
    """Of one run of the tests, by file."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """File and reason -> names of tests."""

    def add(self, nodeid: str, outcome: str, reason: str = "") -> None:
        """`outcome` is passed, skipped or failed; a test that failed twice counts once more."""
        path, _, name = nodeid.partition("::")
        file = Path(path).stem
        self.counts.setdefault(file, Counter())[outcome] += 1
        if outcome == "skipped":
            self.skipped.setdefault((file, reason.removeprefix("Skipped: ")), []).append(name.replace("|", "\\|"))


def table(text: str, form: str, run: Outcomes, day: datetime.date) -> str:
    """The page `text` with what a run in `form` has found."""
    column = FORMS.index(form)
    rows = {name: cells.split(" | ") for name, cells in _ROW.findall(text)}
    skips = [row for row in _SKIP.findall(text) if not (row[0] == form and row[1] in run.counts)]
    found = _DATE.search(text)
    dates = found[1].split(" | ") if found else ["-"] * len(FORMS)
    for file, counts in run.counts.items():
        said = [f"{counts[what]} {what}" for what in ("passed", "skipped", "failed") if counts[what]]
        rows.setdefault(file, ["-"] * len(FORMS))[column] = ", ".join(said)
    for (file, reason), names in run.skipped.items():
        skips.append((form, file, reason, ", ".join(f"`{name}`" for name in names)))
    if run.counts:
        dates[column] = day.isoformat()
    lines = [
        f"| file | {' | '.join(FORMS)} |",
        "| --- |" + " --- |" * len(FORMS),
        *(f"| `{name}` | {' | '.join(cells)} |" for name, cells in sorted(rows.items())),
        f"| last run | {' | '.join(dates)} |",
        "",
        "## What a form lacks",
        "",
        "| form | file | lacks | tests that are skipped |",
        "| --- | --- | --- | --- |",
        *(
            f"| {' | '.join((one, f'`{file}`', reason, names))} |"
            for one, file, reason, names in sorted(skips, key=lambda row: (FORMS.index(row[0]), row[1:]))
        ),
    ]
    return HEAD + "\n" + "\n".join(lines) + "\n"


def record(form: str, run: Outcomes) -> None:
    """Write the page."""
    before = TABLE.read_text() if TABLE.exists() else ""
    TABLE.write_text(table(before, form, run, datetime.datetime.now(datetime.UTC).date()))
