"""The verb of passwords: db password."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidegate.api import schemas
from sidegate.api.logins import check_login, known_login
from sidegate.api.names import require_database
from sidegate.api.progress import Progress, unheard
from sidegate.api.renewing import Renewal
from sidegate.api.world import World
from sidegate.core.database_engines import DatabaseEngine
from sidegate.core.labels import DATABASE
from sidegate.core.model import DatabaseDetails, PasswordChange, Variable
from sidegate.core.passwords import PasswordChanged, check_password, generate, holders, holds, updated_variables
from sidegate.errors import InvalidInputError, PasswordUncertainError, RefusedError, SidegateError


@dataclass(frozen=True, slots=True)
class PasswordVerbs:
    """One password per database, whichever way its clients come in."""

    world: World
    renewal: Renewal

    async def change(
        self, name: str, asked: schemas.PasswordRequest, progress: Progress = unheard
    ) -> schemas.PasswordSet:
        """Change the password in the database's server, prove it by a login, and say who still holds the old one.

        Raises NotFoundError, InvalidInputError naming every unmet rule, RefusedError where the database does not run or
        cannot be logged in to, LoginFailedError with the server's reason: then nothing has changed. Raises
        PasswordUncertainError where the server did not answer: the change goes on by itself.
        """
        await require_database(self.world, name)
        if asked.generate == (asked.password is not None):
            raise InvalidInputError("give either a password or generate, one of the two")
        engine, before = await known_login(self.world, name)
        if engine is None:
            raise RefusedError(f"{name} has no container, so there is no server to tell: start it first")
        new = generate() if asked.password is None else check_password(asked.password, engine)
        await self._check(name, engine, before, new)
        progress(f"changing the password of {before.user} in {name}")
        env = self.world.intent.env
        changed = await self._carry_out(name, asked, new)
        self.world.logins_seen[name] = "ok"  # a login was made with the new one
        progress(f"{name} has its new password")
        renewed = updated_variables(env, changed, name)
        view = schemas.PasswordSet(
            database=name,
            user=changed.details.user,
            password=new if asked.generate else None,
            accounts=list(changed.accounts),
            sessions_ended=changed.ended,
            updated=_named((a, v.key, v.scope) for a, vs in renewed.items() for v in vs) if asked.update_env else [],
            redeployed=[],
            variables=[],
            containers=[],
            notes=list(changed.notes),
        )
        if asked.update_env:
            await self._redeploy(sorted(renewed), view, progress)
        view.variables = _named(holders(self.world.intent.env, changed.old.password))
        view.containers = self._containers(changed.old.password)
        view.notes += _advice(name, asked, view, renewed)
        return view

    async def _check(self, name: str, engine: DatabaseEngine, before: DatabaseDetails, new: str) -> None:
        """Raise RefusedError where it is plain beforehand that the change cannot be made."""
        if not before.user:
            raise RefusedError(f"the user of {name} is not known: say so with `sidegate db set {name} --user …`")
        if new == before.password:
            raise RefusedError(f"that is the password of {name} already")
        login = await check_login(self.world, name)
        administrator = before.root_password and before.user != engine.administrator
        if login != "ok" and not (administrator and login.startswith(("refused", "unknown: give"))):
            how = f"; say what it is now with `sidegate db set {name} --password-stdin`"
            hint = how if login.startswith(("refused", "unknown: give")) else ""
            raise RefusedError(f"the password of {name} was not changed, since a login fails: {login}{hint}")

    async def _carry_out(self, name: str, asked: schemas.PasswordRequest, new: str) -> PasswordChanged:
        if self.world.passwords is None:
            raise RefusedError("this daemon changes no passwords")
        change = PasswordChange(new, asked.update_env, asked.disconnect, self.world.wall())
        async with self.world.writing:
            if name in self.world.intent.passwords:
                raise RefusedError(
                    f"the password of {name} is being changed already: wait, or say which one counts "
                    f"with `sidegate db set {name} --password-stdin`"
                )
            expected = self.world.passwords.expect(name)
            try:
                await self.world.store.begin_password(name, change)
            except SidegateError:
                expected.cancel()
                raise
        try:
            reason = (await self.world.settle()).engine_fault
        except SidegateError as error:
            reason = str(error)
        if expected.done():
            return expected.result()
        expected.cancel()
        raise PasswordUncertainError(
            f"the change of the password of {name} is not done yet and goes on{f' ({reason})' if reason else ''}: "
            f"`sidegate db credentials {name}` tells which one counts"
        )

    async def _redeploy(self, apps: list[str], view: schemas.PasswordSet, progress: Progress) -> None:
        """One after the other; an app that cannot be is told of, and the rest go on."""
        for app in apps:
            if not any(container.running for container in self.world.discovery.containers(app)):
                continue
            try:
                await self.renewal.bring_up_to_date(app, progress)
            except SidegateError as error:
                view.notes.append(f"{app} was not redeployed, and has its old variables until it is: {error}")
            else:
                view.redeployed.append(app)

    def _containers(self, old: str) -> list[schemas.ContainerHolder]:
        """Running containers whose environment holds the old password, databases aside: they never read theirs again,
        and another one's is its own."""
        discovery = self.world.discovery
        apps = {replica.container.id: name for name, app in discovery.apps.items() for replica in app.replicas}
        found = []
        for container in self.world.state.containers:
            if container.running and DATABASE not in container.labels:
                keys = sorted(key for key, value in container.env.items() if holds(value, old))
                if keys:
                    app = apps.get(container.id)
                    found.append(schemas.ContainerHolder(container=container.name, app=app, keys=keys))
        return sorted(found, key=lambda holder: holder.container)


def _advice(
    name: str,
    asked: schemas.PasswordRequest,
    view: schemas.PasswordSet,
    renewed: Mapping[str, tuple[Variable, ...]],
) -> list[str]:
    """What is left to do, in sentences."""
    notes = []
    if renewed and not asked.update_env:
        apps = ", ".join(sorted(renewed))
        notes.append(f"variables that a connection added to {apps} hold the old password: --update-env updates them")
    stale = sorted({holder.app for holder in view.containers if holder.app})
    if stale:
        notes.append(
            f"running containers of {', '.join(stale)} hold the old password and cannot log in again with it: "
            "redeploy them once their variables hold the new one"
        )
    return notes


def _named(found: Iterable[tuple[str, str, str]]) -> list[schemas.VariableHolder]:
    return [schemas.VariableHolder(app=app, key=key, scope=scope) for app, key, scope in sorted(found)]
