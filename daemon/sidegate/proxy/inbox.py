"""What a client has sent and nobody has taken yet: a head in parts, requests ahead of their turn. Pure."""

from http import HTTPStatus

from sidegate.proxy.head import RefusedHeadError


class Inbox:
    """Bytes in order of arrival. Bounded by whoever fills it."""

    __slots__ = ("_data", "_forgiven", "_scanned")

    def __init__(self) -> None:
        self._data = bytearray()
        self._scanned = 0  # no head ends before this: what comes in single bytes is not searched over and over
        self._forgiven = False

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        self._data += data

    def take_head(self, most: int, most_target: int) -> bytes | None:
        """The next head, its blank line included; None while its end is still to come.

        `most` and `most_target` are the bytes that it and the request's target may have. Raises RefusedHeadError.
        """
        data = self._data
        # One empty line before a request is forgiven (RFC 9112 section 2.2); one, however the bytes arrive.
        if not self._forgiven and data.startswith(b"\r\n"):
            del data[:2]
            self._scanned = 0
            self._forgiven = True
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3)) + 4
        known = end if end > 3 else len(data)
        if known > most_target:
            self._check_target(known, most, most_target)
        if known > most:
            raise RefusedHeadError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too large.")
        if end == 3:
            newline = data.find(b"\n", self._scanned)
            if newline != -1 and (newline == 0 or data[newline - 1] != 0x0D):
                raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "Lines must end in CRLF.")
            self._scanned = len(data)
            return None
        self._scanned = 0
        self._forgiven = False
        head = bytes(data[:end])
        del data[:end]
        return head

    def take_all(self) -> bytes:
        """Everything that is left."""
        everything = bytes(self._data)
        self._data.clear()
        self._scanned = 0
        return everything

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
