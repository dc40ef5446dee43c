"""What a client has sent and nobody has taken yet: a head in parts, requests ahead of their turn. Pure."""

import re
from http import HTTPStatus

from sidegate.proxy.head import RefusedHeadError, request_line

_MAX_EMPTY_LINES = 16
# What no further byte can repair: a bare LF or CR, and other control characters than HTAB.
_OUT_OF_PLACE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Inbox:
    """Bytes in order of arrival. Bounded by whoever fills it."""

    __slots__ = ("_data", "_forgiven", "_line", "_scanned")

    def __init__(self) -> None:
        self._data = bytearray()
        self._scanned = 0  # no head ends before this: what comes in single bytes is not searched over and over
        self._forgiven = 0  # empty lines before this head
        self._line = False  # the first line has come and is in order

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        self._data += data

    def take_head(self, most: int, most_target: int) -> bytes | None:
        """The next head, its blank line included; None while its end is still to come.

        `most` and `most_target` are the bytes that it and the request's target may have. Raises RefusedHeadError.
        """
        data = self._data
        # Empty lines before a request are forgiven (RFC 9112 section 2.2), but not for ever.
        while data.startswith(b"\r\n") and self._forgiven < _MAX_EMPTY_LINES:
            del data[:2]
            self._scanned = 0
            self._forgiven += 1
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3)) + 4
        known = end if end > 3 else len(data)
        if known > most_target:
            self._check_target(known, most, most_target)
        if known > most:
            raise RefusedHeadError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too large.")
        if end == 3:
            self._check_partial()
            return None
        self._scanned = self._forgiven = 0
        self._line = False
        head = bytes(data[:end])
        del data[:end]
        return head

    def take_all(self) -> bytes:
        """Everything that is left."""
        everything = bytes(self._data)
        self._data.clear()
        self._scanned = 0
        self._line = False
        return everything

    def startswith(self, prefix: bytes) -> bool:
        return self._data.startswith(prefix)

    def _check_partial(self) -> None:
        """Refuse at once what no further byte can repair, or its sender would wait for an answer until the time-out."""
        data = self._data
        if _OUT_OF_PLACE.search(data, max(0, self._scanned - 1)):
            raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "A line ends in other than CRLF, or has control characters.")
        if not self._line and data.find(b"\n", self._scanned) != -1:
            request_line(data)
            self._line = True
        self._scanned = len(data)

    def _check_target(self, known: int, most: int, most_target: int) -> None:
        """Refuse a target that is too long, also before its line has ended."""
        data = self._data
        begin = data.find(b" ", 0, known) + 1
        newline = data.find(b"\r\n", 0, known)
        if newline == -1:
            long = known > most or (begin and known - begin > most_target and data.find(b" ", begin, known) == -1)
        else:
            long = newline > most or (begin and data.rfind(b" ", begin, newline) - begin > most_target)
        if long:
            raise RefusedHeadError(HTTPStatus.REQUEST_URI_TOO_LONG, "The request's target is too long.")
