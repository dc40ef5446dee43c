"""Limits of the machine: open files, and its clock."""

from collections.abc import Iterator

from sidegate.doctor.findings import Check, Told, warning
from sidegate.doctor.snapshot import Snapshot

PER_CONNECTION = 2
"""Descriptors: a client's and a replica's."""
OWN = 256
FEW = 4096


def open_files(seen: Snapshot) -> Iterator[Told]:
    limit, wanted = seen.limits.open_files, seen.settings.max_connections
    advice = "Set LimitNOFILE= in its unit or `ulimit -Hn 1048576` before it starts, and start it again."
    if wanted and PER_CONNECTION * wanted + OWN > limit:
        yield warning(
            f"max_connections is {wanted}, which may take {PER_CONNECTION * wanted + OWN} open files, and a process "
            f"may have {limit}",
            advice=advice,
        )
    elif not wanted and limit < FEW:
        yield warning(
            f"a process may have {limit} open files: about {max(0, limit - OWN) // PER_CONNECTION} visitors at once in "
            "each worker, the rest waits",
            advice=advice,
        )


def clock(seen: Snapshot) -> Iterator[Told]:
    if seen.limits.synchronised is False:
        yield warning(
            "this machine's clock is not synchronised: certificates and expiries go by it",
            command="timedatectl set-ntp true",
        )


CHECKS = (
    Check("open-files", "a process may have as many open files as max_connections takes", open_files),
    Check("clock", "the clock is synchronised, as far as systemd knows", clock),
)
