"""A small client of the control socket, synchronous and quick to start: what the command line is made of.

Never imports the server's side. Problem documents come out as the errors that the daemon raised.
"""

import contextlib
import grp
import http.client
import pwd
import select
import socket
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from sidegate.api.schemas import ProblemDocument
from sidegate.core.directories import user_runtime, user_state
from sidegate.errors import DaemonUnreachableError, InvalidInputError, SidegateError

T = TypeVar("T")
SECONDS = 90.0  # a verb may wait for two passes of 30 s and for a login
DEFAULT_PATH = Path("/run/sidegate/control.sock")
RETRY_SECONDS = 0.01
TARGET_LINE_MOST = 1 << 17  # bytes of a path and its query: a build's arguments travel there
SOCKET_NAME = "control.sock"
PROBLEM_TYPE = "application/problem+json"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """A call's answer: as it came, and as a value of the type that was asked for."""

    body: bytes
    value: T


@dataclass(frozen=True, slots=True)
class Upload:
    """A body in pieces, read as the daemon takes them."""

    content_type: str
    pieces: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class ServerSent:
    """One event of a stream: its kind, its id (empty: it has none), its data. A sign of life has nothing of it."""

    kind: str = ""
    id: str = ""
    data: str = ""


class _Line(msgspec.Struct):
    """A line of an answer that streams; nothing in it: still at it."""

    progress: str | None = None
    result: msgspec.Raw = msgspec.Raw()
    problem: ProblemDocument | None = None


class _AnsweredError(Exception):
    """The daemon answered before it had the whole request."""


def find_socket(given: str | None, environ: Mapping[str, str]) -> Path:
    """The daemon's socket: `given`, else in SIDEGATE_RUNTIME_DIR, else the first of the usual places that has one."""
    if given:
        return Path(given)
    if runtime_dir := environ.get("SIDEGATE_RUNTIME_DIR"):
        return Path(runtime_dir) / SOCKET_NAME
    places = [DEFAULT_PATH, user_runtime(environ) / SOCKET_NAME, user_state(environ) / "run" / SOCKET_NAME]
    return next((place for place in places if _there(place)), DEFAULT_PATH)


def _there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return isinstance(error, PermissionError)  # then it is the one to say so about
    return True


@dataclass(frozen=True, slots=True)
class Client:
    """Calls, one connection each. `seconds` is the longest that an answer may take."""

    path: Path
    seconds: float = SECONDS

    def call(
        self,
        method: str,
        path: str,
        result: type[T],
        *,
        query: Mapping[str, str] | None = None,
        body: msgspec.Struct | None = None,
    ) -> Reply[T]:
        """One call (`result` bytes: the answer as it came). Raises DaemonUnreachableError, and what the daemon did."""
        target, content = _target(path, query), None if body is None else _without_nulls(body)
        headers = {"Accept": f"{JSON}, {PROBLEM_TYPE}, text/plain"} | ({"Content-Type": JSON} if content else {})
        with self._exchange() as connection:
            connection.request(method, target, content, headers)
            response = connection.getresponse()
            payload = response.read()
        if response.status >= 400:
            raise _raised(response.status, response.headers.get_content_type(), payload)
        return _reply(payload, result)

    def stream(
        self,
        method: str,
        path: str,
        result: type[T],
        on_progress: Callable[[str], None],
        *,
        query: Mapping[str, str] | None = None,
        body: msgspec.Struct | None = None,
        upload: Upload | None = None,
    ) -> Reply[T]:
        """A call that tells how it gets on; the daemon shows signs of life, so `seconds` bounds its silence only.

        `upload` goes instead of a body. Raises as `call` does.
        """
        headers, content = {"Accept": NDJSON}, None if body is None else _without_nulls(body)
        if upload is not None:
            headers |= {"Content-Type": upload.content_type, "Transfer-Encoding": "chunked"}
        elif content:
            headers["Content-Type"] = JSON
        with self._exchange() as connection:
            # A daemon that refuses answers before it has everything.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, _AnsweredError):
                pieces = content if upload is None else connection.until_answered(upload.pieces)
                connection.request(method, _target(path, query), pieces, headers, encode_chunked=upload is not None)
            response = connection.getresponse()
            if response.headers.get_content_type() != NDJSON:
                payload = response.read()
                if response.status >= 400:
                    raise _raised(response.status, response.headers.get_content_type(), payload)
                return _reply(payload, result)
            while line := response.readline():
                told = _reply(line, _Line).value
                if told.problem is not None:
                    raise _error(told.problem)
                if told.result:
                    return _reply(bytes(told.result), result)
                if told.progress is not None:
                    on_progress(told.progress)
        raise DaemonUnreachableError(f"the daemon on {self.path} ended before it was done: see `sidegate status`")

    def events(
        self, path: str, *, query: Mapping[str, str], last_event_id: str = ""
    ) -> Generator[ServerSent, None, None]:
        """Server-sent events as they come, until the daemon ends them; signs of life too, so that `seconds` bounds its
        silence. Raises as `call` does. Source: WHATWG HTML, "interpreting an event stream"."""
        headers = {"Accept": EVENT_STREAM} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        with self._exchange() as connection:
            connection.request("GET", _target(path, query), None, headers)
            response = connection.getresponse()
            if response.status != 200 or response.headers.get_content_type() != EVENT_STREAM:
                raise _raised(response.status, response.headers.get_content_type(), response.read())
            fields: dict[str, str] = {}
            while line := response.readline():
                name, _, value = line.decode().rstrip("\n").partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
                elif line == b"\n":
                    yield ServerSent(fields.get("event", ""), fields.get("id", ""), fields.get("data", ""))
                    fields = {}

    @contextlib.contextmanager
    def _exchange(self) -> Iterator["_UnixConnection"]:
        """A connection for one call. What goes wrong on it comes out as DaemonUnreachableError."""
        connection = _UnixConnection(self.path, self.seconds)
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error) from None
        try:
            yield connection
        except TimeoutError:
            raise DaemonUnreachableError(
                f"the daemon on {self.path} did not answer within {self.seconds:g} s: it may still do what was asked; "
                "see `sidegate status`"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise DaemonUnreachableError(f"the daemon on {self.path} ended before it answered ({error})") from None
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> DaemonUnreachableError:
        if isinstance(error, BlockingIOError):
            return DaemonUnreachableError(f"the daemon on {self.path} takes no calls: it has too many, or it hangs")
        if isinstance(error, PermissionError):
            return DaemonUnreachableError(
                f"you may not use {self.path}, which is for {_allowed(self.path)}: "
                "use sudo, or join that group and log in again"
            )
        return DaemonUnreachableError(
            f"no Sidegate daemon answers on {self.path}: "
            "start one with `sidegate run` (`sidegate run --dev` for your own compose projects), "
            "or name its socket with --socket"
        )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over AF_UNIX."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("sidegate", timeout=seconds)
        self._path = str(path)

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            self._connect(sock)
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def until_answered(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """`pieces`, until the daemon has something to say. Raises _AnsweredError then."""
        for piece in pieces:
            if select.select([self.sock], [], [], 0)[0]:
                raise _AnsweredError
            yield piece

    def _connect(self, sock: socket.socket) -> None:
        """With the daemon's queue full the kernel answers EAGAIN at once (unix(7)): try again until the deadline."""
        deadline = time.monotonic() + (self.timeout or 0)
        while True:
            try:
                return sock.connect(self._path)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)


def _target(path: str, query: Mapping[str, str] | None) -> str:
    """Raises InvalidInputError for one that the daemon would not take."""
    target = path + ("?" + urllib.parse.urlencode(query) if query else "")
    if len(target) > TARGET_LINE_MOST:
        names = ", ".join(query or ())
        raise InvalidInputError(f"what was given is too long for one call: {names} may have 128 KiB, percent-encoded")
    return target


def _reply(payload: bytes, result: type[T]) -> Reply[T]:
    if result is bytes:
        return Reply(payload, payload)  # type: ignore[arg-type]
    try:
        return Reply(payload, msgspec.json.decode(payload, type=result))
    except msgspec.MsgspecError as error:
        raise SidegateError(f"the daemon's answer is not understood ({error}): is it of another version?") from None


def quote(*parts: str) -> str:
    """Parts of a path, each percent-encoded, joined with slashes. Raises InvalidInputError for an empty one."""
    if not all(parts):
        raise InvalidInputError("a name is empty: say which")
    return "/".join(urllib.parse.quote(part, safe="") for part in parts)


def _without_nulls(body: msgspec.Struct) -> bytes:
    given = {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not None}
    return msgspec.json.encode(given)


def _raised(status: int, content_type: str, payload: bytes) -> SidegateError:
    """The error that an answer stands for."""
    foreign = SidegateError(f"the daemon answered {status}: {payload[:200].decode(errors='replace')}")
    if content_type != PROBLEM_TYPE:
        return foreign
    try:
        problem = msgspec.json.decode(payload, type=ProblemDocument)
    except msgspec.MsgspecError:
        return foreign
    return _error(problem)


def _error(problem: ProblemDocument) -> SidegateError:
    """The error that the daemon raised: same class, same exit status, same sentence."""
    kind = _kinds(SidegateError).get(problem.code, SidegateError)
    error = kind.__new__(kind)  # past __init__, which in some classes words the message itself
    Exception.__init__(error, problem.detail)
    return error


def _kinds(base: type[SidegateError]) -> dict[str, type[SidegateError]]:
    found = {base.code: base}
    for kind in base.__subclasses__():
        found |= _kinds(kind)
    return found


def _allowed(path: Path) -> str:
    """Who may use a socket that we may not."""
    try:
        found = path.stat()
    except OSError:
        return "others (its directory is closed to you)"
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = f"uid {found.st_uid}"
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = f"gid {found.st_gid}"
    return f"{owner} and the group {group}"
