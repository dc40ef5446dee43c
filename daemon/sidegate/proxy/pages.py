"""The answers that Sidegate gives itself: small pages in HTML, problem JSON (RFC 9457) or plain text. Never a trace."""

import html
import re
import time
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import quote

import msgspec

from sidegate.proxy.head import RequestHead

_TITLES = {
    HTTPStatus.NOT_FOUND: "Nothing answers here",
    HTTPStatus.BAD_GATEWAY: "The app gave no valid answer",
    HTTPStatus.SERVICE_UNAVAILABLE: "The app is not available",
    HTTPStatus.GATEWAY_TIMEOUT: "The app took too long to answer",
}
_RENAMED = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "URI Too Long",
}
_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto;"
    "padding:0 1rem;color:#222;background:#fff}}h1{{font-size:1.4rem}}p{{color:#555;overflow-wrap:anywhere}}"
    "@media(prefers-color-scheme:dark){{body{{color:#eee;background:#111}}p{{color:#aaa}}}}</style>"
    "<h1>{title}</h1><p>{detail}</p><p><small>{status} {phrase}<br>Request {request_id}</small></p></html>\n"
)
_HTML, _JSON, _TEXT = "text/html; charset=utf-8", "application/problem+json", "text/plain; charset=utf-8"

# What we can write, and the names it is asked for by. Of two that are wanted alike the earlier is written.
_OFFERS = (
    (_HTML, (b"text/html",)),
    (_JSON, (b"application/problem+json", b"application/json")),
    (_TEXT, (b"text/plain",)),
)
_QUALITY = re.compile(rb";\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|\Z)", re.IGNORECASE)
_MAX_RANGES = 64
_RETRY_AFTER = 5


def phrase(status: HTTPStatus) -> str:
    """The reason phrase as RFC 9110 has it; Python 3.11 keeps two older ones."""
    return _RENAMED.get(status, status.phrase)


def answer(
    status: HTTPStatus,
    detail: str,
    request: RequestHead | None,
    request_id: bytes,
    *,
    close: bool,
    title: str = "",
    fields: Iterable[str] = (),
) -> bytes:
    """A whole HTTP/1.1 response in the form that `request` accepts; `fields` are more header lines, without CRLF."""
    named = title or _TITLES.get(status, phrase(status))
    kind = preferred(request.fields.accept if request else b"")
    content = _content(kind, status, named, detail, request_id.decode("latin-1"))
    more = [f"Content-Type: {kind}", "Cache-Control: no-store", "X-Content-Type-Options: nosniff", *fields]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        more.append(f"Retry-After: {_RETRY_AFTER}")
    return _response(status, more, content, request, request_id, close)


def redirect(
    location: str, request: RequestHead, request_id: bytes, *, close: bool, fields: Iterable[str] = ()
) -> bytes:
    """A 308 without content: method and body are to be sent again, to `location`, which is from target_of."""
    more = [f"Location: {location}", *fields]
    return _response(HTTPStatus.PERMANENT_REDIRECT, more, b"", request, request_id, close)


def location(scheme: str, host: str, port: int, path: str) -> str:
    """The URI of the same target elsewhere; `port` 0 or the scheme's own is left out.

    Whatever is not a character of a URI is encoded, so that no target can end the line that it is written to.
    """
    usual = port in (0, 443 if scheme == "https" else 80)
    target = quote(path, safe="/?#[]@!$&'()*+,;=:%-._~", encoding="latin-1") if path.startswith("/") else "/"
    return f"{scheme}://{host}{'' if usual else f':{port}'}{target}"


def hsts(seconds: int) -> str:
    """The header line that keeps browsers on TLS for so long (RFC 6797)."""
    return f"Strict-Transport-Security: max-age={seconds}"


def date() -> str:
    """The Date line of now."""
    return _date(int(time.time()))


@lru_cache(1)
def _date(seconds: int) -> str:
    return time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))


def preferred(accept: bytes) -> str:
    """The content type to write for an Accept field (RFC 9110 section 12.5.1); plain text where all are alike."""
    ranges: dict[bytes, float] = {}
    for part in accept.lower().split(b",")[:_MAX_RANGES]:
        name, _, parameters = part.partition(b";")
        quality = _QUALITY.search(b";" + parameters)
        ranges[name.strip()] = float(quality[1]) if quality else 1.0
    best, most = _TEXT, (0.0, 0)
    for kind, names in _OFFERS:
        wanted = max(_wanted(name, ranges) for name in names)
        if wanted[0] > 0 and wanted > most:
            best, most = kind, wanted
    return best if most[1] else _TEXT


def _wanted(name: bytes, ranges: dict[bytes, float]) -> tuple[float, int]:
    """How much a type is wanted, and how exactly it was named: 2 by name, 1 as text/*, 0 as */* or not at all."""
    if name in ranges:
        return ranges[name], 2
    family = name.partition(b"/")[0] + b"/*"
    return (ranges[family], 1) if family in ranges else (ranges.get(b"*/*", 0.0), 0)


def _response(
    status: HTTPStatus,
    fields: Iterable[str],
    content: bytes,
    request: RequestHead | None,
    request_id: bytes,
    close: bool,
) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {phrase(status)}", *fields, f"Content-Length: {len(content)}"]
    lines.append(f"X-Request-ID: {request_id.decode('latin-1')}")
    lines.append(date())
    if close:
        lines.append("Connection: close")
    elif request is not None and not request.modern:
        lines.append("Connection: keep-alive")
    lines += ["", ""]
    bodied = request is None or request.method != b"HEAD"
    return "\r\n".join(lines).encode("latin-1") + (content if bodied else b"")


def _content(kind: str, status: HTTPStatus, title: str, detail: str, request_id: str) -> bytes:
    if kind == _HTML:
        return _PAGE.format(
            title=html.escape(title),
            detail=html.escape(detail),
            status=status.value,
            phrase=phrase(status),
            request_id=html.escape(request_id),
        ).encode()
    if kind == _JSON:
        return msgspec.json.encode(
            {"type": "about:blank", "title": title, "status": status.value, "detail": detail, "request_id": request_id}
        )
    return f"{title}: {detail}\nRequest {request_id}\n".encode()
