"""scripts/bench: measures the cases asked for, prints their tables, writes docs/benchmarks.md."""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from bench import engine, floors, report
from bench.bench import Bench, progress
from bench.cores import CORES_CASE
from bench.external import EXTERNAL
from bench.fast_path import FAST_PATH
from bench.machine import raise_file_limit
from bench.memory import IDLE_MEMORY
from bench.programs import unpacked
from bench.rates import RATES
from bench.routes import ROUTES_10K
from bench.start import START
from bench.switch import SWITCH
from bench.sysbench import SYSBENCH
from e2e.node import run

CASES = {
    case.name: case
    for case in (FAST_PATH, *RATES, IDLE_MEMORY, ROUTES_10K, CORES_CASE, START, *EXTERNAL, SYSBENCH, SWITCH)
}
CYCLES, QUICK_CYCLES = 100, 5
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DOCUMENT = Path(__file__).parents[2] / "docs/benchmarks.md"


def main(words: list[str]) -> int:
    """Exit status: 0 measured, 1 something failed, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="bench", add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE")
    parser.add_argument("--cycles", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    for number in INTERRUPTIONS:
        signal.signal(number, _interrupt)
    wanted = options.only or [case.name for case in CASES.values() if case.quick or not options.quick]
    raise_file_limit()
    try:
        engine.remove_leftovers()
        cycles = options.cycles or (QUICK_CYCLES if options.quick else CYCLES)
        benches = measured([name for name in CASES if name in wanted], cycles, quick=options.quick)
    except KeyboardInterrupt:
        progress("interrupted; everything that was started is gone")
        return 130
    except (
        AssertionError,
        OSError,
        subprocess.SubprocessError,
    ) as error:  # how commands and waits say that they failed
        progress(str(error))
        return 1
    if options.json:
        options.json.write_text(report.as_json(r for bench in benches for r in bench.results()))
    if not options.quick:
        write_document(benches)
    return 0


def measured(names: list[str], cycles: int, *, quick: bool) -> list[Bench]:
    """The cases, measured one after the other; each is printed as soon as it is through."""
    seconds, rounds, most, patience = (0.2, 3, 3, 0.0) if quick else (2.0, 3, 4, 15.0)
    benches = []
    with tempfile.TemporaryDirectory(prefix="sgbench-") as directory, unpacked(Path(directory)) as programs:
        for name in names:
            bench = Bench(CASES[name], programs, seconds, rounds, most, patience, quick, cycles)
            bench.case.run(bench)
            benches.append(bench)
            results = bench.results()
            print(f"\n{name}")
            print(report.as_table(results, bench.case.subject, less_is_better=bench.case.less_is_better))
            print(*floors.verdicts(results), *bench.notes, sep="\n", flush=True)
    return benches


def write_document(benches: list[Bench]) -> None:
    """Replace the sections of docs/benchmarks.md that were measured."""
    sections = {}
    for bench in benches:
        case, results = bench.case, bench.results()
        lines = [*floors.verdicts(results), *bench.notes]
        sections[case.name] = report.as_section(
            case.about, results, case.subject, lines, conditions(bench), less_is_better=case.less_is_better
        )
    old = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(report.merged(old, sections, list(CASES)))
    progress(f"wrote {DOCUMENT}")


def conditions(bench: Bench) -> str:
    """A sentence on when and on what it was measured."""
    engine = run("docker", "version", "--format", "{{.Server.Version}}").stdout.strip()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    noise = f" The machine had other work during {bench.disturbed} of these measurements." if bench.disturbed else ""
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {bench.seconds:g} s a round, {os.cpu_count()} cores of {model}, "
        f"Linux {platform.release()}, Docker {engine}, Python {platform.python_version()}.{noise}"
    )


def _interrupt(*_: object) -> NoReturn:
    """Once is enough: removing what was started must not be interrupted."""
    for number in INTERRUPTIONS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
