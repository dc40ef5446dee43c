"""Ports that the daemon listens on, or gives to external connections."""

from collections.abc import Iterable, Iterator

from sidegate.doctor.findings import Check, Told, fault, quoted, warning
from sidegate.doctor.snapshot import AS_ROOT, Engine, Listener, NotSeenError, Publication, Snapshot, Unseen, known

SHOWN = 5
OPTIONAL = ("page_listen", "metrics_listen")
"""Settings such as "127.0.0.1:9913", of which there may be none."""


def http(seen: Snapshot) -> Iterator[Told]:
    settings = seen.settings
    for name, port in (("http_port", settings.http_port), ("https_port", settings.https_port)):
        if port:
            yield from _held(seen, name, port)


def optional(seen: Snapshot) -> Iterator[Told]:
    for name, port in listening_settings(seen).items():
        yield from _held(seen, name, port)


def listening_settings(seen: Snapshot) -> dict[str, int]:
    """Setting -> its port, for those that say where else to listen."""
    given = {name: str(getattr(seen.settings, name, "")) for name in OPTIONAL}
    ports = {name: text.rpartition(":")[2] for name, text in given.items()}
    return {name: int(port) for name, port in ports.items() if port.isdigit()}


def _held(seen: Snapshot, setting: str, port: int) -> Iterator[Told]:
    for publication in _publications(seen):
        if publication.port == port:
            yield fault(
                f"container {publication.container} publishes port {port}, which {setting} says is the daemon's",
                command=f"docker stop {quoted(publication.container)}",
                advice=f"And make it anew without -p: the daemon leads to it. Or choose another {setting}.",
            )
            return
    for listener in _strangers(seen):
        if listener.port == port:
            if not listener.pid and (seen.daemon.denied or seen.daemons):
                raise NotSeenError(Unseen(f"who holds port {port} is only shown to root", AS_ROOT))
            who = listener.holder or "a process that only root can see"
            yield fault(
                f"port {port} ({setting}) is held by {who}",
                # The first process listens for others (systemd's sockets).
                command=f"kill {listener.pid}" if listener.pid > 1 else f"sudo ss -ltnp 'sport = :{port}'",
                advice=f"Better stop the service that it belongs to, for good; or choose another {setting}.",
            )


def external(seen: Snapshot) -> Iterator[Told]:
    ports = seen.settings.external_ports
    held = {p.port: f"container {p.container}" for p in _publications(seen) if p.port in ports}
    held |= {li.port: li.holder or "a process that only root can see" for li in _strangers(seen) if li.port in ports}
    if held:
        some = ", ".join(f"{port} by {who}" for port, who in sorted(held.items())[:SHOWN])
        more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
        yield warning(
            f"ports of external_ports are held by others: {some}{more}",
            command=f"sudo ss -ltnp 'sport >= :{ports.start} and sport <= :{ports.stop - 1}'",
            advice="A database that was given one cannot be switched on until it is free: stop that, or choose others.",
        )


def _strangers(seen: Snapshot) -> list[Listener]:
    """Listeners that are no daemon's, nor the engine's for one. An unseen holder is taken for the daemon where one
    answers."""
    published: set[int] = set()
    if isinstance(seen.engine, Engine):
        published = {p.port for p in seen.engine.publications if p.id in seen.own_containers}
    daemons = () if isinstance(seen.daemons, Unseen) else seen.daemons
    own: set[int] = set().union(*(d.family for d in daemons if d.settings is None or d.settings == seen.settings))
    if seen.ours:
        own |= seen.ours.family
    answers = seen.daemon.status is not None
    return [li for li in seen.listeners if li.pid not in own and (li.pid or not answers) and li.port not in published]


def _publications(seen: Snapshot) -> list[Publication]:
    """Of containers in which no daemon of ours runs."""
    if isinstance(seen.engine, Unseen):
        return []
    return [p for p in seen.engine.publications if p.id not in seen.own_containers]


def outgoing(seen: Snapshot) -> Iterator[Told]:
    ports, kernel = seen.settings.external_ports, known(seen.kernel)
    local = kernel.local_ports
    shared = range(max(ports.start, local.start), min(ports.stop, local.stop))
    if any(port not in kernel.reserved_ports for port in shared):
        span = f"{shared.start}-{shared.stop - 1}"
        kept = _ranges({*kernel.reserved_ports, *shared})
        yield warning(
            f"the kernel gives out {span} of external_ports to outgoing connections (net.ipv4.ip_local_port_range), "
            "so that one of them may be taken when a database needs it",
            command=f"sysctl -w net.ipv4.ip_local_reserved_ports={kept}",
        )


def _ranges(ports: Iterable[int]) -> str:
    """As the kernel takes them: 80,30000-30999."""
    found: list[range] = []
    for port in sorted(ports):
        if found and found[-1].stop == port:
            found[-1] = range(found[-1].start, port + 1)
        else:
            found.append(range(port, port + 1))
    return ",".join(str(span.start) if len(span) == 1 else f"{span.start}-{span.stop - 1}" for span in found)


CHECKS = (
    Check("http-ports", "http_port and https_port are free, or the daemon's", http),
    Check("other-ports", "the ports of the page and of metrics are free, or the daemon's", optional),
    Check("external-ports", "no other process holds a port of external_ports", external),
    Check("outgoing-ports", "the kernel gives no port of external_ports to outgoing connections", outgoing),
)
