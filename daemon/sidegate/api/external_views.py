"""What is told of an external connection: where it is, who may come in, who is there, until when, what carries it."""

import asyncio

from sidegate.api import schemas
from sidegate.api.logins import known_login
from sidegate.api.world import World
from sidegate.core.database_engines import DatabaseEngine
from sidegate.core.forwarding import carry
from sidegate.core.gates import AccessList, Entry, Gate, KernelSession
from sidegate.core.guest import UNKNOWN_HOST, OwnContainer
from sidegate.core.model import DatabaseDetails, External
from sidegate.core.plan import ForwardInKernel
from sidegate.core.quoting import listed
from sidegate.core.routes import DatabaseTarget
from sidegate.core.sessions import Session
from sidegate.errors import SidegateError
from sidegate.log import get_logger

LOOPBACK = "127.0.0.1"

log = get_logger("api")


async def external_view(
    world: World,
    name: str,
    *,
    advice: str | None = None,
    warn: bool = False,
    sessions_cut: int | None = None,
    just_switched: bool = False,
) -> schemas.ExternalView:
    """A database's external connection as it is now; one that was never on has no port. `warn`: of what should not be
    missed while it is on. `just_switched`: nobody can be on it yet, or any more."""
    external = world.intent.externals.get(name)
    gate = external.gate if external else Gate(0)
    (engine, details), sessions, warnings = await asyncio.gather(
        known_login(world, name),
        _nobody() if just_switched else forwarded_sessions(world, name),
        _warnings(world, name, external if warn else None),
    )
    host, port = external_host(world, external), external.port if external else None
    present = world.data_plane.listeners().get(name)
    on = bool(external and external.enabled)
    ends = external.expires_at if external and on else 0.0
    carrier, reason = carried_by(world, name, external) if external and on else (None, None)
    return schemas.ExternalView(
        database=name,
        enabled=on,
        listening=present is not None and present.gate.port == port,
        host=host,
        port=port,
        sessions=len(sessions),
        user=details.user or None,
        schema=details.schema or None,
        url=_open_url(engine, details, host, port),
        command=engine.command(details, host, port) if engine and details.user and port is not None else None,
        advice=advice,
        warnings=warnings,
        sessions_cut=sessions_cut,
        allow=_entries(gate.allow),
        deny=_entries(gate.deny),
        local=gate.local,
        anybody=external is not None and gate.open_to_anybody,
        max_sessions=gate.max_sessions,
        max_new=gate.max_new,
        expires_at=ends or None,
        expires_in=max(0.0, round(ends - world.wall(), 1)) if ends else None,
        idle_off=external.idle_off or None if external else None,
        refused=dict(world.data_plane.refusals(name)) if present else {},
        forwarder=(external.forwarder if external else "") or world.loop.rules.forwarder,
        carrier=carrier,
        carrier_reason=reason,
    )


def external_host(world: World, external: External | None) -> str:
    """What to connect to: this machine's address, but its loopback where nobody else may come in, since a client here
    that connects to the address has that one itself."""
    here = external is not None and world.container is None and AccessList(external.gate).loopback_only
    return LOOPBACK if here else world.external_host()


def carried_by(world: World, name: str, external: External) -> tuple[str, str | None]:
    """Kernel or userspace, and why it is not the kernel."""
    kernel, last = world.kernel, world.loop.last
    if kernel is not None and kernel.carries(external.port):
        return "kernel", None
    target = last.desired.routes.databases.get(name) or DatabaseTarget()
    fault = kernel.fault if kernel is not None else "this daemon has no kernel forwarder"
    wanted = carry(external, target.address, world.loop.rules.forwarder, fault)
    if wanted.kernel is None:
        return "userspace", wanted.why or "forwarder = userspace"
    failed = (f for f in last.failures if isinstance(f.action, ForwardInKernel) and f.action.database == name)
    return "userspace", next((str(failure.error) for failure in failed), "the kernel does not take it yet")


async def _warnings(world: World, name: str, external: External | None) -> list[str]:
    if not external or not external.enabled:
        return []
    found = []
    database = world.discovery.databases.get(name)
    if world.container is not None:
        found += _masked(external.gate, world.container)
        if world.external_host() == UNKNOWN_HOST:
            found.append("this machine's address is not known in Sidegate's container: set external_host")
    if external.gate.open_to_anybody:
        found.append(f"anybody who has the password may come in, from anywhere: sidegate external allow {name} CIDR")
    if not world.loop.last.engine_up:
        found.append(world.loop.last.engine_fault)
    elif database is None:
        found.append(f"{name} has no container: clients are turned away until it has one")
    elif not database.container.running:
        found.append(f"{database.container.name} is {database.container.state}: clients are turned away")
    else:
        found += await _asked(world, name, external)
    if database and database.container.published_ports:
        ports = listed(str(port) for port in database.container.published_ports if port) or "of the engine's choice"
        found.append(f"{database.container.name} publishes port {ports} itself, which no switch of ours closes")
    return found


def _masked(gate: Gate, container: OwnContainer) -> list[str]:
    """What lists are worth where the engine may show its own address for a client's."""
    masks = ", ".join(sorted(container.gateways)) or "its own"
    if gate.local:
        return [
            f"clients on this machine come as {masks} to Sidegate's container, which local = true turns away: publish "
            f"port {gate.port} at 127.0.0.1 instead"
        ]
    if gate.allow or gate.deny:
        return [
            f"lists do not tell clients apart whom Docker shows as {masks}: those on this machine, those over IPv6, "
            "and on Docker Desktop all"
        ]
    return []


async def _asked(world: World, name: str, external: External) -> list[str]:
    """What the server itself gives reason to say."""
    logins, found = world.logins, []
    tls, most = await asyncio.gather(logins.speaks_tls(name), logins.locks_out_after(name))
    if tls is False and not external.gate.local:
        found.append(f"{name} speaks no TLS: whoever is on the way reads what is sent; give its server a certificate")
    if most is not None:
        found.append(
            f"all external clients are one address to {name}, and its server turns that one away once {most} of them "
            "in a row have left without logging in (max_connect_errors): start it with --skip-name-resolve"
        )
    return found


async def forwarded_sessions(world: World, name: str) -> list[Session | KernelSession]:
    """Those of the workers and those of the kernel; what cannot be asked is left out."""
    found: list[Session | KernelSession] = []
    external, kernel = world.intent.externals.get(name), world.kernel
    try:
        if name in world.data_plane.listeners():
            found += await world.data_plane.sessions(name)
        if external and external.enabled and kernel and not kernel.fault:
            found += await kernel.sessions(external.port)
    except SidegateError as error:
        log.warning("sessions not known", database=name, error=str(error))
    return found


async def _nobody() -> list[Session | KernelSession]:
    return []


def session_views(name: str, sessions: list[Session | KernelSession]) -> list[schemas.SessionView]:
    """The oldest first; those of which it is not known come last."""
    views = [
        schemas.SessionView(
            database=name,
            client=s.client if isinstance(s, Session) else f"{s.client}:{s.client_port}",
            since=s.since,
            bytes_sent=s.bytes_sent,
            bytes_received=s.bytes_received,
            carrier="userspace" if isinstance(s, Session) else "kernel",
        )
        for s in sessions
    ]
    return sorted(views, key=lambda view: float("inf") if view.since is None else view.since)


def _entries(entries: tuple[Entry, ...]) -> list[schemas.EntryView]:
    return [schemas.EntryView(cidr=entry.cidr, description=entry.description) for entry in entries]


def _open_url(engine: DatabaseEngine | None, details: DatabaseDetails, host: str, port: int | None) -> str | None:
    """The URL without its password, which only `credentials` tells."""
    if engine is None or port is None or not details.user:
        return None
    login = DatabaseDetails(user=details.user, schema=details.schema)
    return engine.url(login, host, port).replace(":@", "@", 1)
