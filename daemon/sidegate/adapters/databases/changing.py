"""Changing a password so that it is known at every point which one counts: the part that all wire protocols share."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sidegate.errors import LoginFailedError, PasswordRefusedError, PasswordUncertainError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """What a server is to be told: `user` gets the password `new` in the place of `old` (empty where it is not known).
    `disconnect` ends the sessions that the user has. `schema`: one to log in to."""

    user: str
    old: str = field(repr=False)
    new: str = field(repr=False)
    schema: str = ""
    disconnect: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """`accounts` that have the new password, as the server names them; `ended`: sessions; `notes` for the operator."""

    accounts: tuple[str, ...]
    ended: int = 0
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Attempt:
    """Whether a server may have changed something: from the first statement until it is known that nothing is left
    of it."""

    sent: bool = False

    def failed(self, error: LoginFailedError) -> LoginFailedError:
        """`error`, or what is uncertain because of it."""
        if not self.sent:
            return error
        return PasswordUncertainError(f"whether the password was changed is not known yet: {error}")


async def change_accounts(
    change: Change,
    attempt: Attempt,
    accounts: Sequence[T],
    *,
    alter: Callable[[T, str], Awaitable[str]],
    check: Callable[[str], Awaitable[object]],
    old_works: bool,
) -> tuple[list[T], list[str]]:
    """Give every account the new password, and prove it by a login. Returns the accounts that were changed, and notes.

    `alter(account, password)` gives the server's reason where it refuses, empty where it is done; `check(password)`
    logs in, or raises LoginFailedError. Where the new password lets nobody in and the old one did, the old one is set
    back. Raises LoginFailedError when nothing has changed; whatever else comes leaves `attempt.sent`.
    """
    changed: list[T] = []
    refusals: list[str] = []
    attempt.sent = True
    for account in accounts:
        if refusal := await alter(account, change.new):
            refusals.append(f"{account}: {refusal}")
        else:
            changed.append(account)
    if not changed:
        attempt.sent = False
        kind = PasswordRefusedError if old_works else LoginFailedError
        raise kind(f"the server refused the new password of {change.user}: {'; '.join(refusals)}")
    try:
        await check(change.new)
    except LoginFailedError as error:
        if not old_works:
            return changed, [*refusals, f"the password was changed, and a login with it fails: {error}"]
        kept = [f"{account}: {refusal}" for account in changed if (refusal := await alter(account, change.old))]
        if kept:
            raise LoginFailedError(f"{error}; the old password could not be set back: {'; '.join(kept)}") from error
        attempt.sent = False
        text = f"a login with the new password failed, so the old one was set back: {error}"
        raise PasswordRefusedError(text) from error
    return changed, refusals


async def works(check: Callable[[str], Awaitable[object]], password: str) -> bool:
    """Whether a login succeeds."""
    if not password:
        return False
    try:
        await check(password)
    except LoginFailedError:
        return False
    return True


def without(text: str, *passwords: str) -> str:
    """A server's words less any password that it quotes."""
    for password in filter(None, passwords):
        text = text.replace(password, "***")
    return text
