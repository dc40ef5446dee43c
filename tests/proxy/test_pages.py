"""The proxy's own answers: which form is written for an Accept field, what is in it, and what cannot get into it."""

import json
from http import HTTPStatus

import pytest

from sidegate.proxy.head import parse_request
from sidegate.proxy.pages import answer, location, preferred
from sidegate.proxy.peer import TrustedProxies, describe

STRANGER = describe(("192.0.2.1", 5000), ("192.0.2.2", 80), False, TrustedProxies())


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"", "plain"),
        (b"*/*", "plain"),
        (b"text/*", "html"),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        (b"text/html", "html"),
        (b"TEXT/HTML;level=1", "html"),
        (b"application/json", "json"),
        (b"application/json, text/plain, */*", "json"),
        (b"application/problem+json", "json"),
        (b"application/*", "json"),
        (b"text/html;q=0.1, application/json;q=0.9", "json"),
        (b"text/html; q=0.9, application/json; q=0.8", "html"),
        (b"text/html;q=0, */*", "plain"),
        (b"text/html;q=0", "plain"),
        (b"application/json;q=0.5, text/plain", "plain"),
        (b"image/png", "plain"),
        (b"text/html;q=junk", "html"),
        (b", ".join(b"a/%d" % n for n in range(5000)), "plain"),
    ],
)
def test_the_form_is_the_one_that_is_wanted_most(accept: bytes, kind: str) -> None:
    assert kind in preferred(accept)


@pytest.mark.parametrize("accept", ["text/html", "application/json", "text/plain"])
def test_every_form_shows_the_request_id_and_escapes_what_others_wrote(accept: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n".encode()
    request = parse_request(head, STRANGER)
    raw = answer(HTTPStatus.NOT_FOUND, 'No <b>"app"</b>', request, b"1f&", close=False)
    start, _, body = raw.partition(b"\r\n\r\n")
    assert b"\r\nX-Request-ID: 1f&\r\n" in start + b"\r\n"
    assert b"Content-Length: %d\r\n" % len(body) in start
    assert b"1f&" in body
    if accept == "text/html":
        assert b"<b>" not in body
    if accept == "application/json":
        assert json.loads(body) == {
            "type": "about:blank", "title": "Nothing answers here", "status": 404, "detail": 'No <b>"app"</b>',
            "request_id": "1f&",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "uri"),
    [
        (("https", "a.test", 443, "/b?c=d"), "https://a.test/b?c=d"),
        (("https", "a.test", 8443, "/"), "https://a.test:8443/"),
        (("http", "a.test", 80, "//evil.test/x"), "http://a.test//evil.test/x"),
        (("http", "a.test", 0, "*"), "http://a.test/"),
        (("http", "[::1]", 8080, "/%0d%0ax"), "http://[::1]:8080/%0d%0ax"),
        (("http", "a.test", 0, '/a\r\nX: "y" \xe9'), "http://a.test/a%0D%0AX:%20%22y%22%20%E9"),
    ],
)
def test_a_redirect_goes_to_the_same_target_and_no_line_ends_in_it(parts: tuple[str, str, int, str], uri: str) -> None:
    assert location(*parts) == uri
