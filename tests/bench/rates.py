"""Requests and round trips per second through one core of each server, beside each other and beside no proxy at all."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench import load
from bench.bench import Bench, Case, Measure
from bench.servers import LARGE, PROXIES, HAProxy, Nginx, Server, Sidegate
from bench.stage import Stage, stage

Work = Callable[[Server, float], float]


@dataclass(frozen=True, slots=True)
class Rate:
    """How a case is measured: on which path, over TLS or not, with every request on a connection of its own or not."""

    path: str = "/"
    tls: bool = False
    close: bool = False
    echo: bool = False
    quick: tuple[type[Server], ...] = (Sidegate, Nginx)

    def measure(self, bench: Bench) -> None:
        with stage(bench.programs) as on:
            if self.echo:
                on.echo()
            kinds = self.quick if bench.quick else PROXIES
            servers = [on.start(kind) for kind in kinds]
            if not bench.quick and not self.echo:
                servers += [on.start(kind, "log", log=True) for kind in kinds]
            if not self.tls and not self.echo:
                servers.append(on.backend)
            bench.alternate({server.label: watched(bench, server, self._work(bench, on)) for server in servers})

    def _work(self, bench: Bench, on: Stage) -> Work:
        programs = bench.programs
        if self.echo:
            return lambda server, seconds: load.echoes(programs, server.site.http, seconds)
        if self.tls and self.close:
            return lambda server, seconds: _per_busy_second(
                server, lambda: load.handshakes(programs, _https(server), seconds)
            )
        if self.tls:
            return lambda server, seconds: load.wrk(programs, _https(server), seconds)
        options = ("-H", "Host: localhost", *(("-H", "Connection: close") if self.close else ()))
        scale = LARGE / 1e9 if self.path == "/1m" else 1.0
        return lambda server, seconds: scale * load.wrk(programs, _http(server, self.path), seconds, *options)


def watched(bench: Bench, server: Server, work: Work) -> Measure:
    """Also notes which part of a core the server took meanwhile."""

    def measure(seconds: float) -> float:
        before, began = server.program.cpu_seconds(), time.monotonic()
        value = work(server, seconds)
        share = (server.program.cpu_seconds() - before) / (time.monotonic() - began)
        bench.busy.setdefault(server.label, []).append(share)
        return value

    return measure


def _per_busy_second(server: Server, work: Callable[[], int]) -> float:
    """What the server does in a second of processor time, where the load cannot keep it busy."""
    before = server.program.cpu_seconds()
    done = work()
    return done / (server.program.cpu_seconds() - before)


def _http(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.site.http}{path}"


def _https(server: Server) -> str:
    return f"https://localhost:{server.site.https}/"


_LOAD = f"`wrk -t1 -c{load.CONNECTIONS}`"
_LOG = "Rows with `+log` write an access log, each server in its own way into a file."
_SERVERS = f"{_LOG}\n`direct` is the backend with nothing in between."


def _case(name: str, about: str, rate: Rate, unit: str = "req/s") -> Case:
    return Case(name=name, unit=unit, subject="sidegate", about=about, run=rate.measure)


RATES = (
    _case(
        "http-55b",
        f"GET over connections that stay open, 55-byte responses from memory, {_LOAD}.\n{_SERVERS}",
        Rate(quick=PROXIES),
    ),
    _case("http-16k", f"The same with a file of 16 KiB, {_LOAD}.\n{_SERVERS}", Rate("/16k")),
    _case("http-1m", f"The same with a file of 1 MiB, {_LOAD}.\n{_SERVERS}", Rate("/1m"), "GB/s"),
    _case(
        "http-close",
        f"55-byte responses, each request on a connection of its own (`Connection: close`), {_LOAD}.\n{_SERVERS}",
        Rate(close=True),
    ),
    _case(
        "tls-55b",
        f"""GET over TLS 1.3 connections that stay open, 55-byte responses, {_LOAD}.
One ECDSA certificate (P-256) for all. {_LOG}""",
        Rate(tls=True),
    ),
    _case(
        "tls-new",
        f"""The same with each request on a TLS connection of its own, full handshakes without resumption, `h2load --h1`
(wrk would resume). A full handshake costs a client more than a server, so a client on one core cannot keep a server on
one core busy: these are connections per second of processor time that the server took.
{_LOG}""",
        Rate(tls=True, close=True),
        "connections/s",
    ),
    _case(
        "websocket",
        f"""Text frames of 32 bytes sent back by an echo server, one in flight on each of {load.CONNECTIONS}
connections; both ends are tests/images/bench/websocket.c.""",
        Rate(echo=True, quick=(Sidegate, HAProxy)),
        "round trips/s",
    ),
)
