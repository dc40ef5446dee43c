"""Messages to and from the kernel's netfilter, written and read: linux/netlink.h, linux/netfilter/nfnetlink.h."""

import socket
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED, NLA_TYPE = 0x8000, 0x3FFF

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct(">BBH")
_ATTRIBUTE = struct.Struct("=HH")

Attributes = dict[int, bytes]


def open_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)


def message(kind: int, flags: int, number: int = 0, body: bytes = b"") -> bytes:
    generic = _GENERIC.pack(socket.AF_INET, 0, 0)
    return _HEADER.pack(_HEADER.size + len(generic) + len(body), kind, flags, number, 0) + generic + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What one datagram holds: kinds and payloads."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind, _flags, _number, _sender = _HEADER.unpack_from(data, start)
        yield kind, data[start + _HEADER.size : start + length]
        start += length + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, value)


def body_of(payload: bytes) -> Attributes:
    """The attributes of a message that is no error."""
    return attributes(payload[_GENERIC.size :])


def attributes(data: bytes) -> Attributes:
    found: Attributes = {}
    start = 0
    while start + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        found[kind & NLA_TYPE] = data[start + _ATTRIBUTE.size : start + length]
        start += max(length, _ATTRIBUTE.size) + 3 & ~3
    return found
