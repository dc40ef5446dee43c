"""Who may come in through an external connection."""

import itertools
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.gates import (
    AccessList,
    Entry,
    Gate,
    KernelForward,
    Verdict,
    check_gate,
    kernel_forward,
    parse_cidr,
    parse_entries,
)
from sidegate.errors import InvalidInputError


def access(allow: str = "", deny: str = "", *, local: bool = False) -> AccessList:
    return AccessList(Gate(30001, parse_entries(allow.split()), parse_entries(deny.split()), local))


def number(address: str) -> int:
    return int(ip_address(address))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        (" 203.0.113.0/24 ", "203.0.113.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8:0:0::1", "2001:db8::1/128"),
        ("::/0", "::/0"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_networks_are_read(text: str, meant: str) -> None:
    """Addresses and networks of both families, in one form each; mapped IPv4 is IPv4."""
    assert parse_cidr(text) == meant
    assert parse_cidr(meant) == meant


@pytest.mark.parametrize(
    ("text", "taught"),
    [
        ("203.0.113.7/24", "write 203.0.113.0/24 for the network or 203.0.113.7 for the one address"),
        ("2001:db8::1/64", "write 2001:db8::/64 for the network or 2001:db8::1 for the one address"),
        ("203.0.113.0/255.255.255.0", "such as /24: write 203.0.113.0/24"),
        ("203.0.113.0/", "such as /24"),
        ("203.0.113.0/33", "an IPv4 prefix length is 0 to 32"),
        (f"203.0.113.0/{'1' * 5000}", "an IPv4 prefix length is 0 to 32"),
        ("2001:db8::/129", "an IPv6 prefix length is 0 to 128"),
        ("203.0.113.0/-1", "such as /24"),
        ("203.0.113.0/²", "such as /24"),
        ("203.0.113.0-203.0.113.5", "write 203.0.113.0/30 and 203.0.113.4/31"),
        ("203.0.113.*", "write 203.0.113.0/24"),
        ("10.0", "write 10.0.0.0/16"),
        ("203.0.113.300", "neither an IPv4 nor an IPv6 address"),
        ("office.example.com", "is a name"),
        ("fe80::1%eth0", "leave out the part from %"),
        ("any", "an empty allow list lets anybody in"),
        ("", "an empty allow list lets anybody in"),
        ("010.0.0.1", "neither"),
    ],
)
def test_errors_teach(text: str, taught: str) -> None:
    """What was probably meant stands in the message."""
    with pytest.raises(InvalidInputError) as raised:
        parse_cidr(text)
    assert taught in str(raised.value)


def test_lists_are_read() -> None:
    """Each line once, the last word winning; every fault is named; descriptions are one short line."""
    assert parse_entries(["203.0.113.7", ("::ffff:203.0.113.7", " the office ")]) == (
        Entry("203.0.113.7/32", "the office"),
    )
    with pytest.raises(InvalidInputError) as raised:
        parse_entries(["10.0.0.1/8", "nobody.example", ("10.0.0.0/8", "two\nlines"), ("10.0.0.0/8", "x" * 101)])
    assert str(raised.value).count("; ") == 3
    with pytest.raises(InvalidInputError, match="1001 entries are too many"):
        parse_entries(f"10.0.{n // 250}.{n % 250}" for n in range(1001))
    assert str(Entry("10.0.0.0/8", "lab")) == "10.0.0.0/8 (lab)"


@pytest.mark.parametrize(
    ("lists", "address", "reason"),
    [
        (access(), "203.0.113.7", ""),
        (access(), "2001:db8::1", ""),
        (access("203.0.113.0/24"), "203.0.113.255", ""),
        (access("203.0.113.0/24"), "203.0.114.0", "not on the allow list"),
        (access("203.0.113.0/24"), "203.0.112.255", "not on the allow list"),
        (access("203.0.113.0/24"), "::ffff:203.0.113.9", ""),
        (access("::ffff:203.0.113.0/120"), "203.0.113.9", ""),
        (access("203.0.113.0/24"), "2001:db8::1", "not on the allow list"),
        (access("::/0"), "203.0.113.7", "not on the allow list"),
        (access("2001:db8::/32"), "2001:db8:ffff::1", ""),
        (access("fe80::/10"), "fe80::1%eth0", ""),
        (access("10.0.0.0/8 10.1.0.0/16", "10.1.2.0/24"), "10.1.2.3", "denied by 10.1.2.0/24"),
        (access("10.0.0.0/8 10.1.0.0/16", "10.1.2.0/24"), "10.1.3.3", ""),
        (access("", "10.0.0.0/8 10.1.2.3"), "10.1.2.3", "denied by 10.1.2.3/32"),
        (access("10.0.0.0/8"), "127.0.0.1", "not on the allow list"),
        (access(local=True), "127.0.0.1", ""),
        (access(local=True), "::1", ""),
        (access(local=True), "::ffff:127.9.9.9", ""),
        (access("10.0.0.0/8", local=True), "10.0.0.1", "only clients on this machine's loopback may come in"),
        (access("", "127.0.0.2", local=True), "127.0.0.2", "denied by 127.0.0.2/32"),
        (access(), "nonsense", "'nonsense' is not an address"),
    ],
)
def test_who_may_come_in(lists: AccessList, address: str, reason: str) -> None:
    """Deny wins, an empty allow list is anybody, families do not mix but for mapped addresses."""
    assert lists.admits(address) == Verdict(not reason, reason)


NETWORKS = st.one_of(
    st.builds(lambda a, p: str(ip_network((a, p), strict=False)), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda a, p: str(ip_network((a << 96, p), strict=False)), st.integers(2**29, 2**32 - 1), st.integers(1, 128)
    ),
)


@given(st.lists(NETWORKS, max_size=8), st.lists(NETWORKS, max_size=8), st.data())
def test_ranges_say_what_the_lists_say(allow: list[str], deny: list[str], data: st.DataObject) -> None:
    """However lists overlap, the prepared answer is that of reading them; ranges are sorted, disjoint, not adjacent."""
    lists = access(" ".join(allow), " ".join(deny))
    networks = [ip_network(cidr) for cidr in (*allow, *deny)] or [ip_network("10.0.0.0/8")]
    network = data.draw(st.sampled_from(networks))
    first, last = int(network.network_address), int(network.broadcast_address)
    most = 2**32 - 1 if network.version == 4 else 2**128 - 1
    chosen = data.draw(st.sampled_from([max(first - 1, 0), first, last, min(last + 1, most)]))
    address = type(network.network_address)(chosen)
    expected = (not allow or any(address in ip_network(c) for c in allow)) and not any(
        address in ip_network(c) for c in deny
    )
    assert lists.admits(str(address)).allowed is expected
    for ranges in (lists.ipv4, lists.ipv6):
        assert all(low <= high for low, high in ranges)
        assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(ranges))


def test_a_change_says_whom_it_hurts() -> None:
    """A list that keeps all whom another admitted cuts nobody; else those who are refused now are named."""
    before, after = access("10.0.0.0/8 2001:db8::/32"), access("10.1.0.0/16 10.2.0.0/16 2001:db8::/32")
    assert before.keeps(after)
    assert not after.keeps(before)
    assert access().keeps(before)
    assert not access("0.0.0.0/0").keeps(before)
    assert not access(local=True).keeps(after)
    sessions = ["10.1.2.3", "10.3.0.1", "::ffff:10.9.9.9", "2001:db8::7"]
    assert after.refused(sessions) == {"10.3.0.1", "::ffff:10.9.9.9"}


def test_what_the_kernel_does_of_it() -> None:
    """IPv4 from elsewhere; nothing where nobody such may come in, or there is nowhere to go."""
    everybody = kernel_forward(access("", "2001:db8::/32"), "10.213.0.2")
    assert everybody == KernelForward(30001, "10.213.0.2")
    assert everybody.target == ("10.213.0.2", 3306)
    some = kernel_forward(access("10.0.0.0/30 10.0.0.4/31 192.0.2.1", "10.0.0.1"), "10.213.0.2")
    assert some is not None
    assert some.admitted == (
        (number("10.0.0.0"), number("10.0.0.0")),
        (number("10.0.0.2"), number("10.0.0.5")),
        (number("192.0.2.1"), number("192.0.2.1")),
    )
    assert kernel_forward(access("10.0.0.4/31 10.0.0.0/30 192.0.2.1/32", "10.0.0.1"), "10.213.0.2") == some
    for nothing in (access(local=True), access("2001:db8::/32"), access("127.0.0.0/8"), access("", "0.0.0.0/0")):
        assert kernel_forward(nothing, "10.213.0.2") is None
    assert kernel_forward(access(), "") is None
    limited = kernel_forward(AccessList(Gate(30001, max_sessions=3, max_new=2)), "10.213.0.2")
    assert limited == KernelForward(30001, "10.213.0.2", None, 3, 2)


def test_a_gate_that_can_never_be_right() -> None:
    """Ports, limits, and lists that leave nobody are refused, all at once."""
    assert check_gate(Gate(30001)).open_to_anybody
    assert not Gate(30001, local=True).open_to_anybody
    assert not Gate(30001, (Entry("10.0.0.0/8"),)).open_to_anybody
    with pytest.raises(InvalidInputError) as raised:
        check_gate(Gate(0, (Entry("10.0.0.0/8"),), (Entry("10.0.0.0/7"),), max_sessions=-1, max_new=1_000_000))
    assert str(raised.value).count("; ") == 3
