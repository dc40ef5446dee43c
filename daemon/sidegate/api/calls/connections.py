"""The calls of internal connections."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, always
from sidegate.api.commands import Commands
from sidegate.errors import InvalidInputError


async def _disconnect(commands: Commands, asked: Asked) -> schemas.Disconnected:
    if asked.query.env not in ("keep", "remove"):
        raise InvalidInputError(f"env={asked.query.env} is neither keep nor remove")
    path, keep, redeploy = asked.path, asked.query.env == "keep", asked.query.redeploy
    return await commands.connections.disconnect(
        path["a"], path["b"], keep_variables=keep, redeploy=redeploy, progress=asked.progress
    )


def _connect_named(asked: Asked) -> tuple[str, str]:
    return "connect", f"{asked.body.app} {asked.body.target}{_flag(asked.body.redeploy)}" if asked.body else ""


def _disconnect_named(asked: Asked) -> tuple[str, str]:
    return "disconnect", f"{asked.path['a']} {asked.path['b']}{_flag(bool(asked.query and asked.query.redeploy))}"


def _flag(redeploy: bool) -> str:
    return " --redeploy" if redeploy else ""


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
        lambda c, a: c.connections.connect(a.body, a.progress),
        body=schemas.ConnectRequest,
        audited=always,
        named=_connect_named,
        streams=True,
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
        named=_disconnect_named,
        streams=True,
    ),
)
