"""From `docker start` to the first 200: through the public port, against dialling the container itself."""

import contextlib
import http.client
import time
from collections.abc import Iterator

from bench import engine
from bench.bench import Bench, Case, Measure
from bench.programs import IMAGE
from e2e.node import Node, run, wait_for

SUBNET, ADDRESS = "10.218.64.0/24", "10.218.64.10"
EVERY = 0.010
_PATIENCE = 30.0


def measure(bench: Bench) -> None:
    with engine.daemon(bench.case.name) as node, _network(node) as network:
        # An address of its own: one that the engine gives out anew at each start could not be dialled before it runs.
        place = ("--network", network, "--ip", ADDRESS)
        serve = ["nginx", "-c", "/etc/nginx/app.conf"]
        labels = ("--label", "sidegate.app=shop", "--label", f"sidegate.network={network}")
        app = node.docker_run("shop", *place, *labels, "--label", "sidegate.port=8080", image=IMAGE, command=serve)
        node.docker_run("stock", "--label", "sidegate.app=stock", image=IMAGE, command=serve)
        node.cli("connect", "shop", "stock")
        bench.alternate(
            {
                "sidegate": _started(node, app, "127.0.0.1", node.http_port),
                "direct": _started(node, app, ADDRESS, 8080),
            },
            warm_up=not bench.quick,
        )


def _started(node: Node, app: str, address: str, port: int) -> Measure:
    def milliseconds(_: float) -> float:
        wait_for("the app is routed", lambda: node.get("shop.localhost").status == 200, _PATIENCE)
        node.docker("stop", "-t", "1", app)
        wait_for("the app is known to be away", lambda: node.get("shop.localhost").status == 503, _PATIENCE)
        began = time.monotonic()
        node.docker("start", app)
        while not _serves(address, port):
            assert time.monotonic() < began + _PATIENCE, f"{address}:{port} did not answer with 200"
            time.sleep(EVERY)
        return (time.monotonic() - began) * 1000

    return milliseconds


def _serves(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=1)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/", headers={"Host": "shop.localhost"})
        return connection.getresponse().status == 200
    return False


@contextlib.contextmanager
def _network(node: Node) -> Iterator[str]:
    name = f"{node.name}-start"
    run("docker", "network", "create", "--subnet", SUBNET, name)
    try:
        yield name
    finally:
        node.docker("rm", "-f", "-v", node.container("shop"), check=False)
        run("docker", "network", "rm", name, check=False)


START = Case(
    name="start",
    unit="ms",
    subject="sidegate",
    about="""Milliseconds from `docker start` of an app with one internal connection to the first 200, asked for every
10 ms once the command has returned: through the public port of a whole daemon, and from the container itself.""",
    run=measure,
    less_is_better=True,
)
