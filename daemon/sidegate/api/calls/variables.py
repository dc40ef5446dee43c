"""The calls of variables. What is written down of a change are keys, never values."""

from typing import Any

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, Text, always
from sidegate.api.commands import Commands
from sidegate.core.dotenv import parse_dotenv
from sidegate.core.env import KEY_PATTERN
from sidegate.errors import InvalidInputError


async def _env(commands: Commands, asked: Asked) -> Any:
    app, query = asked.path["app"], asked.query
    if query.format is None:
        return await commands.env.ls(app, scope=query.scope, reveal=query.reveal)
    text = await commands.env.export(app, query.format, query.scope)
    return Text(text, "application/json" if query.format == "json" else "text/plain")


def _env_named(asked: Asked) -> tuple[str, str]:
    exported = asked.query is not None and asked.query.format is not None
    return "env export" if exported else "env ls --reveal", asked.path["app"]


async def _set(commands: Commands, asked: Asked) -> schemas.EnvChanged:
    body = asked.body
    request = schemas.EnvRequest(variables={asked.path["key"]: body.value}, scope=body.scope, secret=body.secret)
    return await commands.env.change(asked.path["app"], request)


async def _unset(commands: Commands, asked: Asked) -> schemas.EnvChanged:
    request = schemas.EnvRequest(variables={asked.path["key"]: None}, scope=asked.query.scope)
    return await commands.env.change(asked.path["app"], request)


def _change_named(asked: Asked) -> tuple[str, str]:
    """What is no key may be a value in a key's place: it is left out."""
    app, body = asked.path["app"], asked.body
    if body is None:
        return "env set", app
    keys = list(body.variables)
    if body.dotenv is not None:
        try:
            keys += parse_dotenv(body.dotenv)
        except InvalidInputError:
            keys.append("(a file)")
    unset = bool(body.variables) and body.dotenv is None and set(body.variables.values()) == {None}
    return "env unset" if unset else "env set", " ".join([app, *(k for k in keys if _is_key(k) or k == "(a file)")])


def _one_named(verb: str) -> Any:
    def named(asked: Asked) -> tuple[str, str]:
        path = asked.path
        new = getattr(asked.body, "key", None)
        return verb, " ".join([path["app"], *(key for key in (path["key"], new) if key and _is_key(key))])

    return named


def _is_key(text: str) -> bool:
    return KEY_PATTERN.fullmatch(text) is not None


CALLS: tuple[Call, ...] = (
    Call(
        "GET",
        "/v1/apps/{app}/env",
        ("env ls", "env export"),
        "An app's variables, listed or (with format) exported as text",
        schemas.EnvView,
        _env,
        query=schemas.EnvQuery,
        audited=lambda a: a.query is None or a.query.reveal or a.query.format is not None,
        named=_env_named,
    ),
    Call(
        "PATCH",
        "/v1/apps/{app}/env",
        ("env set", "env unset"),
        "Set and unset variables of an app, all or none",
        schemas.EnvChanged,
        lambda c, a: c.env.change(a.path["app"], a.body),
        body=schemas.EnvRequest,
        audited=always,
        named=_change_named,
    ),
    Call(
        "PUT",
        "/v1/apps/{app}/env/{key}",
        ("env set",),
        "Set a variable of an app",
        schemas.EnvChanged,
        _set,
        body=schemas.VariableRequest,
        audited=always,
        named=_one_named("env set"),
    ),
    Call(
        "PATCH",
        "/v1/apps/{app}/env/{key}",
        ("env rename",),
        "Give a variable another key or another scope",
        schemas.EnvChanged,
        lambda c, a: c.env.rename(a.path["app"], a.path["key"], a.body, scope=a.query.scope),
        query=schemas.ScopeQuery,
        body=schemas.VariableEdit,
        audited=always,
        named=_one_named("env rename"),
    ),
    Call(
        "DELETE",
        "/v1/apps/{app}/env/{key}",
        ("env unset",),
        "Unset a variable of an app, for one scope or every one",
        schemas.EnvChanged,
        _unset,
        query=schemas.ScopeQuery,
        audited=always,
        named=_one_named("env unset"),
    ),
)
