"""Who is at the other end, who is believed, and what apps are told about it."""

import pytest

from sidegate.proxy.forwarded import origin, stranger_fields
from sidegate.proxy.peer import Peer, TrustedProxies, describe

NOBODY = TrustedProxies()
TRUSTED = TrustedProxies(["192.0.2.0/28", "10.0.0.0/8", "::ffff:198.51.100.0/120", "2001:db8:1::/48", "127.0.0.0/8"])
OURS = b'Forwarded: for=192.0.2.7;host="a.test";proto=http\r\n'


def trusted_peer(address: str = "192.0.2.7", own: str = "192.0.2.1") -> tuple[Peer, TrustedProxies]:
    peer = describe((address, 50000), (own, 80), False, TRUSTED)
    assert peer.trust is TRUSTED
    return peer, TRUSTED


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    ("peer", "own", "address", "local"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9", "127.0.0.1", "127.9.9.9", True),
        ("::1", "::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.1", "192.0.2.7", False),
        ("2001:db8::7", "2001:db8::1", "2001:db8::7", False),
        ("fe80::1%eth0", "fe80::2%eth0", "fe80::1", False),
    ],
)
def test_a_client_is_local_when_it_comes_from_this_machine(
    peer: str, own: str, address: str, local: bool, secure: bool
) -> None:
    found = describe((peer, 50000), (own, 8080), secure, NOBODY)
    scheme = "https" if secure else "http"
    assert (found.address, found.local, found.scheme, found.trust) == (address, local, scheme, None)
    node = f'"[{address}]"' if ":" in address else address
    assert stranger_fields(found, b"a.test:81").decode() == (
        f"X-Forwarded-For: {address}\r\nX-Real-IP: {address}\r\n"
        f"X-Forwarded-Proto: {scheme}\r\nX-Forwarded-Port: 8080\r\nX-Forwarded-Host: a.test:81\r\n"
        f'Forwarded: for={node};host="a.test:81";proto={scheme}\r\n'
    )


def test_a_client_that_comes_by_an_address_that_stands_for_this_machine_is_local() -> None:
    """In a container: whom the engine shows as the bridge that it was started on."""
    trusted = TrustedProxies(here=["172.30.0.1", "fd00::1"])
    for client, local in (("::ffff:172.30.0.1", True), ("fd00::1", True), ("172.30.0.2", False)):
        found = describe((client, 50000), ("::ffff:172.30.0.9", 80), False, trusted)
        assert (found.local, found.trust) == (local, None)


def test_a_client_that_is_gone_already_is_nobody() -> None:
    assert describe(None, None, False, TrustedProxies(["0.0.0.0/32"])).local is False


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("192.0.2.15", True),
        ("192.0.2.16", False),
        ("10.255.0.1", True),
        ("::ffff:10.1.2.3", True),
        ("198.51.100.9", True),
        ("::ffff:198.51.100.9", True),
        ("198.51.101.1", False),
        ("2001:db8:1:ffff::1", True),
        ("2001:db8:2::1", False),
        ("::a00:1", False),
        ("nobody", False),
        ("", False),
    ],
)
def test_trust_is_a_matter_of_networks(address: str, trusted: bool) -> None:
    assert (address in TRUSTED) is trusted
    assert address not in NOBODY


def test_everybody_can_be_trusted() -> None:
    assert "8.8.8.8" in TrustedProxies(["0.0.0.0/0"])
    assert "::1" not in TrustedProxies(["0.0.0.0/0"])
    with pytest.raises(ValueError, match="nonsense"):
        TrustedProxies(["nonsense"])


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ([b"203.0.113.9"], "203.0.113.9"),
        ([b"6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        ([b"6.6.6.6, 203.0.113.9, 10.0.0.1"], "203.0.113.9"),
        ([b"6.6.6.6", b"203.0.113.9", b"10.0.0.1 , 192.0.2.3"], "203.0.113.9"),
        ([b"203.0.113.9:1234"], "203.0.113.9"),
        ([b"[2001:db8::9]:1234"], "2001:db8::9"),
        ([b"2001:DB8::9"], "2001:db8::9"),
        ([b"::ffff:203.0.113.9"], "203.0.113.9"),
        ([b"10.0.0.5, 10.0.0.6"], "10.0.0.5"),
        ([b"6.6.6.6, unknown, 10.0.0.6"], "10.0.0.6"),
        ([b"6.6.6.6, unknown"], "192.0.2.7"),
        ([b"6.6.6.6,, 10.0.0.6"], "10.0.0.6"),
        ([b"999.1.1.1"], "192.0.2.7"),
        ([b"fe80::1%eth0"], "192.0.2.7"),
        ([b"127.0.0.1"], "127.0.0.1"),
        ([b""], "192.0.2.7"),
        ([], "192.0.2.7"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_vouches_past(told: list[bytes], client: str) -> None:
    peer, trust = trusted_peer()
    found = origin(peer, trust, [(b"x-forwarded-for", value) for value in told], b"a.test")
    assert (found.client, found.local) == (client, False)
    before = b"".join(value + b", " for value in told if value)
    assert found.fields.startswith(b"X-Forwarded-For: %b192.0.2.7\r\nX-Real-IP: %b\r\n" % (before, client.encode()))


@pytest.mark.parametrize(
    ("told", "client", "scheme"),
    [
        (b"for=203.0.113.9;proto=https", "203.0.113.9", "https"),
        (b'For="[2001:db8::9]:80" ; host=x', "192.0.2.7", "http"),
        (b'For="[2001:db8::9]:80";host=x', "2001:db8::9", "http"),
        (b'for=6.6.6.6, for="203.0.113.9:80";PROTO=HTTPS', "203.0.113.9", "https"),
        (b"for=203.0.113.9, for=10.0.0.1;proto=https", "203.0.113.9", "https"),
        (b"for=203.0.113.9, for=_hidden", "192.0.2.7", "http"),
        (b'host="x,for=6.6.6.6";for=203.0.113.9', "203.0.113.9", "http"),
        (b'host="\\";for=6.6.6.6";for=203.0.113.9', "203.0.113.9", "http"),
        (b"proto=https", "192.0.2.7", "https"),
        (b'for="', "192.0.2.7", "http"),
    ],
)
def test_forwarded_speaks_where_x_forwarded_for_is_silent(told: bytes, client: str, scheme: str) -> None:
    peer, trust = trusted_peer()
    found = origin(peer, trust, [(b"forwarded", told)], b"a.test")
    assert (found.client, found.scheme) == (client, scheme)
    both = origin(peer, trust, [(b"forwarded", told), (b"x-forwarded-for", b"203.0.113.1")], b"a.test")
    assert both.client == "203.0.113.1"


@pytest.mark.parametrize(
    ("peer", "own", "told", "local"),
    [
        ("192.0.2.7", "192.0.2.1", b"192.0.2.1", True),
        ("192.0.2.7", "192.0.2.1", b"127.0.0.1", False),  # the proxy's own machine
        ("127.0.0.1", "127.0.0.1", b"127.0.0.2", True),
        ("127.0.0.1", "127.0.0.1", b"::1", True),
        ("127.0.0.1", "127.0.0.1", b"203.0.113.9", False),
        ("127.0.0.1", "127.0.0.1", b"", True),
    ],
)
def test_local_is_who_a_trusted_proxy_saw_on_this_machine(peer: str, own: str, told: bytes, local: bool) -> None:
    found = origin(*trusted_peer(peer, own), [(b"x-forwarded-for", told)], b"a.test")
    assert found.local is local


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ([(b"x-forwarded-proto", b"HTTPS")], b"X-Forwarded-Proto: https"),
        ([(b"x-forwarded-proto", b"gopher")], b"X-Forwarded-Proto: http"),
        ([(b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"https")], b"X-Forwarded-Proto: http"),
        ([(b"x-forwarded-proto", b"https")], b"X-Forwarded-Port: 443"),
        ([(b"x-forwarded-proto", b"http")], b"X-Forwarded-Port: 80"),
        ([(b"x-forwarded-port", b"8443")], b"X-Forwarded-Port: 8443"),
        ([(b"x-forwarded-port", b"65536")], b"X-Forwarded-Port: 80"),
        ([(b"x-forwarded-port", b"0")], b"X-Forwarded-Port: 80"),
        ([(b"x-forwarded-port", b"\xb2")], b"X-Forwarded-Port: 80"),
        ([(b"x-forwarded-host", b"b.test:81")], b"X-Forwarded-Host: b.test:81"),
        ([(b"x-forwarded-host", b"[::1]")], b"X-Forwarded-Host: [::1]"),
        ([(b"x-forwarded-host", b"b.test, c.test")], b"X-Forwarded-Host: a.test"),
        ([(b"x-forwarded-host", b"b.test"), (b"x-forwarded-host", b"c.test")], b"X-Forwarded-Host: a.test"),
        ([(b"x-real-ip", b"203.0.113.8")], b"X-Real-IP: 203.0.113.8"),
        ([(b"x-real-ip", b"nobody")], b"X-Real-IP: 192.0.2.7"),
        ([(b"x-real-ip", b"nobody"), (b"x-forwarded-for", b"203.0.113.9")], b"X-Real-IP: 203.0.113.9"),
        ([(b"forwarded", b"for=x;by=y")], b"Forwarded: for=x;by=y, " + OURS.removeprefix(b"Forwarded: ").strip()),
        ([(b"forwarded", b"for=x"), (b"forwarded", b"for=z")], b"Forwarded: for=x, for=z, " + OURS[11:].strip()),
        ([(b"forwarded", b"for=x;;")], OURS.strip()),
        ([(b"forwarded", b'for="x')], OURS.strip()),
    ],
)
def test_what_a_trusted_proxy_said_once_and_well_is_kept(told: list[tuple[bytes, bytes]], line: bytes) -> None:
    found = origin(*trusted_peer(), told, b"a.test")
    assert line in found.fields.split(b"\r\n")
    assert [one.partition(b":")[0] for one in found.fields.split(b"\r\n")] == [
        b"X-Forwarded-For",
        b"X-Real-IP",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Port",
        b"X-Forwarded-Host",
        b"Forwarded",
        b"",
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([b"0af7651916cd43dd-8448eb211c80319c"], True),
        ([b"x" * 128], True),
        ([b"x" * 129], False),
        ([b"a b"], False),
        ([b"a<b"], False),
        ([b"\xe4"], False),
        ([b"a", b"a"], False),
        ([b""], False),
    ],
)
def test_a_request_id_is_kept_if_it_is_one(given: list[bytes], kept: bool) -> None:
    found = origin(*trusted_peer(), [(b"x-request-id", value) for value in given], b"a.test")
    assert found.request_id == (given[0] if kept else b"")


def test_the_rest_of_the_family_is_kept() -> None:
    told = [(b"x-forwarded-prefix", b"/shop"), (b"x-forwarded-ssl", b"on")]
    found = origin(*trusted_peer(), told, b"a.test")
    assert found.fields.endswith(b"\r\nx-forwarded-prefix: /shop\r\nx-forwarded-ssl: on\r\n")


def test_without_a_host_none_is_claimed() -> None:
    found = origin(*trusted_peer(), [(b"x-forwarded-for", b"203.0.113.9")], b"")
    assert b"ost" not in found.fields
    assert b"ost" not in stranger_fields(trusted_peer()[0], b"")
