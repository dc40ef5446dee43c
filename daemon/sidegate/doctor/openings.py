"""Ways to databases that no connection of ours opened. Pure: the daemon's own core, asked without any intent."""

from sidegate.core.desired import desire
from sidegate.core.model import Intent, Problem, Rules
from sidegate.doctor.snapshot import Snapshot, known


def rules(seen: Snapshot) -> Rules:
    """What the core needs of the settings to sort containers."""
    settings = seen.settings
    return Rules(
        instance=settings.instance,
        base_domain=settings.base_domain,
        isolation=settings.isolation,
        trust_image_labels=settings.trust_image_labels,
        pool=settings.internal_pool,
        subnet_prefix=settings.internal_subnet,
        discover=settings.discover,
        loopback=settings.listen == "loopback",
    )


def openings(seen: Snapshot) -> tuple[Problem, ...]:
    """What is wrong with databases that bear our labels. Raises NotSeenError without an engine."""
    desired = desire(Intent(), known(seen.engine).state, rules(seen))
    return tuple(problem for problem in desired.problems if problem.subject in desired.discovery.databases)
