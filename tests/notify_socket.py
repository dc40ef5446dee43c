"""The service manager's end of sd_notify(3)."""

import contextlib
import socket


class NotifySocket:
    """`address` as NOTIFY_SOCKET has it: a path, or @ and an abstract name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def waiting(self) -> list[str]:
        """All assignments that lie unread, in their order."""
        found: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found += self.socket.recv(65536).decode().split("\n")
        return found

    def close(self) -> None:
        self.socket.close()
