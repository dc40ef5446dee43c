"""The call of builds."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, always
from sidegate.api.commands import Commands


async def _build(commands: Commands, asked: Asked) -> schemas.Built:
    assert asked.upload is not None
    return await commands.builds.build(asked.path["app"], asked.query, asked.upload, asked.progress)


def _named(asked: Asked) -> tuple[str, str]:
    """With the tag and never with the arguments."""
    return "build", " ".join([asked.path["app"], *([asked.query.tag] if asked.query and asked.query.tag else [])])


CALLS: tuple[Call, ...] = (
    Call(
        "POST",
        "/v1/apps/{app}/builds",
        ("build",),
        "Build an app's image from a tar archive of its context, with its variables for builds",
        schemas.Built,
        _build,
        query=schemas.BuildQuery,
        audited=always,
        named=_named,
        streams=True,
        attended=True,
        upload="application/x-tar",
    ),
)
