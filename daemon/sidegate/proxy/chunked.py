"""Chunked framing (RFC 9112 section 7.1): finds where a chunked body ends, strictly; hands out its payload if asked.

Never touches a socket and never changes what it reads: the proxy passes chunked bodies through as they came.
"""

import re

_MAX_LINE = 4096
_MAX_TRAILERS = 16384
_MAX_OVERHEAD = 16384  # bytes of size lines beyond what the chunks they announce are worth

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSION = rb"[ \t]*+;[ \t]*+" + _TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+"
# No bare CR or LF, no sign, no "0x", no space unless an extension follows.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:" + _EXTENSION + rb")*+\r\n")
_TRAILER_LINE = re.compile(rb"(?:(" + _TOKEN + rb"):[\t -~\x80-\xff]*+)?\r\n")

# Fields of a request that change what it means; a server that merged them from the trailers would be led past what was
# decided by the head (RFC 9110 section 6.5.1). `_` counts as `-`, for CGI-like apps.
_NEVER_TRAILERS = frozenset(
    {
        b"authorization", b"cache-control", b"connection", b"content-encoding", b"content-length", b"content-location",
        b"content-range", b"content-type", b"cookie", b"expect", b"forwarded", b"host", b"http2-settings", b"if-match",
        b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"keep-alive", b"max-forwards",
        b"origin", b"proxy", b"proxy-authorization", b"proxy-connection", b"range", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"x-real-ip", b"x-request-id",
    }
)  # fmt: skip


class ChunkedError(ValueError):
    """The framing is broken; nothing after it can be trusted."""


class ChunkedBody:
    """One chunked body as it arrives. With `request`, trailers that mean something in a request's head are refused."""

    __slots__ = ("_left", "_line", "_overhead", "_payload", "_request", "_step", "_trailers", "content")

    def __init__(self, *, request: bool = False) -> None:
        self._request = request
        self._payload: list[bytes] | None = None
        self._step = 0  # 0: a size line, 1: data, 2: the CRLF after data, 3: trailers
        self._left = 0
        self._line = b""
        self._overhead = 0
        self._trailers = 0
        self.content = 0  # bytes of data so far, without their framing

    def feed(self, data: bytes) -> int:
        """The offset just past the body's end in `data`, or -1 when all of it was read and more must come.

        Raises ChunkedError.
        """
        position, size = 0, len(data)
        while position < size:
            if self._step == 1:
                taken = min(self._left, size - position)
                if self._payload is not None:
                    self._payload.append(data[position : position + taken])
                position += taken
                self.content += taken
                self._left -= taken
                if not self._left:
                    self._step = 2
                continue
            newline = data.find(b"\n", position)
            until = size if newline == -1 else newline + 1
            line = self._line + data[position:until]
            position = until
            if len(line) > _MAX_LINE:
                raise ChunkedError("a chunk's line is too long")
            if newline == -1:
                self._check_partial(line)
                self._line = line
                break
            self._line = b""
            if self._take_line(line):
                return position
        return -1

    def payload_of(self, data: bytes) -> bytes:
        """Instead of `feed`: the data in `data` without its framing. Raises ChunkedError."""
        self._payload = []
        self.feed(data)
        return b"".join(self._payload)

    def _check_partial(self, line: bytes) -> None:
        """Refuse early what no further byte can repair."""
        if self._step == 2 and line != b"\r":
            raise ChunkedError("a chunk is longer than its size")
        if self._step == 0 and line[0] not in b"0123456789abcdefABCDEF":
            raise ChunkedError("a chunk's size is not a hexadecimal number")

    def _take_line(self, line: bytes) -> bool:
        if self._step == 0:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise ChunkedError("a chunk's size or extension is malformed")
            self._left = left = int(match[1], 16)
            self._overhead = max(0, self._overhead + len(line) - 16 - 2 * left)
            if self._overhead > _MAX_OVERHEAD:
                raise ChunkedError("its chunks are mostly extensions")
            self._step = 1 if left else 3
            return False
        if self._step == 2:
            if line != b"\r\n":
                raise ChunkedError("a chunk is longer than its size")
            self._step = 0
            return False
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise ChunkedError("a trailer line is malformed")
        if self._request and match[1]:
            name = match[1].lower().replace(b"_", b"-")
            if name in _NEVER_TRAILERS or name.startswith(b"x-forwarded-"):
                raise ChunkedError("a trailer is one that belongs into the head")
        self._trailers += len(line)
        if self._trailers > _MAX_TRAILERS:
            raise ChunkedError("the trailers are too long")
        return line == b"\r\n"
