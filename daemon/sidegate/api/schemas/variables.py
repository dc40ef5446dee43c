"""Variables of apps, as they travel. A scope is build, runtime or both."""

from sidegate.api.schemas.base import Request, Result


class EnvQuery(Request):
    """`format` gives the export as text; without it the variables are listed, secret values only with `reveal`."""

    scope: str | None = None
    format: str | None = None
    reveal: bool = False


class ScopeQuery(Request):
    """Which of the variables with that key; null: of every scope."""

    scope: str | None = None


class EnvRequest(Request):
    """Changes that are made together or not at all: `variables` by key, null unsets one; `dotenv` is a file's text.

    `scope` null: runtime, or both where the key is there for both; to unset, every scope. `secret` null: as it was.
    """

    variables: dict[str, str | None] = {}
    dotenv: str | None = None
    scope: str | None = None
    secret: bool | None = None


class VariableRequest(Request):
    """One variable; `scope` and `secret` as in EnvRequest."""

    value: str
    scope: str | None = None
    secret: bool | None = None


class VariableEdit(Request):
    """Another key, another scope, or both; null leaves it."""

    key: str | None = None
    scope: str | None = None


class VariableView(Result):
    """`value` is null where it is secret and was not to be revealed. `source` is manual, or connection: and to what."""

    key: str
    value: str | None
    scope: str
    source: str
    secret: bool


class StaleView(Result):
    """A running container whose environment is out of date, and in which keys."""

    container: str
    keys: list[str]


class EnvView(Result):
    """An app's variables, and the running containers that have others. `notes`: what to do about these."""

    app: str
    variables: list[VariableView]
    stale: list[StaleView]
    notes: list[str]


class KeyScope(Result):
    key: str
    scope: str


class EnvChanged(Result):
    """What was set or renamed, and what was unset; then as in EnvView."""

    app: str
    set: list[KeyScope]
    unset: list[KeyScope]
    stale: list[StaleView]
    notes: list[str]
