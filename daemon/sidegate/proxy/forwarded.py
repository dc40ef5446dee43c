"""What a trusted proxy says of the client behind it, checked and handed on (RFC 7239 and the X-Forwarded family). Pure.

Believed is what the chain of trusted proxies saw itself: addresses are read from the right, and reading ends at the
first that is not a trusted proxy's, or that is no address.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from sidegate.proxy.peer import Peer, TrustedProxies, parse_address

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_PAIR = rb"(?:" + _TOKEN + rb"=(?:" + _TOKEN + rb'|"(?:[\t !#-\[\]-~]|\\[\t -~])*+"))'
_ELEMENT = re.compile(rb"[ \t]*+(" + _PAIR + rb"(?:;" + _PAIR + rb")*+)[ \t]*+(?:,|\Z)")
_PARAMETER = re.compile(rb"(" + _TOKEN + rb')=(?:"((?:[^"\\]|\\.)*+)"|(' + _TOKEN + rb"))")
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=:@|\-]{1,128}")
_HOST = re.compile(rb"(?:[A-Za-z0-9_.\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_KNOWN = frozenset(
    {
        b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip",
        b"x-request-id",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request began: the client's address, if that is on this machine, the scheme it used.

    `fields` is the block that tells the app so; `request_id` is empty where none was given.
    """

    client: str
    local: bool
    scheme: str
    request_id: bytes
    fields: bytes


def stranger_fields(peer: Peer, host: bytes) -> bytes:
    """The block for a request whose sender is believed nothing; `host` as it stands in Host, or empty."""
    named = b"X-Forwarded-Host: %b\r\n" % host if host else b""
    return b"%b%bForwarded: %b\r\n" % (peer.fields, named, _own_element(peer, host))


def origin(peer: Peer, trust: TrustedProxies, told: list[tuple[bytes, bytes]], host: bytes) -> Origin:
    """Of a request from a trusted proxy. `told` are lower-case names and stripped values of what it said of the client.

    What it said once and well is kept; our own word stands in for the rest. Others of the X-Forwarded family are kept.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in told:
        if value:
            values.setdefault(name, []).append(value)
    chain = b", ".join(values.get(b"x-forwarded-for", ()))
    elements = _elements(b", ".join(values.get(b"forwarded", ())))
    client = _client(peer, trust, chain.split(b",") if chain else [_parameter(one, b"for") for one in elements])
    proto = _only(values, b"x-forwarded-proto") or _parameter(elements[-1] if elements else b"", b"proto")
    proto = proto.lower()
    said = proto if proto in (b"http", b"https") else b""
    scheme = said or peer.scheme.encode()
    port = _only(values, b"x-forwarded-port")
    if not (port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        port = {b"": b"%d" % peer.port, b"http": b"80", b"https": b"443"}[said]
    named = _only(values, b"x-forwarded-host")
    if not _HOST.fullmatch(named):
        named = host
    real = parse_address(_only(values, b"x-real-ip").decode("latin-1")) or client
    identity = _only(values, b"x-request-id")
    address = peer.address.encode()
    fields = [
        b"X-Forwarded-For: %b\r\n" % (b"%b, %b" % (chain, address) if chain else address),
        f"X-Real-IP: {real}\r\n".encode(),
        b"X-Forwarded-Proto: %b\r\nX-Forwarded-Port: %b\r\n" % (scheme, port),
        b"X-Forwarded-Host: %b\r\n" % named if named else b"",
        b"Forwarded: %b\r\n" % b", ".join([*elements, _own_element(peer, host)]),
        *(b"%b: %b\r\n" % (name, value) for name, value in told if name not in _KNOWN),
    ]
    # A loopback address means the proxy's own machine, which is this one only where the proxy is local too.
    local = client == peer.own or (peer.local and ip_address(client).is_loopback)
    return Origin(
        client,
        local,
        scheme.decode(),
        identity if _REQUEST_ID.fullmatch(identity) else b"",
        b"".join(fields),
    )


def _own_element(peer: Peer, host: bytes) -> bytes:
    """What we saw ourselves, for Forwarded."""
    scheme = peer.scheme.encode()
    return b'%b;host="%b";proto=%b' % (peer.element, host, scheme) if host else b"%b;proto=%b" % (peer.element, scheme)


def _only(values: dict[bytes, list[bytes]], name: bytes) -> bytes:
    """The value of a field that was sent once, or nothing."""
    found = values.get(name, ())
    return found[0] if len(found) == 1 else b""


def _client(peer: Peer, trust: TrustedProxies, chain: list[bytes]) -> str:
    """The rightmost address that is no trusted proxy's; the leftmost where all are."""
    client = peer.address
    for raw in reversed(chain):
        match = _NODE.fullmatch(raw.strip(b" \t").decode("latin-1"))
        address = parse_address(match[1] or match[2] or match[3]) if match else None
        if address is None:
            break
        client = str(address)
        if client not in trust:
            break
    return client


def _elements(value: bytes) -> list[bytes]:
    """The elements of a Forwarded field; none of them where any is malformed."""
    found: list[bytes] = []
    position = 0
    while position < len(value):
        match = _ELEMENT.match(value, position)
        if match is None:
            return []
        found.append(match[1])
        position = match.end()
    return found


def _parameter(element: bytes, name: bytes) -> bytes:
    """The value of one parameter, unquoted; empty without it."""
    for key, quoted, plain in _PARAMETER.findall(element):
        if key.lower() == name:
            return plain or re.sub(rb"\\(.)", rb"\1", quoted)
    return b""
