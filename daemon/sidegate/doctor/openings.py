"""Ways to databases that no connection of ours opened. Pure: the daemon's own core, asked without any intent."""

from sidegate.core.desired import desire
from sidegate.core.model import Intent, Problem
from sidegate.doctor.snapshot import Snapshot, known


def openings(seen: Snapshot) -> tuple[Problem, ...]:
    """What is wrong with databases that bear our labels. Raises NotSeenError without an engine."""
    desired = desire(Intent(), known(seen.engine).state, seen.settings.rules())
    return tuple(problem for problem in desired.problems if problem.subject in desired.discovery.databases)
