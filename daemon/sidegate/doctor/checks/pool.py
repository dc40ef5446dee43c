"""Addresses: our pool beside everything else that has some, Docker's own pools, and the size of packets."""

from collections.abc import Iterator
from ipaddress import IPv4Network
from itertools import islice

from sidegate.adapters.host import OUR_DEVICES
from sidegate.core.desired import is_ours
from sidegate.core.labels import INSTANCE, MANAGED
from sidegate.core.subnets import free_subnets
from sidegate.doctor.findings import Check, Told, fault, quoted, reference, warning
from sidegate.doctor.snapshot import Engine, HostRoute, Snapshot, known

TUNNELS = frozenset({"wireguard", "tun", "ppp", "ipip", "gre", "sit", "vti", "xfrm", "l2tp"})
TUNNEL_NAMES = ("tun", "tap", "wg", "ppp", "tailscale", "zt", "utun", "nordlynx", "ipsec")
OF_ENGINE = ("docker", "br-")
DOCKER_POOLS = tuple(
    (IPv4Network(base), size)
    for base, size in (
        *((f"172.{second}.0.0/16", 16) for second in (17, 18, 19)),
        *((f"172.{second}.0.0/14", 16) for second in (20, 24, 28)),
        ("192.168.0.0/16", 20),
    )
)
"""What an engine cuts networks from by itself (libnetwork's ipamutils)."""
FEW = 16
FEW_OF_DOCKER = 3
SHOWN = 5
PRIVATE = IPv4Network("10.0.0.0/8")
CUSTOMARY = IPv4Network("10.0.0.0/10")
"""What VPNs and data centres number from."""


def routes(seen: Snapshot) -> Iterator[Told]:
    for route in _foreign(seen):
        if not _is_tunnel(seen, route.device):
            command = f"ip route del {route.network} dev {quoted(route.device)}" if route.given else ""
            yield _overlap(seen, f"this host routes {route.network} to {route.device}", route, command)


def tunnels(seen: Snapshot) -> Iterator[Told]:
    for route in _foreign(seen):
        if _is_tunnel(seen, route.device):
            command = f"ip link set {quoted(route.device)} down"
            yield _overlap(seen, f"the VPN device {route.device} has {route.network}", route, command)


def _overlap(seen: Snapshot, what: str, route: HostRoute, command: str) -> Told:
    pool = seen.settings.internal_pool
    advice = f"{'Not where you, or others, come by it. ' if command else ''}{_elsewhere(seen)}"
    if pool.subnet_of(route.network):
        return fault(f"{what}, and all of internal_pool ({pool}) lies in it", command=command, advice=advice)
    return warning(f"{what}, which lies in internal_pool ({pool})", command=command, advice=advice)


def _elsewhere(seen: Snapshot) -> str:
    """A pool that nobody has."""
    taken = [str(route.network) for route in known(seen.routes) if route.network.prefixlen]
    taken += [str(subnet) for subnet in _docker_subnets(seen)] if isinstance(seen.engine, Engine) else []
    free = next(free_subnets(PRIVATE, seen.settings.internal_pool.prefixlen, [*taken, str(CUSTOMARY)]), None)
    setting = f'internal_pool = "{free}"' if free else "another internal_pool"
    return f"Or set {setting} and start the daemon again: networks that are there stay as they are."


def _foreign(seen: Snapshot) -> list[HostRoute]:
    """Routes into the pool that neither we nor the engine made, the widest of each device."""
    pool, taken = seen.settings.internal_pool, _docker_subnets(seen) if isinstance(seen.engine, Engine) else []
    into = [r for r in known(seen.routes) if r.network.prefixlen and r.network.overlaps(pool)]
    found: list[HostRoute] = []
    for route in sorted(into, key=lambda r: r.network.prefixlen):
        covered = any(route.device == wider.device and route.network.subnet_of(wider.network) for wider in found)
        if not (
            route.device.startswith((OUR_DEVICES, *OF_ENGINE))
            or covered
            or any(route.network.subnet_of(subnet) for subnet in taken)
        ):
            found.append(route)
    return found


def _docker_subnets(seen: Snapshot) -> list[IPv4Network]:
    return [subnet for network in known(seen.engine).state.networks for subnet in network.ipv4]


def _is_tunnel(seen: Snapshot, device: str) -> bool:
    links = seen.links if isinstance(seen.links, tuple) else ()
    kind = next((link.kind for link in links if link.name == device), "")
    return kind in TUNNELS or (not kind and device.startswith(TUNNEL_NAMES))


def networks(seen: Snapshot) -> Iterator[Told]:
    pool, rules = seen.settings.internal_pool, seen.settings.rules()
    for network in known(seen.engine).state.networks:
        if is_ours(network, rules):
            continue
        for subnet in network.ipv4:
            if not subnet.overlaps(pool):
                continue
            told = fault if pool.subnet_of(subnet) else warning
            text = f"Docker's network {network.name} has {subnet}, of internal_pool ({pool})"
            if network.labels.get(MANAGED) == "true":
                other = network.labels.get(INSTANCE, "")
                yield told(f"{text}: it is the daemon's of instance {other}", advice="Give each a pool of its own.")
            else:
                command = f"docker network rm {reference(network)}"
                yield told(text, command=command, advice=_elsewhere(seen))


def room(seen: Snapshot) -> Iterator[Told]:
    settings, state = seen.settings, known(seen.engine).state
    taken = {subnet for network in state.networks for subnet in network.subnets}
    taken |= {str(r.network) for r in known(seen.routes) if r.network.prefixlen and r.network.prefixlen < 32}
    total = 1 << (settings.internal_subnet - settings.internal_pool.prefixlen)
    free = sum(1 for _ in islice(free_subnets(settings.internal_pool, settings.internal_subnet, taken), FEW))
    wider = "Set a wider internal_pool, or a longer internal_subnet; networks that are there stay as they are."
    if not free:
        yield fault(f"internal_pool ({settings.internal_pool}) is used up: nothing more can be connected", advice=wider)
    elif free < min(FEW, max(1, total // 8)):
        yield warning(f"internal_pool ({settings.internal_pool}) has {free} of {total} networks left", advice=wider)


def docker_pools(seen: Snapshot) -> Iterator[Told]:
    engine = known(seen.engine)
    taken = [str(subnet) for subnet in _docker_subnets(seen)]
    taken += [str(r.network) for r in known(seen.routes) if r.network.prefixlen]
    left = 0
    for base, size in engine.pools or DOCKER_POOLS:
        left += sum(1 for _ in islice(free_subnets(base, size, taken), FEW_OF_DOCKER + 1))
    if left <= FEW_OF_DOCKER:
        yield warning(
            f"Docker's own address pools have {left or 'no'} networks left: `docker compose up` of a new project fails "
            "without one (Sidegate's networks come from a pool of their own)",
            command=f"docker network prune --filter label!={MANAGED}",
            advice="It asks first, and takes those of stopped projects, too. Or give the engine more pools: "
            "default-address-pools in /etc/docker/daemon.json.",
        )


def packets(seen: Snapshot) -> Iterator[Told]:
    """Connections' networks lead nowhere, so only those of deployed apps meet the uplink."""
    links = {link.name: link for link in known(seen.links)}
    uplink = links.get(seen.uplink)
    if uplink is None:
        return
    engine = known(seen.engine)
    rules = seen.settings.rules()
    own = [n for n in engine.state.networks if is_ours(n, rules) and not n.internal]
    sizes = {n.name: engine.mtus.get(n.name, 1500) for n in own}
    large = [n.name for n in own if sizes[n.name] > uplink.mtu]
    if large:
        yield warning(
            f"{_listed(large)}: packets have up to {max(sizes.values())} bytes, and {uplink.name} takes {uplink.mtu}: "
            "large answers may never arrive",
            advice="Remove each app (`sidegate app rm`) and deploy it again: new networks have the uplink's size.",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


CHECKS = (
    Check("pool-routes", "no route of this host leads into internal_pool", routes),
    Check("pool-vpn", "no VPN device has addresses of internal_pool", tunnels),
    Check("pool-networks", "no other Docker network has addresses of internal_pool", networks),
    Check("pool-room", "internal_pool has room for more networks", room),
    Check("docker-pools", "Docker's own address pools have room for more networks", docker_pools),
    Check("mtu", "packets of deployed apps fit the uplink", packets),
)
