"""Who a client is: its address, whether it is on this machine, and the fields that tell the app about it. Pure."""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True, slots=True)
class Peer:
    """A client's connection. `forwarded` is the block of header fields that stands for it in every request."""

    address: str
    local: bool
    forwarded: bytes


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The client at the other end; one that is gone already has no address, and counts as 0.0.0.0."""
    return describe(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))


def describe(peername: tuple[str, int] | None, sockname: tuple[str, int] | None) -> Peer:
    """From two socket names. Local is who comes from loopback or from the very address that it connected to."""
    address, own = _folded(peername), _folded(sockname)
    local = ip_address(address).is_loopback or (address == own and peername is not None)
    forwarded = (
        f"X-Forwarded-For: {address}\r\nX-Real-IP: {address}\r\n"
        f"X-Forwarded-Proto: http\r\nX-Forwarded-Port: {sockname[1] if sockname else 0}\r\n"
    )
    return Peer(address, local, forwarded.encode("ascii"))


def _folded(name: tuple[str, int] | None) -> str:
    """IPv4 as IPv4 also on a dual-stack socket, and no zone."""
    return name[0].removeprefix("::ffff:").partition("%")[0] if name else "0.0.0.0"
