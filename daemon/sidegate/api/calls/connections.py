"""The calls of internal connections."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, always
from sidegate.api.commands import Commands
from sidegate.errors import InvalidInputError


async def _disconnect(commands: Commands, asked: Asked) -> schemas.Disconnected:
    if asked.query.env not in ("keep", "remove"):
        raise InvalidInputError(f"env={asked.query.env} is neither keep nor remove")
    path, keep = asked.path, asked.query.env == "keep"
    return await commands.connections.disconnect(path["a"], path["b"], keep_variables=keep)


CALLS: tuple[Call, ...] = (
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
        audited=always,
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
        audited=always,
    ),
)
