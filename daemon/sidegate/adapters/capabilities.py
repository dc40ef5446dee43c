"""What root cannot do here: capabilities that a container or a unit was not given, and what is lost without them."""

import os
from collections.abc import Iterator
from pathlib import Path

LOSSES = {
    "KILL": (5, "workers that hang cannot be ended, and new containers are not held until their networks are there"),
    "SYS_PTRACE": (19, "containers' networks cannot be entered, to cut connections or have a database answer at 3306"),
    "SYS_NICE": (23, "on a busy node the first look-up of a new container may come before its networks do"),
}
"""Capability -> its bit (linux/capability.h), and what is lost without it."""


def lost(proc: Path = Path("/proc")) -> Iterator[str]:
    """A sentence for each capability that this process lacks although it is root's."""
    if os.geteuid() != 0:
        return
    try:
        status = (proc / "self/status").read_text()
    except OSError:
        return
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), -1)
    for name, (bit, loss) in LOSSES.items():
        if not held >> bit & 1:
            yield f"CAP_{name} is missing: {loss}"
