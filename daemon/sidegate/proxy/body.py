"""A request's body as it arrives: where it ends, and what already belongs to the next request. Pure."""

from sidegate.proxy.chunked import ChunkedBody
from sidegate.proxy.head import CHUNKED


class RequestBody:
    """`length` bytes, or CHUNKED. `complete` once its end was seen."""

    __slots__ = ("_chunks", "_left", "_length", "complete")

    def __init__(self, length: int) -> None:
        self._length = self._left = length
        self._chunks = ChunkedBody(request=True) if length == CHUNKED else None
        self.complete = length == 0

    @property
    def content(self) -> int:
        """Bytes of it so far, framing left out."""
        return self._length - self._left if self._chunks is None else self._chunks.content

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split into what is body, framing included, and what comes after it. Raises ChunkedError."""
        if self._chunks is not None:
            end = self._chunks.feed(data)
            if end == -1:
                return data, b""
            self.complete = True
            return data[:end], data[end:]
        if len(data) < self._left:
            self._left -= len(data)
            return data, b""
        end, self._left, self.complete = self._left, 0, True
        return data[:end], data[end:]
