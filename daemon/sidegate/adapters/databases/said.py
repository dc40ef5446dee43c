"""What the modules of this package share: a server's words made fit to be shown, and two more reasons for a failure."""

from sidegate.errors import LoginFailedError

_MOST_SHOWN = 200


class NobodyListensError(LoginFailedError):
    """Nothing listens at that port."""


class NoAnswerError(LoginFailedError):
    """Who listens there keeps silent, whoever logs in."""


def shown(text: object) -> str:
    """A server's words, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:_MOST_SHOWN])
