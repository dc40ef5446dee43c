"""The kernel's connection tracking over netlink (ctnetlink): listing TCP flows and deleting them one by one.

conntrack(8) would copy the whole table out for each question, 100 ms of work at 23,000 flows; the kernel's own filter
(CTA_FILTER, Linux 5.8; older kernels ignore it, so what comes is filtered here as well) costs a tenth of that.
Constants and layouts: linux/netfilter/nfnetlink_conntrack.h.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from sidegate.adapters.nft.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Attributes,
    attribute,
    attributes,
    body_of,
    message,
    messages,
    nested,
    open_socket,
)
from sidegate.errors import HostToolError

DEADLINE = 5.0
"""Seconds for the kernel to go on with an answer."""

TIMESTAMPS = Path("/proc/sys/net/netfilter/nf_conntrack_timestamp")

CT_GET, CT_DELETE = 1 << 8 | 1, 1 << 8 | 2
TUPLE_ORIG, TUPLE_REPLY, PROTOINFO, COUNTERS_ORIG, COUNTERS_REPLY, ID, TIMESTAMP, FILTER = 1, 2, 4, 9, 10, 12, 20, 25
TUPLE_IP, TUPLE_PROTO = 1, 2
IP_SRC, IP_DST = 1, 2
PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT = 1, 2, 3
FILTER_REPLY_FLAGS = 2
FILTER_PROTO_NUM, FILTER_SRC_PORT = 1 << 3, 1 << 4
BYTES, START = 2, 1

STATES = ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE")

End = tuple[str, int]
"""Address and port."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One tracked TCP connection over IPv4.

    What the client sent it from and to, and what answers from and to, which differs where addresses are translated.
    `started` is a Unix time in seconds; it and the bytes each way are None where the kernel does not keep them.
    """

    source: End
    destination: End
    answer_source: End
    answer_destination: End
    state: str
    identity: bytes
    started: float | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None


def keep_times() -> None:
    """Have the kernel note when each connection began; where that is not ours to change, it is not known."""
    with contextlib.suppress(OSError):
        if TIMESTAMPS.read_text() == "0\n":
            TIMESTAMPS.write_text("1\n")


class Conntrack:
    """Blocks, so it is for threads. `connect` gives a netlink socket of the network namespace in question."""

    def __init__(self, connect: Callable[[], socket.socket] = open_socket) -> None:
        self._connect = connect

    def answered_from(self, port: int) -> list[Flow]:
        """The flows whose answers come from a TCP port, wherever they were sent. Raises HostToolError."""
        proto = nested(TUPLE_PROTO, attribute(PROTO_NUM, b"\6") + attribute(PROTO_SRC_PORT, port.to_bytes(2, "big")))
        flags = attribute(FILTER_REPLY_FLAGS, struct.pack("=I", FILTER_PROTO_NUM | FILTER_SRC_PORT))
        body = nested(TUPLE_REPLY, proto) + nested(FILTER, flags)
        flows = []
        with self._opened() as link:
            link.send(message(CT_GET, NLM_F_REQUEST | NLM_F_DUMP, 1, body))
            for kind, payload in _answers(link):
                if kind == NLMSG_DONE:
                    break
                if kind == NLMSG_ERROR:
                    raise _refused("list", payload)
                flow = _flow(body_of(payload))
                if flow is not None and flow.answer_source[1] == port:
                    flows.append(flow)
        return flows

    def delete(self, flows: Iterable[Flow]) -> None:
        """Delete these and no others: one that has ended and was followed by another of the same addresses is gone
        already, and the other stays. Raises HostToolError."""
        with self._opened() as link:
            for number, flow in enumerate(flows, 1):
                body = nested(TUPLE_ORIG, _tuple(flow.source, flow.destination)) + attribute(ID, flow.identity)
                link.send(message(CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, number, body))
                kind, payload = next(_answers(link))
                if kind == NLMSG_ERROR and -struct.unpack_from("=i", payload)[0] not in (0, errno.ENOENT):
                    raise _refused("delete", payload)

    def _opened(self) -> socket.socket:
        try:
            link = self._connect()
        except OSError as error:
            raise HostToolError(f"cannot ask the kernel for tracked connections: {error.strerror}") from error
        link.settimeout(DEADLINE)
        return link


def _refused(doing: str, payload: bytes) -> HostToolError:
    number = -struct.unpack_from("=i", payload)[0]
    hint = ": the daemon needs root, with CAP_NET_ADMIN" if number == errno.EPERM else ""
    return HostToolError(f"the kernel would not {doing} tracked connections ({os.strerror(number)}){hint}")


def _answers(link: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        try:
            data = link.recv(1 << 18)
        except TimeoutError:
            raise HostToolError(f"the kernel did not tell its tracked connections within {DEADLINE:g} s") from None
        except OSError as error:
            raise HostToolError(f"cannot read the kernel's tracked connections: {error.strerror}") from error
        yield from messages(data)


def _tuple(source: End, destination: End) -> bytes:
    addresses = attribute(IP_SRC, IPv4Address(source[0]).packed) + attribute(IP_DST, IPv4Address(destination[0]).packed)
    ports = attribute(PROTO_SRC_PORT, source[1].to_bytes(2, "big"))
    ports += attribute(PROTO_DST_PORT, destination[1].to_bytes(2, "big"))
    return nested(TUPLE_IP, addresses) + nested(TUPLE_PROTO, attribute(PROTO_NUM, b"\6") + ports)


def _ends(data: bytes) -> tuple[End, End] | None:
    """Both ends of a tuple; None where it is not TCP over IPv4."""
    parts = attributes(data)
    addresses, proto = attributes(parts.get(TUPLE_IP, b"")), attributes(parts.get(TUPLE_PROTO, b""))
    if proto.get(PROTO_NUM) != b"\6" or len(addresses.get(IP_SRC, b"")) != 4:
        return None
    source, destination = (str(IPv4Address(addresses[side])) for side in (IP_SRC, IP_DST))
    ports = (int.from_bytes(proto[side], "big") for side in (PROTO_SRC_PORT, PROTO_DST_PORT))
    return (source, next(ports)), (destination, next(ports))


def _flow(found: Attributes) -> Flow | None:
    asked, answered = _ends(found.get(TUPLE_ORIG, b"")), _ends(found.get(TUPLE_REPLY, b""))
    if asked is None or answered is None:
        return None
    tcp = attributes(attributes(found.get(PROTOINFO, b"")).get(1, b""))
    state = tcp.get(1, b"\0")[0]
    started = attributes(found.get(TIMESTAMP, b"")).get(START)
    sent, received = (attributes(found.get(kind, b"")).get(BYTES) for kind in (COUNTERS_ORIG, COUNTERS_REPLY))
    return Flow(
        *asked,
        *answered,
        STATES[state] if state < len(STATES) else "SYN_SENT2",
        found.get(ID, b""),
        int.from_bytes(started, "big") / 1e9 if started else None,
        int.from_bytes(sent, "big") if sent else None,
        int.from_bytes(received, "big") if received else None,
    )
