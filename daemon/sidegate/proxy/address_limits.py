"""What one client address may have of a forwarder: so many sessions, so many new ones per second. Pure.

An address is an IPv4 address or the /64 of an IPv6 one, since whoever has one of those has all of it.
"""

import socket
from collections.abc import Iterable

from sidegate.core.gates import ALLOWED, OVER_A_LIMIT, OVER_THE_RATE, Gate, Verdict

_ROUNDING = 1e-9


class AddressLimits:
    """Counts what is there and what comes; both limits of the gate may be 0, none.

    The rate is a bucket of a second's sessions that fills evenly, as nftables' `limit rate over` with that burst.
    """

    __slots__ = ("_held", "_most", "_next", "_step")

    def __init__(self, gate: Gate, addresses: Iterable[str] = ()) -> None:
        """`addresses` has each session that is there."""
        self._most = gate.max_sessions
        self._step = 1 / gate.max_new if gate.max_new else 0.0
        self._held: dict[str | bytes, int] = {}
        self._next: dict[str | bytes, float] = {}  # when an address's bucket will be full
        if self._most:
            for address in addresses:
                key = _key(address)
                self._held[key] = self._held.get(key, 0) + 1

    def __repr__(self) -> str:
        return f"<AddressLimits {self._most} at {self._step:g} s, held={len(self._held)} recent={len(self._next)}>"

    def enter(self, address: str, now: float) -> Verdict:
        """Count a new session, unless it is one too many; `now` in seconds of any clock that never goes back."""
        if not self._most and not self._step:
            return ALLOWED
        key = _key(address)
        held = self._held.get(key, 0)
        if self._most and held >= self._most:
            return OVER_A_LIMIT
        if self._step:
            full = max(self._next.get(key, now), now) + self._step
            if full - now > 1 + _ROUNDING:
                return OVER_THE_RATE
            self._next[key] = full
        if self._most:
            self._held[key] = held + 1
        return ALLOWED

    def leave(self, address: str) -> None:
        """The end of a session that was counted."""
        if not self._most:
            return
        key = _key(address)
        held = self._held[key] - 1
        if held:
            self._held[key] = held
        else:
            del self._held[key]

    def sweep(self, now: float) -> None:
        """Forget whose bucket is full again; call it about once a second."""
        if self._next:
            self._next = {key: full for key, full in self._next.items() if full > now}


def _key(address: str) -> str | bytes:
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8] if ":" in address else address
