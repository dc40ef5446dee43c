"""Clients of a node's public ports: over TLS, and a stream of them while something changes."""

import contextlib
import hashlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from e2e.node import Node, Reply, wait_for

SEVERAL = 4


class Visitor(http.client.HTTPConnection):
    """A connection to one of the node's ports in the name of `host`; with a context it speaks TLS and asks for it."""

    def __init__(self, node: Node, host: str, context: ssl.SSLContext | None = None) -> None:
        super().__init__("127.0.0.1", node.https_port if context else node.http_port, timeout=20)
        self._named, self._context = host, context

    def connect(self) -> None:
        super().connect()
        if self._context:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._named)

    def get(self, path: str = "/healthz") -> Reply:
        self.request("GET", path, headers={"Host": f"{self._named}:{self.port}"})
        response = self.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, response.read().decode(), received)


def trusting(*authorities: str) -> ssl.SSLContext:
    """A client that trusts these certificates (PEM) alone; anybody's where there are none."""
    context = ssl.create_default_context(cadata="\n".join(authorities) or None)
    if not authorities:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def secure_get(node: Node, host: str, path: str = "/healthz", *authorities: str) -> Reply:
    """One request over TLS."""
    with contextlib.closing(Visitor(node, host, trusting(*authorities))) as visitor:
        return visitor.get(path)


def shown(node: Node, host: str) -> str:
    """The fingerprint of the certificate that is presented for `host`."""
    with (
        socket.create_connection(("127.0.0.1", node.https_port), 10) as plain,
        trusting().wrap_socket(plain, server_hostname=host) as connection,
    ):
        return hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()


def fingerprint(pem: str) -> str:
    """Of the first certificate of a chain."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END") + 25])).hexdigest()


@dataclass
class Stream:
    """What visitors met so far. `count` only grows."""

    count: int = 0
    faults: list[str] = field(default_factory=list)

    def go_on(self, more: int = 50) -> None:
        """Return once so many more requests have been answered, or one was not as it should be."""
        goal = self.count + more
        wait_for("more requests are answered", lambda: self.count >= goal or self.faults, 30)


@contextlib.contextmanager
def visitors(
    node: Node, host: str, path: str = "/healthz", *, context: ssl.SSLContext | None = None
) -> Iterator[Stream]:
    """Requests as fast as they are answered, half of them on connections that are kept; each must be a 200."""
    stream, over, lock = Stream(), threading.Event(), threading.Lock()

    def visit(kept: bool) -> None:
        visitor = Visitor(node, host, context)
        while not over.is_set():
            try:
                reply = visitor.get(path)
                fault = "" if reply.status == 200 else f"{reply.status} {reply.body}"
            except (OSError, http.client.HTTPException) as error:
                fault = repr(error)
            if fault or not kept:
                visitor.close()
            with lock:
                stream.count += 1
                if fault:
                    stream.faults.append(fault)
        visitor.close()

    threads = [threading.Thread(target=visit, args=(number % 2 == 0,)) for number in range(SEVERAL)]
    for thread in threads:
        thread.start()
    try:
        stream.go_on()
        yield stream
        stream.go_on()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not stream.faults, f"{len(stream.faults)} of {stream.count}: {stream.faults[:3]}"
