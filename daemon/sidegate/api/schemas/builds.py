"""Builds."""

from sidegate.api.schemas.base import Request, Result


class BuildQuery(Request):
    """`file` is the Dockerfile's path in the context; `build_args` a JSON object of texts, over the app's variables."""

    tag: str | None = None
    file: str = "Dockerfile"
    build_args: str = "{}"
    no_cache: bool = False
    pull: bool = False


class Built(Result):
    """`image_id` is sha256:…, `arguments` the names of the build's arguments. `notes`: what to know of it."""

    app: str
    tag: str
    image_id: str
    seconds: float
    arguments: list[str]
    notes: list[str]
