"""The shapes of requests and results, as they travel over the control socket. Values only, no rules.

Requests refuse fields they do not know; results may gain fields, so clients ignore what they do not know. Times are
Unix times in seconds. `null` means unknown or not there, never empty.
"""

from sidegate.api.schemas.base import ProblemDocument as ProblemDocument
from sidegate.api.schemas.base import ProblemView as ProblemView
from sidegate.api.schemas.base import Request as Request
from sidegate.api.schemas.base import Result as Result
from sidegate.api.schemas.builds import BuildQuery as BuildQuery
from sidegate.api.schemas.builds import Built as Built
from sidegate.api.schemas.deployments import AppRemoved as AppRemoved
from sidegate.api.schemas.deployments import DeploymentView as DeploymentView
from sidegate.api.schemas.deployments import DeployRequest as DeployRequest
from sidegate.api.schemas.deployments import DomainsRequest as DomainsRequest
from sidegate.api.schemas.deployments import Logs as Logs
from sidegate.api.schemas.deployments import LogsQuery as LogsQuery
from sidegate.api.schemas.deployments import PortRequest as PortRequest
from sidegate.api.schemas.external import EntryView as EntryView
from sidegate.api.schemas.external import ExternalEdit as ExternalEdit
from sidegate.api.schemas.external import ExternalRequest as ExternalRequest
from sidegate.api.schemas.external import ExternalView as ExternalView
from sidegate.api.schemas.external import Kicked as Kicked
from sidegate.api.schemas.external import KickQuery as KickQuery
from sidegate.api.schemas.external import SessionView as SessionView
from sidegate.api.schemas.node import AuditQuery as AuditQuery
from sidegate.api.schemas.node import AuditView as AuditView
from sidegate.api.schemas.node import CountsView as CountsView
from sidegate.api.schemas.node import EngineView as EngineView
from sidegate.api.schemas.node import EventsQuery as EventsQuery
from sidegate.api.schemas.node import EventView as EventView
from sidegate.api.schemas.node import ForwarderView as ForwarderView
from sidegate.api.schemas.node import LeftOutView as LeftOutView
from sidegate.api.schemas.node import ListeningView as ListeningView
from sidegate.api.schemas.node import PassView as PassView
from sidegate.api.schemas.node import PoolView as PoolView
from sidegate.api.schemas.node import Purged as Purged
from sidegate.api.schemas.node import Status as Status
from sidegate.api.schemas.node import WorkerView as WorkerView
from sidegate.api.schemas.own_databases import CreateDatabaseRequest as CreateDatabaseRequest
from sidegate.api.schemas.own_databases import DatabaseCreated as DatabaseCreated
from sidegate.api.schemas.own_databases import DatabaseRemoved as DatabaseRemoved
from sidegate.api.schemas.own_databases import RemoveDatabaseQuery as RemoveDatabaseQuery
from sidegate.api.schemas.passwords import ContainerHolder as ContainerHolder
from sidegate.api.schemas.passwords import PasswordRequest as PasswordRequest
from sidegate.api.schemas.passwords import PasswordSet as PasswordSet
from sidegate.api.schemas.passwords import VariableHolder as VariableHolder
from sidegate.api.schemas.variables import EnvChanged as EnvChanged
from sidegate.api.schemas.variables import EnvQuery as EnvQuery
from sidegate.api.schemas.variables import EnvRequest as EnvRequest
from sidegate.api.schemas.variables import EnvView as EnvView
from sidegate.api.schemas.variables import KeyScope as KeyScope
from sidegate.api.schemas.variables import ScopeQuery as ScopeQuery
from sidegate.api.schemas.variables import StaleView as StaleView
from sidegate.api.schemas.variables import VariableEdit as VariableEdit
from sidegate.api.schemas.variables import VariableRequest as VariableRequest
from sidegate.api.schemas.variables import VariableView as VariableView

# --- apps ----------------------------------------------------------------------------------------------------------


class ReplicaView(Result):
    """One container of an app. `address` is where requests go, null when they do not; `fault` says why then."""

    container: str
    state: str
    health: str | None
    address: str | None
    port: int
    fault: str | None


class OptionView(Result):
    """An option of an app that was given, by a `label` or, which wins, by a `command`."""

    name: str
    value: str
    source: str


class AppRequest(Request):
    """`mode` is serving, paused or maintenance; `options` by name, null unsets one. What is left out stays."""

    mode: str | None = None
    options: dict[str, str | None] = {}


class AppView(Result):
    """`unavailable` says why no replica takes requests, null when one does; `serving` are how many do.

    `mode` is serving, paused (requests wait) or maintenance (they get a 503). `stale` are running containers whose
    environment is out of date, `outdated` those of another image or command than is deployed. `port` is what Sidegate
    gives as PORT, null where the containers have it by themselves. `deployment` is null for an app that others run.
    `strategy` is how its containers are replaced, rolling or recreate; `rollout` says how far that is, null where it is
    not done now. `notes`: what a change brought with it, and what to do now.
    """

    name: str
    replicas: list[ReplicaView]
    serving: int
    domains: list[str]
    urls: list[str]
    connections: list[str]
    unavailable: str | None
    env: list[str]
    problems: list[ProblemView]
    mode: str
    options: list[OptionView]
    stale: list[StaleView]
    outdated: list[str]
    port: int | None
    deployment: DeploymentView | None
    strategy: str
    rollout: str | None
    notes: list[str] = []


# --- databases -----------------------------------------------------------------------------------------------------


class DatabasesQuery(Request):
    """`login`: try to log in to each; without that a list takes milliseconds whatever the databases do."""

    login: bool = True


class DatabaseSummary(Result):
    """`state` is the container's, or absent; `login` is ok, "refused: …" or "unknown: …"."""

    name: str
    engine: str | None
    container: str | None
    state: str
    internal: str
    external: str | None
    connections: list[str]
    login: str


class Exposure(Result):
    """A network that is not ours, and the containers that reach the database through it without a connection."""

    network: str
    containers: list[str]


class DatabaseView(Result):
    """`volume` has the data of a database whose container Sidegate made, null for others'."""

    name: str
    engine: str | None
    container: str | None
    state: str
    internal: str
    external: ExternalView
    connections: list[str]
    exposures: list[Exposure]
    published_ports: list[int]
    login: str
    problems: list[ProblemView]
    volume: str | None = None


class DatabaseRequest(Request):
    """What is known of a database's login. What is left out stays as it is; an empty text forgets it."""

    user: str | None = None
    password: str | None = None
    schema: str | None = None
    root_password: str | None = None
    port: int | None = None


class InternalAccess(Result):
    """The way in for connected apps; the command line carries no password."""

    host: str
    port: int
    url: str | None
    command: str | None


class ExternalAccess(Result):
    """The way in from elsewhere; the command line carries no password."""

    enabled: bool
    host: str
    port: int | None
    url: str | None
    command: str | None


class Credentials(Result):
    """A database's login. `unknown` names what nobody has said; `checked` is the outcome of a real login."""

    database: str
    engine: str | None
    user: str | None
    password: str | None
    schema: str | None
    internal: InternalAccess
    external: ExternalAccess
    checked: str
    unknown: list[str]


# --- connections ---------------------------------------------------------------------------------------------------


class MemberView(Result):
    """A container that belongs on a connection's network, and whether it is there; no address while it is stopped."""

    container: str
    end: str
    state: str
    attached: bool
    address: str | None


class ConnectionView(Result):
    """`a` and `b` in alphabetical order, `kinds` theirs. `state` is up, partly, or waiting (for containers).

    `variables` that it added, by app.
    """

    a: str
    b: str
    kinds: list[str]
    network: str
    subnet: str | None
    state: str
    members: list[MemberView]
    variables: dict[str, list[str]]


class ConnectRequest(Request):
    """`env`: add the connection's variables to the app, under their `renames` (old key -> new), in `scope`.
    `redeploy`: once it stands, replace the app's containers if their environment is out of date."""

    app: str
    target: str
    env: bool = False
    renames: dict[str, str] = {}
    scope: str = "runtime"
    redeploy: bool = False


class Connected(Result):
    """`attached` containers are on the network now; `redeployed` apps have new ones; `start_command` is how to start
    the app's next container."""

    app: str
    target: str
    network: str
    subnet: str | None
    attached: list[str]
    variables: list[str]
    notes: list[str]
    start_command: str
    redeployed: list[str] = []


class DisconnectQuery(Request):
    """`env=keep` leaves the variables that the connection added; by default they go with it. `redeploy`: replace the
    containers of the app that lost them if their environment is out of date."""

    env: str = "remove"
    redeploy: bool = False


class Disconnected(Result):
    a: str
    b: str
    detached: list[str]
    variables_removed: list[str]
    variables_kept: list[str]
    notes: list[str] = []
    redeployed: list[str] = []


# --- certificates --------------------------------------------------------------------------------------------------


class CertificateView(Result):
    """`source` is file or local authority; `name` null for the authority's, `expires` for a file that is of no use."""

    name: str | None
    names: list[str]
    source: str
    issuer: str | None
    expires: float | None
    used_by: list[str]
    problems: list[str]


class CertificateRequest(Request):
    chain: str
    key: str


class CertificateRemoved(Result):
    name: str
    names: list[str]
