"""Bringing all connections of one address to one member of a group of listening sockets, where they can be counted.

The kernel spreads the connections of a SO_REUSEPORT group by address and port. A classic BPF program chooses by the
address alone: IPv4, or the first half of an IPv6 one (socket(7), SO_ATTACH_REUSEPORT_CBPF; linux/filter.h).
"""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence

_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
_SO_DETACH_REUSEPORT_BPF = 68
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: what is loaded from here on is of the IP header
_V4_SOURCE, _V6_SOURCE = _NETWORK_HEADER + 12, _NETWORK_HEADER + 8
_LOAD_BYTE, _LOAD_WORD = 0x30, 0x20
_SHIFT_RIGHT, _MULTIPLY, _MODULO, _XOR_X = 0x74, 0x24, 0x94, 0xAC
_TO_X, _JUMP, _JUMP_IF_EQUAL, _RETURN = 0x07, 0x05, 0x15, 0x16
_MIX = 0x9E3779B1  # 2^32 over the golden ratio: neighbours are spread


def steer(group: Sequence[socket.socket]) -> bool:
    """From now on a new connection's member follows from its address. False: this kernel cannot."""
    if len(group) == 1:
        return True
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD_BYTE, 0, 0, _NETWORK_HEADER),
            (_SHIFT_RIGHT, 0, 0, 4),
            (_JUMP_IF_EQUAL, 5, 0, 4),
            (_LOAD_WORD, 0, 0, _V6_SOURCE),
            (_TO_X, 0, 0, 0),
            (_LOAD_WORD, 0, 0, _V6_SOURCE + 4),
            (_XOR_X, 0, 0, 0),
            (_JUMP, 0, 0, 1),
            (_LOAD_WORD, 0, 0, _V4_SOURCE),
            (_MULTIPLY, 0, 0, _MIX),
            (_SHIFT_RIGHT, 0, 0, 16),
            (_MODULO, 0, 0, len(group)),
            (_RETURN, 0, 0, 0),
        )
    )
    memory = ctypes.create_string_buffer(program)
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    try:
        group[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)
    except OSError:
        return False
    return True


def release(group: Sequence[socket.socket]) -> None:
    """Spread new connections by address and port again."""
    with contextlib.suppress(OSError):  # there was none
        group[0].setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
