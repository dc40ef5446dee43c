"""The one table of calls: what is served, what describes it, and which verb of the command line it stands behind."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidegate.api import schemas
from sidegate.api.commands import Commands
from sidegate.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, decoded: `path` as the route names its parts, `query` and `body` as the call's types say."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Any = None
    body: Any = None


class Text(str):
    """A result that travels as it is: plain text, or JSON that is complete already."""

    __slots__ = ("content_type",)
    content_type: str

    def __new__(cls, text: str, content_type: str) -> "Text":
        made = super().__new__(cls, text)
        made.content_type = content_type
        return made


def _never(_: Asked) -> bool:
    return False


def _always(_: Asked) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Call:
    """One method on one path.

    `verbs` of the command line that use it, the first being its usual name; `result` is a type of `schemas`;
    `audited` says which requests go to the audit trail, `named` gives their verb and target there.
    """

    method: str
    path: str
    verbs: tuple[str, ...]
    summary: str
    result: Any
    run: Callable[[Commands, Asked], Awaitable[Any]]
    query: type[schemas.Request] = schemas.Request
    body: type[schemas.Request] | None = None
    audited: Callable[[Asked], bool] = _never
    named: Callable[[Asked], tuple[str, str]] | None = None

    def name(self, asked: Asked) -> tuple[str, str]:
        """The verb and the target, for the audit trail."""
        return self.named(asked) if self.named else (self.verbs[0], " ".join(asked.path.values()))


def _app_named(asked: Asked) -> tuple[str, str]:
    """`app set` and `app unset` with what they change; else the verb of the mode."""
    app, body = asked.path["app"], asked.body
    if body is None:
        return "app set", app
    changes = [name if value is None else f"{name}={value}" for name, value in body.options.items()]
    if not changes:
        return {"paused": "app pause", "maintenance": "app maintenance"}.get(body.mode, "app resume"), app
    verb = "app unset" if body.mode is None and set(body.options.values()) == {None} else "app set"
    return verb, " ".join([app, *([f"mode={body.mode}"] if body.mode else []), *changes])


async def _env(commands: Commands, asked: Asked) -> Any:
    app, query = asked.path["app"], asked.query
    if query.format is None:
        return await commands.env.ls(app, scope=query.scope, reveal=query.reveal)
    text = await commands.env.export(app, query.format, query.scope)
    return Text(text, "application/json" if query.format == "json" else "text/plain")


def _env_named(asked: Asked) -> tuple[str, str]:
    exported = asked.query is not None and asked.query.format is not None
    return "env export" if exported else "env ls --reveal", asked.path["app"]


async def _switch(commands: Commands, asked: Asked) -> schemas.ExternalView:
    name, body = asked.path["db"], asked.body
    if body.enabled:
        return await commands.externals.on(name, body.port, body)
    if body != schemas.ExternalRequest(enabled=False):
        raise InvalidInputError("a port and terms are chosen when the external connection is turned on")
    return await commands.externals.off(name)


def _switch_named(asked: Asked) -> tuple[str, str]:
    on = asked.body is not None and asked.body.enabled
    return "external on" if on else "external off", asked.path["db"]


def _edit_named(asked: Asked) -> tuple[str, str]:
    """By what it changes first: `external allow`, `deny` or `extend`, with the lines."""
    name, body = asked.path["db"], asked.body
    if body is None:
        return "external allow", name
    if body.expires_in is not None:
        return "external extend", f"{name} {body.expires_in}"
    verb = "external deny" if body.deny or body.remove_deny else "external allow"
    lines = [*body.allow, *body.deny, *(f"-{cidr}" for cidr in (*body.remove_allow, *body.remove_deny))]
    return verb, " ".join([name, *lines])


async def _disconnect(commands: Commands, asked: Asked) -> schemas.Disconnected:
    if asked.query.env not in ("keep", "remove"):
        raise InvalidInputError(f"env={asked.query.env} is neither keep nor remove")
    path, keep = asked.path, asked.query.env == "keep"
    return await commands.connections.disconnect(path["a"], path["b"], keep_variables=keep)


async def _authority(commands: Commands, _: Asked) -> Text:
    return Text(await commands.certificates.authority(), "text/plain")


CALLS: tuple[Call, ...] = (
    Call("GET", "/v1/status", ("status",), "How the daemon is", schemas.Status, lambda c, a: c.node.status()),
    Call("GET", "/v1/apps", ("app ls",), "Every app", list[schemas.AppView], lambda c, a: c.apps.ls()),
    Call(
        "GET",
        "/v1/apps/{app}",
        ("app show",),
        "One app with its replicas",
        schemas.AppView,
        lambda c, a: c.apps.show(a.path["app"]),
    ),
    Call(
        "PATCH",
        "/v1/apps/{app}",
        ("app set", "app unset", "app pause", "app resume", "app maintenance"),
        "Set an app's options, pause it, or put it into maintenance",
        schemas.AppView,
        lambda c, a: c.apps.change(a.path["app"], a.body),
        body=schemas.AppRequest,
        audited=_always,
        named=_app_named,
    ),
    Call(
        "GET",
        "/v1/apps/{app}/env",
        ("env ls", "env export"),
        "An app's variables, listed or (with format) exported as text",
        list[schemas.VariableView],
        _env,
        query=schemas.EnvQuery,
        audited=lambda a: a.query is None or a.query.reveal or a.query.format is not None,
        named=_env_named,
    ),
    Call(
        "GET",
        "/v1/databases",
        ("db ls",),
        "Every database",
        list[schemas.DatabaseSummary],
        lambda c, a: c.databases.ls(),
    ),
    Call(
        "GET",
        "/v1/databases/{db}",
        ("db show",),
        "One database, and who reaches it",
        schemas.DatabaseView,
        lambda c, a: c.databases.show(a.path["db"]),
    ),
    Call(
        "PUT",
        "/v1/databases/{db}",
        ("db set",),
        "Say what is known of a database's login",
        schemas.DatabaseView,
        lambda c, a: c.databases.set(a.path["db"], a.body),
        body=schemas.DatabaseRequest,
        audited=_always,
    ),
    Call(
        "GET",
        "/v1/databases/{db}/credentials",
        ("db credentials",),
        "User, password, schema, URLs and command lines",
        schemas.Credentials,
        lambda c, a: c.databases.credentials(a.path["db"]),
        audited=_always,
    ),
    Call(
        "GET",
        "/v1/databases/{db}/external",
        ("external show",),
        "A database's external connection",
        schemas.ExternalView,
        lambda c, a: c.externals.show(a.path["db"]),
    ),
    Call(
        "PUT",
        "/v1/databases/{db}/external",
        ("external on", "external off"),
        "Turn a database's external connection on or off",
        schemas.ExternalView,
        _switch,
        body=schemas.ExternalRequest,
        audited=_always,
        named=_switch_named,
    ),
    Call(
        "PATCH",
        "/v1/databases/{db}/external",
        ("external allow", "external deny", "external extend"),
        "Change who may come in through an external connection, or until when",
        schemas.ExternalView,
        lambda c, a: c.externals.edit(a.path["db"], a.body),
        body=schemas.ExternalEdit,
        audited=_always,
        named=_edit_named,
    ),
    Call(
        "DELETE",
        "/v1/databases/{db}/sessions",
        ("external kick",),
        "End a client's sessions on a database's external connection",
        schemas.Kicked,
        lambda c, a: c.externals.kick(a.path["db"], a.query.client),
        query=schemas.KickQuery,
        audited=_always,
        named=lambda a: ("external kick", " ".join([a.path["db"], *([a.query.client] if a.query else [])])),
    ),
    Call(
        "GET",
        "/v1/databases/{db}/sessions",
        ("external sessions",),
        "Who is on a database's external connection",
        list[schemas.SessionView],
        lambda c, a: c.externals.sessions(a.path["db"]),
    ),
    Call(
        "GET",
        "/v1/external",
        ("external ls",),
        "Every external connection",
        list[schemas.ExternalView],
        lambda c, a: c.externals.ls(),
    ),
    Call(
        "GET",
        "/v1/connections",
        ("connections",),
        "Every internal connection",
        list[schemas.ConnectionView],
        lambda c, a: c.connections.ls(),
    ),
    Call(
        "POST",
        "/v1/connections",
        ("connect",),
        "Connect an app and a database, or two apps",
        schemas.Connected,
        lambda c, a: c.connections.connect(a.body),
        body=schemas.ConnectRequest,
        audited=_always,
        named=lambda a: ("connect", f"{a.body.app} {a.body.target}" if a.body else ""),
    ),
    Call(
        "DELETE",
        "/v1/connections/{a}/{b}",
        ("disconnect",),
        "Part two ends, open sessions included",
        schemas.Disconnected,
        _disconnect,
        query=schemas.DisconnectQuery,
        audited=_always,
    ),
    Call(
        "GET",
        "/v1/certificates",
        ("cert ls",),
        "Every certificate that is presented, and files that cannot be",
        list[schemas.CertificateView],
        lambda c, a: c.certificates.ls(),
    ),
    Call(
        "GET",
        "/v1/certificates/authority",
        ("cert ca",),
        "The local authority's certificate, as PEM",
        str,
        _authority,
    ),
    Call(
        "PUT",
        "/v1/certificates/{name}",
        ("cert add",),
        "Keep a certificate and its key, and present them",
        schemas.CertificateView,
        lambda c, a: c.certificates.add(a.path["name"], a.body),
        body=schemas.CertificateRequest,
        audited=_always,
    ),
    Call(
        "DELETE",
        "/v1/certificates/{name}",
        ("cert rm",),
        "Remove a certificate that was added",
        schemas.CertificateRemoved,
        lambda c, a: c.certificates.rm(a.path["name"]),
        audited=_always,
    ),
    Call(
        "GET",
        "/v1/audit",
        ("audit",),
        "What was changed or revealed, by whom, the newest first",
        list[schemas.AuditView],
        lambda c, a: c.node.audit(a.query.limit),
        query=schemas.AuditQuery,
    ),
    Call(
        "POST",
        "/v1/purge",
        ("purge",),
        "Remove everything of ours, and stop",
        schemas.Purged,
        lambda c, a: c.node.purge(),
        audited=_always,
    ),
)
