"""A small engine on a unix socket that says what a test tells it to: for what the real one will not do on demand."""

import contextlib
import json
import queue
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Reply = tuple[int, object]


class _Server(ThreadingUnixStreamServer):
    request_queue_size = 64  # a unix socket whose backlog is full turns clients away at once


class ScriptedEngine:
    """`replies`: (method, path without its version) -> (status, document). `gates`: path -> an event to wait for first.

    `asked` lists every request as "GET /v1.41/containers/json". `tell` sends an event to every open stream; `stop` goes
    away as a killed engine does, every connection broken, and `start` comes back on the same path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.api_version = "1.41"
        self.asked: list[str] = []
        self.subscribed: queue.Queue[str] = queue.Queue()
        self.replies: dict[tuple[str, str], Reply] = {
            ("GET", "/containers/json"): (200, []),
            ("GET", "/networks"): (200, []),
            ("GET", "/version"): (200, {"Version": "20.10.24", "ApiVersion": "1.41"}),
        }
        self.gates: dict[str, threading.Event] = {}
        self._streams: list[queue.Queue[dict[str, Any] | None]] = []
        self._connections: set[socket.socket] = set()
        self._server: ThreadingUnixStreamServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                engine._connections.add(self.connection)
                with contextlib.suppress(OSError):
                    super().handle()
                engine._connections.discard(self.connection)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing: `asked` has it."""

            def do_GET(self) -> None:
                engine._answer(self)

            do_POST = do_DELETE = do_GET  # noqa: N815

        self._server = _Server(str(self.path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="scripted engine")
        self._thread.start()

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.path.unlink()
        self._server = None
        self.end_streams()
        for gate in self.gates.values():
            gate.set()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def tell(self, kind: str, action: str, actor: str, *, age: float = 0.0, **attributes: str) -> int:
        """Send an event that happened `age` seconds ago to every stream; returns its time in nanoseconds."""
        at = time.time_ns() - int(age * 10**9)
        event = {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "timeNano": at}
        for stream in self._streams.copy():
            stream.put(event)
        return at

    def end_streams(self) -> None:
        for stream in self._streams.copy():  # each takes itself out when it ends
            stream.put(None)

    def add_container(self, container: str, **parts: object) -> None:
        """A container that is listed and can be inspected; `parts` overwrite those of its row."""
        status, rows = self.replies["GET", "/containers/json"]
        assert isinstance(rows, list)
        row = {"Id": container, "Names": [f"/{container}"], "State": "running", "ImageID": "sha256:1", **parts}
        others = [known for known in rows if known["Id"] != container]
        self.replies["GET", "/containers/json"] = status, [*others, row]
        self.replies["GET", f"/containers/{container}/json"] = (
            200,
            {"Id": container, "Name": f"/{container}", "Image": "sha256:1", "State": {"Status": row["State"]}},
        )
        self.replies["GET", "/images/sha256:1/json"] = 200, {"Config": {"Labels": {"made": "by image"}, "Env": ["A=1"]}}

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        url = urlsplit(request.path)
        self.asked.append(f"{request.command} {url.path}")
        path = "/" + url.path.split("/", 2)[2] if url.path.startswith("/v1.") else url.path
        if gate := self.gates.get(path):
            gate.wait()
        if path == "/_ping":
            self._send(request, 200, "OK")
        elif path == "/events":
            self._stream(request, parse_qs(url.query)["since"][0])
        else:
            self._send(
                request, *self.replies.get((request.command, path), (404, {"message": f"no such thing: {path}"}))
            )

    def _send(self, request: BaseHTTPRequestHandler, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        request.send_response(status)
        request.send_header("Api-Version", self.api_version)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _stream(self, request: BaseHTTPRequestHandler, since: str) -> None:
        stream: queue.Queue[dict[str, Any] | None] = queue.Queue()
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.flush()
        self._streams.append(stream)
        self.subscribed.put(since)
        while (event := stream.get()) is not None:
            line = json.dumps(event).encode() + b"\n"
            request.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self._streams.remove(stream)
        request.wfile.write(b"0\r\n\r\n")
