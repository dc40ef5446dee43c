"""HTTP/1.1 message heads (RFC 9112): strict parsing and what is sent on in their place. Pure: bytes in, values out.

One regex splits a block of fields; whatever it skipped makes the lengths differ, so the split is the validation too.
Bare CR or LF, obs-fold, space before a colon and control characters are refused that way, without a rule each.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import Final

from sidegate.proxy.forwarded import origin, stranger_fields
from sidegate.proxy.peer import Peer

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# A target is printable ASCII without a fragment (RFC 9112 section 3.2, RFC 3986).
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!\"$-~]+) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])( [\t -~\x80-\xff]*)?\r\n")
# Anchored to a line's start, or a long run of token bytes without a colon would cost its length squared.
_FIELD = re.compile(rb"(?<=\n)(" + _TOKEN + rb"):([\t -~\x80-\xff]*)\r\n")
_HOST = re.compile(rb"([A-Za-z0-9_\-]++(?:\.[A-Za-z0-9_\-]++)*+\.?|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_MAX_HOST = 300  # routing looks at every label of a host, so its length is bounded (a name has 253 bytes at most)
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)([/?].*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CODING = rb"(?!chunked[ \t]*[,;])" + _TOKEN + rb"(?:[ \t]*;[ \t]*" + _TOKEN + rb"=" + _TOKEN + rb")*"
_OTHER_CODINGS = re.compile(rb"(?:" + _CODING + rb"[ \t]*,[ \t]*)+chunked", re.IGNORECASE)
_PROTOCOLS = re.compile(rb"(?:(?:\A|[ \t]*,[ \t]*)" + _TOKEN + rb"(?:/" + _TOKEN + rb")?)+")

# Requests: read or replaced by us, never copied. Underscores are folded first: CGI-like apps cannot tell them apart.
# `Proxy` would become HTTP_PROXY there, the address of the proxy that the app itself goes through.
_OURS_IN_REQUESTS = frozenset(
    {
        b"connection", b"content-length", b"expect", b"forwarded", b"host", b"http2-settings", b"keep-alive",
        b"max-forwards", b"proxy", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"x-real-ip",
        b"x-request-id",
    }
)  # fmt: skip
_TOLD = frozenset({b"forwarded", b"x-real-ip", b"x-request-id"})
_OURS_IN_RESPONSES = frozenset(
    {b"connection", b"content-length", b"date", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_HOP_COUNTING = frozenset({b"OPTIONS", b"TRACE"})  # those that Max-Forwards is for
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})


class RefusedHeadError(Exception):
    """A head we do not accept, the sender's fault; `status` is what a client is answered with."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class RequestFields:
    """The fields of a request: what they mean to us, and `sent_on`, the block that goes to the backend. Never changed.

    `block` is what they were parsed from, empty where the request line had a say in their meaning.
    `authority` is the target's host as the client wrote it, port included; `host` that in lower case without port and
    trailing dot (both empty only for HTTP/1.0). `length` is the body's, or CHUNKED. `accept` is the raw Accept.
    `upgrade`: a switch of protocols is asked for, and `websocket` to that one.
    `client` is the address of whoever made the request, `local` whether that is on this machine, `scheme` how it was
    asked for: of the connection, or where its other end is a trusted proxy, what that says.
    `request_id` is what a trusted proxy gave; empty: there is none yet.
    `max_forwards` is -1 except for OPTIONS and TRACE that have the field (RFC 9110 section 7.6.2): with 0 the request
    must not be sent on but answered; `sent_on` has one less than what came.
    """

    block: bytes
    sent_on: bytes
    host: str
    authority: str
    length: int
    keep_alive: bool
    upgrade: bool
    websocket: bool
    accept: bytes
    client: str
    local: bool
    scheme: str
    request_id: bytes
    max_forwards: int


@dataclass(slots=True)
class RequestHead:
    """A request: `path` is the origin-form target (with its query) or "*". Never changed: equal heads share one.

    `sent_on` is the head for the backend up to `X-Request-ID: `, which differs for each request; whoever sends it sends
    `b"%b%b\\r\\n\\r\\n" % (head.sent_on, head.fields.request_id or a new id)`.
    """

    method: bytes
    path: str
    modern: bool
    fields: RequestFields
    sent_on: bytes
    idempotent: bool
    plain: bool  # HTTP/1.1, kept alive, no body, not HEAD: nothing about its response needs thought


@dataclass(slots=True)
class ResponseHead:
    """A backend's response, never changed: `start` is the head without its end, connection and framing coding.

    `length` is the body's for methods that have one, CHUNKED or UNTIL_CLOSE. `untouched`: what came may be sent as is.
    `dated`: it has a Date; whoever sends on one without adds it (RFC 9110 section 6.6.1).
    """

    status: int
    start: bytes
    length: int
    keep_alive: bool
    untouched: bool
    dated: bool
    upgrade: bytes

    def sent_on(self, *, modern: bool, close: bool) -> bytes:
        """The complete head for an HTTP/1.1 client, or for an HTTP/1.0 one, which knows no chunks."""
        chunked = modern and self.length == CHUNKED and self.status != 204
        coding = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        connection = b"Connection: close\r\n" if close else b"" if modern else b"Connection: keep-alive\r\n"
        return b"%b%b%b\r\n" % (self.start, coding, connection)


def request_line(head: bytes | bytearray) -> re.Match[bytes]:
    """Method, target, major and minor version of a head whose first line has come. Raises RefusedHeadError."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise _refused("The request line is malformed.")
    if line[3] != b"1":
        raise RefusedHeadError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1.")
    return line


def parse_request(head: bytes, peer: Peer, before: RequestHead | None = None) -> RequestHead:
    """Parse a whole head from `peer`, its blank line included.

    `before` is an earlier request from there: a block of fields equal to its is not parsed again. Raises
    RefusedHeadError.
    """
    line = request_line(head)
    method, target, _, minor = line.groups()
    modern = minor != b"0"
    authority = None
    if target[0] != 0x2F or method == b"CONNECT":
        target, authority = _unusual_target(method, target)
    if before is not None and modern and authority is None and before.fields.block == head[line.end() :]:
        fields = before.fields
    else:
        fields = _request_fields(head, line.end(), peer, method, modern, authority)
    if fields.length and method == b"TRACE":
        raise _refused("A TRACE has no body.")
    return RequestHead(
        method,
        target.decode("ascii"),
        modern,
        fields,
        b"%b %b HTTP/1.1\r\n%b" % (method, target, fields.sent_on),
        method in _IDEMPOTENT,
        modern and fields.keep_alive and not fields.length and not fields.upgrade and method != b"HEAD",
    )


def parse_response(head: bytes) -> ResponseHead:
    """Parse a backend's head, its blank line included. Raises RefusedHeadError (502)."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise _garbled("status line")
    status = int(line[2])
    keep_alive, chunked, dated, length, upgrade = line[1] != b"0", False, False, UNTIL_CLOSE, b""
    pairs = _split(head, line.end())
    if pairs is None:
        raise _garbled("head")
    kept: list[tuple[bytes, bytes, bytes]] = []
    nominated: set[bytes] = set()
    dropped = line[1] != b"1" or line[3] is None
    for name, value in pairs:
        key = name.lower()
        if key not in _OURS_IN_RESPONSES:
            kept.append((key, name, value))
            continue
        if key == b"date":
            dated = True
            kept.append((key, name, value))
            continue
        if key == b"content-length":
            digits = value.strip(b" \t")
            if not _LENGTH.fullmatch(digits) or length not in (UNTIL_CLOSE, int(digits)):
                raise _garbled("length")
            if length == UNTIL_CLOSE:
                length = int(digits)
                kept.append((key, name, value))
                continue
        elif key == b"transfer-encoding":
            if chunked or line[1] == b"0" or value.strip(b" \t").lower() != b"chunked":
                raise _garbled("transfer coding")
            chunked = True
            continue
        elif key == b"connection":
            nominated |= _tokens(value)
        elif key == b"upgrade":
            upgrade = value.strip(b" \t")
        dropped = True
    if chunked and length != UNTIL_CLOSE:
        raise _garbled("framing")
    if status == 101 and not _PROTOCOLS.fullmatch(upgrade):
        raise _garbled("Upgrade field")
    if nominated:
        keep_alive = b"close" not in nominated and (keep_alive or b"keep-alive" in nominated)
        nominated -= {b"content-length"}
        kept = [field for field in kept if field[0] not in nominated]
    if status < 200 or status == 204:  # these have no length (RFC 9110 section 8.6)
        kept = [field for field in kept if field[0] != b"content-length"]
    untouched = dated and not dropped and status >= 200 and status not in (204, 304)
    parts = [b"HTTP/1.1 %b%b\r\n" % (line[2], line[3] or b" ")]
    parts += [b"%b:%b\r\n" % (name, value) for _, name, value in kept]
    if status == 426 and upgrade:  # it is of no use without what to upgrade to (RFC 9110 section 15.5.22)
        parts.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    return ResponseHead(status, b"".join(parts), CHUNKED if chunked else length, keep_alive, untouched, dated, upgrade)


def _request_fields(
    head: bytes, start: int, peer: Peer, method: bytes, modern: bool, authority: bytes | None
) -> RequestFields:
    pairs = _split(head, start)
    if pairs is None:
        raise _refused("A header field is malformed.")
    host: bytes | None = None
    length: int | None = None
    chunked = expects = False
    accept = b""
    hops: bytes | None = None
    upgrades: list[bytes] = []
    tokens: set[bytes] = set()
    told: list[tuple[bytes, bytes]] = []
    kept: list[tuple[bytes, bytes, bytes]] = []
    for name, value in pairs:
        key = name.lower()
        if key in _OURS_IN_REQUESTS:
            value = value.strip(b" \t")
            if key == b"host":
                if host is not None:
                    raise _refused("There are several Host fields.")
                host = value
            elif key == b"connection":
                tokens |= _tokens(value)
            elif key == b"content-length":
                if length is not None or not _LENGTH.fullmatch(value):
                    raise _refused("The Content-Length is malformed.")
                length = int(value)
            elif key == b"transfer-encoding":
                chunked = _check_coding(value, modern, repeated=chunked)
            elif key == b"upgrade":
                upgrades.append(value)
            elif key == b"expect":
                if value.lower() != b"100-continue":
                    raise RefusedHeadError(HTTPStatus.EXPECTATION_FAILED, "Only 100-continue can be expected.")
                expects = modern
            elif key in _TOLD:
                told.append((key, value))
            elif key == b"max-forwards":
                if hops is not None and method in _HOP_COUNTING:
                    raise _refused("There are several Max-Forwards fields.")
                hops = value
            continue
        if b"_" in key:
            key = key.replace(b"_", b"-")
            if key in _OURS_IN_REQUESTS or key.startswith(b"x-forwarded-"):
                continue
        elif key.startswith(b"x-forwarded-"):
            told.append((key, value.strip(b" \t")))
            continue
        if key == b"accept":
            accept = value
        kept.append((key, name, value))
    if chunked and length is not None:
        raise _refused("Content-Length and Transfer-Encoding exclude each other.")
    if host is None and modern:
        raise _refused("The Host field is missing.")
    name_of_host = _host_name(host) if host or modern else ""
    if authority is not None:
        host, name_of_host = authority, _host_name(authority)
    host = host or b""
    if peer.trust is None or not told:
        client, local, scheme, request_id = peer.address, peer.local, peer.scheme, b""
        about = stranger_fields(peer, host)
    else:
        begun = origin(peer, peer.trust, told, host)
        client, local, scheme = begun.client, begun.local, begun.scheme
        request_id, about = begun.request_id, begun.fields
    parts = [b"Host: %b\r\n%b" % (host, about)]
    parts += [b"%b:%b\r\n" % (name, value) for key, name, value in kept if key not in tokens]
    if chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif length is not None:
        parts.append(b"Content-Length: %d\r\n" % length)
    if expects:
        parts.append(b"Expect: 100-continue\r\n")
    max_forwards = -1
    if hops is not None:
        if method in _HOP_COUNTING:
            if not _LENGTH.fullmatch(hops):
                raise _refused("The Max-Forwards is malformed.")
            max_forwards = int(hops)
            hops = b"%d" % max(0, max_forwards - 1)
        parts.append(b"Max-Forwards: %b\r\n" % hops)
    upgrading = websocket = False
    if upgrades and modern and b"upgrade" in tokens:
        upgrade = b", ".join(upgrades)
        asked = _tokens(upgrade)
        # h2c is never asked of a backend on a stranger's behalf: it would take requests past every check here.
        if b"h2c" not in asked and _PROTOCOLS.fullmatch(upgrade):
            upgrading, websocket = True, b"websocket" in asked
            parts.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    parts.append(b"X-Request-ID: ")
    return RequestFields(
        head[start:] if modern and authority is None and hops is None else b"",
        b"".join(parts),
        name_of_host,
        host.decode("ascii"),
        CHUNKED if chunked else length or 0,
        b"close" not in tokens and (modern or b"keep-alive" in tokens),
        upgrading,
        websocket,
        accept,
        client,
        local,
        scheme,
        request_id,
        max_forwards,
    )


def _split(head: bytes, start: int) -> list[tuple[bytes, bytes]] | None:
    """Name and raw value of each field between `start` and the blank line; None when any byte is out of place."""
    pairs: list[tuple[bytes, bytes]] = _FIELD.findall(head, start)
    if sum([len(name) + len(value) + 3 for name, value in pairs]) + 2 != len(head) - start:
        return None
    return pairs


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip(b" \t").lower() for token in value.split(b",")} - {b""}


def _check_coding(value: bytes, modern: bool, *, repeated: bool) -> bool:
    if not modern or repeated:
        raise _refused("Transfer-Encoding is not allowed here.")
    if value.lower() != b"chunked":
        if _OTHER_CODINGS.fullmatch(value):
            raise RefusedHeadError(HTTPStatus.NOT_IMPLEMENTED, "Only the chunked transfer coding is spoken here.")
        raise _refused("The Transfer-Encoding is malformed.")
    return True


def _host_name(authority: bytes | None) -> str:
    """The host in `uri-host [":" port]` (RFC 9110 section 7.2), lower case and without its trailing dot."""
    match = _HOST.fullmatch(authority or b"")
    if match is None or len(match[1]) > _MAX_HOST or int(match[3] or 0) > 65535:
        raise _refused("The Host field is malformed.")
    if match[2]:
        try:
            IPv6Address(match[2].decode("ascii"))
        except ValueError:
            raise _refused("The Host field is malformed.") from None
    return match[1].removesuffix(b".").lower().decode("ascii")


def _unusual_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Origin-form and authority of a target that does not begin with "/" (RFC 9112 section 3.2)."""
    if method == b"CONNECT":
        raise RefusedHeadError(HTTPStatus.NOT_IMPLEMENTED, "This is not a forward proxy.")
    if target == b"*" and method == b"OPTIONS":
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise _refused("The request target is malformed.")
    if match[2] is None:  # OPTIONS asks about the server as a whole that way (RFC 9112 section 3.2.4)
        return b"*" if method == b"OPTIONS" else b"/", match[1]
    path: bytes = match[2]
    return (path if path[0] == 0x2F else b"/" + path), match[1]


def _refused(reason: str) -> RefusedHeadError:
    return RefusedHeadError(HTTPStatus.BAD_REQUEST, reason)


def _garbled(what: str) -> RefusedHeadError:
    return RefusedHeadError(HTTPStatus.BAD_GATEWAY, f"The app's response has a malformed {what}.")
