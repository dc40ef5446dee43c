"""The shapes of databases whose containers Sidegate makes itself."""

from sidegate.api.schemas.base import Request, Result


class CreateDatabaseRequest(Request):
    """A new database. `image`, `user` and `schema` have defaults; without a `password` one is generated.

    `existing_volume`: its kept volume is taken up again, with the login that is in it, whose `password` is needed.
    """

    name: str
    engine: str
    image: str | None = None
    user: str | None = None
    schema: str | None = None
    password: str | None = None
    existing_volume: bool = False


class DatabaseCreated(Result):
    """It takes logins. `password` is the generated one, null where it was given; `seconds`: until the first login."""

    database: str
    engine: str
    image: str
    container: str
    volume: str
    user: str
    password: str | None
    schema: str
    seconds: float


class RemoveDatabaseQuery(Request):
    """`volume`: its data goes too."""

    volume: bool = False


class DatabaseRemoved(Result):
    """What is gone and what is not. `container` was Sidegate's own and is removed; `kept_container` is somebody else's
    and still there. `kept_volume` has the data."""

    database: str
    container: str | None
    kept_container: str | None
    volume: str | None
    kept_volume: str | None
    disconnected: list[str]
    external_port: int | None
    variables_removed: int
