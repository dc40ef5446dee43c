"""A whole look at a node: the settings, one snapshot of everything, every check."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sidegate.api.client import find_socket
from sidegate.core.directories import user_config
from sidegate.core.labels import discover
from sidegate.development import development_defaults, development_settings
from sidegate.doctor.checks import GROUPS
from sidegate.doctor.checks.ports import listening_settings
from sidegate.doctor.findings import Finding, findings
from sidegate.doctor.looking import daemon, engine, files, firewall, host, ports, processes
from sidegate.doctor.snapshot import Engine, Snapshot, Unseen
from sidegate.errors import SettingsError
from sidegate.settings import DEFAULT_FILE, DEFAULTS, Settings, load

SOCKET_NAME = "control.sock"
NO_NETWORK = Unseen("this container has a network of its own, and the host's is not seen from it")
NO_NAMES = Unseen("names are looked up on the host, not in this container")
NO_PROCESSES = Unseen("this container does not see the host's processes")


def examine(seen: Snapshot) -> tuple[Finding, ...]:
    """What all checks find, in their order. Pure."""
    return tuple(finding for group in GROUPS for finding in findings(group, seen))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The settings to look with, and what is wrong with them: then they are the defaults. `file` may hold some."""

    settings: Settings
    control: Path
    faults: tuple[str, ...] = ()
    file: Path = DEFAULT_FILE


def choose(config: Path | None, socket: str | None, environ: Mapping[str, str], *, dev: bool = False) -> Chosen:
    """The settings that `sidegate run` would have here, or `sidegate run --dev`. The control socket is theirs, or where
    the command line finds one."""
    file = config or (user_config(environ) if dev else DEFAULT_FILE)
    faults: tuple[str, ...] = ()
    try:
        settings = development_settings(config, environ) if dev else load(config, environ)
    except SettingsError as error:
        settings, faults = development_defaults(environ) if dev else DEFAULTS, tuple(str(error).splitlines())
    except OSError as error:
        settings, faults = development_defaults(environ) if dev else DEFAULTS, (f"{file}: {error.strerror}",)
    control = settings.runtime_dir / SOCKET_NAME
    if socket or not (dev or config or os.access(control, os.F_OK)):
        control = find_socket(socket, environ)
    return Chosen(settings, control, faults, file)


def look(config: Path | None, socket: str | None = None, *, dev: bool = False) -> Snapshot:
    """Everything that checks need. Where a daemon answers and nobody said which settings to take, they are its own."""
    return asyncio.run(_look(choose(config, socket, os.environ, dev=dev), given=bool(config or dev)))


def inside(settings: Settings, root: Path) -> Settings:
    """The same, with the files of a daemon whose root directory that is."""
    certificates = settings.certificates and root / settings.certificates.relative_to("/")
    return replace(settings, state_dir=root / settings.state_dir.relative_to("/"), certificates=certificates)


async def _look(chosen: Chosen, *, given: bool) -> Snapshot:
    control, settings, faults = chosen.control, chosen.settings, chosen.faults
    running = await asyncio.to_thread(processes.daemons)
    found_daemon = await asyncio.to_thread(daemon.look, control, settings.state_dir)
    own = next((d.settings for d in running if found_daemon.status and d.pid == found_daemon.pid), None)
    if own is not None and own != settings and not given:
        settings, faults = own, ()
        found_daemon = await asyncio.to_thread(daemon.look, control, settings.state_dir)
    (reach, seen_engine), (routes, links, uplink) = await asyncio.gather(
        engine.look(settings.docker_host), host.network()
    )
    pid = found_daemon.pid if found_daemon.status is not None else 0
    viewer = processes.viewer(pid, [] if isinstance(links, Unseen) else [link.name for link in links])
    placed = settings
    if not viewer.contained and any(d.container for d in running if pid and d.pid == pid):
        placed = inside(settings, Path(f"/proc/{pid}/root"))
    apart = viewer.contained and not viewer.host_network
    engine_dir = seen_engine.root_dir if isinstance(seen_engine, Engine) else ""
    base = Snapshot(settings=settings)
    wanted = {settings.http_port, settings.https_port, *listening_settings(base).values(), *settings.external_ports}
    seen_firewall, limits, listeners, seen_files, apps = await asyncio.gather(
        firewall.look(viewer),
        host.limits(placed.state_dir, engine_dir, pid),
        asyncio.to_thread(ports.look, wanted),
        asyncio.to_thread(files.look, placed, control),
        asyncio.to_thread(daemon.apps, control) if pid else asyncio.sleep(0, []),
    )
    if not pid and isinstance(seen_engine, Engine):
        apps = list(discover(seen_engine.state.containers, settings.rules()).apps)
    return Snapshot(
        settings=settings,
        settings_faults=faults,
        settings_file=chosen.file,
        viewer=viewer,
        daemon=found_daemon,
        daemons=NO_PROCESSES if viewer.contained and not viewer.host_processes else running,
        reach=reach,
        engine=seen_engine,
        kernel=NO_NETWORK if apart else host.kernel(),
        routes=NO_NETWORK if apart else routes,
        links=NO_NETWORK if apart else links,
        uplink=uplink,
        firewall=NO_NETWORK if apart else seen_firewall,
        listeners=listeners,
        files=seen_files,
        limits=limits,
        unresolved=NO_NAMES if viewer.contained else await host.unresolved(settings.base_domain, apps),
        missing_tools=host.missing_tools(),
    )
