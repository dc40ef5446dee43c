"""Apps in the state file: how they are served, what Sidegate runs of them, and what is being replaced."""

import json
import sqlite3
from collections.abc import Mapping, Sequence

from sidegate.adapters.store.connections import drop_connections
from sidegate.adapters.store.file import StateFile
from sidegate.adapters.store.variables import put_variables
from sidegate.core.model import Deployment, Intent, Rollout, Variable
from sidegate.core.routes import SERVING
from sidegate.errors import NotFoundError


class Apps(StateFile):
    """What can be done to apps, their variables and connections aside."""

    async def set_app(
        self, app: str, mode: str | None = None, options: Mapping[str, str | None] | None = None
    ) -> Intent:
        """Set an app's mode (None: as it is) and some of its options (None unsets one), together or not at all."""

        def change(db: sqlite3.Connection) -> None:
            if mode is not None:
                db.execute("DELETE FROM modes WHERE app = ?", (app,))
            if mode is not None and mode != SERVING:
                db.execute("INSERT INTO modes VALUES (?, ?)", (app, mode))
            _put_options(db, app, options or {})

        return await self._change(change)

    async def set_deployment(
        self,
        app: str,
        deployment: Deployment | None,
        *,
        port: int | None = None,
        domains: tuple[str, ...] | None = None,
        options: Mapping[str, str | None] | None = None,
        variables: Sequence[Variable] = (),
        rollout: Rollout | None = None,
    ) -> Intent:
        """What Sidegate shall run of an app (None: nothing any more), and all that was said with it, at once.

        None leaves the port, the domains and a rollout as they are; an option that is None is unset; `variables` take
        the place of those with the same key and scope. Raises KeyClashError.
        """

        def change(db: sqlite3.Connection) -> None:
            _put_deployment(db, "deployments", app, deployment)
            if port is not None:
                _put_port(db, app, port)
            if domains is not None:
                _put_domains(db, app, domains)
            _put_options(db, app, options or {})
            put_variables(db, self.intent, app, variables)
            if rollout is not None:
                _put_rollout(db, app, rollout)

        return await self._change(change)

    async def set_port(self, app: str, port: int | None) -> Intent:
        """The PORT of an app's containers from their next start on; None: as their image or labels say."""

        def change(db: sqlite3.Connection) -> None:
            _put_port(db, app, port)

        return await self._change(change)

    async def set_domains(self, app: str, domains: tuple[str, ...]) -> Intent:
        """The domains of an app that were given by command, all of them."""

        def change(db: sqlite3.Connection) -> None:
            _put_domains(db, app, domains)

        return await self._change(change)

    async def begin_rollout(self, app: str, rollout: Rollout, *, asked: bool = True) -> Intent:
        """An app's containers are being replaced from now on; one that is under way is replaced by this, unless nobody
        `asked` for it."""

        def change(db: sqlite3.Connection) -> None:
            if asked or app not in self.intent.rollouts:
                _put_rollout(db, app, rollout)

        return await self._change(change)

    async def end_rollout(self, app: str, rollout: Rollout, *, restore: bool) -> Intent:
        """It is over. `restore`: what was deployed when it began, and the port, come back.

        Raises NotFoundError where that one was not under way any more.
        """

        def change(db: sqlite3.Connection) -> None:
            if self.intent.rollouts.get(app) != rollout:
                raise NotFoundError(f"no containers of {app} are being replaced")
            _put_rollout(db, app, None)
            if restore:
                _put_deployment(db, "deployments", app, rollout.before)
                _put_port(db, app, rollout.port_before or None)

        return await self._change(change)

    async def forget_app(self, app: str) -> Intent:
        """As if nobody had ever said anything of an app: its connections go, with the variables they brought."""

        def change(db: sqlite3.Connection) -> None:
            drop_connections(db, self.intent, app)
            for table in APP_TABLES:
                db.execute(f"DELETE FROM {table} WHERE app = ?", (app,))  # noqa: S608 (names of our own)

        return await self._change(change, closing=True)

    async def replace_claims(self, claims: Mapping[str, str]) -> Intent:
        """Remember `claims` (domain -> the app that holds it), and no others."""

        def change(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM claims")
            db.executemany("INSERT INTO claims VALUES (?, ?)", claims.items())

        if dict(self.intent.claims) == dict(claims):
            return self.intent
        return await self._change(change)


APP_TABLES = (
    "deployments",
    "deployments_before",
    "rollouts",
    "ports",
    "domains",
    "options",
    "modes",
    "variables",
    "retired",
    "claims",
)


def _put_options(db: sqlite3.Connection, app: str, options: Mapping[str, str | None]) -> None:
    for name, value in options.items():
        db.execute("DELETE FROM options WHERE app = ? AND name = ?", (app, name))
        if value is not None:
            db.execute("INSERT INTO options VALUES (?, ?, ?)", (app, name, value))


def _put_deployment(db: sqlite3.Connection, table: str, app: str, deployment: Deployment | None) -> None:
    db.execute(f"DELETE FROM {table} WHERE app = ?", (app,))  # noqa: S608 (names of our own)
    if deployment is not None:
        row = (app, deployment.image, deployment.image_id, deployment.replicas, json.dumps(deployment.command))
        db.execute(
            f"INSERT INTO {table} (app, image, image_id, replicas, command) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
            row,
        )


def _put_port(db: sqlite3.Connection, app: str, port: int | None) -> None:
    db.execute("DELETE FROM ports WHERE app = ?", (app,))
    if port is not None:
        db.execute("INSERT INTO ports VALUES (?, ?)", (app, port))


def _put_domains(db: sqlite3.Connection, app: str, domains: Sequence[str]) -> None:
    db.execute("DELETE FROM domains WHERE app = ?", (app,))
    db.executemany("INSERT INTO domains (app, domain) VALUES (?, ?)", [(app, d) for d in dict.fromkeys(domains)])


def _put_rollout(db: sqlite3.Connection, app: str, rollout: Rollout | None) -> None:
    db.execute("DELETE FROM rollouts WHERE app = ?", (app,))
    _put_deployment(db, "deployments_before", app, rollout.before if rollout else None)
    if rollout is not None:
        row = (app, rollout.began, rollout.port_before, json.dumps(rollout.replaces), rollout.health)
        db.execute("INSERT INTO rollouts (app, began, port_before, replaces, health) VALUES (?, ?, ?, ?, ?)", row)
