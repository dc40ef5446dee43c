"""The composition root: builds the parts, one TaskGroup, the order of start and stop. Decides nothing."""

import asyncio
import contextlib
import faulthandler
import functools
import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import structlog
import uvloop

from sidegate import __version__, log
from sidegate.adapters.certificates import Certificates
from sidegate.adapters.database_port import DatabasePorts
from sidegate.adapters.databases.servers import DatabaseServers, Location
from sidegate.adapters.docker import DockerEngine, DockerWorkloads
from sidegate.adapters.docker.builds import DockerBuilds
from sidegate.adapters.docker.own_container import find_own_container
from sidegate.adapters.docker.tally import EngineTally
from sidegate.adapters.docker.volumes import DockerVolumes
from sidegate.adapters.host import LinuxHost
from sidegate.adapters.instance import Instance
from sidegate.adapters.lock import hold
from sidegate.adapters.nft import KernelForwarder, NftFence
from sidegate.adapters.orphans import reap
from sidegate.adapters.store import Store
from sidegate.adapters.systemd import ServiceManager
from sidegate.adapters.tcp_connections import ask, listens, open_connections
from sidegate.adapters.user_host import UserHost
from sidegate.api import http, metrics_listener
from sidegate.api.announcing import Announcer
from sidegate.api.commands import Commands
from sidegate.api.events import Hub
from sidegate.api.logins import resolve_details
from sidegate.api.world import World
from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.desired import home_network
from sidegate.core.guest import KERNEL_FAULT, LOST_SIGHT, UNKNOWN_HOST, OwnContainer
from sidegate.core.model import DatabaseDetails
from sidegate.development import development_settings, greeting, ordinary_user_hint
from sidegate.errors import LoginFailedError, PortInUseError, SettingsError, SidegateError
from sidegate.proxy import ports, privileges
from sidegate.proxy.limits import Limits
from sidegate.proxy.supervisor import Supervisor
from sidegate.reconciler.apply import Applier
from sidegate.reconciler.kernel import KernelPorts
from sidegate.reconciler.loop import Loop
from sidegate.reconciler.passwords import Passwords
from sidegate.reconciler.replacing import Tools
from sidegate.reconciler.rollouts import Rollouts
from sidegate.reconciler.visits import Visits
from sidegate.settings import Settings, load, metrics_address

SPARE_UID = 60913
"""What workers become where `worker_user` does not exist: in the range that no distribution gives out."""

STOP_SECONDS = 15.0
"""What ending takes beside the requests in flight."""

logger = structlog.get_logger("sidegate.main")


def run_daemon(config: Path | None, *, development: bool = False) -> int:
    """Run until SIGTERM, SIGINT or a purge; returns the exit status. Errors are printed, in a sentence each."""
    try:
        settings = (development_settings if development else load)(config, os.environ)
    except SettingsError as error:
        print(f"sidegate: {error}", file=sys.stderr)
        return error.exit_status
    log.configure(settings.log_level)
    faulthandler.enable()  # a watchdog's SIGABRT leaves a trace of where every thread was
    manager = ServiceManager.of(os.environ)
    privileges.raise_open_files()
    status = 0
    try:
        with (
            hold(settings.state_dir, "state_dir", mode=0o700),
            hold(settings.runtime_dir, "runtime_dir", mode=0o755),
        ):
            uvloop.run(serve(settings, manager, development=development))
    except* SidegateError as group:
        for found in _leaves(group):
            hint = "" if development else ordinary_user_hint(found)
            print(f"sidegate: {found}{hint}", file=sys.stderr)
            status = found.exit_status
    return status


def _leaves(group: BaseExceptionGroup[SidegateError]) -> Iterator[SidegateError]:
    """The errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def serve(settings: Settings, manager: ServiceManager, *, development: bool = False) -> None:
    """Everything between the locks and the exit. In `development` what takes root is not tried without."""
    root = not development or os.geteuid() == 0
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(manager.close)
        instance = Instance(settings.instance, {key: getattr(settings, key) for key in ("state_dir", "runtime_dir")})
        stack.callback(instance.close)
        if root:  # who may change the firewall
            await instance.hold_host()
        store = await Store.open(settings.state_dir)
        stack.push_async_callback(store.close)
        calls = EngineTally()
        engine = DockerEngine(settings.docker_host, tally=calls, admit=instance.hold_engine)
        stack.push_async_callback(engine.close)
        own = await find_own_container(settings.docker_host, settings.own_container)
        stack.push_async_callback(lambda: visits.close())
        supervisor = _supervisor(settings, lambda: loop.wake(), own)
        stack.push_async_callback(supervisor.stop)
        seen_by = own.host_process if own else 0
        lost_sight = LOST_SIGHT if own and not seen_by else ""
        host = (LinuxHost if root else UserHost)(settings.instance, process=seen_by, fault=lost_sight)
        external_host = settings.external_host
        if own and not external_host:
            external_host = await host.address() or UNKNOWN_HOST
        rules = replace(settings.rules(), namespaces=root, self_id=own.id if own else "")

        async def locate(name: str) -> Location:
            database = loop.desired.discovery.databases.get(name)
            endpoint = database.container.endpoint(home_network(name, rules)) if database else None
            if database is None or endpoint is None or not endpoint.address:
                raise LoginFailedError(f"{name} cannot be reached: it is not running on its home network")
            given = store.intent.databases.get(name, DatabaseDetails())
            details = await resolve_details(database, given, engine.read_file)
            subnets = {n.name: n.ipv4 for n in loop.state.networks}
            networks = {e.network: subnets.get(e.network, ()) for e in database.container.endpoints}
            return Location(DATABASE_ENGINES[database.engine], endpoint.address, details, networks, given)

        databases = DatabaseServers(locate)
        public = settings.external_ports
        unusable = KERNEL_FAULT if own else ""
        forwarder = KernelForwarder(settings.instance, (public.start, public.stop - 1), unusable=unusable)
        kernel = KernelPorts(forwarder, databases) if root or settings.forwarder != "userspace" else None
        fence = NftFence(settings.instance, process=seen_by) if root and not lost_sight else None
        redirects = DatabasePorts(host_process=seen_by) if root else None
        passwords = Passwords(store, databases, wake=lambda: loop.wake())
        certificates = _certificates(settings) if settings.https_port else None
        if certificates is not None:
            stack.push_async_callback(certificates.close)
        loop = Loop(
            applier=Applier(engine, host, supervisor, databases, certificates, redirects, kernel, passwords, fence),
            store=store,
            rules=rules,
            resync_seconds=settings.resync_seconds,
        )
        loop.standing.include(instance.problems)
        loop.standing.include(store.problems)
        stack.push_async_callback(loop.close)
        visits = Visits(loop, engine, supervisor, open_connections)
        workloads = DockerWorkloads(settings.docker_host, tally=calls)
        stack.push_async_callback(workloads.close)
        volumes = DockerVolumes(settings.docker_host, tally=calls)
        stack.push_async_callback(volumes.close)
        events = Hub()
        rollouts = Rollouts(
            Tools(
                loop=loop,
                store=store,
                workloads=workloads,
                health=supervisor.health,
                listens=listens,
                ask=ask,
                connections=open_connections,
                clock=time.monotonic,
                healthy=settings.rollout_seconds,
                drain=settings.drain_seconds,
            ),
            tell=events.emit,
        )
        commands = Commands(
            World(
                store=store,
                loop=loop,
                engine=engine,
                logins=databases,
                data_plane=supervisor,
                port_holder=lambda port: ports.holder(port) or "",
                external_host=functools.partial(_external_host, settings, external_host),
                stop=stopping.set,
                clock=time.monotonic,
                version=__version__,
                external_ports=settings.external_ports,
                http_port=settings.http_port,
                certificates=certificates,
                https_port=settings.https_port,
                kernel=kernel,
                builds=DockerBuilds(settings.docker_host),
                passwords=passwords,
                volumes=volumes,
                workloads=workloads,
                rollouts=rollouts,
                engine_calls=calls,
                container=own,
                events=events,
            )
        )
        passwords.redeploy = commands.renewal.bring_up_to_date
        announcer = Announcer(commands.world)
        loop.standing.watch(announcer.look)
        loop.standing.listen(announcer.look)
        try:
            await supervisor.bind()
        except PortInUseError as error:
            variables = "; SIDEGATE_HTTP_PORT=8081 or SIDEGATE_HTTPS_PORT=8444 in front of the command does"
            hint = variables if development else ""
            raise PortInUseError(f"{error}: stop that, or set http_port and https_port (0: no TLS){hint}") from None
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(loop.run(), name="loop"),
                tasks.create_task(rollouts.run(), name="rollouts"),
                tasks.create_task(instance.run(loop.wake), name="instance"),
                tasks.create_task(store.run(loop.wake), name="store"),
            ]
            engine.watch(visits.wake if own else loop.wake)
            if os.getpid() == 1:
                running.append(tasks.create_task(reap(), name="orphans"))
            if own:
                running.append(tasks.create_task(visits.run(), name="visits"))
            if certificates is not None:
                certificates.watch(loop.wake)
                running.append(tasks.create_task(certificates.run(), name="certificates"))
            node = commands.node
            speak = manager.run(ready=lambda: node.ready, status=node.summary, stalled=loop.stalled)
            running.append(tasks.create_task(speak, name="service manager"))
            async with (
                http.serve(commands, settings.runtime_dir / "control.sock"),
                metrics_listener.serve(commands.metrics, metrics_address(settings.metrics_listen)),
            ):
                with contextlib.suppress(TimeoutError):
                    await loop.settle()  # routes first: a worker without them would answer 404 to everybody
                await supervisor.start()
                running.append(tasks.create_task(supervisor.run(), name="supervisor"))
                running.append(tasks.create_task(announcer.run(), name="events"))
                served = {"http_port": settings.http_port, "https_port": settings.https_port}
                logger.info("started", version=__version__, **served, pid=os.getpid())
                events.emit("daemon.started", "sidegate", f"version {__version__} serves", pid=os.getpid(), **served)
                if development:
                    print(greeting(settings, loop.last.engine_fault), file=sys.stderr, flush=True)
                await stopping.wait()
                events.emit("daemon.stopping", "sidegate", "the daemon stops", pid=os.getpid())
            logger.info("stopping")
            manager.stopping(settings.drain_seconds + STOP_SECONDS)
            for task in running:
                task.cancel()


def _certificates(settings: Settings) -> Certificates:
    return Certificates(
        settings.certificates or settings.state_dir / "certificates",
        settings.state_dir / "authority",
        base_domain=settings.base_domain,
        managed=settings.certificates is None,
    )


def _supervisor(settings: Settings, on_health: Callable[[], None], own: OwnContainer | None) -> Supervisor:
    uid = gid = None
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(settings.worker_user)
            uid, gid = entry.pw_uid, entry.pw_gid
        except KeyError:
            uid = gid = SPARE_UID
    return Supervisor(
        workers=settings.workers or os.cpu_count() or 1,
        http_port=settings.http_port,
        https_port=settings.https_port or None,
        address=ports.LOOPBACK if settings.listen == "loopback" else "",
        log=structlog.get_logger("sidegate.workers"),
        uid=uid,
        gid=gid,
        limits=_limits(settings, own),
        access_log=settings.access_log,
        on_health=on_health,
    )


def _limits(settings: Settings, own: OwnContainer | None) -> Limits:
    return Limits(
        head=settings.header_seconds,
        idle=settings.idle_seconds,
        connect=settings.connect_seconds,
        stall=settings.stall_seconds,
        drain=settings.drain_seconds,
        head_bytes=settings.max_head_bytes,
        target_bytes=settings.max_target_bytes,
        connections=settings.max_connections,
        connections_per_client=settings.max_connections_per_client,
        pause_requests=settings.pause_requests,
        pause=settings.pause_seconds,
        https_port=settings.https_port,
        trusted_proxies=settings.trusted_proxies,
        local_clients=tuple(sorted(own.gateways)) if own else (),
        log_sample=settings.access_log_sample,
    )


def _external_host(settings: Settings, given: str) -> str:
    """What to tell people to connect to: the setting, else the address of the interface with the default route."""
    if given:
        return given
    if settings.listen == "loopback":
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # asks the routing table; a datagram socket sends nothing by connecting
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
