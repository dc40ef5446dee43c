"""What the daemon loses in a container, and without capabilities."""

from collections.abc import Iterator

from sidegate.doctor.findings import Check, Told, warning
from sidegate.doctor.snapshot import Snapshot

LOST = {
    "CAP_NET_ADMIN": "no fast path between containers, no forwarding by the kernel, no cutting of sessions",
    "CAP_NET_RAW": "rules of iptables-legacy are not seen: where a host has some, workers carry external connections; "
    "and a client may not hear of the end of a session that was cut",
    "CAP_SYS_ADMIN": "the network namespaces of containers cannot be entered: PostgreSQL is not at 3306, and sessions "
    "end by the database's own KILL",
    "CAP_SYS_PTRACE": "the network namespaces of other users' processes cannot be entered",
    "CAP_NET_BIND_SERVICE": "no port below 1024",
    "CAP_SETUID": "workers cannot give up the daemon's user",
    "CAP_SETGID": "workers cannot give up the daemon's groups",
    "CAP_KILL": "a container that starts cannot be held until its networks are there",
    "CAP_SYS_NICE": "a container's first look-up may come before its networks are there",
}
"""Capability -> what there is not without it."""


def capabilities(seen: Snapshot) -> Iterator[Told]:
    for name in seen.viewer.lacking:
        yield warning(
            f"the daemon lacks {name}: {LOST[name]}",
            advice="Give it: cap_add in compose, CapabilityBoundingSet= in the unit; or live without.",
        )


def processes(seen: Snapshot) -> Iterator[Told]:
    if seen.viewer.contained and not seen.viewer.host_processes:
        yield warning(
            "this container sees no processes of the host: sessions end by the database's own KILL, and a container "
            "that has died is only known from the engine",
            advice="Run it with --pid host (`pid: host` in compose).",
        )


def network(seen: Snapshot) -> Iterator[Told]:
    if seen.viewer.contained and not seen.viewer.host_network:
        yield warning(
            "this container has a network of its own: the kernel carries no external connection, there is no fast "
            "path, and published ports may hide who comes",
            advice="Where containers can be reached from the host, run it with --network host.",
        )


CHECKS = (
    Check("capabilities", f"the daemon has {', '.join(LOST)}", capabilities),
    Check("pid-namespace", "a daemon in a container sees the host's processes", processes),
    Check("network-namespace", "a daemon in a container has the host's network", network),
)
