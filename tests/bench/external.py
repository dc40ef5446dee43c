"""External connections beside what else forwards a port, for a client on another host, and beside internal ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench import load
from bench.bench import Bench, Case
from bench.delay import MILLISECONDS, delayed
from bench.forwarders import ALL, DATABASE, DATABASE_PORT, KERNEL, QUICK, USERSPACE, Field, Way, database
from bench.machine import CORES
from bench.programs import IMAGE
from bench.servers import LARGE

APP = "inside"


@dataclass(frozen=True, slots=True)
class Rate:
    """How a case is measured: on which path, with every request on a connection of its own or not."""

    path: str = "/"
    close: bool = False

    def measure(self, bench: Bench) -> None:
        with database(bench) as field:
            ways = field.ways(QUICK if bench.quick else ALL)
            field.alternate(ways, self.work(bench), warm_up=not bench.quick)

    def work(self, bench: Bench) -> Callable[[Way, float], float]:
        options = ("-H", "Connection: close") if self.close else ()
        scale = LARGE / 1e9 if self.path == "/1m" else 1.0
        return lambda way, seconds: (
            scale * load.wrk(bench.programs, way.url + self.path, seconds, *options, cores=CORES, within=way.within)
        )


def measure_internal(bench: Bench) -> None:
    with database(bench) as field, delayed(field.directory) as far:
        external = field.ways((KERNEL, USERSPACE))
        further = [replace(way, label=f"{way.label}+{MILLISECONDS}ms", address=far) for way in external]
        field.alternate([_internal(field), *external, *further], Rate().work(bench))


def _internal(field: Field) -> Way:
    """From an app's container, which is connected. The load is the same program, in that container's network."""
    node = field.node
    app = node.docker_run(APP, "--label", f"sidegate.app={APP}", image=IMAGE)
    node.cli("connect", APP, DATABASE)
    pid = node.docker("inspect", "-f", "{{.State.Pid}}", app)
    network = node.container(f"{DATABASE}--{APP}")
    template = '{{(index .NetworkSettings.Networks "NAME").IPAddress}}'.replace("NAME", network)
    address = node.docker("inspect", "-f", template, field.container)
    return Way("internal", address, DATABASE_PORT, ("nsenter", f"--net=/proc/{pid}/ns/net"))


_LOAD = f"`wrk -t1 -c{load.CONNECTIONS}`"
_SERVERS = """The client is in a network namespace outside the host, behind a veth pair. `direct` dials the container's
own address, `docker-p` is `docker run -p`, HAProxy forwards in mode tcp and nginx by its stream module. All
share all cores; what the kernel forwards takes no processor time of a process of its own: whoever sends spends it."""


def _case(name: str, about: str, rate: Rate, unit: str = "req/s", *, quick: bool = False) -> Case:
    return Case(name, unit, KERNEL, f"{about}, {_LOAD}.\n{_SERVERS}", rate.measure, quick=quick)


EXTERNAL = (
    _case(
        "tcp-small",
        "An external connection: 55 bytes for each request, over connections that stay open",
        Rate(),
        quick=True,
    ),
    _case("tcp-bulk", "An external connection: 1 MiB for each request", Rate("/1m"), "GB/s"),
    _case("tcp-new", "An external connection: each request on a connection of its own", Rate(close=True)),
    Case(
        name="internal",
        unit="req/s",
        subject="internal",
        about=f"""The same small requests as in tcp-small, from an app's container over an internal connection, and from
outside the host over the external one; rows with `+{MILLISECONDS}ms` over a link that takes that long one way, as any
real one takes some (netem; where the kernel has none, a program between two TUN devices).""",
        run=measure_internal,
        quick=False,
    ),
)
