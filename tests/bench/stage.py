"""Where servers of a case stand: a directory, one certificate, one backend, ports. It goes when the case ends."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import PROXY_CORE
from bench.programs import Programs
from bench.servers import Backend, Echo, Server
from bench.site import Site
from e2e.node import run


@dataclass(slots=True)
class Stage:
    """Starts servers and keeps them until `close`. `backend` is there from the beginning."""

    programs: Programs
    directory: Path
    site: Site = field(init=False)
    backend: Backend = field(init=False)
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        chain, key, pem = (str(self.directory / name) for name in ("chain.pem", "key.pem", "both.pem"))
        run(*_OPENSSL, "-keyout", key, "-out", chain)
        Path(pem).write_text(Path(chain).read_text() + Path(key).read_text())
        backend, echo = free_ports(2)
        self.site = Site(str(self.directory), backend, echo, backend, 0, chain, key, pem)
        self.backend = Backend(self.site, self.programs)
        self._started(self.backend)

    def start(
        self,
        kind: type[Server],
        variant: str = "",
        *,
        log: bool = False,
        workers: int = 1,
        hosts: tuple[str, ...] = ("localhost",),
        cores: Sequence[int] = PROXY_CORE,
    ) -> Server:
        """A server of this kind, serving."""
        http, https = free_ports(2)
        file = str(self.directory / f"{kind.name}-access.log") if log else ""
        site = Site(
            self.site.directory,
            self.site.backend,
            self.site.echo,
            http,
            https,
            self.site.chain,
            self.site.key,
            self.site.pem,
            file,
            workers,
            hosts,
        )
        server = kind(site, self.programs, cores, variant)
        self._started(server)
        return server

    def echo(self) -> None:
        """Start the WebSocket server behind /ws."""
        self._running.callback(Echo(self.site, self.programs).stop)

    def close(self) -> None:
        self._running.close()

    def _started(self, server: Server) -> None:
        self._running.callback(server.stop)
        server.start()


_OPENSSL = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
    *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
)


@contextlib.contextmanager
def stage(programs: Programs) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="sgbench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # servers that give up root must reach their files
        made = None
        try:
            made = Stage(programs, directory)
            yield made
        finally:
            if made is not None:
                made.close()


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that nobody has, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
