"""The firewall around the kernel forwarder: what of it stands in the way, and our accepts in Docker's chain.

A forwarded packet never meets INPUT, so that where INPUT does more than accept, forwarding would go round the
operator's rules. And it must pass every forward chain, while Docker's drops what comes from outside into an internal
network: an accept in DOCKER-USER comes before that, one in a chain of ours would not.
"""

import asyncio
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sidegate.adapters.host import CHAIN, COMMENT_PREFIX, OUR_DEVICES, parse_rules
from sidegate.adapters.nft.commands import Commands, Object, first_line
from sidegate.errors import HostToolError

Rule = tuple[str, ...]

CAP_NET_ADMIN = 12
WHOLE_MACHINE = ["0", "0", "4294967295"]
"""/proc/self/uid_map outside every user namespace (user_namespaces(7))."""

ATTEMPTS = 3
"""At changing a chain in which other daemons, Docker and the operator change rules as well."""

HARMLESS = frozenset({"match", "counter", "log", "accept"})
OPTIONS = re.compile(r"-A (?P<chain>\S+)(?P<match>.*?)(?: -j (?P<target>\S+).*)?")


class Firewall:
    """Looks at the host's firewall, and keeps our accepts in DOCKER-USER for flows to public ports `low` to `high`."""

    def __init__(self, commands: Commands, instance: str, ports: tuple[int, int]) -> None:
        self._commands = commands
        self._ports = ports
        self._comment = f"{COMMENT_PREFIX}{instance}:external"

    async def fault(self, own_tables: str) -> str:
        """Why the kernel forwarder cannot be used on this host; empty when it can. Tables whose names begin with
        `own_tables` are ours. About 10 ms."""
        if fault := self._rights() or self._forwarding():
            return fault
        try:
            variant, iptables, old, ruleset = await asyncio.gather(
                self._commands.output("iptables", "-V"),
                self._commands.output("iptables", "-w", "5", "-S"),
                self._legacy_fault(),
                self._commands.output("nft", "-j", "-t", "list", "ruleset"),
            )
            same = "nf_tables" in variant  # then iptables' chains are nft's as well
            if fault := iptables_fault(iptables):
                return fault
            if same and old:
                return old
            return nft_fault(json.loads(ruleset)["nftables"], own_tables, skip_iptables=same)
        except HostToolError as error:
            return str(error)

    async def _legacy_fault(self) -> str:
        """What iptables-legacy has in the way, which may hold rules besides those of iptables-nft."""
        if "filter" not in self._read("net/ip_tables_names").split():
            return ""
        try:
            listing = await self._commands.output("iptables-legacy", "-w", "5", "-S")
        except HostToolError as error:
            return str(error)
        fault = iptables_fault(listing)
        return f"{fault} (in iptables-legacy)" if fault else ""

    def _rights(self) -> str:
        if self._read("self/uid_map").split() != WHOLE_MACHINE:
            return "the daemon runs in a user namespace, and its firewall rules would not be the host's"
        for line in self._read("self/status").splitlines():
            if line.startswith("CapEff:") and not int(line.split()[1], 16) >> CAP_NET_ADMIN & 1:
                return "the daemon lacks CAP_NET_ADMIN: run it as root to have the kernel forward"
        return ""

    def _forwarding(self) -> str:
        if self._read("sys/net/ipv4/ip_forward").strip() != "1":
            return "this host does not forward packets: `sysctl -w net.ipv4.ip_forward=1`"
        return ""

    # --- accepts --------------------

    async def accepts(self, ports: Iterable[int]) -> bool:
        """Whether the accepts for `ports` stand; also where there is no DOCKER-USER for them to stand in."""
        rules = await self._docker_user()
        return rules is None or self._ours(rules) == self._wanted(ports)

    async def accept(self, ports: Iterable[int]) -> None:
        """Have exactly the accepts for `ports`, in one transaction; for none, none. Others' rules stay as they are."""
        wanted = self._wanted(ports)
        for tries_left in reversed(range(ATTEMPTS)):
            rules = await self._docker_user()
            if rules is None or (ours := self._ours(rules)) == wanted:
                return
            place = 1 + sum(1 for _ in _leading(rule for rule in rules if rule not in ours))
            lines = [shlex.join(("-D", CHAIN, *rule)) for rule in ours]
            lines += [shlex.join(("-I", CHAIN, str(place), *rule)) for rule in reversed(wanted)]
            text = "\n".join(("*filter", *lines, "COMMIT", ""))
            try:
                await self._commands.output("iptables-restore", "-w", "5", "--noflush", text=text)
            except HostToolError:  # somebody has changed the chain since we looked
                if not tries_left:
                    raise
            else:
                return

    def _wanted(self, ports: Iterable[int]) -> list[Rule]:
        """One pair of rules for the whole range, since every packet crosses them: a pair per port would cost each."""
        low, high = self._ports
        ranges: list[str] = []
        for port in sorted(ports):
            text = f"{low}:{high}" if low <= port <= high else str(port)
            if text not in ranges:
                ranges.append(text)
        return [rule for text in ranges for rule in self._pair(text)]

    def _pair(self, ports: str) -> Iterator[Rule]:
        """By the flow and not by the packet, so that ICMP errors about a session pass with it."""
        for side, direction in (("-o", "ORIGINAL"), ("-i", "REPLY")):
            flow = ("--ctstate", "DNAT", "--ctproto", "6", "--ctorigdstport", ports, "--ctdir", direction)
            comment = ("-m", "comment", "--comment", self._comment)
            yield (side, f"{OUR_DEVICES}+", "-m", "conntrack", *flow, *comment, "-j", "ACCEPT")

    def _ours(self, rules: Iterable[Rule]) -> list[Rule]:
        return [rule for rule in rules if self._comment in rule]

    async def _docker_user(self) -> list[Rule] | None:
        """The rules of DOCKER-USER in order; None: there is no such chain."""
        result = await self._commands.run("iptables", "-w", "5", "-S", CHAIN)
        if result.status == 0:
            return parse_rules(result.output)
        if "No chain" in result.complaint or "incompatible, use 'nft'" in result.complaint:
            return None
        raise HostToolError(f"cannot list iptables' chain {CHAIN}: {first_line(result.complaint)}")

    def _read(self, path: str) -> str:
        try:
            return (self._commands.proc / Path(path)).read_text()
        except OSError:
            return ""


def iptables_fault(listing: str) -> str:
    """What in `iptables -S` stands in the way; empty: nothing does."""
    policies = dict(words[1:3] for line in listing.splitlines() if (words := line.split())[:1] == ["-P"])
    rules = [match for line in listing.splitlines() if (match := OPTIONS.fullmatch(line))]
    of = {chain: [rule for rule in rules if rule["chain"] == chain] for chain in ("INPUT", "FORWARD", CHAIN)}
    if policies.get("INPUT", "ACCEPT") != "ACCEPT" or not all(map(_accepts, of["INPUT"])):
        return (
            "iptables' INPUT chain does more than accept, and what the kernel forwards never meets it: "
            "in userspace its rules go on ruling"
        )
    strangers = [rule for rule in of[CHAIN] if f"{COMMENT_PREFIX}" not in rule["match"] and not _returns(rule)]
    if not all(map(_accepts, strangers)):
        return f"the chain {CHAIN} holds rules of the operator, which the kernel's forwarding would go round"
    if policies.get("FORWARD", "ACCEPT") == "ACCEPT" and all(map(_accepts, of["FORWARD"])):
        return ""
    for rule in of["FORWARD"]:
        if rule["target"] == CHAIN and not rule["match"]:
            return ""
        if not _accepts(rule):
            return f"iptables' FORWARD chain has rules before Docker's {CHAIN}: `{rule[0]}`"
    return (
        f"iptables' FORWARD chain drops and does not lead to {CHAIN}: Docker makes that at its start unless its own "
        "iptables setting is off; `systemctl restart docker` brings it back after a flush"
    )


def _accepts(rule: re.Match[str]) -> bool:
    return rule["target"] in (None, "ACCEPT", "LOG", "NFLOG")


def _returns(rule: re.Match[str]) -> bool:
    return rule["target"] == "RETURN" and not rule["match"]


def nft_fault(objects: Sequence[Object], own_tables: str, *, skip_iptables: bool) -> str:
    """What in nft's rule set stands in the way: any chain that IPv4 packets meet and that does more than accept.

    `skip_iptables`: iptables' own chains are looked at elsewhere.
    """
    suspects: dict[tuple[str, str, str], str] = {}
    for item in objects:
        chain = item.get("chain", {})
        place = chain.get("family", ""), chain.get("table", ""), chain.get("name", "")
        if chain.get("hook") not in ("input", "forward") or place[0] not in ("ip", "inet"):
            continue
        if place[1].startswith(own_tables) or (skip_iptables and place[:2] == ("ip", "filter")):
            continue
        if chain.get("policy", "accept") != "accept":
            return _nft_reason(place, chain["hook"])
        suspects[place] = chain["hook"]
    for item in objects:
        rule = item.get("rule", {})
        place = rule.get("family", ""), rule.get("table", ""), rule.get("chain", "")
        if place in suspects and any(HARMLESS.isdisjoint(statement) for statement in rule.get("expr", ())):
            return _nft_reason(place, suspects[place])
    return ""


def _nft_reason(place: tuple[str, str, str], hook: str) -> str:
    name = " ".join(place)
    if hook == "input":
        return f"the nftables chain {name} rules over what comes in, and what the kernel forwards never meets it"
    return f"the nftables chain {name} rules over what is forwarded, and an accept of ours does not overrule it"


def _leading(rules: Iterable[Rule]) -> Iterator[Rule]:
    """The rules of Sidegate daemons at the head of the chain: the bridge fast path stays before ours."""
    for rule in rules:
        if not any(word.startswith(COMMENT_PREFIX) for word in rule):
            return
        yield rule
