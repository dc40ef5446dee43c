"""Containers to be made or made anew: what is asked for, and what is there at the moment that somebody decides.

Plain values between the rollouts and whoever talks to the engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidegate.core.model import Container


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image on this node. `id` is sha256:…; `exposed_ports` are TCP ports in order; `health_check`: it brings one,
    so that each container of it has a health unless it was told otherwise."""

    id: str
    exposed_ports: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    health_check: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container of our own. It restarts unless somebody stopped it.

    `image` is the reference that people gave; `image_id`, where it is known, decides, also when a tag has moved on.
    `env` is given literally, over the image's own. `network` is its only one until the loop adds those of its
    connections; `volumes` maps a named volume to the path where it is mounted; `command` is empty for the image's own.
    `stop_timeout` is in seconds; 0 leaves it to the engine (ten).
    """

    image: str
    image_id: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = "bridge"
    aliases: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    stop_timeout: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A container as it was a moment ago, with all that it takes to make it again.

    `image_id` is what its image was, whatever the reference `container.image` means now. `exit_code` is that of its
    last end, `restart_count` how often the engine has restarted it since it was started. `strategy_fault` says why two
    of it cannot run side by side, in words that follow "because"; empty where they can. `document` is for whoever took
    the snapshot, and has secrets in it.
    """

    container: Container
    image_id: str = ""
    exit_code: int = 0
    restart_count: int = 0
    strategy_fault: str = ""
    document: Mapping[str, object] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:  # the container's would show its environment
        return f"<Snapshot {self.name} {self.id[:12]} {self.container.state} {self.health}>"

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def name(self) -> str:
        """Without the engine's leading slash."""
        return self.container.name

    @property
    def env(self) -> Mapping[str, str]:
        return self.container.env

    @property
    def labels(self) -> Mapping[str, str]:
        return self.container.labels

    @property
    def running(self) -> bool:
        return self.container.running

    @property
    def health(self) -> str:
        """Empty without a health check, else starting, healthy or unhealthy."""
        return self.container.health

    @property
    def addresses(self) -> Mapping[str, str]:
        """network -> IPv4 address; only while it runs, and none for host or another container's namespace."""
        return {endpoint.network: endpoint.address for endpoint in self.container.endpoints if endpoint.address}


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a container wrote, without its newline. `stream` is stdout or stderr; a terminal has stdout only."""

    text: str
    stream: str = "stdout"
