"""What sends requests: wrk, h2load, WebSocket frames, connections that say nothing more. On the load's cores."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.machine import LOAD_CORES, bound
from bench.programs import Programs
from bench.servers import SMALL, request, trusting
from e2e.node import run, wait_for

CONNECTIONS = 32
_HANDSHAKES = 200
"""New TLS connections that h2load makes at once."""
_GRACE = 30.0
_SIGNALS = 50


def wrk(
    programs: Programs,
    url: str,
    seconds: float,
    *options: str,
    connections: int = CONNECTIONS,
    threads: int = 1,
    cores: Sequence[int] = LOAD_CORES,
    within: Sequence[str] = (),
) -> float:
    """Requests per second over connections that stay open, unless a header in `options` says otherwise. `within`:
    words that run a command in another network namespace."""
    words = [*within, *programs.debian("wrk"), f"-t{threads}", f"-c{connections}", "-d1h", *options, url]
    with subprocess.Popen(bound(words, cores), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            # It takes whole seconds only, but ends early on SIGINT; it is under way once it would catch one.
            wait_for("wrk runs", lambda: process.poll() is not None or _catches(process.pid, signal.SIGINT), _GRACE)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            for _ in range(_SIGNALS):  # one that comes just before it sleeps is lost
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                    break
            output = process.communicate(timeout=_GRACE)[0]
        finally:
            process.kill()
    return wrk_rate(url, output)


def _catches(pid: int, number: signal.Signals) -> bool:
    """proc(5), status: SigCgt is a mask of the signals that a handler is there for."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(line.startswith("SigCgt:") and int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)


def wrk_rate(url: str, output: str) -> float:
    """What wrk printed as a rate; fails where a request did."""
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in output.splitlines())}
    # wrk prints these two lines only where something went wrong
    if "Socket errors" in facts or "Non-2xx or 3xx responses" in facts or "Requests/sec" not in facts:
        raise AssertionError(f"{url} did not answer every request with 200:\n{output}")
    return float(facts["Requests/sec"])


def h2load(programs: Programs, url: str, requests: int, connections: int) -> None:
    """So many HTTP/1.1 requests. Unlike wrk it resumes no TLS session."""
    # Not for a duration (-D): with --h1 this version never returns from it.
    words = [*programs.debian("h2load"), "--h1", "-t1", f"-c{connections}", f"-n{requests}", url]
    output = run(*bound(words, LOAD_CORES), timeout=_GRACE).stdout
    answered = re.search(r"^status codes: (\d+) 2xx", output, re.MULTILINE)
    if not answered or int(answered[1]) != requests:
        raise AssertionError(f"{url} did not answer every request with 200:\n{output}")


def handshakes(programs: Programs, url: str, seconds: float) -> int:
    """New TLS connections until the time is up, each for one request and with a full handshake; returns how many."""
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        h2load(programs, url, _HANDSHAKES, _HANDSHAKES)
        done += _HANDSHAKES
    return done


def echoes(programs: Programs, port: int, seconds: float) -> float:
    """WebSocket round trips per second, one frame in flight on each connection."""
    words = [programs.websocket, "load", "127.0.0.1", str(port), "/ws", str(CONNECTIONS), str(seconds)]
    return float(run(*bound(words, LOAD_CORES), timeout=seconds + _GRACE).stdout)


@contextlib.contextmanager
def on_load_cores() -> Iterator[None]:
    """This process is the load for a while."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, LOAD_CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


@contextlib.contextmanager
def idle_connections(port: int, host: str, count: int, *, tls: bool) -> Iterator[None]:
    """So many kept-alive connections that have each had one response and send nothing more."""
    context, sent = trusting(), request(host)
    with contextlib.ExitStack() as held:
        for _ in range(count):
            plain = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_GRACE))
            sock = held.enter_context(context.wrap_socket(plain, server_hostname=host)) if tls else plain
            sock.sendall(sent)
            received = b""
            while not received.endswith(SMALL[-8:]):
                piece = sock.recv(4096)
                if not piece:
                    raise AssertionError(f"a connection to port {port} ended: {received!r}")
                received += piece
        yield
