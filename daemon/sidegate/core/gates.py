"""Who may come in through an external connection, and what of that the kernel can do. Pure.

Lists hold networks of both families. Deny wins over allow; an empty allow list lets anybody in. Loopback is an address
like any other: a list that does not name it keeps the machine itself out too.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)

from sidegate.core.routes import DATABASE_PORT
from sidegate.errors import InvalidInputError

Range = tuple[int, int]
"""First and last address, as numbers, of one family."""

MOST_ENTRIES = 1000
MOST_SESSIONS = 65535
LONGEST_DESCRIPTION = 100

_EVERYTHING_V4: tuple[Range, ...] = ((0, (1 << 32) - 1),)
_EVERYTHING_V6: tuple[Range, ...] = ((0, (1 << 128) - 1),)
_LOOPBACK_V4: tuple[Range, ...] = ((0x7F000000, 0x7FFFFFFF),)
_LOOPBACK_V6: tuple[Range, ...] = ((1, 1),)
_MAPPED = IPv6Network("::ffff:0:0/96")
_HOST_NAME = re.compile(r"(?=.*[g-z])[a-z0-9_*-]+(\.[a-z0-9_*-]+)*\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list. `cidr` is as `parse_cidr` gives it; `description` is for people."""

    cidr: str
    description: str = ""

    def __str__(self) -> str:
        return f"{self.cidr} ({self.description})" if self.description else self.cidr


@dataclass(frozen=True, slots=True)
class Gate:
    """The terms of one external connection.

    `port` is the public port. `local`: clients on this machine's loopback only. `max_sessions` bounds an address's
    sessions, `max_new` its new sessions per second; 0 is no limit.
    """

    port: int
    allow: tuple[Entry, ...] = ()
    deny: tuple[Entry, ...] = ()
    local: bool = False
    max_sessions: int = 0
    max_new: int = 0

    @property
    def open_to_anybody(self) -> bool:
        """Whether nothing keeps a stranger on the internet out."""
        return not self.allow and not self.local


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an address may come in; `reason` is empty when it may."""

    allowed: bool
    reason: str = ""


ALLOWED = Verdict(True)
OVER_A_LIMIT = Verdict(False, "over its limit of sessions")
OVER_THE_RATE = Verdict(False, "over its limit of new sessions per second")


@dataclass(frozen=True, slots=True)
class KernelForward:
    """One external connection as the kernel carries it.

    From `port` on any address of this machine to `address` at the database port, for IPv4 clients in `admitted`
    (None: all). Two are equal when the kernel need not be told anything.
    """

    port: int
    address: str
    admitted: tuple[Range, ...] | None = None
    max_sessions: int = 0
    max_new: int = 0

    @property
    def target(self) -> tuple[str, int]:
        return self.address, DATABASE_PORT


@dataclass(frozen=True, slots=True)
class KernelSession:
    """A session that the kernel carries.

    `masked` and `masked_port` are what the database sees as its client. `state` is the kernel's word (ESTABLISHED,
    SYN_SENT, FIN_WAIT, ...). `since` is a Unix time in seconds, None where net.netfilter.nf_conntrack_timestamp is
    off; bytes, IP and TCP headers included, are None where nf_conntrack_acct is. Sent is what the client sent.
    """

    port: int
    client: str
    client_port: int
    database: str
    masked: str
    masked_port: int
    state: str
    since: float | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None


class AccessList:
    """A gate, prepared for a question per connection: two bisections, whatever the lists' length."""

    __slots__ = ("_firsts_v4", "_firsts_v6", "gate", "ipv4", "ipv6")

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.ipv4: tuple[Range, ...] = _admitted(gate, 4)
        """Admitted addresses: sorted, disjoint, never adjacent."""
        self.ipv6: tuple[Range, ...] = _admitted(gate, 6)
        self._firsts_v4 = [first for first, _ in self.ipv4]
        self._firsts_v6 = [first for first, _ in self.ipv6]

    def admits(self, address: str) -> Verdict:
        """`address` as a socket names its peer: IPv4, IPv6 with or without a zone, or ::ffff:a.b.c.d."""
        found = parse_address(address)
        if found is None:
            return Verdict(False, f"{address!r} is not an address")
        number = int(found)
        ranges, firsts = (self.ipv4, self._firsts_v4) if found.version == 4 else (self.ipv6, self._firsts_v6)
        index = bisect_right(firsts, number) - 1
        if index >= 0 and number <= ranges[index][1]:
            return ALLOWED
        return Verdict(False, self._reason(found))

    def refused(self, addresses: Iterable[str]) -> frozenset[str]:
        """Those of `addresses` that may not come in: what to cut after a gate has changed."""
        return frozenset(address for address in addresses if not self.admits(address).allowed)

    def keeps(self, earlier: "AccessList") -> bool:
        """Whether all whom `earlier` admitted may still come in, so that nobody need be cut."""
        return _covers(self.ipv4, earlier.ipv4) and _covers(self.ipv6, earlier.ipv6)

    @property
    def loopback_only(self) -> bool:
        """Whether clients on this machine may come in, over 127.0.0.1 at least, and nobody else."""
        nobody_else = _covers(_LOOPBACK_V4, self.ipv4) and _covers(_LOOPBACK_V6, self.ipv6)
        return nobody_else and self.admits("127.0.0.1").allowed

    def _reason(self, address: IPv4Address | IPv6Address) -> str:
        denying = [entry for entry in self.gate.deny if address in ip_network(entry.cidr)]
        if denying:
            return f"denied by {max(denying, key=lambda entry: ip_network(entry.cidr).prefixlen)}"
        if self.gate.local:
            return "only clients on this machine's loopback may come in"
        return "not on the allow list"


def kernel_forward(access: AccessList, address: str) -> KernelForward | None:
    """What the kernel does of a gate in front of the database at `address`.

    None where it has nothing to do: the database has no address, or no IPv4 client from elsewhere may come in.
    """
    reachable = _subtract(access.ipv4, _LOOPBACK_V4)
    if not address or not reachable:
        return None
    admitted = None if access.ipv4 == _EVERYTHING_V4 else reachable
    return KernelForward(access.gate.port, address, admitted, access.gate.max_sessions, access.gate.max_new)


# --- reading what people write --------------------


def parse_entries(texts: Iterable[str | tuple[str, str]]) -> tuple[Entry, ...]:
    """Lines of a list, each a CIDR or a CIDR and its description; one written twice counts once, the last wins.

    Raises InvalidInputError naming every line that is wrong.
    """
    found: dict[str, Entry] = {}
    faults = []
    for line in texts:
        text, description = (line, "") if isinstance(line, str) else line
        try:
            entry = Entry(parse_cidr(text), _parse_description(description))
        except InvalidInputError as error:
            faults.append(str(error))
        else:
            found[entry.cidr] = entry
    if len(found) > MOST_ENTRIES:
        faults.append(f"{len(found)} entries are too many: at most {MOST_ENTRIES}, so write wider networks")
    if faults:
        raise InvalidInputError("; ".join(faults))
    return tuple(found.values())


def parse_cidr(text: str) -> str:
    """One network in its canonical form; an address alone is a network of one, ::ffff:a.b.c.d is IPv4.

    Raises InvalidInputError that says what was probably meant.
    """
    text = text.strip()
    address_text, slash, length = text.partition("/")
    if text.lower() in ("", "*", "any", "all", "anybody", "everyone"):
        raise InvalidInputError(f"{text!r} is not an address: an empty allow list lets anybody in")
    if "%" in text:
        raise InvalidInputError(f"{text!r} names an interface: leave out the part from % on")
    if not slash and "-" in text and (networks := _as_networks(text)):
        raise InvalidInputError(f"{text!r} is a range: write {' and '.join(networks)}")
    if slash and not (length.isascii() and length.isdecimal()):
        raise InvalidInputError(
            f"{text!r}: after the slash comes a prefix length, such as /24{_as_prefix(address_text, length)}"
        )
    try:
        address = ip_address(address_text)
    except ValueError as error:
        raise InvalidInputError(_address_fault(address_text)) from error
    bits = address.max_prefixlen
    if slash and (len(length) > len(str(bits)) or int(length) > bits):
        raise InvalidInputError(f"{text!r}: an IPv{address.version} prefix length is 0 to {bits}")
    network = ip_network(f"{address}/{length or bits}", strict=False)
    if network.network_address != address:
        raise InvalidInputError(
            f"{text!r} has bits set beyond /{length}: write {network} for the network or {address} for the one address"
        )
    return str(_folded(network))


def check_gate(gate: Gate) -> Gate:
    """Return `gate`, or raise InvalidInputError naming each value that can never be right."""
    faults = []
    if not 1 <= gate.port <= 65535:
        faults.append(f"port {gate.port} is not between 1 and 65535")
    for what, value in (("sessions", gate.max_sessions), ("new sessions per second", gate.max_new)):
        if not 0 <= value <= MOST_SESSIONS:
            faults.append(f"a limit of {value} {what} per address is not between 0 (none) and {MOST_SESSIONS}")
    access = AccessList(gate)
    if not access.ipv4 and not access.ipv6:
        faults.append("nobody could come in: the deny list covers all that is allowed")
    if faults:
        raise InvalidInputError("; ".join(faults))
    return gate


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address without its zone, IPv4 as IPv4 however it is written; None if it is none."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _parse_description(text: str) -> str:
    text = text.strip()
    if len(text) > LONGEST_DESCRIPTION or not text.isprintable():
        raise InvalidInputError(f"a description is one line of at most {LONGEST_DESCRIPTION} characters, not {text!r}")
    return text


def _address_fault(text: str) -> str:
    if _HOST_NAME.fullmatch(text):
        return f"{text!r} is a name: lists hold addresses, since a name's may change unseen"
    if re.fullmatch(r"[0-9]{1,3}(\.([0-9]{1,3}|\*)){0,3}\.?\*?", text):
        parts = [part for part in text.strip(".").split(".") if part != "*"]
        if len(parts) < 4 and all(int(part) < 256 for part in parts):
            network = ".".join(parts + ["0"] * (4 - len(parts)))
            return f"{text!r} is not a whole address: write {network}/{8 * len(parts)} for the network"
    return f"{text!r} is neither an IPv4 nor an IPv6 address"


def _as_prefix(address: str, mask: str) -> str:
    """What a netmask written instead of a prefix length means, to be told; empty if nothing."""
    try:
        return f": write {ip_network(f'{address}/{mask}', strict=False)}"
    except ValueError:
        return ""


def _as_networks(text: str) -> list[str]:
    first, _, last = text.partition("-")
    try:
        return [
            str(network) for network in summarize_address_range(IPv4Address(first.strip()), IPv4Address(last.strip()))
        ][:8]
    except ValueError:
        return []


def _folded(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
    return network


# --- sets of addresses --------------------


def _admitted(gate: Gate, version: int) -> tuple[Range, ...]:
    allowed = _ranges(gate.allow, version) if gate.allow else (_EVERYTHING_V4 if version == 4 else _EVERYTHING_V6)
    if gate.local:
        allowed = _intersect(allowed, _LOOPBACK_V4 if version == 4 else _LOOPBACK_V6)
    return _subtract(allowed, _ranges(gate.deny, version))


def _ranges(entries: Iterable[Entry], version: int) -> tuple[Range, ...]:
    """The addresses of one family in a list: sorted, and merged where they overlap or touch."""
    networks = (ip_network(entry.cidr) for entry in entries)
    merged: list[Range] = []
    for first, last in sorted(
        (int(n.network_address), int(n.broadcast_address)) for n in networks if n.version == version
    ):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def _intersect(one: tuple[Range, ...], other: tuple[Range, ...]) -> tuple[Range, ...]:
    return tuple((max(a, c), min(b, d)) for a, b in one for c, d in other if max(a, c) <= min(b, d))


def _subtract(ranges: tuple[Range, ...], holes: tuple[Range, ...]) -> tuple[Range, ...]:
    """`ranges` without `holes`, both sorted and disjoint."""
    left: list[Range] = []
    start = 0
    for first, last in ranges:
        while start < len(holes) and holes[start][1] < first:
            start += 1
        index = start
        while index < len(holes) and holes[index][0] <= last:
            if holes[index][0] > first:
                left.append((first, holes[index][0] - 1))
            first = holes[index][1] + 1
            index += 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


def _covers(whole: tuple[Range, ...], part: tuple[Range, ...]) -> bool:
    return not _subtract(part, whole)
