"""As many workers as cores, with the load and the backend on the same cores: what a whole machine does."""

from bench import load
from bench.bench import Bench, Case
from bench.machine import CORES
from bench.rates import watched
from bench.servers import PROXIES, Nginx, Server, Sidegate
from bench.stage import stage


def measure(bench: Bench) -> None:
    kinds = (Sidegate, Nginx) if bench.quick else PROXIES
    with stage(bench.programs) as on:
        servers = [on.start(kind, workers=len(CORES), cores=CORES) for kind in kinds]

        def rate(server: Server, seconds: float) -> float:
            url = f"http://127.0.0.1:{server.site.http}/"
            host = ("-H", "Host: localhost")
            count = len(CORES)
            return load.wrk(bench.programs, url, seconds, *host, connections=64 * count, threads=count, cores=CORES)

        bench.alternate({server.label: watched(bench, server, rate) for server in servers})


CORES_CASE = Case(
    name="cores",
    unit="req/s",
    subject="sidegate",
    about="""Like http-55b with one worker (or thread) for each of the machine's cores, which they share with the
backend and with wrk (a thread for each core, with 64 connections).""",
    run=measure,
)
