"""What ten thousand routes cost, against ten."""

from pathlib import Path

from bench import load
from bench.bench import Bench, Case
from bench.rates import watched
from bench.servers import Nginx, Server, Sidegate, hosts
from bench.stage import stage

MANY, FEW = 10_000, 10


def measure(bench: Bench) -> None:
    kinds = (Sidegate,) if bench.quick else (Sidegate, Nginx)
    with stage(bench.programs) as on:
        servers = [
            on.start(kind, "" if count == MANY else str(count), hosts=hosts(count))
            for kind in kinds
            for count in (MANY, FEW)
        ]
        scripts = {count: _script(on.directory, count) for count in (MANY, FEW)}

        def rate(server: Server, seconds: float) -> float:
            url = f"http://127.0.0.1:{server.site.http}/"
            return load.wrk(bench.programs, url, seconds, "-s", str(scripts[len(server.site.hosts)]))

        bench.alternate({server.label: watched(bench, server, rate) for server in servers})


def _script(directory: Path, count: int) -> Path:
    """A wrk script that asks for each host in turn, its requests made before it begins."""
    names = ", ".join(f'"{host}"' for host in hosts(count))
    file = directory / f"hosts-{count}.lua"
    file.write_text(
        f"""local hosts, requests, turn = {{{names}}}, {{}}, 0
function init()
  for i, host in ipairs(hosts) do
    requests[i] = wrk.format("GET", "/", {{["Host"] = host}})
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
"""
    )
    return file


ROUTES_10K = Case(
    name="routes-10k",
    unit="req/s",
    subject="sidegate",
    about=f"""Like http-55b, with {MANY:,} domains, each asked for in turn; `+{FEW}` is the same with {FEW} domains. The
domains lead to the same ten apps. nginx looks them up in one `map`.""",
    run=measure,
)
