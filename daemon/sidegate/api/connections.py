"""The verbs of internal connections: connect, disconnect, connections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sidegate.api import schemas
from sidegate.api.apps import start_command
from sidegate.api.logins import known_login, login_fault, unknown_parts
from sidegate.api.names import listed, look_again, near, not_found
from sidegate.api.progress import Progress, unheard
from sidegate.api.renewing import Renewal, Renewed
from sidegate.api.stale import stale_containers, stale_note
from sidegate.api.world import Pass, World
from sidegate.core.desired import database_port, join_fault, pair_network
from sidegate.core.env import (
    app_variables,
    check_clashes,
    check_not_port,
    check_scope,
    clashes,
    database_variables,
    rename,
)
from sidegate.core.model import DATABASE_PORT, Container, DatabaseDetails, Pair, Variable, check_name
from sidegate.core.plan import KillSessions, NetworkAction, PortAction, network_chain
from sidegate.core.reconcile import pool_exhausted
from sidegate.core.subnets import free_subnets
from sidegate.errors import (
    DuplicateConnectionError,
    EngineError,
    EngineUnavailableError,
    InvalidInputError,
    MissingRightsError,
    NotFoundError,
    PoolExhaustedError,
    RefusedError,
    SidegateError,
)

SOURCE = "connection:"  # and the target's name: where a variable of a connection came from


@dataclass(frozen=True, slots=True)
class ConnectionVerbs:
    """One network per pair; everything is checked before anything is written, and undone when a pass fails."""

    world: World
    renewal: Renewal

    async def connect(self, request: schemas.ConnectRequest, progress: Progress = unheard) -> schemas.Connected:
        """Join an app and a database, or two apps; returns once the running containers of both are attached.

        The app may be either word, and may have no container yet if the other is a database. With `env` the target's
        variables are added to the app, in the same transaction. Raises InvalidInputError, NotFoundError, RefusedError
        and its kinds, EngineUnavailableError, or why a pass failed; then nothing has changed. With `redeploy` it raises
        as `app redeploy` does, too; then the connection and the variables stay.
        """
        check_name(request.app)
        check_name(request.target)
        check_scope(request.scope)
        if request.renames and not request.env:
            raise InvalidInputError("renames are for the connection's variables: ask for those too (--env)")
        if request.app == request.target:
            raise RefusedError(f"{request.app} cannot be connected to itself")
        await self.world.seen()
        if not self.world.loop.last.engine_up:
            raise EngineUnavailableError(self.world.loop.last.engine_fault)
        await look_again(self.world, request.app, request.target)
        app, target = self._sort(request.app, request.target)
        pair = Pair.of(app, target)
        self._check_new(pair, app, ())
        self._check_port(target)
        known = self.world.intent.databases.get(target)
        variables = await self._variables(app, target, request) if request.env else ()
        async with self.world.writing:
            if request.env and self.world.intent.databases.get(target) != known:  # such as its password, just now
                variables = await self._variables(app, target, request)
            self._check_new(pair, app, variables)
            self._check_room(pair)
            await self.world.store.add_connection(pair, app, variables)
        await self._settle_up(pair, app, variables)
        if target in self.world.databases and target not in self.world.intent.databases:
            async with self.world.writing:  # so that it is still listed, as absent, when its container is gone
                if target not in self.world.intent.databases:
                    await self.world.store.set_database_details(target, DatabaseDetails())
        renewed = Renewed()
        if request.redeploy:
            added = f", and {app} has {', '.join(v.key for v in variables)}" if variables else ""
            renewed = await self.renewal.renew([app], f"{app} and {target} are connected{added}", progress)
        return self._connected(app, target, variables, renewed)

    async def disconnect(
        self,
        one: str,
        other: str,
        *,
        keep_variables: bool = False,
        redeploy: bool = False,
        progress: Progress = unheard,
    ) -> schemas.Disconnected:
        """Part two ends, sessions included; the variables that the connection added go too, or stay. `redeploy` whoever
        has lost some.

        Raises NotFoundError. When the cut itself fails the reason is raised, and every later pass tries again; when a
        redeploy does, it is raised as by `app redeploy`, and the rest is done.
        """
        pair = Pair.of(check_name(one), check_name(other))
        await self.world.seen()
        async with self.world.writing:
            if pair not in self.world.intent.connections:
                partners = listed(self.world.partners(one))
                raise NotFoundError(
                    f"{one} and {other} are not connected" + (f" ({one} is, to {partners})" if partners else "")
                )
            network = pair_network(pair, self.world.loop.rules)
            detached = sorted(c.name for c in self.world.state.containers if c.endpoint(network))
            brought = self._brought(pair)
            added = sorted({key for keys in brought.values() for key in keys})
            await self.world.store.remove_connection(pair, keep_variables=keep_variables)
        passed = await self.world.settle()
        if fault := self._cut_fault(passed, network):
            kind = EngineUnavailableError if isinstance(fault, EngineUnavailableError) else EngineError
            later = " and ".join(f"`sidegate app redeploy {app}`" for app in brought)
            hint = f"; {later} is still to be done" if redeploy and brought and not keep_variables else ""
            raise kind(f"{pair} are to be parted, but that is not done yet and goes on: {fault}{hint}") from fault
        renewed = Renewed()
        if redeploy and added and not keep_variables:
            so_far = f"{pair} are no longer connected, and {', '.join(added)} removed"
            renewed = await self.renewal.renew([*brought], so_far, progress)
        elif redeploy:
            renewed.notes.append("nothing had to be redeployed: no variables were removed")
        return schemas.Disconnected(
            a=pair.a,
            b=pair.b,
            detached=detached,
            variables_removed=[] if keep_variables else added,
            variables_kept=added if keep_variables else [],
            notes=[
                *(self._left_open(passed, network) if detached else []),
                *(note for end in (pair.a, pair.b) for note in stale_note(end, stale_containers(self.world, end))),
                *renewed.notes,
            ],
            redeployed=renewed.apps,
        )

    async def ls(self) -> list[schemas.ConnectionView]:
        """Every internal connection, and who is on it."""
        await self.world.seen()
        return [self._view(pair) for pair in sorted(self.world.intent.connections)]

    # --- before

    def _sort(self, one: str, other: str) -> tuple[str, str]:
        """Which of the two is the app that connects, and which the target. Raises NotFoundError, RefusedError."""
        apps, databases = self.world.apps, self.world.databases
        if one in databases and other in databases:
            raise RefusedError(
                f"{one} and {other} are both databases: a connection joins an app and a database or two apps"
            )
        if one in databases:
            return other, one
        if other in databases or (one in apps and other in apps):
            return one, other
        missing = other if one in apps or (one not in apps and other not in apps) else one
        raise not_found(self.world, "app or database", missing, (apps | databases) - {one, other})

    def _check_port(self, target: str) -> None:
        """Whether a database answers where connected apps look for it. Raises RefusedError."""
        database, rules = self.world.discovery.databases.get(target), self.world.loop.rules
        if database and (port := database_port(database, rules)) != DATABASE_PORT:
            raise RefusedError(
                f"{target} listens at {port}, and only a daemon that runs as root can have it answer at "
                f"{DATABASE_PORT}, as every connected database does; `sidegate external on {target}` works without"
            )

    def _check_room(self, pair: Pair) -> None:
        """Whether every container of both ends can join. Raises RefusedError, PoolExhaustedError."""
        world, rules = self.world, self.world.loop.rules
        needed = 0
        for end in (pair.a, pair.b):
            containers = world.discovery.containers(end)
            for container in containers:
                if fault := join_fault(container):
                    raise RefusedError(f"{end} cannot be connected: its container {container.name} {fault}")
            needed += 1 if end in world.databases else 2 * len(containers)
        if needed > rules.endpoints_per_network:
            raise RefusedError(
                f"{pair} do not fit on one network: a rollout doubles replicas, which makes {needed} containers, "
                f"and it has {rules.endpoints_per_network} places (see internal_subnet)"
            )
        taken = [subnet for network in world.state.networks for subnet in network.subnets]
        existing = {network.name for network in world.state.networks}
        pending = {pair_network(p, rules) for p in {*world.intent.connections, pair}} - existing
        if len(list(islice(free_subnets(rules.pool, rules.subnet_prefix, taken), len(pending)))) < len(pending):
            raise PoolExhaustedError(pool_exhausted(rules))

    def _check_new(self, pair: Pair, app: str, variables: Sequence[Variable]) -> None:
        if pair in self.world.intent.connections:
            raise DuplicateConnectionError(f"{pair} are connected already")
        present = self.world.intent.env.get(app, ())
        check_not_port(app, variables)
        if keys := clashes(present, variables):
            first, words = keys[0], " ".join(keys)
            advice = (
                f"use other names (--rename {first}=OTHER_{first}), unset them first "
                f"(`sidegate env unset {app} {words}`) or connect without --env"
            )
            check_clashes(app, present, variables, advice)

    async def _variables(self, app: str, target: str, request: schemas.ConnectRequest) -> tuple[Variable, ...]:
        if target in self.world.databases:
            engine, details = await known_login(self.world, target)
            if engine is None:
                raise RefusedError(f"{target} has no container, so its database engine is not known: start it first")
            if unknown := unknown_parts(details):
                options = " ".join("--password-stdin" if u == "password" else f"--{u} …" for u in unknown)
                raise RefusedError(
                    f"the {' and the '.join(unknown)} of {target} {'is' if len(unknown) == 1 else 'are'} not known: "
                    f"say so with `sidegate db set {target} {options}`"
                )
            variables = database_variables(target, details, engine)
        else:
            found = self.world.discovery.apps.get(target)
            if found is None:
                raise RefusedError(f"{target} has no container, so its port is not known: start it first")
            variables = app_variables(target, found.replicas[0].port)
        marked = tuple(replace(v, scope=request.scope, source=SOURCE + target) for v in variables)
        return rename(marked, request.renames)

    # --- after

    async def _settle_up(self, pair: Pair, app: str, variables: Sequence[Variable]) -> None:
        """Wait for the pass; when it did not bring the connection up, take the intent back and say why."""
        try:
            fault = self._join_fault(await self.world.settle(), pair)
        except SidegateError as error:
            fault = error
        if fault is None:
            return
        async with self.world.writing:
            if pair in self.world.intent.connections:
                await self.world.store.take_back_connection(pair, app, variables)
        self.world.loop.wake()
        raise fault

    def _join_fault(self, passed: Pass, pair: Pair) -> SidegateError | None:
        if not passed.engine_up:
            return EngineUnavailableError(f"{passed.engine_fault}; nothing was changed")
        network = pair_network(pair, self.world.loop.rules)
        wanted = passed.desired.networks.get(network)
        if wanted is None:
            return RefusedError(f"{pair} were disconnected again in the meantime")
        for failure in passed.failures:
            if isinstance(failure.action, NetworkAction) and failure.action.network == network:
                return failure.error
            if isinstance(failure.action, PortAction) and failure.action.database in (pair.a, pair.b):
                return RefusedError(f"{failure.action.database} does not answer at port 3306: {failure.error}")
        for problem in passed.problems:
            if problem.subject == network:
                exhausted = problem.text == pool_exhausted(self.world.loop.rules)
                return PoolExhaustedError(problem.text) if exhausted else RefusedError(f"{network}: {problem.text}")
        if not any(n.name == network for n in passed.state.networks):
            return EngineError(f"the network {network} was not made: see `sidegate status`")
        for container in passed.state.containers:
            if container.id in wanted.members and container.running and not container.endpoint(network):
                return EngineError(f"{container.name} was not attached to {network}: see `sidegate status`")
        return None

    def _cut_fault(self, passed: Pass, network: str) -> SidegateError | None:
        """Why both ends may not have been told; that a query could not be killed is a problem in `status`, and what no
        later pass could do either a note."""
        if not passed.engine_up:
            return EngineUnavailableError(passed.engine_fault)
        for failure in passed.failures:
            known = isinstance(failure.action, KillSessions) or isinstance(failure.error, MissingRightsError)
            if failure.action.chain == network_chain(network) and not known:
                return failure.error
        return None

    def _left_open(self, passed: Pass, network: str) -> list[str]:
        """Why sessions of a connection that was removed may hang, where the daemon has not the rights to end them."""
        faults = {
            str(failure.error)
            for failure in passed.failures
            if failure.action.chain == network_chain(network) and isinstance(failure.error, MissingRightsError)
        }
        return sorted(faults | {passed.cut_fault} - {""})

    def _brought(self, pair: Pair) -> dict[str, list[str]]:
        """Keys that this connection added, by the end that has them."""
        env = self.world.intent.env
        ends = ((pair.a, pair.b), (pair.b, pair.a))
        brought = {app: sorted({v.key for v in env.get(app, ()) if v.source == SOURCE + end}) for app, end in ends}
        return {app: keys for app, keys in brought.items() if keys}

    # --- telling

    def _connected(self, app: str, target: str, variables: Sequence[Variable], renewed: Renewed) -> schemas.Connected:
        pair, world = Pair.of(app, target), self.world
        view = self._view(pair)
        start = start_command(app, world.loop.rules)
        containers = world.discovery.containers(app)
        notes = []
        if not containers:
            known = near(app, world.discovery.apps)
            slip = f" (did you mean {known}? then disconnect this one)" if known else ""
            notes.append(f"{app} has no container yet{slip}; start one with: {start}")
        elif variables:
            notes += stale_note(app, stale_containers(world, app))
        if not world.discovery.containers(target):
            notes.append(f"{target} has no container now")
        if variables and (fault := login_fault(world, target)):
            notes.append(f"{fault}; where it is the login that is wrong, `sidegate db set {target}` corrects it")
        if variables and variables[0].scope != "runtime":
            notes.append(
                f"a build cannot reach {target}.internal: internal connections work at run time only; "
                "give builds the external details"
            )
        return schemas.Connected(
            app=app,
            target=target,
            network=view.network,
            subnet=view.subnet,
            attached=[m.container for m in view.members if m.attached],
            variables=[v.key for v in variables],
            notes=[*notes, *renewed.notes],
            start_command=start,
            redeployed=renewed.apps,
        )

    def _view(self, pair: Pair) -> schemas.ConnectionView:
        world = self.world
        name = pair_network(pair, world.loop.rules)
        network = world.network(name)
        ends = {end: world.discovery.containers(end) for end in (pair.a, pair.b)}
        members = [self._member(end, container, name) for end, cs in ends.items() for container in cs]
        return schemas.ConnectionView(
            a=pair.a,
            b=pair.b,
            kinds=["database" if end in world.databases else "app" for end in (pair.a, pair.b)],
            network=name,
            subnet=next(iter(network.subnets), None) if network else None,
            state=_state(ends, members, exists=network is not None),
            members=members,
            variables=self._brought(pair),
        )

    @staticmethod
    def _member(end: str, container: Container, network: str) -> schemas.MemberView:
        endpoint = container.endpoint(network)
        return schemas.MemberView(
            container=container.name,
            end=end,
            state=container.state,
            attached=endpoint is not None,
            address=endpoint.address or None if endpoint else None,
        )


def _state(ends: Mapping[str, Sequence[Container]], members: Sequence[schemas.MemberView], *, exists: bool) -> str:
    """up: containers of both ends run and all are attached; waiting: an end has none that runs; else partly."""
    if not all(any(c.running for c in containers) for containers in ends.values()):
        return "waiting"
    return "up" if exists and all(member.attached for member in members) else "partly"
