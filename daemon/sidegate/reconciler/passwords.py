"""Passwords that are being changed, each as one intent: kept first, then told to the server, then kept as the one that
counts.

A crash leaves a change whose server may have the new password; it is told again, which every server takes, until it is
known which one counts. A change that its server certainly has not got, and that nobody can have left half done, is
taken back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import structlog

from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.model import DatabaseDetails, PasswordChange
from sidegate.core.passwords import PasswordChanged, updated_variables, with_password
from sidegate.errors import LoginFailedError, NotFoundError, PasswordRefusedError, PasswordUncertainError, SidegateError
from sidegate.reconciler.world import Databases, PasswordStore

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a change that could not be carried out is tried again; doubled each time."""
SHARE = 4
"""So many times as long as an attempt took is the pause at least: a pass waits for it, and so does everything else."""

log = structlog.get_logger("sidegate.passwords")


@dataclass(frozen=True, slots=True)
class _Failed:
    """A change that could not be carried out `times` times; `until` is a reading of the clock."""

    change: PasswordChange
    error: SidegateError
    times: int
    until: float


class Passwords:
    """Carries out the changes that the store holds, when a pass asks; asks for one (`wake`) to try again. Never prints
    a password."""

    def __init__(
        self,
        store: PasswordStore,
        databases: Databases,
        *,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wake = wake
        self._store = store
        self._databases = databases
        self._clock = clock
        self.redeploy: Callable[[str], Awaitable[object]] | None = None
        """Brings the containers of an app up to date, after a change whose caller is gone. Raises SidegateError."""
        self._redeploying: set[asyncio.Task[None]] = set()
        # Those of an earlier daemon may be half done. One that was given up says nothing of the next.
        self._half_done = dict(store.intent.passwords)
        self._failed: dict[str, _Failed] = {}
        self._awaited: dict[str, asyncio.Future[PasswordChanged]] = {}

    def expect(self, database: str) -> asyncio.Future[PasswordChanged]:
        """What comes of the next change of a database's password: to be asked for before it is kept. Who waits no
        longer cancels it."""
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
        if failed is not None and failed.change != change:
            failed = None
        began = self._clock()
        if failed is not None and began < failed.until:
            raise failed.error
        try:
            changed, updates = await self._carry_out(database, change)
        except SidegateError as error:
            if database in self._store.intent.passwords:
                self._pause(database, change, error, failed.times + 1 if failed else 1, began)
            self._tell(database, error)
            raise
        self._half_done.pop(database, None)
        self._failed.pop(database, None)
        log.info("password changed", database=database, accounts=changed.accounts, sessions_ended=changed.ended)
        awaited = self._awaited.get(database)
        if awaited is None or awaited.done():
            self._follow_up(updates)
        self._tell(database, changed)

    async def _carry_out(self, database: str, change: PasswordChange) -> tuple[PasswordChanged, Collection[str]]:
        """Returns what came of it, and the apps whose variables followed."""
        fresh = self._half_done.get(database) != change
        self._half_done[database] = change  # also where this is cancelled on its way
        try:
            changed = await self._databases.change_password(database, change.password, disconnect=change.disconnect)
        except PasswordUncertainError:
            raise
        except LoginFailedError as error:
            if fresh or isinstance(error, PasswordRefusedError):
                self._half_done.pop(database, None)
                await self._take_back(database)
            raise
        try:
            return changed, await self._keep(database, change, changed, changed.details)
        except NotFoundError:
            return changed, await self._overtaken(database, change, changed)

    async def _keep(
        self, database: str, change: PasswordChange, changed: PasswordChanged, details: DatabaseDetails
    ) -> Collection[str]:
        updates = updated_variables(self._store.intent.env, changed, database) if change.update_env else {}
        await self._store.end_password(database, details, updates)
        return updates.keys()

    async def _overtaken(self, database: str, change: PasswordChange, changed: PasswordChanged) -> Collection[str]:
        """Somebody forgot the database meanwhile, or said what its password is: the new one was proved since, so for
        the same user that one counts."""
        log.warning("a change of a password was overtaken", database=database)
        intent = self._store.intent
        said = intent.databases.get(database)
        if said is None or database in intent.passwords or said.user not in ("", changed.old.user):
            return ()
        await self._store.begin_password(database, change)
        engine = DATABASE_ENGINES[changed.engine]
        details = with_password(engine, changed.old, said, changed.details.password)
        return await self._keep(database, change, changed, details)

    def _pause(self, database: str, change: PasswordChange, error: SidegateError, times: int, began: float) -> None:
        now = self._clock()
        pause = max(min(FIRST_PAUSE * 2 ** min(times - 1, 10), LONGEST_PAUSE), SHARE * (now - began))
        self._failed[database] = _Failed(change, error, times, now + pause)
        asyncio.get_running_loop().call_later(pause, self._wake)

    def _follow_up(self, apps: Collection[str]) -> None:
        """What the caller would have asked for next, had it not gone with an earlier daemon."""
        if self.redeploy is None or not apps:
            return
        task = asyncio.create_task(self._redeploy_all(self.redeploy, sorted(apps)), name="redeploy")
        self._redeploying.add(task)
        task.add_done_callback(self._redeploying.discard)

    @staticmethod
    async def _redeploy_all(redeploy: Callable[[str], Awaitable[object]], apps: list[str]) -> None:
        for app in apps:
            try:
                await redeploy(app)
            except SidegateError as error:
                log.warning("not redeployed with its new password", app=app, error=str(error))

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
