"""Requests through the public port to one app container, beside nginx doing the same and no proxy at all."""

import contextlib
import http.client
from functools import partial

from bench.bench import IMAGE, Bench, Case, progress
from e2e.node import Node, free_port, wait_for

ON_THE_HOST = ("--network", "host", "--security-opt", "seccomp=unconfined")
"""As a process of the host runs: on its network, without the engine's filter of system calls."""
HOST = "backend.localhost"


def measure_55b(bench: Bench) -> None:
    with bench.node(workers="1") as node:
        progress(f"{bench.case.name}: starting a backend, nginx and wrk")
        labels = ("--label", "sidegate.app=backend", "--label", "sidegate.port=8080")
        backend = node.docker_run("backend", *labels, image=IMAGE, command=["nginx", "-c", "/etc/nginx/backend.conf"])
        load = node.docker_run("load", *ON_THE_HOST, image=IMAGE)
        ports = {"direct": f"{node.addresses(backend)[0]}:8080", "sidegate": f"127.0.0.1:{node.http_port}"}
        ports["nginx"] = _start_nginx(node, ports["direct"])
        for server, port in ports.items():
            wait_for(f"{server} serves", partial(_serves, port))
        rates = {
            server: partial(bench.wrk, load, f"http://{ports[server]}/", "-H", f"Host: {HOST}")
            for server in ("sidegate", "nginx", "direct")
        }
        bench.alternate(rates)


def _start_nginx(node: Node, backend: str) -> str:
    """Address and port of an nginx that forwards to `backend`."""
    listen = f"127.0.0.1:{free_port()}"
    fill_in = f"sed 's/LISTEN/{listen}/; s/BACKEND/{backend}/' /etc/nginx/proxy.conf > /tmp/proxy.conf"
    command = ["sh", "-c", f"{fill_in} && exec nginx -c /tmp/proxy.conf"]
    node.docker_run("nginx", *ON_THE_HOST, image=IMAGE, command=command)
    return listen


def _serves(port: str) -> bool:
    connection = http.client.HTTPConnection(port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/", headers={"Host": HOST})
        return connection.getresponse().status == 200
    return False


HTTP_55B = Case(
    name="http-55b",
    unit="req/s",
    subject="sidegate",
    about="""GET over connections that stay open, 55-byte responses by nginx in an app container on Docker's bridge:
through Sidegate with one worker, through Debian's nginx with one worker (tests/images/bench/proxy.conf), and to the
container's own address with no proxy. `wrk -t1 -c32` on the same machine.""",
    run=measure_55b,
)
