"""Host tools (iptables, nft, ss, ...) run to their end, a few side by side. Decides nothing.

In threads: there the child is made by vfork(2), which takes 1 ms. The event loop's own way is fork(2), which copies the
daemon's page tables first and costs 5 ms and more.
"""

import asyncio
import contextlib
import os
import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sidegate.errors import HostToolError

PACKAGES: Mapping[str, str] = {
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "iptables-legacy": "iptables",
    "nsenter": "util-linux",
    "ss": "iproute2",
    "conntrack": "conntrack",
    "nft": "nftables",
}
"""Debian's package for each command."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a host command ended with."""

    status: int
    output: str
    complaint: str


class Tools:
    """`deadline` bounds each command, in seconds, `at_once` how many run side by side."""

    def __init__(self, *, deadline: float = 5.0, at_once: int = 4) -> None:
        self._deadline = deadline
        self._threads = ThreadPoolExecutor(at_once, "host-tool")

    async def run(self, *command: str, text: str = "", keep: int | None = None) -> Result:
        """The outcome, whatever the exit status. `text` is its standard input, `keep` a descriptor that it inherits.

        Raises HostToolError where the command is missing or does not end in time.
        """
        one = _Run(command, text, keep, self._deadline)
        ended = asyncio.get_running_loop().run_in_executor(self._threads, one.to_its_end)
        try:
            result = await asyncio.shield(ended)
        except asyncio.CancelledError:
            one.kill()
            await asyncio.wait((ended,))  # `keep` is the caller's to close, and its number is given out anew
            with contextlib.suppress(HostToolError):
                ended.result()
            raise
        if result.status == 127 and command[0] == "nsenter":  # its word for a command that is not there
            raise _missing(command[2])
        return result


class _Run:
    """One command, run by a thread, which another may kill."""

    def __init__(self, command: Sequence[str], text: str, keep: int | None, deadline: float) -> None:
        self._command = command
        self._text = text
        self._keep = keep
        self._deadline = deadline
        self._killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def to_its_end(self) -> Result:
        """Blocks. Raises HostToolError."""
        with self._started() as process:
            try:
                output, complaint = process.communicate(self._text.encode() or None, self._deadline)
            except subprocess.TimeoutExpired:
                process.kill()
                raise HostToolError(f"`{shown(self._command)}` did not end within {self._deadline:g} s") from None
        return Result(process.returncode, output.decode(errors="replace"), complaint.decode(errors="replace"))

    def _started(self) -> subprocess.Popen[bytes]:
        name = self._command[0]
        with self._lock:
            if self._killed:
                raise HostToolError(f"{name} was not run: nobody waits for it any more")
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE if self._text else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=() if self._keep is None else (self._keep,),
                    env={**os.environ, "LC_ALL": "C"},
                )
            except FileNotFoundError:
                raise _missing(name) from None
            except OSError as error:
                raise HostToolError(f"cannot run {name}: {error.strerror}") from error
            return self._process


def shown(command: Sequence[str]) -> str:
    """A command for people; `ss -K` may have been given hundreds of sockets."""
    words = shlex.join(command)
    return words if len(words) <= 200 else f"{words[:200]}..."


def _missing(command: str) -> HostToolError:
    return HostToolError(f"{command} is not installed: `apt-get install {PACKAGES.get(command, command)}`")
