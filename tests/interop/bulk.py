"""A backend for large bodies, as fast as sockets go: `bulk.py` prints its port and serves until it is killed.

GET /?bytes=N[&chunked=1]   a body of N zero bytes
PUT /?wait=SECONDS          takes a body, after taking nothing of it for so long; answers with its size
"""

import contextlib
import io
import re
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

PIECE = bytes(1 << 18)


def serve(connection: socket.socket) -> None:
    with connection, io.BufferedReader(connection.makefile("rb", buffering=0), 1 << 18) as reader:
        while head := _head(reader.readline):
            method, target, _ = head[0].split(" ")
            query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
            fields = dict(re.split(": *", line.lower(), maxsplit=1) for line in head[1:])
            if method == "GET":
                _send(connection, int(query["bytes"]), chunked="chunked" in query)
                continue
            time.sleep(float(query.get("wait", "0")))
            if "content-length" in fields:
                size = _take(reader.readinto1, int(fields["content-length"]))
            else:
                size = 0
                while length := int(reader.readline(), 16):
                    size += _take(reader.readinto1, length)
                    reader.readline()
                reader.readline()
            answer = str(size).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))


def _head(readline: Callable[[], bytes]) -> list[str]:
    lines = []
    while line := readline().decode().rstrip("\r\n"):
        lines.append(line)
    return lines


def _take(readinto: Callable[[memoryview], int], left: int) -> int:
    room = memoryview(bytearray(1 << 18))
    taken = 0
    while taken < left:
        got = readinto(room[: min(len(room), left - taken)])
        if not got:
            raise ConnectionError("the body ended early")
        taken += got
    return taken


def _send(connection: socket.socket, left: int, *, chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % left
    connection.sendall(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % framing)
    while left:
        piece = PIECE[:left]
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        left -= len(piece)
    if chunked:
        connection.sendall(b"0\r\n\r\n")


def _serve_quietly(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # a client that went away
        serve(connection)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve_quietly, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
