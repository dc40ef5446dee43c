"""Subnets for our networks, cut from one pool: Docker's own pools gave out after 28 networks."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network


def free_subnets(pool: IPv4Network, prefix: int, taken: Iterable[str]) -> Iterator[IPv4Network]:
    """Subnets of `pool` with prefix length `prefix`, lowest first, that overlap none of `taken` (CIDRs).

    `taken` entries outside the pool, wider than it, or of IPv6 are fine. Costs no more than taken plus given out.
    """
    size = 1 << (32 - prefix)
    base, count = int(pool.network_address), 1 << (prefix - pool.prefixlen)
    used: set[int] = set()
    for cidr in taken:
        if ":" in cidr:
            continue
        network = IPv4Network(cidr, strict=False)
        first = max(0, (int(network.network_address) - base) // size)
        last = min(count - 1, (int(network.broadcast_address) - base) // size)
        used.update(range(first, last + 1))
    for index in range(count):
        if index not in used:
            yield IPv4Network((base + index * size, prefix))
