"""HTTP/1.1 message heads (RFC 9112): strict parsing and what is sent on in their place. Pure: bytes in, values out.

One regex splits a block of fields; whatever it skipped makes the lengths differ, so the split is the validation too.
Bare CR or LF, obs-fold, space before a colon and control characters are refused that way, without a rule each.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])( [\t -~\x80-\xff]*)?\r\n")
# Anchored to a line's start, or a long run of token bytes without a colon would cost its length squared.
_FIELD = re.compile(rb"(?<=\n)(" + _TOKEN + rb"):([\t -~\x80-\xff]*)\r\n")
_HOST = re.compile(rb"([A-Za-z0-9_.\-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)([/?][^#]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_KNOWN_CODINGS = re.compile(rb"(?:x-)?(?:gzip|compress|deflate)[ \t]*,[ \t]*chunked", re.IGNORECASE)

# Requests: read or replaced by us, never copied. Underscores are folded first: CGI-like apps cannot tell them apart.
_OURS_IN_REQUESTS = frozenset(
    {
        b"connection", b"content-length", b"expect", b"forwarded", b"host", b"http2-settings", b"keep-alive",
        b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"x-real-ip",
    }
)  # fmt: skip
_OURS_IN_RESPONSES = frozenset(
    {b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})


class RefusedHeadError(Exception):
    """A head we do not accept, the sender's fault; `status` is what a client is answered with."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RequestFields:
    """The fields of a request: what they mean to us, and `sent_on`, the block that goes to the backend.

    `block` is what they were parsed from, empty where the request line had a say in their meaning.
    `length` is the body's, or CHUNKED; `host` lower case without port and trailing dot; `accept` the raw Accept.
    """

    block: bytes
    sent_on: bytes
    host: str
    length: int
    keep_alive: bool
    upgrade: bool
    accept: bytes


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request: `sent_on` is the complete head for the backend, `path` the origin-form target (with its query)."""

    method: bytes
    path: str
    modern: bool
    fields: RequestFields
    sent_on: bytes
    idempotent: bool
    plain: bool  # HTTP/1.1, kept alive, no body, not HEAD: nothing about its response needs thought


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A backend's response: `start` is the head without its end and without connection and framing coding.

    `length` is the body's for methods that have one, CHUNKED or UNTIL_CLOSE. `untouched`: what came may be sent as is.
    """

    status: int
    start: bytes
    length: int
    keep_alive: bool
    untouched: bool
    upgrade: bytes

    def sent_on(self, *, modern: bool, close: bool) -> bytes:
        """The complete head for an HTTP/1.1 client, or for an HTTP/1.0 one, which knows no chunks."""
        coding = b"Transfer-Encoding: chunked\r\n" if modern and self.length == CHUNKED else b""
        connection = b"Connection: close\r\n" if close else b"" if modern else b"Connection: keep-alive\r\n"
        return b"%b%b%b\r\n" % (self.start, coding, connection)


def parse_request(head: bytes, forwarded: bytes, before: RequestHead | None = None) -> RequestHead:
    """Parse a whole head, its blank line included. `forwarded` are the fields that tell where the client is.

    `before` is an earlier request from there: a block of fields equal to its is not parsed again. Raises
    RefusedHeadError.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "The request line is malformed.")
    method, target, major, minor = line.groups()
    if major != b"1":
        raise RefusedHeadError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1.")
    modern = minor != b"0"
    authority = None
    if target[0] != 0x2F:
        target, authority = _unusual_target(method, target)
    if before is not None and modern and authority is None and before.fields.block == head[line.end() :]:
        fields = before.fields
    else:
        fields = _request_fields(head, line.end(), forwarded, modern, authority)
    return RequestHead(
        method,
        target.decode("latin-1"),
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
    keep_alive, chunked, length, upgrade = line[1] != b"0", False, UNTIL_CLOSE, b""
    pairs = _split(head, line.end())
    if pairs is None:
        raise _garbled("head")
    kept: list[tuple[bytes, bytes, bytes]] = []
    nominated: set[bytes] = set()
    dropped = not keep_alive
    for name, value in pairs:
        key = name.lower()
        if key not in _OURS_IN_RESPONSES:
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
            if chunked or value.strip(b" \t").lower() != b"chunked":
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
    if nominated:
        keep_alive = b"close" not in nominated and (keep_alive or b"keep-alive" in nominated)
        nominated -= {b"content-length"}
        kept = [field for field in kept if field[0] not in nominated]
    if status < 200 or status == 204:  # these have no length (RFC 9110 section 8.6)
        kept = [field for field in kept if field[0] != b"content-length"]
    untouched = not dropped and status >= 200 and status not in (204, 304)
    parts = [b"HTTP/1.1 %b%b\r\n" % (line[2], line[3] or b" ")]
    parts += [b"%b:%b\r\n" % (name, value) for _, name, value in kept]
    return ResponseHead(status, b"".join(parts), CHUNKED if chunked else length, keep_alive, untouched, upgrade)


def _request_fields(head: bytes, start: int, forwarded: bytes, modern: bool, authority: bytes | None) -> RequestFields:
    pairs = _split(head, start)
    if pairs is None:
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "A header field is malformed.")
    host: bytes | None = None
    length: int | None = None
    chunked = expects = False
    accept = upgrade = b""
    tokens: set[bytes] = set()
    kept: list[tuple[bytes, bytes, bytes]] = []
    for name, value in pairs:
        key = name.lower()
        if key in _OURS_IN_REQUESTS:
            value = value.strip(b" \t")
            if key == b"host":
                if host is not None:
                    raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "There are several Host fields.")
                host = value
            elif key == b"connection":
                tokens |= _tokens(value)
            elif key == b"content-length":
                if length is not None or not _LENGTH.fullmatch(value):
                    raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "The Content-Length is malformed.")
                length = int(value)
            elif key == b"transfer-encoding":
                chunked = _check_coding(value, modern, repeated=chunked)
            elif key == b"upgrade":
                upgrade = value
            elif key == b"expect":
                if value.lower() != b"100-continue":
                    raise RefusedHeadError(HTTPStatus.EXPECTATION_FAILED, "Only 100-continue can be expected.")
                expects = modern
            continue
        if b"_" in key:
            key = key.replace(b"_", b"-")
            if key in _OURS_IN_REQUESTS:
                continue
        if key.startswith(b"x-forwarded-"):
            continue
        if key == b"accept":
            accept = value
        kept.append((key, name, value))
    if chunked and length is not None:
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "Content-Length and Transfer-Encoding exclude each other.")
    if host is None and modern:
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "The Host field is missing.")
    if authority is not None:
        host = authority
    match = _HOST.fullmatch(host or b"")
    if match is None:
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "The Host field is malformed.")
    # h2c is never asked of a backend on a stranger's behalf: it would take requests past every check here.
    upgrading = bool(modern and upgrade and b"upgrade" in tokens and b"h2c" not in _tokens(upgrade))
    parts = [b"Host: %b\r\n" % (host or b""), forwarded, b"X-Forwarded-Host: %b\r\n" % (host or b"")]
    parts += [b"%b:%b\r\n" % (name, value) for key, name, value in kept if key not in tokens]
    if chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif length is not None:
        parts.append(b"Content-Length: %d\r\n" % length)
    if expects:
        parts.append(b"Expect: 100-continue\r\n")
    if upgrading:
        parts.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    parts.append(b"\r\n")
    return RequestFields(
        head[start:] if modern and authority is None else b"",
        b"".join(parts),
        match[1].rstrip(b".").lower().decode("ascii"),
        CHUNKED if chunked else length or 0,
        b"close" not in tokens if modern else b"keep-alive" in tokens,
        upgrading,
        accept,
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
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "Transfer-Encoding is not allowed here.")
    if value.lower() != b"chunked":
        if _KNOWN_CODINGS.fullmatch(value):
            raise RefusedHeadError(HTTPStatus.NOT_IMPLEMENTED, "Only the chunked transfer coding is spoken here.")
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "The Transfer-Encoding is malformed.")
    return True


def _unusual_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Origin-form and authority of a target that does not begin with "/" (RFC 9112 section 3.2)."""
    if method == b"CONNECT":
        raise RefusedHeadError(HTTPStatus.NOT_IMPLEMENTED, "This is not a forward proxy.")
    if target == b"*" and method == b"OPTIONS":
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "The request target is malformed.")
    path: bytes = match[2] or b"/"
    return (path if path[0] == 0x2F else b"/" + path), match[1]


def _garbled(what: str) -> RefusedHeadError:
    return RefusedHeadError(HTTPStatus.BAD_GATEWAY, f"The app's response has a malformed {what}.")
