"""What was seen of a node, as plain frozen values; `Unseen` stands where somebody could not look.

Nothing here knows where it comes from, and a check needs nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

from sidegate.adapters.nft.commands import Object
from sidegate.core.model import EngineState, Problem
from sidegate.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unseen:
    """Why something was not looked at, and what to do to have it looked at (empty: nothing can be done)."""

    why: str
    advice: str = ""


class NotSeenError(Exception):
    """A check needs what could not be looked at."""

    def __init__(self, unseen: Unseen) -> None:
        super().__init__(unseen.why)
        self.unseen = unseen


def known(value: T | Unseen) -> T:
    """`value`; raises NotSeenError where there is none."""
    if isinstance(value, Unseen):
        raise NotSeenError(value)
    return value


# --- who looks, and at which daemon --------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who runs this, and where. `root` on the whole machine, with all that the firewall needs; `lacking`: capabilities
    that the daemon needs and that it, or where it does not run we, do not have. `container` is the id of the one that
    this runs in, where `contained`."""

    uid: int = 0
    name: str = "root"
    root: bool = True
    contained: bool = False
    container: str = ""
    host_processes: bool = True
    host_network: bool = True
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A process that is `sidegate run`. `settings` are those that it was started with, None where they could not be
    read; `family` are its own pid and those of all its descendants; `container` is the id of the one that it runs in,
    empty where that is none."""

    pid: int
    settings: Settings | None = None
    family: frozenset[int] = frozenset()
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStatus:
    """What a daemon says of itself. `engine_fault` is empty where it has the engine; `failures` are of its last pass;
    `pool` is a CIDR; `kernel`: the kernel carries some external connection for it."""

    version: str
    pool: str
    ready: bool = True
    engine_fault: str = ""
    failures: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    kernel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What the control socket says. `file`: socket, other, or empty where there is none; `status` None where nobody
    answers (`fault` says why, `stale` that nobody listens); `pid` and `uid` are of who listens; `holder` who holds the
    lock of state_dir, 0 for nobody, and None where that cannot be seen."""

    path: Path = Path("/run/sidegate/control.sock")
    file: str = ""
    pid: int = 0
    uid: int = 0
    status: DaemonStatus | None = None
    fault: str = ""
    stale: bool = False
    denied: bool = False
    holder: int | None = 0


# --- the engine --------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Whether the engine's socket can be reached: `fault` is empty, missing, denied, refused, silent or other.

    `said` are the system's or the engine's words; `group` owns the socket (empty where that is root's, or it is none);
    `installed`: there is an engine on this machine to be started.
    """

    url: str = "unix:///var/run/docker.sock"
    fault: str = ""
    said: str = ""
    group: str = ""
    installed: bool = True


@dataclass(frozen=True, slots=True)
class Publication:
    """A running container's TCP port on the host. `address` is where it listens, `id` the container's."""

    container: str
    address: str
    port: int
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What the engine says of itself and has. `pools` are the configured default address pools with the prefix length
    of the networks cut from them, empty for Docker's own; `mtus`: network -> what it was made with, where that was
    said; `firewall` is iptables, nftables or empty where the engine is too old to say; `config_file`: daemon.json is
    there, or cannot be seen from here; `publications` are of containers that run."""

    version: str = "20.10.24"
    api: str = "1.41"
    least_api: str = "1.12"
    rootless: bool = False
    desktop: bool = False
    swarm: bool = False
    live_restore: bool = True
    userland_proxy: bool = False
    root_dir: str = "/var/lib/docker"
    firewall: str = ""
    config_file: bool = False
    pools: tuple[tuple[IPv4Network, int], ...] = ()
    mtus: Mapping[str, int] = field(default_factory=dict)
    publications: tuple[Publication, ...] = ()
    state: EngineState = field(default_factory=EngineState)


# --- the host --------------------


@dataclass(frozen=True, slots=True)
class HostRoute:
    """An IPv4 route of any table, or an address of this machine. `given`: somebody set it, so that he can take it away;
    else it comes with an address of the device."""

    network: IPv4Network
    device: str
    given: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `kind` is the kernel's word (bridge, wireguard, tun, ...), empty for hardware."""

    name: str
    kind: str = ""
    mtu: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Values of /proc/sys. `bridge_filter` is bridge-nf-call-iptables, None where the module is not loaded;
    `flows` and `flows_most` are of the connection tracking, 0 where it is not there."""

    forwarding: bool = True
    bridge_filter: int | None = 1
    flows: int = 0
    flows_most: int = 0
    local_ports: range = range(32768, 61000)
    reserved_ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """`iptables -S` of the filter table, the same of iptables-legacy where that has one, and nft's whole rule set.
    `nf_tables`: iptables' chains are nft's as well. `manager` is ufw, firewalld or empty."""

    iptables: str = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"
    legacy: str = ""
    ruleset: tuple[Object, ...] = ()
    nf_tables: bool = True
    manager: str = ""


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP port that somebody listens on. `holder` is such as "nginx (pid 812)", empty where it cannot be seen."""

    port: int
    holder: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class File:
    """A file or directory that is there."""

    path: Path
    mode: int
    uid: int
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Those that are there, each perhaps out of sight. `control` is the control socket; `keys` are private keys."""

    state_dir: File | Unseen | None = None
    state: tuple[File, ...] | Unseen = ()
    control: File | Unseen | None = None
    keys: tuple[File, ...] | Unseen = ()
    control_group: bool = True


@dataclass(frozen=True, slots=True)
class Disk:
    """Room where `what` lies: bytes, and inodes (0 where the file system has no number of them)."""

    what: str
    path: Path
    free: int
    size: int
    inodes_free: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`open_files` is the hard limit of the daemon, or of us; `synchronised` None where nobody can say."""

    open_files: int = 1_048_576
    disks: tuple[Disk, ...] = ()
    synchronised: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that was seen of a node. `settings_faults` are lines about settings that could not be read: `settings` are
    the defaults then."""

    settings: Settings = field(default_factory=Settings)
    settings_faults: tuple[str, ...] = ()
    settings_file: Path = Path("/etc/sidegate/sidegate.toml")
    viewer: Viewer = field(default_factory=Viewer)
    daemon: Daemon = field(default_factory=Daemon)
    daemons: tuple[RunningDaemon, ...] | Unseen = ()
    reach: Reach = field(default_factory=Reach)
    engine: Engine | Unseen = field(default_factory=Engine)
    kernel: Kernel | Unseen = field(default_factory=Kernel)
    routes: tuple[HostRoute, ...] | Unseen = ()
    links: tuple[Link, ...] | Unseen = ()
    uplink: str = ""
    firewall: Firewall | Unseen = field(default_factory=Firewall)
    listeners: tuple[Listener, ...] = ()
    files: Files = field(default_factory=Files)
    limits: Limits = field(default_factory=Limits)
    unresolved: tuple[str, ...] | Unseen = ()
    """names below localhost that do not lead to this machine"""
    missing_tools: tuple[str, ...] = ()

    def daemon_of(self, instance: str) -> RunningDaemon | None:
        """The daemon of an instance, where it runs. Raises NotSeenError where that cannot be said."""
        daemons = known(self.daemons)
        found = next((d for d in daemons if d.settings and d.settings.instance == instance), None)
        if found is None and any(d.settings is None for d in daemons):
            raise NotSeenError(Unseen("another user's daemon runs, and which instance it is cannot be seen", AS_ROOT))
        return found

    @property
    def own_containers(self) -> frozenset[str]:
        """Ids of those in which daemons run, or we do."""
        daemons = () if isinstance(self.daemons, Unseen) else self.daemons
        return frozenset({self.viewer.container, *(daemon.container for daemon in daemons)} - {""})

    @property
    def ours(self) -> RunningDaemon | None:
        """The daemon that answers at the control socket, as a process."""
        daemons = () if isinstance(self.daemons, Unseen) else self.daemons
        return next((d for d in daemons if self.daemon.pid and d.pid == self.daemon.pid), None)


AS_ROOT = "run it as root: `sudo sidegate doctor`"
