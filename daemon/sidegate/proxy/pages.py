"""The answers that Sidegate gives itself: small pages in HTML, problem JSON (RFC 9457) or plain text. Never a trace."""

import html
import time
from http import HTTPStatus

import msgspec

from sidegate.proxy.head import RequestHead

_TITLES = {
    HTTPStatus.NOT_FOUND: "Nothing answers here",
    HTTPStatus.BAD_GATEWAY: "The app gave no valid answer",
    HTTPStatus.SERVICE_UNAVAILABLE: "The app is not available",
    HTTPStatus.GATEWAY_TIMEOUT: "The app took too long to answer",
}
_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto;"
    "padding:0 1rem;color:#222;background:#fff}}h1{{font-size:1.4rem}}p{{color:#555}}"
    "@media(prefers-color-scheme:dark){{body{{color:#eee;background:#111}}p{{color:#aaa}}}}</style>"
    "<h1>{title}</h1><p>{detail}</p><p><small>{status} {phrase}</small></p></html>\n"
)


def answer(status: HTTPStatus, detail: str, request: RequestHead | None = None, *, close: bool) -> bytes:
    """A whole HTTP/1.1 response, in the form that `request` accepts, where there is one."""
    title = _TITLES.get(status, status.phrase)
    kind, content = _content(status, title, detail, request.fields.accept.lower() if request else b"")
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        head.append("Retry-After: 5\r\n")
    if close:
        head.append("Connection: close\r\n")
    head.append(f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}\r\n\r\n")
    body = request is None or request.method != b"HEAD"
    return "".join(head).encode("latin-1") + (content if body else b"")


def _content(status: HTTPStatus, title: str, detail: str, accept: bytes) -> tuple[str, bytes]:
    if b"text/html" in accept:
        page = _PAGE.format(
            title=html.escape(title), detail=html.escape(detail), status=status.value, phrase=status.phrase
        )
        return "text/html; charset=utf-8", page.encode()
    if b"json" in accept:
        problem = {"type": "about:blank", "title": title, "status": status.value, "detail": detail}
        return "application/problem+json", msgspec.json.encode(problem)
    return "text/plain; charset=utf-8", f"{title}: {detail}\n".encode()
