"""scripts/bench: measures the cases asked for, prints their tables, writes docs/benchmarks.md."""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from bench import report
from bench.bench import Bench, image, progress
from bench.fast_path import FAST_PATH
from bench.proxy import HTTP_55B
from e2e.node import run

CASES = {case.name: case for case in (FAST_PATH, HTTP_55B)}
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DOCUMENT = Path(__file__).parents[2] / "docs/benchmarks.md"


def main(words: list[str]) -> int:
    """Exit status: 0 measured, 1 something failed, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="bench", add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    for number in INTERRUPTIONS:
        signal.signal(number, _interrupt)
    wanted = options.only or [case.name for case in CASES.values() if case.quick or not options.quick]
    cases = [CASES[name] for name in CASES if name in wanted]
    seconds, patience = (1, 0) if options.quick else (3, 20)
    benches = [Bench(case, seconds=seconds, rounds=3, patience=patience) for case in cases]
    try:
        with image():
            for bench in benches:
                bench.case.run(bench)
                print(f"\n{bench.case.name}\n{report.as_table(bench.results(), bench.case.subject)}", flush=True)
    except KeyboardInterrupt:
        progress("interrupted; everything that was started is gone")
        return 130
    except (AssertionError, subprocess.TimeoutExpired) as error:  # how e2e.node says that a command or a wait failed
        progress(str(error))
        return 1
    if options.json:
        options.json.write_text(report.as_json(r for bench in benches for r in bench.results()))
    if not options.quick:
        write_document(benches)
    return 0


def write_document(benches: list[Bench]) -> None:
    """Replace the sections of docs/benchmarks.md that were measured."""
    sections = {
        bench.case.name: report.as_section(bench.case.about, bench.results(), bench.case.subject, conditions(bench))
        for bench in benches
    }
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
