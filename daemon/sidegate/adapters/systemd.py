"""Telling a service manager how the daemon is: readiness, a status line, the watchdog's beat (sd_notify(3)).

Owns the datagrams to NOTIFY_SOCKET and how often they go. Without that variable nothing is ever sent. What ready and
getting on mean is the caller's to say.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping

from sidegate.log import get_logger

LOOK_SECONDS, START_LOOK_SECONDS = 1.0, 0.1
"""How often the daemon is looked at, and how often until it is ready."""
STALL_SECONDS = 120.0
"""For how long a pass may not get on by a single step: far more than the longest deadline of any single step."""
START_SECONDS = 30.0
"""By how much each sign of life prolongs the manager's patience with a start."""
LONGEST_STATUS = 300

log = get_logger("sidegate.systemd")


class ServiceManager:
    """`address` is NOTIFY_SOCKET's (empty: nobody listens), `watchdog` WATCHDOG_USEC's time in seconds (0: none)."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> "ServiceManager":
        """As the environment says, which loses the variables: no child may speak for the daemon.

        A watchdog that is meant for another process (WATCHDOG_PID) is none, and so is one that is no number. Addresses
        that are no unix socket's (vsock:, for the managers of virtual machines) are left alone.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        meant = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if meant else 0.0)

    def __repr__(self) -> str:
        return f"<ServiceManager {self._address!r} watchdog={self._watchdog:g}>"

    def tell(self, *assignments: str) -> bool:
        """Send them as one datagram; False where it could not be taken at once, or nobody listens."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            log.debug("service manager not told", error=str(error))
            return False
        return True

    async def run(self, *, ready: Callable[[], bool], status: Callable[[], str], stalled: Callable[[], float]) -> None:
        """Tell of readiness once, of the status as it changes, and beat, until cancelled; what could not be told is
        told at the next look. `stalled`: for how many seconds what runs has not got on; beyond STALL_SECONDS there is
        no beat, and the manager's patience with a start is not prolonged."""
        if self._socket is None:
            return
        clock = asyncio.get_running_loop().time
        half = self._watchdog / 2
        look = min(LOOK_SECONDS, half / 2) if half else LOOK_SECONDS
        is_ready, alive, told, beat_at, extend_at = False, True, "", clock(), clock()
        while True:
            message = []
            was_alive, alive = alive, stalled() < STALL_SECONDS
            if was_alive and not alive:
                log.error("the reconciler does not get on: no sign of life is given any more", seconds=STALL_SECONDS)
            becomes_ready = not is_ready and ready()
            if becomes_ready:
                message += ["READY=1", f"MAINPID={os.getpid()}"]
            elif not is_ready and alive and clock() >= extend_at:
                extend_at = clock() + START_SECONDS / 2
                message.append(f"EXTEND_TIMEOUT_USEC={START_SECONDS * 1e6:.0f}")
            if (line := one_line(status())) != told:
                message.append(f"STATUS={line}")
            beats = bool(half) and alive and clock() >= beat_at
            if beats:
                message.append("WATCHDOG=1")
            if message and self.tell(*message):
                is_ready, told = is_ready or becomes_ready, line
                if beats:
                    beat_at = clock() + half - look
            await asyncio.sleep(look if is_ready else min(look, START_LOOK_SECONDS))

    def stopping(self, seconds: float) -> None:
        """The daemon ends by itself, within `seconds` at most."""
        self.tell("STOPPING=1", "STATUS=stopping", f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def close(self) -> None:
        """Safe to call twice."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def one_line(text: str) -> str:
    """`text` without what would end an assignment: problems quote labels, and strangers write those."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= LONGEST_STATUS else f"{line[: LONGEST_STATUS - 3]}..."
