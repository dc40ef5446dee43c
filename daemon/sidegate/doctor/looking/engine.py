"""The engine: whether its socket can be reached, what it says of itself, and what it has."""

import asyncio
import contextlib
import grp
import shutil
import socket
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from sidegate.adapters.docker import DockerEngine
from sidegate.adapters.docker.calls import EngineCalls
from sidegate.adapters.docker.documents import Document
from sidegate.doctor.looking.host import contained
from sidegate.doctor.snapshot import Engine, Publication, Reach, Unseen
from sidegate.errors import EngineUnavailableError, SidegateError

SECONDS = 6.0
CONNECT_SECONDS = 3.0
TCP_PORT = 2375
CONFIG = Path("/etc/docker/daemon.json")
MTU_OPTION = "com.docker.network.driver.mtu"


class _Version(Document, frozen=True):
    """`GET /version`."""

    version: str = ""
    api_version: str = ""
    least: str = msgspec.field(name="MinAPIVersion", default="")


class _Pool(Document, frozen=True):
    base: str
    size: int


class _Swarm(Document, frozen=True):
    local_node_state: str = ""


class _Backend(Document, frozen=True):
    driver: str = ""


class _Info(Document, frozen=True):
    """`GET /info`."""

    live_restore_enabled: bool = False
    security_options: tuple[str, ...] | None = None
    docker_root_dir: str = ""
    operating_system: str = ""
    default_address_pools: tuple[_Pool, ...] | None = None
    swarm: _Swarm | None = None
    firewall_backend: _Backend | None = None


class _Network(Document, frozen=True):
    """A row of `GET /networks`."""

    name: str
    options: dict[str, str] | None = None


class _Port(Document, frozen=True):
    ip: str = msgspec.field(name="IP", default="")
    public_port: int = 0
    type: str = ""


class _Container(Document, frozen=True):
    """A row of `GET /containers/json`."""

    id: str
    names: tuple[str, ...] | None = None
    ports: tuple[_Port, ...] | None = None


async def look(docker_host: str) -> tuple[Reach, Engine | Unseen]:
    """Blocks nothing; an engine that hangs costs SECONDS."""
    engine = DockerEngine(docker_host, deadline=SECONDS)
    calls = EngineCalls(docker_host, deadline=SECONDS, threads=4)
    url = calls.client.host
    try:
        reach = await asyncio.to_thread(_reach, url)
        if reach.fault:
            return reach, Unseen("the Docker engine does not answer")
        version, info, networks, rows = await asyncio.gather(
            calls.get("say its version", "/version", _Version),
            calls.get("describe itself", "/info", _Info),
            calls.get("list networks", "/networks", list[_Network]),
            calls.get("list containers", "/containers/json", list[_Container]),
        )
        state = await engine.observe()
    except EngineUnavailableError as error:
        return Reach(url=url, fault="silent", said=str(error)), Unseen("the Docker engine does not answer")
    except SidegateError as error:
        return Reach(url=url, fault="other", said=str(error)), Unseen("the Docker engine cannot be used")
    finally:
        calls.close()
        await engine.close()
    options = info.security_options or ()
    found = Engine(
        version=version.version,
        api=version.api_version,
        least_api=version.least,
        rootless=any("name=rootless" in option for option in options),
        desktop=info.operating_system == "Docker Desktop",
        swarm=info.swarm is not None and info.swarm.local_node_state == "active",
        live_restore=info.live_restore_enabled,
        userland_proxy=await asyncio.to_thread(_userland_proxy),
        root_dir=info.docker_root_dir,
        firewall=info.firewall_backend.driver.partition("+")[0] if info.firewall_backend else "",
        config_file=contained() or may_be(CONFIG),
        pools=tuple(_pools(info)),
        mtus=_mtus(networks),
        publications=_publications(rows),
        state=state,
    )
    return reach, found


def _pools(info: _Info) -> list[tuple[IPv4Network, int]]:
    pools = info.default_address_pools or ()
    return [(IPv4Network(pool.base, strict=False), pool.size) for pool in pools if ":" not in pool.base]


def _mtus(networks: list[_Network]) -> Mapping[str, int]:
    given = {network.name: (network.options or {}).get(MTU_OPTION, "") for network in networks}
    return {name: int(text) for name, text in given.items() if text.isdigit()}


def _publications(rows: list[_Container]) -> tuple[Publication, ...]:
    return tuple(
        sorted(
            {
                Publication((row.names or (row.id[:12],))[0].removeprefix("/"), port.ip, port.public_port, row.id)
                for row in rows
                for port in row.ports or ()
                if port.public_port and port.type == "tcp"
            },
            key=lambda p: (p.port, p.container, p.address),
        )
    )


def _reach(url: str) -> Reach:
    """One connection, made and closed."""
    installed = shutil.which("dockerd") is not None or contained()
    parts = urlsplit(url)
    path = Path(parts.path)
    family = socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET
    try:
        if family == socket.AF_UNIX:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(CONNECT_SECONDS)
                probe.connect(str(path))
        elif parts.hostname is None or parts.scheme not in ("tcp", "http", "https"):
            return Reach(url=url, fault="other", said=f"{parts.scheme or url} is no address that Sidegate can use")
        else:
            address = (parts.hostname, parts.port or TCP_PORT)
            socket.create_connection(address, CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        kinds: dict[type[Exception], str] = {
            FileNotFoundError: "missing",
            NotADirectoryError: "missing",
            PermissionError: "denied",
        }
        kinds |= {ConnectionRefusedError: "refused", TimeoutError: "silent", BlockingIOError: "silent"}
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        kind = kinds.get(type(error), "other")
        return Reach(url=url, fault=kind, said=said, group=_group(path), installed=installed)
    return Reach(url=url, installed=installed)


def _group(path: Path) -> str:
    """Whose group the socket is, where joining it helps."""
    try:
        found = path.stat()
        return grp.getgrgid(found.st_gid).gr_name if found.st_gid and found.st_mode & 0o060 == 0o060 else ""
    except (OSError, KeyError):
        return ""


def may_be(path: Path) -> bool:
    """Whether it is there, or cannot be seen from here."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _userland_proxy() -> bool:
    """Whether one runs: the engine does not say."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if (process / "comm").read_text().strip() == "docker-proxy":
                    return True
    return False
