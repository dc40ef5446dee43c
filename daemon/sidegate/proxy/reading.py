"""Reading a worker's meters, when somebody asks and every few seconds: the rows of core.tally."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sidegate.proxy.acceptor import Acceptor
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.metrics import ForwarderMeter
from sidegate.proxy.tcp import Forwarder

Rows = dict[str, Sequence[float]]

_SCHEMES = ("http", "https")
_STATM, _FILES = Path("/proc/self/statm"), Path("/proc/self/fd")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def counters(
    gateway: Gateway, acceptors: Iterable[Acceptor], meters: Mapping[str, ForwarderMeter], open_: Iterable[Forwarder]
) -> Rows:
    """What has been counted since this process began. `meters` has one for each database that was ever open here."""
    found: Rows = {}
    under_way = Counter[str](), Counter[str]()
    for tunnel in gateway.tunnels:
        under_way[0][tunnel.meter.name] += tunnel.server_end.received
        under_way[1][tunnel.meter.name] += tunnel.client_end.received
    for meter in gateway.table.meters:
        for key, row in meter.counted():
            found[key] = row
        if f"app {meter.name}" in found and meter.tunnels:
            *rest, sent, received = found[f"app {meter.name}"]
            found[f"app {meter.name}"] = [*rest, sent + under_way[0][meter.name], received + under_way[1][meter.name]]
    for acceptor in acceptors:
        found[f"connections {_SCHEMES[acceptor.secure]}"] = [acceptor.accepted, acceptor.refused]
        if acceptor.secure:
            found["handshakes"] = [acceptor.shaken, acceptor.failed]
    found["shed"] = [gateway.parted]
    flowing = {forwarder.name: forwarder.bytes() for forwarder in open_}
    for name, forwarded in meters.items():
        received, sent = flowing.get(name, (0, 0))
        found[f"forwarder {name}"] = [forwarded.sessions, forwarded.received + received, forwarded.sent + sent]
        for reason, count in forwarded.refused.items():
            found[f"refusals {name} {reason}"] = [count]
    found["cpu"] = [time.process_time()]
    return found


def gauges(gateway: Gateway, open_: Iterable[Forwarder]) -> Rows:
    """How things stand now."""
    busy, parked, tunnels = Counter[str](), Counter[str](), Counter[str]()
    connections = [0, 0]
    for client in gateway.clients:
        connections[client.secure] += 1
        if (app := client.busy_for) is not None:
            busy[app] += 1
            parked[app] += client.parked
    for tunnel in gateway.tunnels:
        tunnels[tunnel.meter.name] += 1
        connections[tunnel.client_end.secure] += 1
    found: Rows = {f"now {app}": [busy[app], parked[app], tunnels[app]] for app in busy.keys() | tunnels.keys()}
    for scheme, count in zip(_SCHEMES, connections, strict=True):
        found[f"open {scheme}"] = [count]
    for forwarder in open_:
        found[f"sessions {forwarder.name}"] = [forwarder.count]
    found["process"] = [_resident_bytes(), _open_files()]
    return found


def _resident_bytes() -> int:
    """0 where it cannot be known. Source: proc(5), /proc/self/statm."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _open_files() -> int:
    """0 where it cannot be known. Linux 6.2 has their number as the size of /proc/self/fd; before, it is listed."""
    try:
        return _FILES.stat().st_size or sum(1 for _ in _FILES.iterdir()) - 1
    except OSError:
        return 0
