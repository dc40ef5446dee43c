"""What all shapes are made of, and what every call may answer with."""

from msgspec import Struct


class Request(Struct, forbid_unknown_fields=True):
    """A request's body or its query."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # requests may hold passwords


class Result(Struct):
    """What a call answers with."""


class ProblemDocument(Struct):
    """An error, as RFC 9457 section 3.1 describes it; `code` is stable, `detail` a sentence for people."""

    title: str
    status: int
    code: str
    detail: str
    type: str = "about:blank"


class ProblemView(Result):
    """Something an operator should know: about whom, and what, with what to do."""

    subject: str
    text: str
