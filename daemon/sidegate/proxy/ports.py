"""Binding public ports for all workers at once, and saying who holds one that is taken."""

import contextlib
import errno
import os
import socket
from pathlib import Path

from sidegate.errors import DataPlaneError, PortInUseError
from sidegate.proxy.sockets import tune

_BACKLOG = 4096
_LISTEN = "0A"  # the state column of /proc/net/tcp


LOOPBACK = "loopback"
"""As an address: 127.0.0.1 and ::1."""

_LOOPBACK_DEVICE = b"lo"


def bind_group(port: int, members: int, address: str = "") -> list[socket.socket]:
    """`members` listening sockets that share one port (SO_REUSEPORT), one for each worker.

    `address` empty: every address, IPv6 and IPv4 on one socket where there is IPv6; LOOPBACK likewise. Port 0: any free
    one.
    Raises PortInUseError naming the holder, DataPlaneError when the port cannot be bound for another reason.
    """
    sockets: list[socket.socket] = []
    try:
        if port:
            # A group can be joined by any process of its first member's user: ask for the port alone first.
            _bind(port, address, shared=False).close()
        for _ in range(members):
            sock = _bind(port, address, shared=True)
            sockets.append(sock)
            port = sock.getsockname()[1]
            sock.listen(_BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"port {port} is held by {holder(port) or 'another process'}") from None
        if error.errno == errno.EACCES:
            raise DataPlaneError(f"port {port} needs root or CAP_NET_BIND_SERVICE") from None
        raise DataPlaneError(f"port {port} cannot be bound: {error.strerror}") from None
    return sockets


def shut(sockets: list[socket.socket]) -> None:
    """Refuse connections from now on, whoever else holds these sockets, and reset those in their backlogs."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def holder(port: int) -> str | None:
    """Who listens on a TCP port: "nginx (pid 812)"; None when that cannot be seen.

    Source: proc(5), /proc/net/tcp and tcp6, then the descriptors of every process we may look at.
    """
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return f"{_name(process)} (pid {process.name})"
    return None


def _bind(port: int, address: str, *, shared: bool) -> socket.socket:
    loopback = address == LOOPBACK
    address = "" if loopback else address
    family = socket.AF_INET6 if ":" in address or (not address and _has_ipv6()) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        tune(sock)
        sock.setblocking(False)
        if loopback and not _tie_to_loopback(sock):
            sock.close()
            return _bind(port, "127.0.0.1", shared=shared)
        sock.bind((address or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _tie_to_loopback(sock: socket.socket) -> bool:
    """Have it hear the loopback device alone, which no single address does for both families (socket(7),
    SO_BINDTODEVICE; before Linux 5.7 it takes CAP_NET_RAW)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK_DEVICE)
    except OSError:
        return False
    return True


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    wanted = f"{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), Path(table).open() as lines:
            for line in lines:
                columns = line.split()
                if columns[1].rpartition(":")[2] == wanted and columns[3] == _LISTEN:
                    inodes.add(f"socket:[{columns[9]}]")
    return inodes


def _name(process: Path) -> str:
    if process.name == str(os.getpid()):
        return "this daemon"
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
