"""Apps whose containers Sidegate makes, and what becomes of containers, as it travels."""

from sidegate.api.schemas.base import Request, Result


class DeployRequest(Request):
    """What an app shall run. What is left out stays as it is; where it never was, the port is the image's only one or
    8080, there is one replica, and the command is the image's.

    `domains` take the place of those that were given by command before. `health` is a path that answers 2xx or 3xx
    while a replica is well, or off. `command` is a list of words, empty for the image's own. `variables` are for run
    time, `dotenv` is a file's text with more of them.
    """

    image: str
    port: int | None = None
    replicas: int | None = None
    domains: list[str] | None = None
    health: str | None = None
    command: list[str] | None = None
    variables: dict[str, str] = {}
    dotenv: str | None = None


class PortRequest(Request):
    port: int


class DomainsRequest(Request):
    """Domains to add to those that were given by command, and to remove from them."""

    add: list[str] = []
    remove: list[str] = []


class LogsQuery(Request):
    """The last `tail` lines of each container; with `follow` also those that come, until the caller leaves."""

    tail: int = 100
    follow: bool = False


class Logs(Result):
    """`lines` is empty where they were told as they came."""

    app: str
    containers: list[str]
    lines: list[str]


class DeploymentView(Result):
    """What Sidegate runs of an app. `revision` changes with the image and the command; `image_id` is what the image's
    name meant when it was deployed."""

    image: str
    image_id: str
    replicas: int
    command: list[str]
    revision: str


class AppRemoved(Result):
    """`containers` and `network` were removed; `kept_containers` are others', which go on running."""

    app: str
    containers: list[str]
    network: str | None
    kept_containers: list[str]
    disconnected: list[str]
    variables_removed: int
