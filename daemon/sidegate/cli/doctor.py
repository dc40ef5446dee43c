"""The verb `doctor`: what is wrong with this node, and what mends it. The one verb besides `run` without a call."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidegate.cli.session import ESCAPED, Session, common, pass_session, progress
from sidegate.cli.tables import printable, style

if TYPE_CHECKING:
    from sidegate.doctor.findings import Finding

COLOURS = {"fault": "red", "warning": "yellow", "unknown": "blue", "ok": "green"}
INDENT = " " * 11


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Settings in TOML, as for `sidegate run`. Default: /etc/sidegate/sidegate.toml where there is one.",
)
@click.option("--dev", is_flag=True, help="Look with the settings of `sidegate run --dev`.")
@click.option("-v", "--verbose", is_flag=True, help="Show what is in order, too.")
@common
@pass_session
def doctor(session: Session, config: Path | None, dev: bool, verbose: bool) -> None:
    """Look at this node, with a daemon or without one, and say what is wrong and which command mends it.

    Looks with the settings of the daemon that answers here, else with those that `sidegate run` would have, and changes
    nothing. As root it sees most; what it could not look at is said, and is no fault.

    \b
    Exit status: 0 nothing is wrong, or warnings alone; 1 faults were found; 2 usage.

    \b
    Example:
      sudo sidegate doctor
      sidegate doctor --json | jq '.findings[] | select(.level == "fault")'
    """
    from sidegate.doctor.examination import examine, look  # late: only this verb needs the daemon's libraries

    with progress("looking at this node"):
        found = examine(look(config, session.socket, dev=dev))
    if session.json:
        counts = {level: sum(finding.level == level for finding in found) for level in COLOURS}
        document = {"counts": counts, "findings": [asdict(finding) for finding in found]}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False).translate(ESCAPED))
    else:
        show(found, verbose=verbose)
    if any(finding.level == "fault" for finding in found):
        raise SystemExit(1)


def show(found: Sequence["Finding"], *, verbose: bool) -> None:
    """By group; each command on lines of its own, to be pasted."""
    group = ""
    for finding in found:
        if finding.level == "unknown" or (finding.level == "ok" and not verbose):
            continue
        if finding.group != group:
            group = finding.group
            click.echo(style(group, bold=True))
        level = style(finding.level.ljust(7), COLOURS[finding.level])
        click.echo(f"  {level}  {style(finding.check, bold=True)}: {_line(finding.text)}")
        for line in finding.command.split("\n") if finding.command else ():
            click.echo(INDENT + style(printable(line), "cyan"))
        if finding.advice:
            click.echo(INDENT + _line(finding.advice))
    _show_unknown([finding for finding in found if finding.level == "unknown"])
    _show_counts(found, verbose=verbose)


def _show_unknown(unknown: Iterable["Finding"]) -> None:
    """Together where the reason is the same."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for finding in unknown:
        reasons.setdefault((finding.text, finding.advice), []).append(finding.check)
    if reasons:
        click.echo(style("not looked at", bold=True))
    for (text, advice), checks in reasons.items():
        click.echo(f"  {', '.join(checks)}: {_line(text)}")
        if advice:
            click.echo(INDENT + _line(advice))


def _show_counts(found: Sequence["Finding"], *, verbose: bool) -> None:
    faults, warnings, fine = (sum(f.level == level for f in found) for level in ("fault", "warning", "ok"))
    wrong = [_count(number, word) for number, word in ((faults, "fault"), (warnings, "warning")) if number]
    more = "" if verbose else " (--verbose shows them)"
    click.echo(f"{', '.join(wrong) or 'nothing is wrong'}; {_count(fine, 'check')} in order{more}")


def _line(text: str) -> str:
    """Names that strangers chose are in it, and what begins a line here may be a command."""
    return printable(text).replace("\n", "?")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


COMMANDS = (doctor,)
