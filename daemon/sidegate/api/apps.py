"""The verbs of apps: ls, show, and what changes how they are served."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidegate.api import schemas
from sidegate.api.names import require_app
from sidegate.api.stale import stale_containers, stale_note
from sidegate.api.world import World
from sidegate.core.deployments import outdated, own_containers, revision
from sidegate.core.desired import given_options
from sidegate.core.labels import APP, INSTANCE, App
from sidegate.core.model import DEFAULT_INSTANCE, Container, Deployment, Rules
from sidegate.core.options import OPTIONS, check_options
from sidegate.core.plan import PublishRoutes
from sidegate.core.routes import MAINTENANCE, PAUSED, SERVING, AppRoute
from sidegate.errors import InvalidInputError, SidegateError

MODES = (SERVING, PAUSED, MAINTENANCE)
STANDARD_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class AppVerbs:
    """What apps there are, and how each is served."""

    world: World

    async def ls(self) -> list[schemas.AppView]:
        """Every app, those without containers included."""
        await self.world.seen()
        return [self.view(name) for name in sorted(self.world.apps)]

    async def show(self, name: str) -> schemas.AppView:
        """One app with its replicas. Raises NotFoundError."""
        return self.view(await require_app(self.world, name))

    async def change(self, name: str, asked: schemas.AppRequest) -> schemas.AppView:
        """Set the mode and options; returns once every worker goes by them. They outlive restarts.

        Raises NotFoundError, InvalidInputError naming everything that is wrong, StoreError, DataPlaneError; then
        everything is as it was.
        """
        await require_app(self.world, name)
        self._check(name, asked)
        async with self.world.writing:
            before = self._served(name, asked.options)
            await self.world.store.set_app(name, asked.mode, asked.options)
        after = self._served(name, asked.options)
        try:
            passed = await self.world.settle()
            failure = next((f.error for f in passed.failures if isinstance(f.action, PublishRoutes)), None)
        except SidegateError as error:
            failure = error
        if failure is not None:
            async with self.world.writing:
                if self._served(name, asked.options) == after:  # nobody changed it meanwhile
                    await self.world.store.set_app(name, before[0], before[1])
            self.world.loop.wake()
            raise failure
        return self.view(name, _notes(name, before[0], asked))

    def _check(self, name: str, asked: schemas.AppRequest) -> None:
        if asked.mode is None and not asked.options:
            raise InvalidInputError("nothing to change: give a mode or options")
        if asked.mode not in (None, *MODES):
            raise InvalidInputError(f"mode {asked.mode!r} is none of {', '.join(MODES)}")
        check_options(asked.options, self.world.intent.options.get(name, ()))

    def _served(self, name: str, options: Mapping[str, object]) -> tuple[str, dict[str, str | None]]:
        """The mode, and what is kept of these options."""
        intent = self.world.intent
        kept = intent.options.get(name, {})
        return intent.modes.get(name, SERVING), {option: kept.get(option) for option in options}

    def view(self, name: str, notes: list[str] | None = None) -> schemas.AppView:
        """An app as it is now, with what there is to say of it."""
        world, app, route = self.world, self._app(name), self._route(name)
        desired = world.loop.last.desired
        addresses = {upstream.replica: upstream.address for upstream in route.upstreams}
        stale = stale_containers(world, name)
        deployment = world.intent.deployments.get(name)
        return schemas.AppView(
            name=name,
            replicas=[
                schemas.ReplicaView(
                    container=replica.container.name,
                    state=replica.container.state,
                    health=replica.container.health or None,
                    address=addresses.get(replica.container.name),
                    port=replica.port,
                    fault=desired.waiting.get(replica.container.id),
                )
                for replica in app.replicas
            ],
            serving=len(route.upstreams),
            domains=self._domains(name),
            urls=self._urls(name),
            connections=world.partners(name),
            unavailable=route.unavailable or None,
            env=sorted({variable.key for variable in world.intent.env.get(name, ())}),
            problems=world.problems(name),
            mode=world.intent.modes.get(name, SERVING),
            options=self._options(name),
            stale=stale,
            outdated=[c.name for c in own_containers(app) if outdated(c, deployment)],
            port=world.intent.ports.get(name),
            deployment=_deployment(deployment),
            strategy=app.strategy,
            rollout=(world.rollouts.under_way(name) or None) if world.rollouts else None,
            notes=[*(notes or []), *stale_note(name, stale)],
        )

    def _options(self, name: str) -> list[schemas.OptionView]:
        given, commanded = (
            given_options(self._app(name), self.world.intent, []),
            self.world.intent.options.get(name, {}),
        )
        return [
            schemas.OptionView(name=option, value=given[option], source="command" if option in commanded else "label")
            for option in OPTIONS
            if option in given
        ]

    def _app(self, name: str) -> App:
        return self.world.discovery.apps.get(name) or App(name)

    def _route(self, name: str) -> AppRoute:
        return self.world.loop.last.desired.routes.apps.get(name) or AppRoute(unavailable="has no containers")

    def _domains(self, name: str) -> list[str]:
        return sorted(domain for domain, app in self.world.loop.last.desired.claims.items() if app == name)

    def _urls(self, name: str) -> list[str]:
        """Where it answers: over HTTP unless that only redirects, and over HTTPS where there is TLS."""
        world, routes = self.world, self.world.loop.last.desired.routes
        ports = {"http": world.http_port, "https": world.https_port}
        if not world.https_port:
            del ports["https"]
        elif routes.policies[self._route(name).policy].https_redirect:
            del ports["http"]
        own = [*(host for host, app in world.discovery.hosts.items() if app == name), name]
        hosts = [f"{host}.{world.loop.rules.base_domain}" for host in own]
        hosts += [domain for domain in self._domains(name) if not domain.startswith("*")]
        return [_url(scheme, port, host) for host in hosts for scheme, port in ports.items()]


def _deployment(deployment: Deployment | None) -> schemas.DeploymentView | None:
    if deployment is None:
        return None
    return schemas.DeploymentView(
        image=deployment.image,
        image_id=deployment.image_id,
        replicas=deployment.replicas,
        command=list(deployment.command),
        revision=revision(deployment),
    )


def _url(scheme: str, port: int, domain: str) -> str:
    host, slash, path = domain.partition("/")
    return f"{scheme}://{host}{'' if port == STANDARD_PORTS[scheme] else f':{port}'}{slash}{path}"


def _notes(name: str, before: str, asked: schemas.AppRequest) -> list[str]:
    """What a change of the mode ended, and what it does not do."""
    notes = []
    if before == PAUSED and asked.mode == MAINTENANCE:
        notes.append(f"{name} was paused: that is over, requests that waited get a 503")
    if before == MAINTENANCE and asked.mode == PAUSED:
        notes.append(f"{name} was in maintenance: that is over, requests wait now")
    return notes


def start_command(app: str, rules: Rules) -> str:
    """How to start a container of an app with the variables that Sidegate holds for it (bash, zsh)."""
    labels = f"--label {APP}={app}"
    if rules.instance != DEFAULT_INSTANCE:
        labels += f" --label {INSTANCE}={rules.instance}"
    return f"docker run -d {labels} --env-file <(sidegate env export {app} --format docker) IMAGE"


def running(containers: tuple[Container, ...]) -> list[str]:
    return sorted(container.name for container in containers if container.running)
