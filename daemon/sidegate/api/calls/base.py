"""What a call is: a method on a path, the types that travel, the verb behind it, and how it is written down."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidegate.api import schemas
from sidegate.api.commands import Commands
from sidegate.api.progress import Progress, unheard


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, decoded: `path` as the route names its parts, `query` and `body` as the call's types say.

    `progress` reaches the caller of a call that streams, `upload` is the body of one that takes an upload.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Any = None
    body: Any = None
    progress: Progress = unheard
    upload: AsyncIterator[bytes] | None = None


class Text(str):
    """A result that travels as it is: plain text, or JSON that is complete already."""

    __slots__ = ("content_type",)
    content_type: str

    def __new__(cls, text: str, content_type: str) -> "Text":
        made = super().__new__(cls, text)
        made.content_type = content_type
        return made


def never(_: Asked) -> bool:
    """For `audited`: nothing to write down."""
    return False


def always(_: Asked) -> bool:
    """For `audited`: whatever is asked."""
    return True


@dataclass(frozen=True, slots=True)
class Call:
    """One method on one path.

    `verbs` of the command line that use it, the first being its usual name; `result` is a type of `schemas`;
    `audited` says which requests go to the audit trail, `named` gives their verb and target there.

    A verb that takes longer than two seconds streams. Three steps make one:

    1. The verb takes a `Progress` and calls it with a sentence whenever there is something to say:
       `async def deploy(self, app: str, asked: schemas.DeployRequest, progress: Progress) -> schemas.Deployed`.
    2. Its call says `streams=True` and hands it over:
       `lambda c, a: c.deployments.deploy(a.path["app"], a.body, a.progress)`.
       Callers that accept application/x-ndjson get `{"progress": "…"}` lines, `{}` after silent seconds, and at the
       end `{"result": …}` or `{"problem": …}`; all others wait and get the result or the problem as from every call.
       An error before the first line is a problem document with its own status.
    3. The command line says `session.stream(…)` where it would say `session.call(…)`.

    A caller that goes away ends the telling, never the verb, unless `attended` says that the verb is of no use without
    him (a build, a log that is followed): then it is cancelled. `upload` is the media type of a body that is passed on
    as it comes, in `Asked.upload`, however long it is, and not taken from the caller before the verb reads it.
    """

    method: str
    path: str
    verbs: tuple[str, ...]
    summary: str
    result: Any
    run: Callable[[Commands, Asked], Awaitable[Any]]
    query: type[schemas.Request] = schemas.Request
    body: type[schemas.Request] | None = None
    audited: Callable[[Asked], bool] = never
    named: Callable[[Asked], tuple[str, str]] | None = None
    streams: bool = False
    attended: bool = False
    upload: str = ""
    events: bool = False
    """Who does not ask for JSON alone gets the daemon's events as a stream."""

    def name(self, asked: Asked) -> tuple[str, str]:
        """The verb and the target, for the audit trail."""
        return self.named(asked) if self.named else (self.verbs[0], " ".join(asked.path.values()))
