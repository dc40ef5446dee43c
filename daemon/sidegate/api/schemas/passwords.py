"""The shapes of changing a database's password."""

from sidegate.api.schemas.base import Request, Result


class PasswordRequest(Request):
    """Either a `password` or `generate`. `update_env`: variables that connections added get the new one, and their apps
    are redeployed. `disconnect`: sessions that logged in before end."""

    password: str | None = None
    generate: bool = False
    update_env: bool = False
    disconnect: bool = False


class VariableHolder(Result):
    """A variable that Sidegate keeps for an app; never its value."""

    app: str
    key: str
    scope: str


class ContainerHolder(Result):
    """A running container, the app that it belongs to, and the keys of its environment; never a value."""

    container: str
    app: str | None
    keys: list[str]


class PasswordSet(Result):
    """The password is changed. `password` is the generated one, null where it was given.

    `accounts` of the server that have it; `updated` variables have it now, `redeployed` apps too; `variables` and
    `containers` still hold the old one.
    """

    database: str
    user: str
    password: str | None
    accounts: list[str]
    sessions_ended: int
    updated: list[VariableHolder]
    redeployed: list[str]
    variables: list[VariableHolder]
    containers: list[ContainerHolder]
    notes: list[str]
