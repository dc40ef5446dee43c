"""The calls of external connections."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, always
from sidegate.api.commands import Commands
from sidegate.errors import InvalidInputError


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


CALLS: tuple[Call, ...] = (
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
        audited=always,
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
        audited=always,
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
        audited=always,
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
)
