"""The connections of this host, as the kernel lists them, and what comes of one more.

Source: proc_net_tcp(5), and linux/net/ipv4/tcp_ipv4.c: addresses are 32-bit words in the host's byte order, in hex.
"""

import asyncio
import sys
from ipaddress import ip_address
from pathlib import Path

OPEN_STATES = frozenset({"01", "02"})
"""TCP_ESTABLISHED and TCP_SYN_SENT (linux/include/net/tcp_states.h)."""


def remote_forms(address: str, port: int) -> frozenset[str]:
    """How the tables write a remote address and port: an IPv4 address also as a socket of IPv6 has it (RFC 4291
    section 2.5.5.2)."""
    found = ip_address(address)
    packed = [found.packed] if found.version == 6 else [found.packed, bytes(10) + b"\xff\xff" + found.packed]
    return frozenset(f"{_words(each)}:{port:04X}" for each in packed)


def count(table: str, remote: frozenset[str]) -> int:
    """How many connections of a table, its heading included, are open to one of these."""
    rows = (line.split(maxsplit=4) for line in table.splitlines()[1:])
    return sum(len(row) > 3 and row[3] in OPEN_STATES and row[2] in remote for row in rows)


def open_connections(address: str, port: int, proc: Path = Path("/proc")) -> int:
    """How many connections this host has open to an address and port; blocking, some 10 ms for 10,000 of them.

    A table that cannot be read has none: without IPv6 there is only one.
    """
    remote, found = remote_forms(address, port), 0
    for name in ("tcp", "tcp6"):
        try:
            found += count((proc / "net" / name).read_text(), remote)
        except OSError:
            continue
    return found


async def listens(address: str, port: int, seconds: float = 1.0) -> bool:
    """Whether something accepts a connection there, within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(address, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


async def ask(address: str, port: int, path: str, host: str, seconds: float = 2.0) -> str:
    """One GET; why it was not answered with 2xx or 3xx (RFC 9110 section 15), empty where it was."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sidegate-health\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(request.encode("latin-1", "replace"))
                line = await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        return f"{path} did not answer within {seconds:g} s"
    except (OSError, ValueError) as error:  # ValueError: a line without an end
        return f"{path} cannot be asked: {getattr(error, 'strerror', None) or error}"
    words = line.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
        return f"{path} answered something that is not HTTP" if line else f"{path} was not answered"
    return "" if 200 <= int(words[1]) < 400 else f"{path} answered {int(words[1])}"


def _words(packed: bytes) -> str:
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words)
