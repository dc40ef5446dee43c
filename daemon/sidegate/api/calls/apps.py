"""The calls of apps."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, always


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


CALLS: tuple[Call, ...] = (
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
        audited=always,
        named=_app_named,
    ),
)
