"""Who gets in: connections in all and of each client, counted from accept to the end of a connection or its tunnel.

Counts and decides only; accepting and closing are acceptor.py's.
"""

import functools
import socket
from ipaddress import ip_address

from sidegate.proxy.limits import Limits
from sidegate.proxy.peer import TrustedProxies, folded

_RESERVED_FILES = 96  # for the channel, the listeners, the access log, probes, clients that are being refused
_FILES_PER_CLIENT = 2  # its own connection and one to a replica
_SHED = 64
_CLIENTS_KNOWN = 4096  # addresses whose key is kept; it is computed anew for the others


class Admission:
    """One per worker, for all its public listeners. `count` is how many are in."""

    def __init__(self, limits: Limits, open_files: int) -> None:
        """`limits` hold this worker's share, `open_files` is its limit on them."""
        by_files = max(1, (open_files - _RESERVED_FILES) // _FILES_PER_CLIENT)
        self.most = min(limits.connections or by_files, by_files)
        self.per_client = limits.connections_per_client
        self.count = 0
        self._ample = min(self.most, by_files // 2)
        self._exempt = TrustedProxies((*limits.trusted_proxies, *limits.local_clients))
        self._held: dict[str | bytes, int] = {}
        self._key = functools.lru_cache(_CLIENTS_KNOWN)(self._key_of)

    def __repr__(self) -> str:
        return f"<Admission {self.count} of {self.most}, clients={len(self._held)}>"

    @property
    def full(self) -> bool:
        """Whoever comes now waits in the backlog."""
        return self.count >= self.most

    @property
    def ample(self) -> bool:
        """Neither connections nor open files are near their limit."""
        return self.count < self._ample

    @property
    def shed(self) -> int:
        """How many idle clients to part with when full, so that the next ones do not each cost a search."""
        return max(1, min(_SHED, self.most // 4))

    def enter(self, address: str = "", own: str = "") -> bool:
        """Count a connection from `address` to our `own`; False: that client has all it may have.

        Where there is no limit per client the addresses do not matter.
        """
        if self.per_client and (key := self._key(address, own)):
            held = self._held.get(key, 0)
            if held >= self.per_client:
                return False
            self._held[key] = held + 1
        self.count += 1
        return True

    def leave(self, address: str = "", own: str = "") -> None:
        """The end of a connection that entered with the same words."""
        self.count -= 1
        if self.per_client and (key := self._key(address, own)):
            held = self._held[key] - 1
            if held:
                self._held[key] = held
            else:
                del self._held[key]

    def _key_of(self, address: str, own: str) -> str | bytes:
        """What counts as one client: an IPv4 address, the /64 of an IPv6 one. Empty: one that is not limited."""
        address = folded(address)
        if address == folded(own):
            return ""
        ip = ip_address(address)
        if ip.is_loopback or address in self._exempt:
            return ""
        return address if ip.version == 4 else socket.inet_pton(socket.AF_INET6, address)[:8]
