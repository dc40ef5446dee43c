"""The verbs of variables: env ls, set, unset, rename, export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sidegate.api import schemas
from sidegate.api.names import look_again, near, not_found, require_app
from sidegate.api.stale import stale_containers, stale_note
from sidegate.api.world import World
from sidegate.core.dotenv import parse_dotenv
from sidegate.core.env import (
    PORT,
    STAGES,
    check_clashes,
    check_key,
    check_not_port,
    check_scope,
    check_value,
    export,
    select,
)
from sidegate.core.environment import given
from sidegate.core.labels import DEFAULT_APP_PORT, App
from sidegate.core.model import Variable, check_name
from sidegate.errors import InvalidInputError, NotFoundError

BUILD_ARGS = "build-args"


@dataclass(frozen=True, slots=True)
class EnvVerbs:
    """An app's variables as the store has them. Values are in no error, note or log."""

    world: World

    async def ls(self, app: str, *, scope: str | None = None, reveal: bool = False) -> schemas.EnvView:
        """The variables by key; secret values only with `reveal`. Raises NotFoundError, InvalidInputError."""
        await require_app(self.world, app)
        variables: Sequence[Variable] = self.world.intent.env.get(app, ())
        if scope is not None:
            variables = select(variables, scope)
        stale = stale_containers(self.world, app)
        return schemas.EnvView(
            app=app,
            variables=[
                schemas.VariableView(
                    key=v.key,
                    value=v.value if reveal or not v.secret else None,
                    scope=v.scope,
                    source=v.source,
                    secret=v.secret,
                )
                for v in sorted(variables, key=lambda v: (v.key, v.scope))
            ],
            stale=stale,
            notes=stale_note(app, stale),
        )

    async def change(self, app: str, asked: schemas.EnvRequest) -> schemas.EnvChanged:
        """Set and unset variables, all or none. The app may have no container yet.

        Raises InvalidInputError, RefusedError for PORT, KeyClashError listing every clash, NotFoundError for a key that
        is to be unset and is not there, StoreError.
        """
        values = {key: value for key, value in asked.variables.items() if value is not None}
        if asked.dotenv is not None:
            values = _joined(values, parse_dotenv(asked.dotenv))
        unset = [key for key, value in asked.variables.items() if value is None]
        if both := sorted(set(unset) & set(values)):
            raise InvalidInputError(f"{', '.join(both)} cannot be set and unset at once")
        if not values and not unset:
            raise InvalidInputError("nothing to change: give variables")
        for key, value in values.items():
            check_value(check_key(key), value)
        if asked.scope is not None:
            check_scope(asked.scope)
        await self._name(app, known=not values)
        async with self.world.writing:
            present = self.world.intent.env.get(app, ())
            variables = [_given(present, key, value, asked) for key, value in values.items()]
            gone = [v for key in unset for v in self._found(app, key, asked.scope)]
            check_not_port(app, variables)
            taken = {(v.key, v.scope) for v in (*variables, *gone)}
            others = [v for v in present if (v.key, v.scope) not in taken]
            check_clashes(app, others, variables, _advice(app, others, variables))
            await self.world.store.set_variables(app, variables, gone)
        return self._changed(app, variables, gone)

    async def rename(
        self, app: str, key: str, asked: schemas.VariableEdit, *, scope: str | None = None
    ) -> schemas.EnvChanged:
        """Give a variable another key, another scope, or both; its value and where it came from stay.

        Raises NotFoundError, InvalidInputError, RefusedError for PORT, KeyClashError, StoreError.
        """
        new = check_key(key if asked.key is None else asked.key)
        for given_scope in (scope, asked.scope):
            if given_scope is not None:
                check_scope(given_scope)
        await self._name(app, known=True)
        async with self.world.writing:
            present = self.world.intent.env.get(app, ())
            moved = self._found(app, key, scope)
            renamed = [replace(v, key=new, scope=asked.scope or v.scope) for v in moved]
            if renamed == moved:
                raise InvalidInputError("nothing to change: give another key or another scope")
            check_not_port(app, renamed)
            others = [v for v in present if v not in moved]
            check_clashes(app, others, renamed, _advice(app, others, renamed))
            await self.world.store.rename_variable(app, key, new, scope, new_scope=asked.scope)
        return self._changed(app, renamed, [v for v in moved if v.key != new])

    async def export(self, app: str, form: str, scope: str | None = None) -> str:
        """The environment of a running container, `PORT` included, or of a build, as text.

        Without `scope` it is a container's, or a build's for build arguments, which have no PORT unless there is a
        variable of that name. Raises NotFoundError, InvalidInputError, and RefusedError for a value that the format
        cannot carry.
        """
        stage = check_scope(scope or ("build" if form == BUILD_ARGS else "runtime"), STAGES)
        await require_app(self.world, app)
        if stage == "runtime":
            values = given(app, self.world.intent)
        else:
            values = {v.key: v.value for v in select(self.world.intent.env.get(app, ()), stage)}
        if form != BUILD_ARGS:
            replicas = self.world.discovery.apps.get(app, App(app)).replicas
            values.setdefault(PORT, str(replicas[0].port if replicas else DEFAULT_APP_PORT))
        return export(values, form)

    async def _name(self, app: str, *, known: bool) -> None:
        """Check an app's name, which may be one to come unless it has to be `known`."""
        if known:
            await require_app(self.world, app)
            return
        await look_again(self.world, check_name(app))
        if app in self.world.databases:
            raise not_found(self.world, "app", app, self.world.apps, f": {app} is a database")

    def _found(self, app: str, key: str, scope: str | None) -> list[Variable]:
        present = self.world.intent.env.get(app, ())
        if found := [v for v in present if v.key == key and scope in (None, v.scope)]:
            return found
        text = f"{app} has no variable {key}" + (f" for {scope}" if scope else "")
        known = sorted({v.key for v in present})
        close = near(key, known)
        raise NotFoundError(text + (f": did you mean {close}?" if close else f" (it has {', '.join(known) or 'none'})"))

    def _changed(self, app: str, variables: Sequence[Variable], gone: Sequence[Variable]) -> schemas.EnvChanged:
        stale = stale_containers(self.world, app)
        notes = stale_note(app, stale)
        if not self.world.discovery.containers(app):
            known = near(app, self.world.discovery.apps)
            notes.append(f"{app} has no container yet" + (f" (did you mean {known}?)" if known else ""))
        return schemas.EnvChanged(
            app=app,
            set=[schemas.KeyScope(key=v.key, scope=v.scope) for v in variables],
            unset=[schemas.KeyScope(key=v.key, scope=v.scope) for v in gone],
            stale=stale,
            notes=notes,
        )


def _joined(words: Mapping[str, str], file: Mapping[str, str]) -> dict[str, str]:
    if twice := sorted(words.keys() & file.keys()):
        raise InvalidInputError(f"{', '.join(twice)} is given twice, by itself and in the file: keep one")
    return {**words, **file}


def _given(present: Sequence[Variable], key: str, value: str, asked: schemas.EnvRequest) -> Variable:
    """The variable that is meant: without a scope that of run time, or of both where the key is there for both; one
    that was secret stays so."""
    scopes = {v.scope for v in present if v.key == key}
    scope = asked.scope or ("both" if "both" in scopes else "runtime")
    secret = any(v.secret for v in present if v.key == key) if asked.secret is None else asked.secret
    return Variable(key, value, scope, secret=secret)


def _advice(app: str, present: Sequence[Variable], added: Sequence[Variable]) -> str:
    """What to do about keys that are there for another scope."""
    key = next((v.key for v in present if v.key in {a.key for a in added}), "KEY")
    return f"unset it first (`sidegate env unset {app} {key}`), or give it another scope or another name"
