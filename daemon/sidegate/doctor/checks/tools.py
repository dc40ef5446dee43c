"""Commands of the host that the daemon uses."""

from collections.abc import Iterator

from sidegate.adapters.tools import PACKAGES
from sidegate.doctor.findings import Check, Told, warning
from sidegate.doctor.snapshot import Snapshot

LOST = {
    "iptables": "no fast path between containers, and the kernel carries no external connection",
    "iptables-restore": "the kernel carries no external connection",
    "nft": "workers carry external connections, not the kernel, and private networks have no fence",
    "ss": "a connection that is removed may keep its sessions until they time out",
    "conntrack": "a connection that is removed may keep its sessions until they time out",
    "nsenter": "nothing in a container's network namespace can be cut or redirected: PostgreSQL is not at 3306",
}
"""Command -> what there is not without it."""


def installed(seen: Snapshot) -> Iterator[Told]:
    for tool in seen.missing_tools:
        yield warning(f"{tool} is not installed: {LOST[tool]}", command=f"apt-get install {PACKAGES[tool]}")


CHECKS = (Check("tools", f"{', '.join(LOST)} are installed", installed),)
