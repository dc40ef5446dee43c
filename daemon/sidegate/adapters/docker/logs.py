"""What a container wrote, as the engine sends it (`GET /containers/{id}/logs`): frames where it has no terminal.

Pure. A frame is a byte for the stream, three of padding, four of length, then the payload; a line may come in several.
"""

from collections.abc import Iterator

from sidegate.core.workloads import LogLine

HEADER = 8
LINE_LIMIT = 16 * 1024
"""Bytes after which a line is cut in two."""
STREAMS = {0: "stdout", 1: "stdout", 2: "stderr"}


class Lines:
    """Takes bytes as they come, gives whole lines."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._received = b""
        self._begun: dict[str, bytes] = {}

    def feed(self, received: bytes) -> Iterator[LogLine]:
        if self._terminal:
            yield from self._split("stdout", received)
            return
        self._received += received
        while len(self._received) >= HEADER:
            end = HEADER + int.from_bytes(self._received[4:HEADER], "big")
            if len(self._received) < end:
                return
            stream, payload = STREAMS.get(self._received[0], "stderr"), self._received[HEADER:end]
            self._received = self._received[end:]
            yield from self._split(stream, payload)

    def end(self) -> Iterator[LogLine]:
        """Lines that never got their newline."""
        for stream, rest in self._begun.items():
            if rest:
                yield _line(stream, rest)
        self._begun.clear()

    def _split(self, stream: str, written: bytes) -> Iterator[LogLine]:
        *lines, rest = (self._begun.get(stream, b"") + written).split(b"\n")
        for line in lines:
            for start in range(0, len(line) or 1, LINE_LIMIT):
                yield _line(stream, line[start : start + LINE_LIMIT])
        while len(rest) > LINE_LIMIT:
            yield _line(stream, rest[:LINE_LIMIT])
            rest = rest[LINE_LIMIT:]
        self._begun[stream] = rest


def _line(stream: str, content: bytes) -> LogLine:
    return LogLine(content.removesuffix(b"\r").decode(errors="replace"), stream)
