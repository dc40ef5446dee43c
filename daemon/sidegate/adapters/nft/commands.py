"""Host commands with input, on the host and inside a container's network namespace. Decides nothing."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sidegate.adapters.tools import Result, Tools, shown
from sidegate.errors import HostToolError

FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""The inode of the host's own (PROC_PID_INIT_INO of the kernel): from another, not every process is seen."""

Object = dict[str, Any]
"""One object of nft's JSON (libnftables-json(5)): a single key says what it is."""


class Commands:
    """Runs host commands to their end; `deadline` bounds each, in seconds, `at_once` how many run side by side."""

    def __init__(self, *, deadline: float = 5.0, at_once: int = 4, proc: Path = Path("/proc")) -> None:
        self.proc = proc
        self._tools = Tools(deadline=deadline, at_once=at_once)

    async def run(self, *command: str, text: str = "", keep: int | None = None) -> Result:
        """As Tools.run; raises HostToolError also where a namespace cannot be entered."""
        result = await self._tools.run(*command, text=text, keep=keep)
        if result.status != 0 and result.complaint.startswith("nsenter: reassociate"):
            raise HostToolError(
                f"cannot enter a container's network namespace ({first_line(result.complaint).rpartition(': ')[2]}): "
                "the daemon needs root, with CAP_SYS_ADMIN"
            )
        return result

    async def output(self, *command: str, text: str = "", keep: int | None = None) -> str:
        """What it printed; raises HostToolError with its last words where it fails."""
        result = await self.run(*command, text=text, keep=keep)
        if result.status != 0:
            raise HostToolError(f"`{shown(command)}` failed: {first_line(result.complaint)}")
        return result.output

    async def list_table(self, family: str, table: str, *enter: str, keep: int | None = None) -> list[Object] | None:
        """The objects of an nftables table; None: there is none. `enter` are words that lead into a namespace."""
        result = await self.run(*enter, "nft", "-j", "list", "table", family, table, keep=keep)
        if result.status == 0:
            return list(json.loads(result.output)["nftables"])
        if "No such file or directory" in result.complaint:
            return None
        raise HostToolError(f"cannot list the nftables table {family} {table}: {first_line(result.complaint)}")

    async def change_tables(self, commands: Sequence[Object], *enter: str, keep: int | None = None) -> None:
        """One transaction: all of `commands` or, with HostToolError, none."""
        await self.output(*enter, "nft", "-j", "-f", "-", text=json.dumps({"nftables": list(commands)}), keep=keep)

    @contextlib.contextmanager
    def network_of(self, pid: int) -> Iterator[int]:
        """A descriptor that holds the network namespace of a process.

        Raises GoneError where the process has ended, HostToolError where there is no way in.
        """
        try:
            namespace = os.open(self.proc / f"{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if pid > 0 and (self.proc / "self/ns/pid").stat().st_ino != FIRST_PID_NAMESPACE:
                raise HostToolError(
                    f"process {pid} cannot be seen from here: run the daemon in the host's pid namespace"
                ) from None
            raise GoneError(f"process {pid} has ended") from None
        except OSError as error:
            raise HostToolError(
                f"cannot enter the network namespace of process {pid} ({error.strerror}): "
                "the daemon needs root, with CAP_SYS_ADMIN and CAP_SYS_PTRACE"
            ) from error
        try:
            yield namespace
        finally:
            os.close(namespace)


class GoneError(HostToolError):
    """The process whose namespace was to be entered is not there."""


def enter(namespace: int) -> tuple[str, str]:
    """Words that run a command in the namespace behind a descriptor, which the command must inherit (`keep`)."""
    return "nsenter", f"--net=/proc/self/fd/{namespace}"


def first_line(complaint: str) -> str:
    """nft and iptables say what is wrong first, then show where; warnings come before that."""
    lines = [line for line in complaint.splitlines() if line.strip() and not line.startswith("#")]
    return lines[0].strip() if lines else "it gave no reason"
