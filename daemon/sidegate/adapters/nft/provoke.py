"""Having the clients of sessions that were cut say something, so that they hear of the end.

The RST of a database is sent once, and is lost where Docker happens to rewrite its rules just then (at each change it
takes them out of the FORWARD chain and puts them back). But a client answers a segment outside its window with an ACK
(RFC 9293, 3.10.7.4). With its flow forgotten that comes to the local stack, which knows no such connection and sends
the RST that fits (3.10.7.1).
"""

import contextlib
import random
import socket
import struct
from collections.abc import Iterable

from sidegate.adapters.nft.conntrack import Flow

_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_DONT_FRAGMENT, _HOPS, _ACK = 0x4000, 64, 0x10


def provoke(flows: Iterable[Flow]) -> None:
    """One segment to each client, from where it takes the database to be. Needs CAP_NET_RAW; without it, or without a
    route to a client, nothing is sent."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as raw,
    ):
        for flow in flows:
            with contextlib.suppress(OSError):
                raw.sendto(_segment(flow), socket.MSG_DONTWAIT, (flow.source[0], 0))


def _segment(flow: Flow) -> bytes:
    """An ACK of any number, which is nearly always outside the window. The kernel fills in the IP header's checksum."""
    (client, client_port), (ours, port) = flow.source, flow.destination
    ends = socket.inet_aton(ours) + socket.inet_aton(client)
    head = port, client_port, random.getrandbits(32), 0, _TCP.size // 4 << 4, _ACK, 0
    unsummed = _TCP.pack(*head, 0, 0)
    checksum = _checksum(ends + struct.pack("!HH", socket.IPPROTO_TCP, len(unsummed)) + unsummed)
    size = _IP.size + _TCP.size
    ip = _IP.pack(0x45, 0, size, 0, _DONT_FRAGMENT, _HOPS, socket.IPPROTO_TCP, 0, ends[:4], ends[4:])
    return ip + _TCP.pack(*head, checksum, 0)


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
