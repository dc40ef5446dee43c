"""Who is at the other end of a client's connection, whether it is believed, and what apps are told about it. Pure."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_MAPPED = IPv6Network("::ffff:0:0/96")
_KNOWN = 4096  # clients whose description is kept


class TrustedProxies:
    """Networks whose X-Forwarded-* and the like are believed. Built once per worker from CIDRs; raises ValueError.

    `address in trusted` costs one set look-up for each prefix length in use, however many networks there are. `here`
    are addresses that stand for this machine, beside its own: in a container those of the bridges that it was put on.
    """

    __slots__ = ("_prefixes", "here")

    def __init__(self, cidrs: Iterable[str] = (), here: Iterable[str] = ()) -> None:
        self.here = frozenset(here)
        self._prefixes: dict[tuple[int, int], set[int]] = {}  # (IP version, bits that are not compared): prefixes
        for cidr in cidrs:
            network = ip_network(cidr, strict=False)
            if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
                mapped = network.network_address.ipv4_mapped
                network = ip_network(f"{mapped}/{network.prefixlen - 96}")
            rest = network.max_prefixlen - network.prefixlen
            self._prefixes.setdefault((network.version, rest), set()).add(int(network.network_address) >> rest)

    def __contains__(self, address: str) -> bool:
        if not self._prefixes:
            return False
        parsed = parse_address(address)
        if parsed is None:
            return False
        number, version = int(parsed), parsed.version
        return any(
            family == version and number >> rest in prefixes for (family, rest), prefixes in self._prefixes.items()
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection, which need not be the client: a trusted proxy speaks for others.

    `address` is folded (no zone, IPv4 as IPv4), `own` and `port` are what it connected to. `fields` and `element` stand
    for it in what is sent on: the fields X-Forwarded-For, X-Real-IP, X-Forwarded-Proto and X-Forwarded-Port, and the
    `for` of Forwarded. `trust` is None for a stranger; for a trusted proxy it says who else is one.
    """

    address: str
    local: bool
    scheme: str
    own: str
    port: int
    fields: bytes
    element: bytes
    trust: TrustedProxies | None


def peer_of(transport: asyncio.BaseTransport, trusted: TrustedProxies) -> Peer:
    """Who is at the other end; one that is gone already has no address, and counts as 0.0.0.0."""
    info = transport.get_extra_info
    return describe(info("peername"), info("sockname"), info("ssl_object") is not None, trusted)


def describe(
    peername: tuple[str, int] | None, sockname: tuple[str, int] | None, secure: bool, trusted: TrustedProxies
) -> Peer:
    """From two socket names and whether TLS is between them.

    Local is who comes from loopback, from the very address that it connected to, or from one that stands for this
    machine.
    """
    return _described(
        peername[0] if peername else "",
        sockname[0] if sockname else "",
        sockname[1] if sockname else 0,
        secure,
        trusted,
    )


@lru_cache(_KNOWN)
def _described(peer: str, socket: str, port: int, secure: bool, trusted: TrustedProxies) -> Peer:
    """The same value for all connections of a client, or each would cost 5 us and half a KiB."""
    address, own = folded(peer), folded(socket)
    scheme = "https" if secure else "http"
    fields = (
        f"X-Forwarded-For: {address}\r\nX-Real-IP: {address}\r\n"
        f"X-Forwarded-Proto: {scheme}\r\nX-Forwarded-Port: {port}\r\n"
    )
    return Peer(
        address,
        ip_address(address).is_loopback or (address == own and peer != "") or address in trusted.here,
        scheme,
        own,
        port,
        fields.encode("ascii"),
        node(address),
        trusted if address in trusted else None,
    )


def node(address: str) -> bytes:
    """The `for` parameter of Forwarded (RFC 7239 section 6: an IPv6 address is bracketed and quoted)."""
    return f'for="[{address}]"'.encode() if ":" in address else f"for={address}".encode()


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address without zone, IPv4 as IPv4 however it is written; None if it is none."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return None if found.scope_id else found.ipv4_mapped or found
    return found


def folded(address: str) -> str:
    """IPv4 as IPv4 also on a dual-stack socket, and no zone."""
    return address.removeprefix("::ffff:").partition("%")[0] if address else "0.0.0.0"
