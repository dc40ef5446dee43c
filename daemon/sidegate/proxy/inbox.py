"""What a client has sent and nobody has taken yet: a head in parts, requests ahead of their turn. Pure."""

from http import HTTPStatus

from sidegate.proxy.head import RefusedHeadError


class Inbox:
    """Bytes in order of arrival. Bounded by whoever fills it."""

    __slots__ = ("_data", "_scanned")

    def __init__(self) -> None:
        self._data = bytearray()
        self._scanned = 0  # no head ends before this: what comes in single bytes is not searched over and over

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        self._data += data

    def take_head(self, most: int) -> bytes | None:
        """The next head, its blank line included; None while its end is still to come. Raises RefusedHeadError."""
        data = self._data
        if data.startswith(b"\r\n"):  # an empty line before a request is forgiven (RFC 9112 section 2.2)
            del data[:2]
            self._scanned = 0
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3)) + 4
        if (end if end > 3 else len(data)) > most:
            raise RefusedHeadError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too large.")
        if end == 3:
            newline = data.find(b"\n", self._scanned)
            if newline != -1 and (newline == 0 or data[newline - 1] != 0x0D):
                raise RefusedHeadError(HTTPStatus.BAD_REQUEST, "Lines must end in CRLF.")
            self._scanned = len(data)
            return None
        self._scanned = 0
        head = bytes(data[:end])
        del data[:end]
        return head

    def take_all(self) -> bytes:
        """Everything that is left."""
        everything = bytes(self._data)
        self._data.clear()
        self._scanned = 0
        return everything
