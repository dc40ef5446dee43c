"""The machine beneath the engine: its routes, one firewall rule of ours, sockets and flows of containers.

Owns the host commands (iptables, nsenter, ss, conntrack) and what their output means. Touches no rule without our
comment on it, and decides nothing: which sockets go and when the rule is needed is the reconciler's.
"""

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from sidegate.adapters.capabilities import lost
from sidegate.adapters.tools import Result, Tools
from sidegate.core.model import HostState
from sidegate.errors import HostToolError, MissingRightsError

CHAIN = "DOCKER-USER"
OUR_DEVICES = "sg-"
COMMENT_PREFIX = "sidegate:"
SOCKET_ATTEMPTS = 3
ROUTE_UP = 0x1
CUTTING = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""What it takes to destroy sockets in another network namespace (capability.h)."""
RIGHTS = "the daemon needs root, with CAP_SYS_ADMIN and CAP_SYS_PTRACE"


@dataclass(frozen=True, slots=True)
class Route:
    """One IPv4 route of /proc/net/route."""

    device: str
    destination: IPv4Network
    metric: int


class LinuxHost:
    """See `sidegate.reconciler.world.Host` for what each call promises.

    `instance` stands in our rule's comment, so that two daemons on one host keep a rule each. `proc` and `sysfs` are
    where those file systems are mounted; `deadline` bounds each host command, in seconds. In a container with a network
    of its own `process` is one that has the host's, by which that is looked at and changed, or `fault` says why there
    is none.
    """

    def __init__(
        self,
        instance: str,
        *,
        proc: Path = Path("/proc"),
        sysfs: Path = Path("/sys"),
        deadline: float = 5.0,
        process: int = 0,
        fault: str = "",
    ) -> None:
        self._rule = (
            *("-i", f"{OUR_DEVICES}+", "-o", f"{OUR_DEVICES}+", "-m", "physdev", "--physdev-is-bridged"),
            *("-m", "conntrack", "--ctstate", "ESTABLISHED"),
            *("-m", "comment", "--comment", f"{COMMENT_PREFIX}{instance}", "-j", "ACCEPT"),
        )
        self._proc, self._sysfs = proc, sysfs
        self._routes = proc / (f"{process}/net/route" if process else "net/route")
        self._enter = ("nsenter", f"--net={proc}/{process}/ns/net") if process else ()
        self._fault = fault
        self._run = Tools(deadline=deadline).run
        self._births: dict[int, str] = {}

    # --- looking --------------------

    async def observe(self) -> HostState:
        """Reads /proc and /sys, and asks iptables once (about 3 ms); a fault of the fast path is said, never raised."""
        if self._fault:
            return HostState(fast_path_fault=self._fault, cut_fault=self._cut_fault(), lost=tuple(lost(self._proc)))
        routes = tuple(parse_routes(self._read(self._routes)))
        uplink = min((r for r in routes if not r.destination.prefixlen), key=lambda r: r.metric, default=None)
        fast_path, fault = await self._fast_path()
        return HostState(
            routes=tuple(
                str(r.destination) for r in routes if r.destination.prefixlen and not r.device.startswith(OUR_DEVICES)
            ),
            mtu=await self._mtu(uplink.device) if uplink else 0,
            fast_path=fast_path,
            fast_path_fault=fault,
            cut_fault=self._cut_fault(),
            lost=tuple(lost(self._proc)),
        )

    async def _mtu(self, device: str) -> int:
        """0: unknown. A container's sysfs shows its own devices."""
        if not self._enter:
            return int(self._read(self._sysfs / f"class/net/{device}/mtu") or 0)
        try:
            words = (await self._run(*self._enter, "ip", "-o", "link", "show", "dev", device)).output.split()
        except HostToolError:
            return 0
        return int(words[words.index("mtu") + 1]) if "mtu" in words else 0

    async def _fast_path(self) -> tuple[bool | None, str]:
        try:
            if (await self._setting("bridge/bridge-nf-call-iptables")).strip() != "1":
                return None, ""  # bridged packets never meet iptables here
            rules = await self._rules()
        except HostToolError as error:
            return None, str(error)
        return rule_leads(rules, self._rule), ""

    async def _setting(self, name: str) -> str:
        """A file of /proc/sys/net, which shows its reader the settings of the reader's own network namespace."""
        path = self._proc / "sys/net" / name
        return (await self._run(*self._enter, "cat", str(path))).output if self._enter else self._read(path)

    async def _rules(self) -> list[tuple[str, ...]]:
        return parse_rules(await self._iptables("-S", CHAIN))

    async def address(self) -> str:
        """The host's own, of the interface with the default route; empty: not known."""
        try:
            # Documentation's (RFC 5737): it is asked about, and nothing is sent.
            found = await self._run(*self._enter, "ip", "-4", "route", "get", "192.0.2.1")
        except HostToolError:
            return ""
        words = found.output.split()
        return words[words.index("src") + 1] if "src" in words and not self._fault else ""

    # --- the fast path --------------------

    async def install_fast_path(self) -> None:
        await self.remove_fast_path()
        await self._iptables("-I", CHAIN, "1", *self._rule)

    async def remove_fast_path(self) -> None:
        try:
            rules = await self._rules()
        except MissingChainError:
            return
        for _ in range(rules.count(self._rule)):
            await self._iptables("-D", CHAIN, *self._rule)

    async def _iptables(self, *arguments: str) -> str:
        result = await self._run(*self._enter, "iptables", "-w", "5", *arguments)
        if result.status == 0:
            return result.output
        if result.complaint.startswith("nsenter: "):
            raise HostToolError(f"the host's network cannot be entered ({_last_line(result.complaint)}): {RIGHTS}")
        if "Permission denied" in result.complaint:
            raise HostToolError(
                "iptables may only be used by root: run the daemon as root to have the bridge fast path"
            )
        if "No chain" in result.complaint or "incompatible, use 'nft'" in result.complaint:
            raise MissingChainError(
                f"there is no chain {CHAIN}: Docker makes it at its start unless its own iptables setting is off "
                "or its firewall is nftables; `systemctl restart docker` brings it back after a flush"
            )
        raise HostToolError(f"iptables {shlex.join(arguments)} failed: {_last_line(result.complaint)}")

    # --- cutting --------------------

    def _cut_fault(self) -> str:
        for line in self._read(self._proc / "self/status").splitlines():
            if line.startswith("CapEff:"):
                lacking = [name for name, bit in CUTTING.items() if not int(line.split()[1], 16) >> bit & 1]
                if lacking:
                    return (
                        "sessions that are open when their connection is removed are ended by the database alone, and "
                        f"between two apps not at all: the daemon needs root, with {' and '.join(lacking)}"
                    )
        return ""

    async def destroy_sockets(self, pid: int, peers: IPv4Network) -> None:
        """IPv4 peers of dual-stack sockets (::ffff:a.b.c.d) included: the kernel folds them when it compares.

        The namespace is held open by a descriptor from before the process is checked, so a reused pid harms nobody.
        """
        match self.alive(pid):
            case None:
                raise MissingRightsError(
                    "containers' processes cannot be seen from here, and sessions that are open when their connection "
                    "is removed may hang at one end: run the daemon in the host's pid namespace"
                )
            case False:
                return
        if fault := self._cut_fault():
            raise MissingRightsError(fault)
        try:
            namespace = os.open(self._proc / f"{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostToolError(
                f"cannot enter the network namespace of process {pid} ({error.strerror}): {RIGHTS}"
            ) from error
        try:
            if self.alive(pid):
                await self._destroy_in(namespace, peers)
        finally:
            os.close(namespace)

    async def _destroy_in(self, namespace: int, peers: IPv4Network) -> None:
        """`ss -K` passes over what it cannot destroy without a word: look again before believing it."""
        enter = ("nsenter", f"--net=/proc/self/fd/{namespace}", "ss", "-H", "-n", "-t")
        left = ""
        for _ in range(SOCKET_ATTEMPTS):
            killed = await self._run(*enter, "-K", "state", "connected", "dst", str(peers), keep=namespace)
            self._check(killed, "ss -K")
            # a closed client may have left its peer in TIME-WAIT: no session any more
            looked = await self._run(
                *enter, "state", "connected", "exclude", "time-wait", "dst", str(peers), keep=namespace
            )
            self._check(looked, "ss")
            left = looked.output.strip()
            if not left:
                return
        raise HostToolError(
            f"{len(left.splitlines())} connections with {peers} outlive `ss -K`: "
            "the kernel needs CONFIG_INET_DIAG_DESTROY (every Debian kernel has it)"
        )

    async def forget_flows(self, peers: IPv4Network) -> None:
        for side in ("-s", "-d"):
            result = await self._run(*self._enter, "conntrack", "-D", side, str(peers))
            if result.status != 0 and "0 flow entries" not in result.complaint:
                self._check(result, f"conntrack -D {side} {peers}")

    # --- processes --------------------

    def alive(self, pid: int) -> bool | None:
        """A process is known by its start time, remembered when it is first asked for: a reused pid is not alive.
        Pid 0 is how the engine says that nothing runs."""
        if pid <= 0:
            return False
        born = self._birth(pid)
        first = self._births.setdefault(pid, born) if born else self._births.get(pid)
        return None if first is None else born == first

    def remember(self, pids: Iterable[int]) -> None:
        """Which processes matter now: others are forgotten, so that a pid given out anew counts as a new process."""
        wanted = {pid: self._births.get(pid) or self._birth(pid) for pid in pids}
        self._births = {pid: born for pid, born in wanted.items() if born}

    def _birth(self, pid: int) -> str:
        """The start time of a process that runs (proc(5): field 22, in clock ticks); empty: it does not."""
        fields = self._read(self._proc / f"{pid}/stat").rpartition(")")[2].split()
        return fields[19] if fields and fields[0] not in ("Z", "X") else ""

    # --- commands --------------------

    def _read(self, path: Path) -> str:
        try:
            return path.read_text()
        except OSError:
            return ""

    def _check(self, result: Result, doing: str) -> None:
        if result.status != 0:
            raise HostToolError(f"{doing} failed: {_last_line(result.complaint)}")


class MissingChainError(HostToolError):
    """The chain that Docker keeps for the operator's rules does not exist."""


def parse_routes(table: str) -> list[Route]:
    """/proc/net/route: addresses are hexadecimal numbers in the host's byte order."""
    routes = []
    for line in table.splitlines()[1:]:
        device, destination, _gateway, flags, _refs, _use, metric, mask = line.split()[:8]
        if int(flags, 16) & ROUTE_UP:
            address = int(destination, 16).to_bytes(4, sys.byteorder)
            network = IPv4Network((address, int(mask, 16).bit_count()), strict=False)
            routes.append(Route(device, network, int(metric)))
    return routes


def parse_rules(listing: str) -> list[tuple[str, ...]]:
    """`iptables -S CHAIN` as words, one tuple per rule in order: spacing and quotes differ between its versions."""
    lines = (shlex.split(line) for line in listing.splitlines())
    return [tuple(words[2:]) for words in lines if words[:1] == ["-A"]]


def rule_leads(rules: Iterable[tuple[str, ...]], ours: tuple[str, ...]) -> bool:
    """Whether `ours` stands before every rule that is not one of some Sidegate instance."""
    for rule in rules:
        if rule == ours:
            return True
        if not any(word.startswith(COMMENT_PREFIX) for word in rule):
            return False
    return False


def _last_line(complaint: str) -> str:
    lines = complaint.strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
