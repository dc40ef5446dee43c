"""Passwords that are being changed, each as one intent: kept first, then told to the server, then kept as the one that
counts.

A crash leaves a change whose server may have the new password; it is told again, which every server takes, until it is
known which one counts. A change that its server certainly has not got, and that nobody can have left half done, is
taken back.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from sidegate.core.model import PasswordChange
from sidegate.core.passwords import PasswordChanged, updated_variables
from sidegate.errors import LoginFailedError, NotFoundError, PasswordRefusedError, PasswordUncertainError, SidegateError
from sidegate.reconciler.world import Databases, PasswordStore

RETRY_SECONDS = 20.0  # after a server that did not answer: a pass waits for it, and so does everything else

log = structlog.get_logger("sidegate.passwords")


@dataclass(frozen=True, slots=True)
class _Failed:
    """A change that could not be carried out, `at` a reading of the clock."""

    change: PasswordChange
    error: SidegateError
    at: float


class Passwords:
    """Carries out the changes that the store holds. Never prints a password."""

    def __init__(
        self, store: PasswordStore, databases: Databases, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._databases = databases
        self._clock = clock
        # Those of an earlier daemon may be half done.
        self._half_done = set(store.intent.passwords)
        self._failed: dict[str, _Failed] = {}
        self._awaited: dict[str, asyncio.Future[PasswordChanged]] = {}

    def expect(self, database: str) -> asyncio.Future[PasswordChanged]:
        """What comes of the next change of a database's password: to be asked for before it is kept."""
        expected: asyncio.Future[PasswordChanged] = asyncio.get_running_loop().create_future()
        self._awaited[database] = expected
        return expected

    async def change(self, database: str) -> None:
        """Carry out the change that is kept of a database, if there is one.

        Raises LoginFailedError or StoreError; the change stays unless it was certainly not made.
        """
        change = self._store.intent.passwords.get(database)
        if change is None:
            return
        failed = self._failed.get(database)
        if failed is not None and failed.change == change and self._clock() - failed.at < RETRY_SECONDS:
            raise failed.error
        try:
            changed = await self._carry_out(database, change)
        except SidegateError as error:
            if database in self._store.intent.passwords:
                self._failed[database] = _Failed(change, error, self._clock())
            self._tell(database, error)
            raise
        self._half_done.discard(database)
        self._failed.pop(database, None)
        log.info("password changed", database=database, accounts=changed.accounts, sessions_ended=changed.ended)
        self._tell(database, changed)

    async def _carry_out(self, database: str, change: PasswordChange) -> PasswordChanged:
        fresh = database not in self._half_done
        self._half_done.add(database)  # also where this is cancelled on its way
        try:
            changed = await self._databases.change_password(database, change.password, disconnect=change.disconnect)
        except PasswordUncertainError:
            raise
        except LoginFailedError as error:
            if fresh or isinstance(error, PasswordRefusedError):
                self._half_done.discard(database)
                await self._take_back(database)
            raise
        updates = updated_variables(self._store.intent.env, changed, database) if change.update_env else {}
        try:
            await self._store.end_password(database, changed.details, updates)
        except NotFoundError:  # somebody said meanwhile what the password is
            log.warning("a change of a password was overtaken", database=database)
        return changed

    async def _take_back(self, database: str) -> None:
        try:
            await self._store.end_password(database, None)
        except NotFoundError:
            pass
        else:
            log.info("password not changed", database=database)

    def _tell(self, database: str, outcome: PasswordChanged | SidegateError) -> None:
        awaited = self._awaited.pop(database, None)
        if awaited is None or awaited.done():
            return
        if isinstance(outcome, PasswordChanged):
            awaited.set_result(outcome)
        else:
            awaited.set_exception(outcome)
            awaited.exception()  # whoever asked may have gone
