"""What a database's own clients see: sysbench's read-only transactions on MariaDB."""

import re

from bench.bench import Bench, Case
from bench.forwarders import ALL, DIRECT, KERNEL, QUICK, Way, database
from bench.machine import CORES, bound
from e2e.node import PASSWORD, run

THREADS, ROWS, QUICK_ROWS = 16, 10_000, 500
_GRACE = 60.0
_RATE = re.compile(r"^\s+transactions:\s+\d+\s+\((?P<rate>[0-9.]+) per sec\.\)$", re.MULTILINE)
_IGNORED = re.compile(r"^\s+ignored errors:\s+0\s", re.MULTILINE)


def measure(bench: Bench) -> None:
    with database(bench, mariadb=True) as field:
        rows = QUICK_ROWS if bench.quick else ROWS

        def sysbench(way: Way, *words: str, seconds: float = 0) -> str:
            login = (f"--mysql-host={way.address}", f"--mysql-port={way.port}", *_LOGIN, f"--table-size={rows}")
            # It finds the module that its scripts share where it is started.
            command = [*way.within, *bench.programs.debian("sysbench"), "oltp_read_only.lua", *login, *words]
            scripts = bench.programs.sysbench_scripts
            return run(*bound(command, CORES), cwd=scripts, timeout=seconds + _GRACE).stdout

        def transactions(way: Way, seconds: float) -> float:
            whole = max(1, round(seconds))  # it takes no fractions
            return rate(sysbench(way, f"--threads={THREADS}", f"--time={whole}", "run", seconds=whole))

        ways = field.ways(QUICK if bench.quick else ALL)
        (direct,) = (way for way in field.ways((DIRECT,)))
        with direct.prepare():
            sysbench(direct, "prepare")
        field.alternate(ways, transactions, warm_up=not bench.quick)


def rate(output: str) -> float:
    """Transactions per second; fails where one did."""
    found = _RATE.search(output)
    if not found or not _IGNORED.search(output):
        raise AssertionError(f"sysbench did not end well:\n{output}")
    return float(found["rate"])


_LOGIN = ("--mysql-user=shop", f"--mysql-password={PASSWORD}", "--mysql-db=shop", "--tables=1")

SYSBENCH = Case(
    name="sysbench",
    unit="transactions/s",
    subject=KERNEL,
    about=f"""sysbench's oltp_read_only on MariaDB: transactions of 14 reads on one table of {ROWS:,} rows, {THREADS}
threads, from a network namespace outside the host. The database works harder here than whatever stands in between.""",
    run=measure,
    quick=False,
)
