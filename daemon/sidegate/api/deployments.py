"""The verbs that make, replace and remove containers of apps: deploy, redeploy, port, domains, rm."""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sidegate.api import schemas
from sidegate.api.apps import AppVerbs
from sidegate.api.names import look_again, require_app
from sidegate.api.progress import Progress, unheard
from sidegate.api.work import Rollouts, Workloads
from sidegate.api.world import World
from sidegate.core.deployments import (
    check_command,
    check_domain_count,
    check_domains,
    check_free_domains,
    check_image,
    check_port,
    check_replicas,
    is_own,
    own_containers,
    slot_name,
)
from sidegate.core.desired import app_network, pair_network
from sidegate.core.dotenv import parse_dotenv
from sidegate.core.env import check_key, check_not_port, check_value
from sidegate.core.labels import DEFAULT_APP_PORT, App
from sidegate.core.model import Container, Deployment, Intent, Pair, Rollout, Variable, check_name
from sidegate.core.options import check_options
from sidegate.core.reconcile import pool_exhausted
from sidegate.core.rollout import ALIVE, base_name
from sidegate.core.subnets import free_subnets
from sidegate.core.workloads import ImageInfo
from sidegate.errors import (
    EngineError,
    EngineUnavailableError,
    FixedPortError,
    InvalidInputError,
    NotFoundError,
    PoolExhaustedError,
    RefusedError,
    RolloutFailedError,
    SidegateError,
)


@dataclass(frozen=True, slots=True)
class DeploymentVerbs:
    """Everything is checked before anything is written; what takes long tells how it gets on.

    A caller that leaves ends nothing: a rollout goes on to its end, good or bad.
    """

    world: World
    apps: AppVerbs

    async def deploy(self, app: str, asked: schemas.DeployRequest, progress: Progress = unheard) -> schemas.AppView:
        """Run an app, or run it anew: new containers start, become healthy and take over, and the old ones go.

        Raises InvalidInputError, RefusedError, NotFoundError (no such image), PoolExhaustedError, KeyClashError, and
        RolloutFailedError with the reason and the container's last lines; then what was there goes on as it was.
        """
        world, rules = self.world, self.world.loop.rules
        check_name(app)
        check_image(asked.image)
        domains = None if asked.domains is None else check_domains(asked.domains)
        command = None if asked.command is None else check_command(asked.command)
        check_options({} if asked.health is None else {"health": asked.health})
        variables = _variables(app, asked)
        if asked.port is not None:
            check_port(asked.port)
        if asked.replicas is not None:
            check_replicas(asked.replicas, rules)
        await self._ready(app)
        self._check_deployable(app)
        image = await self._image(asked.image, progress)
        options, health = await self._health(app, asked.health)
        async with world.writing:
            self._check_deployable(app)
            before = world.intent.deployments.get(app)
            deployment = Deployment(
                asked.image,
                image.id,
                asked.replicas or (before.replicas if before else 1),
                command if command is not None else (before.command if before else ()),
            )
            check_replicas(deployment.replicas, rules)
            self._check_room(app, deployment.replicas)
            self._check_names(app, deployment.replicas)
            check_free_domains(app, domains or (), world.intent, world.discovery.apps.values(), rules.base_domain)
            check_domain_count(world.discovery.apps.get(app, App(app)), domains or ())
            port = asked.port or world.intent.ports.get(app) or _port_of(image)
            kept = world.intent
            rollout = replace(self._rollout(app, (c.id for c in self._own(app))), health=health)
            await world.store.set_deployment(
                app,
                deployment,
                port=port,
                domains=domains,
                options=options,
                variables=variables,
                rollout=rollout,
            )
        try:
            await self._carry_out(app, progress)
        except RolloutFailedError as failed:
            try:
                await self._take_back(app, kept, variables, options, domains)
            except SidegateError as error:
                raise RolloutFailedError(f"{failed}\nNot all that was said with it was taken back: {error}") from failed
            raise
        self._check_kept(app)
        return self.apps.view(app, self._beside(app))

    async def redeploy(self, app: str, progress: Progress = unheard) -> schemas.AppView:
        """Replace an app's containers with new ones that have the stored variables and are the same otherwise; whoever
        runs them. Raises NotFoundError, RefusedError, RolloutFailedError."""
        await require_app(self.world, app)
        await self._ready(app)
        containers = self._own(app)
        notes: list[str] = []
        if app not in self.world.intent.deployments:
            theirs = self._theirs(app)
            if not theirs:
                raise RefusedError(f"{app} has no container to redeploy: start one, or `sidegate app deploy {app}`")
            # One that has done its work, such as a migration, is not begun anew.
            containers = tuple(c for c in theirs if c.state in ALIVE) or theirs
            await self._check_copies(containers)
            notes = [f"{c.name} does not run, and stays as it is" for c in theirs if c not in containers]
        async with self.world.writing:
            self._refuse_while_under_way(app)
            await self.world.store.begin_rollout(app, self._rollout(app, (c.id for c in containers)))
            deployed = app in self.world.intent.deployments
        await self._carry_out(app, progress)
        if deployed:
            self._check_kept(app)
        return self.apps.view(app, notes)

    async def port(self, app: str, port: int, progress: Progress = unheard) -> schemas.AppView:
        """The PORT that an app's containers are given. One that Sidegate runs is rolled at once, traffic follows; one
        that others run gets it when it is redeployed.

        Raises FixedPortError for a database, InvalidInputError, NotFoundError, RefusedError, RolloutFailedError.
        """
        world = self.world
        await look_again(world, check_name(app))
        if app in world.databases:
            raise FixedPortError
        check_port(port)
        await require_app(world, app)
        if app not in world.intent.deployments:
            async with world.writing:
                self._refuse_while_under_way(app)
                await world.store.set_port(app, port)
            await world.settle()
            return self.apps.view(app, self._later(app, port))
        await self._ready(app)
        async with world.writing:
            self._refuse_while_under_way(app)
            if world.intent.ports.get(app) == port:
                raise RefusedError(f"{app} has the port {port} already")
            rollout = self._rollout(app, (c.id for c in self._own(app)))
            await world.store.set_deployment(app, world.intent.deployments[app], port=port, rollout=rollout)
        await self._carry_out(app, progress)
        self._check_kept(app)
        return self.apps.view(app)

    async def domains(self, app: str, asked: schemas.DomainsRequest) -> schemas.AppView:
        """Add domains to an app's, and remove some that were given by command.

        Raises NotFoundError, InvalidInputError, RefusedError naming who has a domain; then nothing has changed.
        """
        add, remove = check_domains(asked.add), check_domains(asked.remove)
        if not add and not remove:
            raise InvalidInputError("nothing to change: give domains to add or to remove")
        if both := sorted(set(add) & set(remove)):
            raise InvalidInputError(f"{', '.join(both)} cannot be added and removed at once")
        world = self.world
        await require_app(world, app)
        async with world.writing:
            present = world.intent.domains.get(app, ())
            if unknown := [domain for domain in remove if domain not in present]:
                raise self._not_given(app, unknown)
            base = world.loop.rules.base_domain
            check_free_domains(app, add, world.intent, world.discovery.apps.values(), base)
            kept = tuple(domain for domain in present if domain not in remove)
            if add:
                check_domain_count(world.discovery.apps.get(app, App(app)), (*kept, *add))
            await world.store.set_domains(app, tuple(dict.fromkeys((*kept, *add))))
        await world.settle()
        return self.apps.view(app)

    async def rm(self, app: str, progress: Progress = unheard) -> schemas.AppRemoved:
        """Remove an app that Sidegate runs, containers and network; of one that others run, forget what is known. Its
        connections end. Raises NotFoundError, EngineUnavailableError."""
        world = self.world
        await require_app(world, app)
        await self._ready(app, busy=True)
        own, theirs = self._own(app), self._theirs(app)
        network = app_network(app, world.loop.rules)
        async with world.writing:
            intent, partners = world.intent, world.partners(app)
            deployment = intent.deployments.get(app)
            if deployment is None:
                await world.store.forget_app(app)
            else:  # none wanted: they leave in order, and then the app is forgotten
                rollout = replace(self._rollout(app, (c.id for c in own)), before=deployment)
                await world.store.set_deployment(app, replace(deployment, replicas=0), rollout=rollout)
        if deployment is not None:
            await self._carry_out(app, progress)
        await world.settle()
        return schemas.AppRemoved(
            app=app,
            containers=sorted(c.name for c in own),
            network=network if deployment is not None else None,
            kept_containers=sorted(c.name for c in theirs),
            disconnected=partners,
            variables_removed=sum(map(len, intent.env.values())) - sum(map(len, world.intent.env.values())),
        )

    # --- before

    async def _ready(self, app: str, *, busy: bool = False) -> None:
        """The engine answers, and nothing is being done about the app's containers (unless it may be `busy`)."""
        await self.world.seen()
        self._parts()
        if not self.world.loop.last.engine_up:
            raise EngineUnavailableError(self.world.loop.last.engine_fault)
        if not busy:
            self._refuse_while_under_way(app)

    def _parts(self) -> tuple[Workloads, Rollouts]:
        if self.world.workloads is None or self.world.rollouts is None:
            raise RefusedError("this daemon makes no containers")
        return self.world.workloads, self.world.rollouts

    def _refuse_while_under_way(self, app: str) -> None:
        if said := self._parts()[1].under_way(app):
            raise RefusedError(
                f"the containers of {app} are being replaced at this moment ({said}): wait until that is done"
            )

    def _check_deployable(self, app: str) -> None:
        self._refuse_while_under_way(app)
        if app in self.world.databases:
            raise RefusedError(f"{app} is a database: choose another name")
        if app not in self.world.intent.deployments and (theirs := self._theirs(app)):
            names = ", ".join(container.name for container in theirs)
            raise RefusedError(
                f"{app} has containers that others run ({names}): remove those first (docker rm), "
                f"or bring them up to date as they are with `sidegate app redeploy {app}`"
            )

    def _own(self, app: str) -> tuple[Container, ...]:
        return own_containers(self.world.discovery.apps.get(app)) if app in self.world.intent.deployments else ()

    def _theirs(self, app: str) -> tuple[Container, ...]:
        found = self.world.discovery.apps.get(app, App(app)).replicas
        deployed = app in self.world.intent.deployments
        return tuple(r.container for r in found if not (deployed and is_own(r.container)))

    async def _image(self, reference: str, progress: Progress) -> ImageInfo:
        """The image as this node has it, fetched where it has not."""
        workloads = self._parts()[0]
        try:
            return await workloads.image(reference)
        except NotFoundError as missing:
            if reference.startswith("sha256:"):
                raise  # an id names nothing that could be fetched
            progress(f"fetching {reference}, which this node does not have")
            try:
                await workloads.pull(reference, progress)
            except (EngineError, NotFoundError) as error:
                raise NotFoundError(f"{missing}; it could not be fetched either: {error}") from error
        return await workloads.image(reference)

    async def _health(self, app: str, path: str | None) -> tuple[dict[str, str | None], str]:
        """The option to set at once, and the path that it is to be only once the new containers have taken over: where
        those that serve now do not answer there, they must not be asked, or nobody would serve."""
        if path is None:
            return {}, ""
        if path in ("off", self.world.intent.options.get(app, {}).get("health")):
            return {"health": path}, ""
        if await self._parts()[1].answers(app, path):
            return {"health": path}, ""
        return {"health": "off"}, path

    def _check_room(self, app: str, replicas: int) -> None:
        """Whether twice as many containers fit on each network of the app. Raises RefusedError, PoolExhaustedError."""
        world, rules = self.world, self.world.loop.rules
        for partner in world.partners(app):
            others = 1 if partner in world.databases else 2 * len(world.discovery.containers(partner))
            if 2 * replicas + others > rules.endpoints_per_network:
                network = pair_network(Pair.of(app, partner), rules)
                raise RefusedError(
                    f"{replicas} replicas do not fit on {network}: a rollout doubles them, which makes "
                    f"{2 * replicas + others} containers with {partner}'s, and it has {rules.endpoints_per_network} "
                    "places (see internal_subnet)"
                )
        taken = [subnet for network in world.state.networks for subnet in network.subnets]
        free = next(iter(free_subnets(rules.pool, rules.subnet_prefix, taken)), None)
        if free is None and world.network(app_network(app, rules)) is None:
            raise PoolExhaustedError(pool_exhausted(rules))

    def _check_names(self, app: str, replicas: int) -> None:
        """Whether somebody else's container has a name that one of ours is to have. Raises RefusedError."""
        wanted = {slot_name(app, number, self.world.loop.rules) for number in range(1, replicas + 1)}
        ours = {container.id for container in self._own(app)}
        for container in self.world.state.containers:
            if base_name(container.name) in wanted and container.id not in ours:
                raise RefusedError(f"there is a container {container.name} already, which is not Sidegate's: rename it")

    async def _check_copies(self, containers: Iterable[Container]) -> None:
        workloads = self._parts()[0]
        found = await workloads.snapshots([container.name for container in containers])
        for snapshot in found.values():
            await workloads.check(snapshot)

    def _rollout(self, app: str, replaces: Iterable[str]) -> Rollout:
        intent = self.world.intent
        return Rollout(self.world.wall(), intent.deployments.get(app), intent.ports.get(app, 0), tuple(replaces))

    def _carry_out(self, app: str, progress: Progress) -> Awaitable[None]:
        return self._parts()[1].carry_out(app, progress)

    async def _take_back(
        self,
        app: str,
        before: Intent,
        variables: Sequence[Variable],
        options: Mapping[str, str | None],
        domains: Sequence[str] | None,
    ) -> None:
        """What was said with a deployment that failed, beside what the rollout itself has put back."""
        store = self.world.store
        given = {(v.key, v.scope) for v in variables}
        old = [v for v in before.env.get(app, ()) if (v.key, v.scope) in given]
        new = [v for v in variables if (v.key, v.scope) not in {(o.key, o.scope) for o in old}]
        async with self.world.writing:
            if variables:
                await store.set_variables(app, old, new)
            if options:
                previous = before.options.get(app, {})
                await store.set_app(app, None, {name: previous.get(name) for name in options})
            if domains is not None:
                await store.set_domains(app, before.domains.get(app, ()))
        self.world.loop.wake()

    # --- telling

    def _not_given(self, app: str, domains: list[str]) -> NotFoundError:
        found = self.world.discovery.apps.get(app, App(app))
        by_label = [domain for domain in domains if domain in map(str, found.domains)]
        if by_label:
            return NotFoundError(
                f"{', '.join(by_label)} was not given by command but by the label sidegate.domains of "
                f"{app}'s containers: remove it there"
            )
        given = self.world.intent.domains.get(app, ())
        return NotFoundError(
            f"{app} has no domain {', '.join(domains)} by command (it has {', '.join(given) or 'none'})"
        )

    def _check_kept(self, app: str) -> None:
        """Raise RolloutFailedError where somebody has removed the app while its containers were being replaced."""
        if app not in self.world.intent.deployments:
            raise RolloutFailedError(f"{app} was removed in the meantime: none of its containers is left")

    def _beside(self, app: str) -> list[str]:
        names = ", ".join(container.name for container in self._theirs(app))
        return [f"containers that others run answer for {app} as well: {names}"] if names else []

    def _later(self, app: str, port: int) -> list[str]:
        """Who of an app that others run does not have its new port yet."""
        containers = self._theirs(app)
        without = [c.name for c in containers if c.env.get("PORT") != str(port)]
        if not containers:
            return [f"{app} has no container now: PORT={port} is for those that Sidegate makes anew"]
        if not without:
            return [f"its containers have PORT={port} already"]
        return [
            f"PORT={port} applies to {', '.join(without)} after a redeploy: `sidegate app redeploy {app}`; "
            "until then requests go where they went"
        ]


def _variables(app: str, asked: schemas.DeployRequest) -> tuple[Variable, ...]:
    values = dict(asked.variables)
    from_file = parse_dotenv(asked.dotenv) if asked.dotenv is not None else {}
    if twice := sorted(values.keys() & from_file.keys()):
        raise InvalidInputError(f"{', '.join(twice)} is given twice, by itself and in the file: keep one")
    values |= from_file
    variables = tuple(Variable(check_key(key), check_value(key, value)) for key, value in values.items())
    check_not_port(app, variables)
    return variables


def _port_of(image: ImageInfo) -> int:
    return image.exposed_ports[0] if len(image.exposed_ports) == 1 else DEFAULT_APP_PORT
