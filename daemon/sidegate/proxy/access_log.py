"""The access log of one worker: takes an entry for each request, writes JSON lines in batches on a thread of its own.

What the disk does not take waits in memory, 8 MiB at most; what comes then is dropped, and reported.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from sidegate.proxy import messages
from sidegate.proxy.log_writer import LogWriter
from sidegate.proxy.record import Entry

_BATCH = 256  # entries that are encoded at a time
_CHUNK = 131072  # bytes that are handed to the writer at a time, unless a second goes by first
_MOST = 8 * 1024 * 1024  # bytes that wait for the disk
_HANGS = 10.0  # seconds of one write after which it is reported
_MINUTE = 60.0  # between two reports of the same


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. `time` is when it began, in UTC; `seconds` run to the end of the response."""

    time: str
    client: str
    scheme: str
    method: str
    host: str
    path: str
    status: int
    bytes_in: int
    bytes_out: int
    seconds: float
    app: str
    replica: str
    request_id: str
    upstream_seconds: float = -1.0


class AccessLog:
    """`add` is for the hot path; everything else happens at `flush`, once a second, or when a batch is full."""

    def __init__(self, descriptor: int, sample: int, report: Callable[[messages.Note], None]) -> None:
        """Owns `descriptor` from now on. Of `sample` requests one is kept; those answered 5xx always are."""
        self._sample = self._until_next = sample
        self._report = report
        self._entries: list[Entry] = []
        self._encode = msgspec.json.Encoder().encode_lines
        self._second = -1
        self._prefix = ""
        self._encoded: list[bytes] = []
        self._size = 0  # of what is encoded and not handed over
        self._dropped = 0
        self._told: dict[str, float] = {}
        self._writer = LogWriter(descriptor)

    def __repr__(self) -> str:
        return f"<AccessLog waiting={len(self._entries)} dropped={self._dropped}>"

    def add(self, entry: Entry) -> None:
        """Take note of a request that is over."""
        if self._sample > 1 and entry[6] < 500:
            self._until_next -= 1
            if self._until_next:
                return
            self._until_next = self._sample
        entries = self._entries
        entries.append(entry)
        if len(entries) == _BATCH:
            self._encode_entries()

    def flush(self) -> None:
        """Hand over what there is, and report what went wrong."""
        self._encode_entries()
        self._hand_over()
        now = time.monotonic()
        if self._dropped and self._may_tell("dropped", now):
            self._report(messages.Note("access log lines dropped", "warning", f"{self._dropped} since the last report"))
            self._dropped = 0
        if self._writer.fault and self._may_tell("fault", now):
            self._report(messages.Note("access log cannot be written", "warning", self._writer.fault))
        elif self._writer.busy_since and now - self._writer.busy_since > _HANGS and self._may_tell("hangs", now):
            self._report(messages.Note("access log cannot be written", "warning", "a write hangs"))

    def reopen(self, descriptor: int) -> None:
        """Go on in another file, owned from now on; what came before still goes to the present one."""
        self._encode_entries()
        self._hand_over()
        self._writer.put(descriptor)

    async def close(self, seconds: float) -> None:
        """Write what there is, for so many seconds at most, and let go of the file. The end of this object."""
        self._encode_entries()
        self._hand_over()
        self._writer.put(None)
        await asyncio.to_thread(self._writer.join, seconds)

    def _may_tell(self, what: str, now: float) -> bool:
        if now - self._told.get(what, -_MINUTE) < _MINUTE:
            return False
        self._told[what] = now
        return True

    def _encode_entries(self) -> None:
        entries, self._entries = self._entries, []
        if not entries:
            return
        if self._writer.waiting + self._size > _MOST:
            self._dropped += len(entries)
            return
        try:
            lines = self._encode([self._line(*entry) for entry in entries])
        except UnicodeEncodeError:  # a lone surrogate, which JSON cannot carry
            lines = self._encode([self._line(*map(_without_surrogates, entry)) for entry in entries])
        self._encoded.append(lines)
        self._size += len(lines)
        if self._size >= _CHUNK:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._encoded:
            self._writer.put(b"".join(self._encoded))
            self._encoded.clear()
            self._size = 0

    def _line(
        self,
        at: float,
        client: str,
        scheme: str,
        method: bytes,
        host: str,
        path: str,
        status: int,
        received: int,
        sent: int,
        seconds: float,
        upstream: float,
        app: str,
        replica: str,
        request_id: bytes,
    ) -> Line:
        second = int(at)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return Line(
            f"{self._prefix}.{int((at - second) * 1000):03d}Z",
            client,
            scheme,
            method.decode("latin-1"),
            host,
            path,
            status,
            received,
            sent,
            round(seconds, 6),
            app,
            replica,
            request_id.decode("latin-1"),
            round(upstream, 6) if upstream >= 0 else -1.0,
        )


def _without_surrogates(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
