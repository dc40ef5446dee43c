"""The kernel's values, routes, devices, limits, names and tools of the host."""

import asyncio
import json
import os
import resource
import shutil
from collections.abc import Iterable
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any

from sidegate.adapters.docker.own_container import ENGINE_FILES, IN_PATH
from sidegate.adapters.host import parse_routes
from sidegate.adapters.nft.commands import FIRST_PID_NAMESPACE
from sidegate.adapters.tools import Tools
from sidegate.doctor.checks.names import PROBE
from sidegate.doctor.checks.tools import LOST
from sidegate.doctor.snapshot import Disk, HostRoute, Kernel, Limits, Link, Unseen
from sidegate.errors import HostToolError

PROC = Path("/proc")
SYSTEMD = Path("/run/systemd/system")
RESOLVE_SECONDS = 5.0
ASKED, NAMES = 20, 5
"""Names that are looked up, and that are told of."""
CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")


def read(path: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def contained() -> bool:
    """Whether this runs in a container. The files that say so also lie on machines that were made from an image."""
    return bool(container_of("self")) or (
        any(os.access(path, os.F_OK) for path in CONTAINER_FILES) and not host_processes()
    )


def container_of(pid: int | str) -> str:
    """The id of the container that a process is in, by the files that the engine mounts into each; empty: none."""
    for line in read(PROC / f"{pid}/mountinfo").splitlines():
        root, mounted = line.split()[3:5]
        if mounted in ENGINE_FILES and (match := IN_PATH.search(root)):
            return match[1]
    return ""


def host_processes() -> bool:
    """Whether all processes of the machine are seen from here."""
    try:
        return (PROC / "self/ns/pid").stat().st_ino == FIRST_PID_NAMESPACE
    except OSError:
        return True


def _number(name: str, missing: int = 0) -> int:
    text = read(PROC / "sys" / name)
    return int(text) if text.isdigit() else missing


def kernel() -> Kernel:
    first, _, last = read(PROC / "sys/net/ipv4/ip_local_port_range").partition("\t")
    bridge = read(PROC / "sys/net/bridge/bridge-nf-call-iptables")
    return Kernel(
        forwarding=bool(_number("net/ipv4/ip_forward", 1)),
        bridge_filter=int(bridge) if bridge else None,
        flows=_number("net/netfilter/nf_conntrack_count"),
        flows_most=_number("net/netfilter/nf_conntrack_max"),
        local_ports=range(int(first), int(last) + 1) if first and last else range(0),
        reserved_ports=frozenset(ports(read(PROC / "sys/net/ipv4/ip_local_reserved_ports"))),
    )


def ports(text: str) -> Iterable[int]:
    """Of a list such as 8080,30000-30999 (the kernel's proc_do_large_bitmap)."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


async def network() -> tuple[tuple[HostRoute, ...] | Unseen, tuple[Link, ...] | Unseen, str]:
    """Routes of every table, devices, and which of them leads to the world. A device that is down leads nowhere, though
    its address is still there."""
    tools = Tools()
    try:
        routes, links = await asyncio.gather(
            tools.run("ip", "-j", "-4", "route", "show", "table", "all"), tools.run("ip", "-j", "-d", "link", "show")
        )
        table = json.loads(routes.output or "[]")
        devices = json.loads(links.output or "[]")
    except (HostToolError, ValueError):
        main = parse_routes(read(PROC / "net/route"))
        uplink = min((r for r in main if not r.destination.prefixlen), key=lambda r: r.metric, default=None)
        found = tuple(HostRoute(r.destination, r.device) for r in main)
        return found, Unseen("`ip` is not installed", "`apt-get install iproute2`"), uplink.device if uplink else ""
    down = {row["ifname"] for row in devices if "UP" not in row.get("flags", ())} | {"lo"}
    defaults = [row for row in table if row.get("dst") == "default" and "table" not in row and row.get("dev")]
    uplink_row: dict[str, Any] = min(defaults, key=lambda row: int(row.get("metric", 0)), default={})
    return (
        tuple(
            HostRoute(_network(row["dst"]), row["dev"], given=row.get("protocol") != "kernel")
            for row in table
            if row.get("dev") and row.get("type", "unicast") in ("unicast", "local") and row["dev"] not in down
        ),
        tuple(
            Link(row["ifname"], row.get("linkinfo", {}).get("info_kind", ""), int(row.get("mtu", 0))) for row in devices
        ),
        str(uplink_row.get("dev", "")),
    )


def _network(text: str) -> IPv4Network:
    return IPv4Network("0.0.0.0/0" if text == "default" else text, strict=False)


async def limits(state_dir: Path, engine_dir: str, daemon_pid: int) -> Limits:
    """`daemon_pid` 0: none runs, and our own limit is what one that we start would have."""
    places = (("state_dir", _existing(state_dir)), ("the Docker engine", Path(engine_dir) if engine_dir else None))
    disks = [disk for what, path in places if path and (disk := _disk(what, path))]
    return Limits(open_files=_open_files(daemon_pid), disks=tuple(disks), synchronised=await _synchronised())


def _existing(path: Path) -> Path:
    """The directory itself, or the one that it would be made in."""
    return next((parent for parent in (path, *path.parents) if os.access(parent, os.F_OK)), Path("/"))


def _disk(what: str, path: Path) -> Disk | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return Disk(what, path, free, size, found.f_favail, found.f_files)


def _open_files(pid: int) -> int:
    for line in read(PROC / f"{pid or 'self'}/limits").splitlines():
        if line.startswith("Max open files"):
            hard = line.split()[4]
            return int(hard) if hard.isdigit() else 1 << 62
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


async def _synchronised() -> bool | None:
    """Only systemd is asked: a virtual machine's clock may be kept by its host, which the kernel does not know."""
    if not os.access(SYSTEMD, os.F_OK) or shutil.which("timedatectl") is None:
        return None
    try:
        asked = await Tools().run("timedatectl", "show", "--property=NTP", "--property=NTPSynchronized")
    except HostToolError:
        return None
    said = dict(line.split("=", 1) for line in asked.output.splitlines() if "=" in line)
    return {"yes": True, "no": False}.get(said.get("NTPSynchronized", ""))


async def unresolved(base_domain: str, apps: Iterable[str]) -> tuple[str, ...] | Unseen:
    """Which names of apps do not lead to loopback, a few at most; none where base_domain is not below localhost."""
    if base_domain.rpartition(".")[2] != "localhost":
        return ()
    if shutil.which("getent") is None:
        return Unseen("`getent` is not installed, which looks names up")
    names = [f"{app}.{base_domain}" for app in sorted(apps)[:ASKED]] or [f"{PROBE}.{base_domain}"]
    found = await asyncio.gather(*map(_is_loopback, names))
    return tuple(name for name, here in zip(names, found, strict=True) if not here)[:NAMES]


async def _is_loopback(name: str) -> bool:
    """By a process, which can be ended: a resolver's thread waits for name servers that do not answer."""
    try:
        found = await Tools(deadline=RESOLVE_SECONDS).run("getent", "ahosts", name)
    except HostToolError:
        return False
    addresses = [line.split()[0] for line in found.output.splitlines()]
    return bool(addresses) and all(ip_address(address).is_loopback for address in addresses)


def missing_tools() -> tuple[str, ...]:
    return tuple(tool for tool in LOST if shutil.which(tool) is None)
