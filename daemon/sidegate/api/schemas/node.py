"""What the daemon says about itself: its state, what happens, the audit trail, what a purge removed."""

from typing import Any

from sidegate.api.schemas.base import ProblemView, Request, Result


class EngineView(Result):
    """The Docker engine as the last pass found it; `fault` says why it is not connected."""

    connected: bool
    version: str | None
    fault: str | None


class WorkerView(Result):
    """One process of the data plane; `state` is starting, serving or draining, `version` that of its routes."""

    slot: int
    pid: int
    state: str
    version: int
    restarts: int


class CountsView(Result):
    """How many there are, those that nothing runs for included."""

    apps: int
    databases: int
    connections: int
    external_on: int
    stale: int
    """Apps of which a running container's environment is out of date."""


class PassView(Result):
    """The last pass; `finished` is null before the first one."""

    seconds: float
    actions: int
    failures: list[str]
    finished: float | None


class PoolView(Result):
    """Subnets of `internal_pool`, by number."""

    cidr: str
    in_use: int
    total: int


class ForwarderView(Result):
    """What carries external connections: `setting` as in the settings, `carrier` kernel or userspace; `reason` says why
    it is not the kernel where that was wanted."""

    setting: str
    carrier: str
    reason: str | None


class ListeningView(Result):
    """Where requests come in. `http_port` and `https_port` are the public ones, `https_port` null without TLS;
    `certificates` are how many are presented, `base_domain` is what every app's own name ends with."""

    http_port: int
    https_port: int | None
    base_domain: str
    certificates: int


class LeftOutView(Result):
    """A container that is neither app nor database; `reason` follows "because it"."""

    container: str
    reason: str


class Status(Result):
    """How the daemon is. `degraded`: there are problems. `uptime` in seconds. `held`: app -> paused or maintenance.
    `left_out` are containers that are nobody's although they were looked at: all of them with `discover = "all"`."""

    version: str
    uptime: float
    ready: bool
    degraded: bool
    engine: EngineView
    workers: list[WorkerView]
    counts: CountsView
    last_pass: PassView
    pool: PoolView
    problems: list[ProblemView]
    held: dict[str, str]
    forwarder: ForwarderView
    listening: ListeningView
    left_out: list[LeftOutView] = []


class EventView(Result):
    """Something that has happened: `id` rises, `at` is a Unix time, `kind` says what and `subject` to whom.

    `text` is a sentence about the subject; `details` are the same as values, by names that depend on the kind.
    """

    id: int
    at: float
    kind: str
    subject: str
    text: str
    details: dict[str, Any]


class EventsQuery(Request):
    """`since`: only what came after this event, 0 for all that is kept. `kind`: only these, such as "app" for all about
    apps, "external.on", or several with commas. `limit`: how many of the last at first; of a stream by default none."""

    since: int | None = None
    kind: str = ""
    limit: int | None = None


class AuditView(Result):
    """One call that changed or revealed something: by whom, on what, with which outcome (done, or an error's code)."""

    id: int
    at: float
    uid: int
    pid: int
    user: str
    verb: str
    target: str
    outcome: str


class AuditQuery(Request):
    """`verb`: only this one, or all that begin with its words. `user`: a name or a uid. `within`: only what is not
    older than that, such as 2h. `before`: only entries before the one of this id, for the next page."""

    limit: int = 50
    verb: str = ""
    user: str = ""
    within: str | None = None
    before: int | None = None


class Purged(Result):
    """What was removed, and volumes with data, which are not; the daemon stops after it has said so."""

    networks: list[str]
    connections: int
    externals: int
    variables: int
    kept_volumes: list[str] = []
