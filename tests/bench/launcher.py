"""Sidegate's data plane by itself: real workers, with all that is shipped, under given routes, without an engine.

python -m bench.launcher FILE    what is in FILE: a Site as JSON; serves until SIGTERM
"""

import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path

import msgspec
import structlog

from bench.site import APPS, Site
from sidegate.core.certificates import CertificateSet, KeyPair
from sidegate.core.routes import AppRoute, PathRoute, Routes, Upstream
from sidegate.proxy.limits import Limits
from sidegate.proxy.supervisor import Supervisor

WORKER = 60913
"""The uid that workers of a daemon have where nobody made them a user."""


def routes_of(site: Site) -> Routes:
    """Every host to one of the apps, all of which are at the backend; /ws of each to the echo server."""

    def app(name: str, port: int) -> AppRoute:
        return AppRoute((Upstream(name, "127.0.0.1", port, id=name),))

    names = [f"app{number}" for number in range(APPS)]
    hosts = {
        host: (PathRoute("/ws", "echo"), PathRoute("", names[number % APPS])) for number, host in enumerate(site.hosts)
    }
    return Routes(
        hosts=hosts, apps={name: app(name, site.backend) for name in names} | {"echo": app("echo", site.echo)}
    )


def certificates_of(site: Site) -> CertificateSet:
    pair = KeyPair(Path(site.chain).read_text(), Path(site.key).read_text())
    return CertificateSet(pairs={"bench": pair}, default="bench", ticket_key=secrets.token_hex(80))


async def serve(site: Site) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    uid = WORKER if os.geteuid() == 0 else None
    supervisor = Supervisor(
        workers=site.workers,
        http_port=site.http,
        https_port=site.https,
        address="127.0.0.1",
        access_log=site.log,
        uid=uid,
        gid=uid,
        limits=Limits(drain=1.0, https_port=site.https),
        log=structlog.get_logger(),
    )
    await supervisor.publish(routes_of(site))
    await supervisor.publish_certificates(certificates_of(site))
    await supervisor.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(supervisor.run())
        await ended.wait()
        await supervisor.stop()


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Site)))
