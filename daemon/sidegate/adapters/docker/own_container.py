"""Which container this process is in, and what that means for what it can reach. Asked once, at the start.

Where the process sees the host's network namespace nothing needs to be known of its container. Else a name for it is
looked for in what the kernel says of this process, and the engine is asked whether that is a container of its own and
this process is in it: inside an engine that runs in a container itself, the outer one's id means nothing.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from sidegate.adapters.docker.client import EngineAnswerError, EngineClient
from sidegate.adapters.docker.documents import ContainerDocument, EndpointDocument
from sidegate.core.guest import VISITOR, OwnContainer
from sidegate.errors import EngineUnavailableError, SettingsError

AUTO, NONE = "auto", "none"
"""Values of the setting own_container that name no container."""

PATIENCE = 30.0
"""Seconds to wait for an engine that does not answer: without it nobody can say where we are."""
RETRY = 0.25

ENGINE_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
IN_PATH = re.compile(r"/containers/([0-9a-f]{64})/")
IN_CGROUP = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
SHORT_ID = re.compile(r"[0-9a-f]{12}")


async def find_own_container(docker_host: str, given: str = AUTO, *, proc: Path = Path("/proc")) -> OwnContainer | None:
    """None where the process is in no container of this engine, or in one that has the host's network.

    `given` is the setting own_container. Raises SettingsError where it names no container that this process is in,
    EngineUnavailableError.
    """
    outer = outer_process(proc)
    if given == NONE or (given == AUTO and outer and _shares_network(outer, proc)):
        return None
    names = list(candidates(proc)) if given == AUTO else [given]
    if not names:
        return None
    client = EngineClient(docker_host, timeout=5, pool_size=1)
    try:
        for name in names:
            if document := await _asked(client, name):
                found = await _owner_of_network(client, document)
                if _is_here(found, document, proc):
                    return None if found.host_config.network_mode == "host" else described(found, outer)
    finally:
        client.close()
    if given != AUTO:
        raise SettingsError(f"own_container = {given!r}: this process is not in a container of that name or id")
    return None


def candidates(proc: Path) -> Iterator[str]:
    """What may be the id of this process's container, the surest first, each once."""
    found: dict[str, None] = {}
    with contextlib.suppress(OSError):
        for line in (proc / "self/mountinfo").read_text().splitlines():
            root, mounted = line.split()[3:5]  # proc_pid_mountinfo(5)
            if mounted in ENGINE_FILES and (match := IN_PATH.search(root)):
                found[match[1]] = None
    with contextlib.suppress(OSError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            found |= dict.fromkeys(reversed(IN_CGROUP.findall(line)))
    if SHORT_ID.fullmatch(name := socket.gethostname()):
        found[name] = None
    yield from found


def outer_process(proc: Path = Path("/proc")) -> int:
    """The nearest ancestor that is outside of this container: what keeps it for the engine, in the engine's network.
    0: there is none, or it cannot be seen from here."""
    try:
        pid = _parent(proc / "self")
        while pid and (proc / f"{pid}/ns/mnt").samefile(proc / "self/ns/mnt"):
            pid = _parent(proc / str(pid))
    except OSError:
        return 0
    return pid


def _parent(process: Path) -> int:
    """proc_pid_stat(5), field 4; 0 above the first process of a pid namespace."""
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _shares_network(pid: int, proc: Path) -> bool:
    try:
        return (proc / f"{pid}/ns/net").samefile(proc / "self/ns/net")
    except OSError:
        return False


async def _asked(client: EngineClient, name: str) -> ContainerDocument | None:
    """None: there is no such container. Raises EngineUnavailableError once PATIENCE has run out."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await asyncio.to_thread(client.container, name)
        except EngineAnswerError as error:
            if error.http_status == 404:
                return None
            raise
        except EngineUnavailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(RETRY)


async def _owner_of_network(client: EngineClient, document: ContainerDocument) -> ContainerDocument:
    """The container whose network this one has: itself, unless it was started with another's."""
    mode = document.host_config.network_mode
    if not mode.startswith("container:"):
        return document
    return await _asked(client, mode.removeprefix("container:")) or document


def _is_here(owner: ContainerDocument, document: ContainerDocument, proc: Path) -> bool:
    """Whether this process is in `document`, by its namespaces; where processes cannot be seen, by the addresses."""
    if document.state.status != "running":
        return False
    with contextlib.suppress(OSError):
        return (proc / f"{document.state.pid}/ns/mnt").samefile(proc / "self/ns/mnt")
    if owner.host_config.network_mode == "host":
        return True
    addresses = [e.ip_address for e in (owner.network_settings.networks or {}).values() if e.ip_address]
    return bool(addresses) and all(map(_bindable, addresses))


def _bindable(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def described(document: ContainerDocument, outer: int) -> OwnContainer:
    """As it was started: a daemon that was killed is still a guest elsewhere, and containers there could pretend to be
    the bridge."""
    endpoints = (document.network_settings.networks or {}).values()
    networks = [e for e in endpoints if not _is_visit(e)]
    return OwnContainer(
        document.id,
        document.name.removeprefix("/"),
        frozenset(g for e in networks for g in (e.gateway, e.ipv6_gateway) if g),
        frozenset(
            int(port)
            for key, bindings in (document.host_config.port_bindings or {}).items()
            for port, _, protocol in (key.partition("/"),)
            if protocol == "tcp" and any(binding.host_port == port for binding in bindings or ())
        ),
        outer,
    )


def _is_visit(endpoint: EndpointDocument) -> bool:
    names = (*(endpoint.aliases or ()), *(endpoint.dns_names or ()))
    return any(name.endswith(VISITOR) for name in names)
