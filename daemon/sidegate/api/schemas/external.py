"""The shapes of external connections."""

from sidegate.api.schemas.base import Request, Result


class EntryView(Result):
    """A line of a list: a network of clients, and what people wrote about it."""

    cidr: str
    description: str


class ExternalView(Result):
    """A database's external connection. `port` is null until it was on once; `listening` is what is so now.

    The URL and the command line carry no password. Anybody may come in where `anybody` is true: `allow` is empty and
    it is not `local`. `expires_at` is a Unix time; `expires_in` and `idle_off`, how long it may be without a session,
    are in seconds; null: never. Limits are for each client address, 0 is none. `refused`: reason -> clients turned
    away since it was switched on. `carrier` is kernel or userspace, null while it is off; `carrier_reason` says why
    it is not the kernel where that was wanted.
    """

    database: str
    enabled: bool
    listening: bool
    host: str
    port: int | None
    sessions: int
    user: str | None
    schema: str | None
    url: str | None
    command: str | None
    advice: str | None = None
    warnings: list[str] = []
    sessions_cut: int | None = None
    allow: list[EntryView] = []
    deny: list[EntryView] = []
    local: bool = False
    anybody: bool = False
    max_sessions: int = 0
    max_new: int = 0
    expires_at: float | None = None
    expires_in: float | None = None
    idle_off: int | None = None
    refused: dict[str, int] = {}
    forwarder: str | None = None
    carrier: str | None = None
    carrier_reason: str | None = None


class ExternalRequest(Request):
    """Whether it is on, and on which terms; what is left out stays as it is.

    `allow` and `deny` are whole lists, each line a network or "network=description". `expires_in` and
    `idle_off` are durations such as 2h, 90m or "1d 12h", "never" takes them away. `max_sessions` and `max_new`, in a
    second, are for each client address; 0 is no limit. `forwarder` is auto, kernel, userspace, or empty for what the
    settings say.
    """

    enabled: bool
    port: int | None = None
    allow: list[str] | None = None
    deny: list[str] | None = None
    local: bool | None = None
    expires_in: str | None = None
    idle_off: str | None = None
    max_sessions: int | None = None
    max_new: int | None = None
    forwarder: str | None = None


class ExternalEdit(Request):
    """A change to who may come in, and until when, on or off: lines are added to the lists and taken from them."""

    allow: list[str] = []
    deny: list[str] = []
    remove_allow: list[str] = []
    remove_deny: list[str] = []
    expires_in: str | None = None


class SessionView(Result):
    """A client of an external connection; bytes as the client counts them, null where the kernel does not count, as
    `since`. `carrier` is kernel or userspace."""

    database: str
    client: str
    since: float | None
    bytes_sent: int | None
    bytes_received: int | None
    carrier: str = "userspace"


class KickQuery(Request):
    """Whose sessions: those of an address, or one by address and port."""

    client: str


class Kicked(Result):
    """How many sessions were ended."""

    database: str
    client: str
    sessions: int
