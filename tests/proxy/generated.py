"""Valid messages made by hypothesis, and what h11 reads in them: the second opinion that the proxy is held to."""

from dataclasses import dataclass, field

import h11
from hypothesis import strategies as st

Fields = list[tuple[bytes, bytes]]

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"
OURS = {
    b"host", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto",
    b"x-real-ip", b"x-request-id",
}  # fmt: skip
HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade", b"proxy-connection"}


@dataclass
class Message:
    """A message as h11 reads it. `start` is method and target, or status and reason; names are lower case."""

    start: tuple[bytes, bytes]
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    interim: list[tuple[int, Fields]] = field(default_factory=list)
    complete: bool = False


def read_requests(raw: bytes) -> list[Message]:
    """Raises h11.RemoteProtocolError."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(raw)
    found: list[Message] = []
    while (event := parser.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
        if isinstance(event, h11.Request):
            found.append(Message((event.method, event.target), list(event.headers)))
        elif isinstance(event, h11.Data):
            found[-1].body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found[-1].trailers = list(event.headers)
            found[-1].complete = True
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            if parser.our_state is h11.MUST_CLOSE:
                break
            parser.start_next_cycle()
    return found


class ResponseReader:
    """Reads one response piece by piece; `message` is whole when `message.complete`."""

    def __init__(self, method: bytes) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self._parser.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        self._parser.send(h11.EndOfMessage())
        self.message = Message((b"", b""), [])

    def feed(self, data: bytes) -> None:
        """An empty `data` is the connection's end. Raises h11.RemoteProtocolError."""
        self._parser.receive_data(data)
        message = self.message
        while not message.complete and (event := self._parser.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.InformationalResponse):
                message.interim.append((event.status_code, list(event.headers)))
            elif isinstance(event, h11.Response):
                message.start, message.fields = (b"%d" % event.status_code, event.reason), list(event.headers)
            elif isinstance(event, h11.Data):
                message.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                message.trailers = list(event.headers)
                message.complete = True


def end_to_end(fields: Fields) -> Fields:
    """Without what concerns one connection only, and what we add or replace."""
    named = {
        token.strip().lower() for name, value in fields if name == b"connection" for token in value.split(b",")
    } - {b"content-length"}
    dropped = HOP_BY_HOP | OURS | named | {b"content-length"}
    return [(name, value) for name, value in fields if name not in dropped]


def length(fields: Fields) -> int | None:
    """The Content-Length."""
    values = {int(value) for name, value in fields if name == b"content-length"}
    assert len(values) < 2
    return values.pop() if values else None


# --- what is generated ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """Bytes of one exchange's half. `method` is the request's; `ends`: only the connection's end ends it."""

    raw: bytes
    method: bytes
    ends: bool = False


def names() -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.text(TOKEN, min_size=1, max_size=10).map(lambda text: b"X-" + text.encode()),
        st.sampled_from([b"Cookie", b"Accept", b"user-agent", b"ETag", b"X_A", b"Range", b"Set-Cookie", b"Trailer"]),
    )


def values() -> st.SearchStrategy[bytes]:
    character = st.one_of(st.integers(0x20, 0x7E), st.sampled_from([0x09, 0x80, 0xA0, 0xFF]))
    # h11 takes 0x85 and 0xA0 for white space only in text; both are obs-text here.
    return st.lists(character, max_size=12).map(bytes)


def field_lines() -> st.SearchStrategy[bytes]:
    line = st.builds(lambda name, value: name + b":" + value + b"\r\n", names(), values())
    return st.lists(line, max_size=4).map(b"".join)


def targets() -> st.SearchStrategy[bytes]:
    character = st.sampled_from("abcXYZ019/?%&=;:@.~_-!$'()*+,|^{}[]\"\\<>`")
    return st.text(character, max_size=20).map(lambda text: b"/" + text.encode())


@st.composite
def chunked(draw: st.DrawFn, body: bytes, trailer_names: st.SearchStrategy[bytes]) -> bytes:
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    extension = st.sampled_from([b"", b"", b";a", b";a=b;c", b'; a = "b\\"c;"', b';x=""'])
    size = st.sampled_from([b"%x", b"%X", b"0%x", b"00000%X"])
    raw = b"".join(b"%b%b\r\n%b\r\n" % (draw(size) % len(piece), draw(extension), piece) for piece in pieces if piece)
    trailers = draw(st.lists(st.builds(lambda n, v: n + b":" + v + b"\r\n", trailer_names, values()), max_size=2))
    return b"%b%b%b\r\n%b\r\n" % (raw, draw(st.sampled_from([b"0", b"000"])), draw(extension), b"".join(trailers))


@st.composite
def requests(draw: st.DrawFn, most: int = 30) -> Sent:
    method = draw(
        st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"get", b"M-SEARCH"])
    )
    head = b"%b %b HTTP/1.1\r\n" % (method, draw(targets()))
    before, after = draw(field_lines()), draw(field_lines())
    host = draw(st.sampled_from([b"Host: shop.test\r\n", b"hOST:shop.test:80\r\n", b"Host: SHOP.test.\t\r\n"]))
    connection = draw(
        st.sampled_from([b"", b"", b"Connection: keep-alive\r\n", b"connection: x-hop, ,X-b\r\nX-Hop: 1\r\n"])
    )
    body = draw(st.binary(max_size=most))
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    framing, content = b"", b""
    if kind == "length":
        framing, content = b"Content-Length: %d\r\n" % len(body), body
    elif kind == "chunked":
        safe = st.text("abcXYZ019", min_size=1, max_size=6).map(lambda text: b"X-" + text.encode())
        framing, content = b"Transfer-Encoding: Chunked\r\n", draw(chunked(body, safe))
    return Sent(head + before + host + framing + connection + after + b"\r\n" + content, method)


@st.composite
def responses(draw: st.DrawFn, most: int = 30) -> Sent:
    method = draw(st.sampled_from([b"GET", b"GET", b"POST", b"HEAD"]))
    interim = b"".join(
        b"HTTP/1.1 %b\r\n%b\r\n"
        % (draw(st.sampled_from([b"100 Continue", b"103 Early Hints", b"102 "])), draw(field_lines()))
        for _ in range(draw(st.integers(0, 2)))
    )
    status = draw(
        st.sampled_from([b"200 OK", b"200 OK", b"404 ", b"206 Partial", b"503 Gr\xfcn", b"204 None", b"304 Same"])
    )
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    date = draw(st.sampled_from([b"", b"Date: Mon, 05 Jan 2026 10:00:00 GMT\r\n"]))
    head = b"HTTP/%b %b\r\n%b%b" % (version, status, draw(field_lines()), date)
    body = draw(st.binary(max_size=most))
    bodiless = method == b"HEAD" or status[:3] in (b"204", b"304")
    kind = draw(st.sampled_from(["length", "length", "chunked", "close"]))
    if kind == "chunked" and version == b"1.1" and status[:3] not in (b"204", b"304"):
        framing, content = b"Transfer-Encoding: chunked\r\n", draw(chunked(body, names()))
    elif kind == "close" or status[:3] == b"204":
        framing, content = b"", body
    else:
        framing, content = b"Content-Length: %d\r\n" % len(body), body
    connection = draw(
        st.sampled_from([b"", b"", b"Connection: keep-alive\r\n", b"Connection: close, X-Hop\r\nX-hop: 1\r\n"])
    )
    raw = interim + head + framing + connection + draw(field_lines()) + b"\r\n" + (b"" if bodiless else content)
    return Sent(raw, method, ends=not framing and not bodiless)
