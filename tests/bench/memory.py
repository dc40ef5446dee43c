"""What a connection costs that is kept alive and idle."""

import time

from bench.bench import Bench, Case, Measure
from bench.load import idle_connections, on_load_cores
from bench.servers import HAProxy, Nginx, Server, Sidegate
from bench.stage import Stage, stage

CONNECTIONS, QUICK_CONNECTIONS = 10_000, 500
_FIRST = 200
"""Connections before those that count: what a process allocates once is not theirs."""


def measure(bench: Bench) -> None:
    kinds = (Sidegate,) if bench.quick else (Sidegate, Nginx, HAProxy)  # Caddy takes 40 ms for each of them over TLS
    count, settle = (QUICK_CONNECTIONS, 0.3) if bench.quick else (CONNECTIONS, 2.0)
    with stage(bench.programs) as on:
        measures = {
            kind.name + ("+tls" if tls else ""): _kib(on, kind, count, settle, tls=tls)
            for tls in (False, True)
            for kind in kinds
        }
        bench.alternate(measures, warm_up=False)


def _kib(on: Stage, kind: type[Server], count: int, settle: float, *, tls: bool) -> Measure:
    def kib(_: float) -> float:
        """Of a new process each time: what an earlier round left behind would be used again."""
        server = on.start(kind)
        port = server.site.https if tls else server.site.http
        try:
            with on_load_cores(), idle_connections(port, "localhost", _FIRST, tls=tls):
                before = server.program.memory()
                with idle_connections(port, "localhost", count, tls=tls):
                    time.sleep(settle)  # whoever gives memory back once connections are idle does so now
                    return (server.program.memory() - before) / count / 1024
        finally:
            server.stop()

    return kib


IDLE_MEMORY = Case(
    name="idle-memory",
    unit="KiB/connection",
    subject="sidegate",
    about=f"""Memory of the server's processes (proportional set size) for each of {CONNECTIONS:,} kept-alive
connections that had one request each and are idle, plain and over TLS 1.3 (`+tls`). What the kernel holds is
not in it.""",
    run=measure,
    less_is_better=True,
)
