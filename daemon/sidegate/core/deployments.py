"""Apps whose containers Sidegate makes itself: what they are called and made from, and what of an app's containers
is a slot of its own or other people's. Beside it, what can be asked for, and what is wrong with it."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from sidegate.core.domains import listed_domains
from sidegate.core.environment import given
from sidegate.core.labels import APP, INSTANCE, MOST_DOMAINS, REVISION, App, Domain, Replica, parse_domain
from sidegate.core.model import DEFAULT_INSTANCE, Container, Deployment, Intent, Rules
from sidegate.core.rollout import LEAVING, NEXT, OLD, STARTING, base_name, standing
from sidegate.core.workloads import ContainerSpec
from sidegate.errors import InvalidInputError, RefusedError

MOST_REPLICAS = 16
LONGEST_IMAGE = 512  # characters; 255 of a name, 128 of a tag and a digest are the most that an engine takes

# The grammar of references: https://github.com/distribution/reference/blob/main/reference.go
_HOST = r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"{_HOST}{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")


# --- containers


def revision(deployment: Deployment) -> str:
    """What tells containers of one deployment from those of another: a short hash of image and command."""
    text = json.dumps([deployment.image_id, *deployment.command])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def slot_name(app: str, number: int, rules: Rules) -> str:
    return f"{rules.instance}-{app}-{number}"


def is_own(container: Container) -> bool:
    """Whether Sidegate made this container. An image cannot say so."""
    given_label = container.labels.get(REVISION)
    return given_label is not None and given_label != container.image_labels.get(REVISION)


def own_containers(app: App | None) -> tuple[Container, ...]:
    """Those of an app's containers that Sidegate made."""
    return tuple(r.container for r in app.replicas if is_own(r.container)) if app else ()


def spec(app: str, intent: Intent, rules: Rules, network: str) -> ContainerSpec:
    """What a container of a deployed app is made from now."""
    deployment = intent.deployments[app]
    labels = {APP: app, REVISION: revision(deployment)}
    if rules.instance != DEFAULT_INSTANCE:
        labels[INSTANCE] = rules.instance
    return ContainerSpec(
        image=deployment.image,
        image_id=deployment.image_id,
        env=given(app, intent),
        labels=labels,
        network=network,
        command=deployment.command,
    )


def slots(app: str, containers: Iterable[Container], intent: Intent, rules: Rules) -> dict[str, bool]:
    """The slots of an app by name, and whether each is wanted: of a deployed one those that it is to have and those
    that it has beyond, of another one those that there are."""
    deployment = intent.deployments.get(app)
    if deployment is None:
        return {base_name(container.name): True for container in containers}
    wanted = {slot_name(app, number, rules): True for number in range(1, deployment.replicas + 1)}
    return {base_name(container.name): False for container in containers if is_own(container)} | wanted


def due(app: App, intent: Intent, rules: Rules) -> str:
    """Why there is something to do about an app's containers; empty: there is not."""
    if app.name in intent.rollouts:
        return "its containers are being replaced"
    names = {replica.container.name for replica in app.replicas}
    ours = [r.container.name for r in app.replicas if app.name not in intent.deployments or is_own(r.container)]
    if left := sorted(name for name in ours if name != base_name(name)):
        return f"{', '.join(left)} is left of an earlier rollout"
    if app.name not in intent.deployments:
        return ""
    wanted = slots(app.name, (replica.container for replica in app.replicas), intent, rules)
    if missing := sorted(name for name in wanted if wanted[name] and name not in names):
        return f"{', '.join(missing)} is missing"
    surplus = sorted(name for name in wanted if not wanted[name])
    return f"{', '.join(surplus)} is one too many" if surplus else ""


def missing(app: App, intent: Intent, rules: Rules) -> bool:
    """Whether a deployed app lacks a container, of whatever state, in a slot of its."""
    names = {replica.container.name for replica in app.replicas}
    wanted = slots(app.name, (), intent, rules) if app.name in intent.deployments else {}
    return not wanted.keys() <= names


def outdated(container: Container, deployment: Deployment | None) -> bool:
    """Whether a container that Sidegate made is of another image or command than the app is to run now (B5)."""
    return deployment is not None and is_own(container) and container.labels[REVISION] != revision(deployment)


def with_standing(
    app: App, going_forward: bool, admitted: Collection[str], leaving: Collection[str] = ()
) -> tuple[App, frozenset[str]]:
    """The app with those of its containers that leave, for others that take their place, as told to stop; and the ids
    of those that wait for theirs. `leaving`: ids of those that leave whatever their names say."""
    if not any(replica.container.name.endswith((NEXT, OLD)) for replica in app.replicas):
        return app, frozenset()
    found = {
        **standing([r.container for r in app.replicas], going_forward=going_forward, admitted=admitted),
        **dict.fromkeys(leaving, LEAVING),
    }

    def told(replica: Replica) -> Replica:
        leaves = found.get(replica.container.id) == LEAVING and replica.container.running
        return replace(replica, container=replace(replica.container, stopping=True)) if leaves else replica

    held = frozenset(container_id for container_id, part in found.items() if part == STARTING)
    return replace(app, replicas=tuple(map(told, app.replicas))), held


# --- what can be asked for


def check_image(reference: str) -> str:
    """Return an image's reference. Raises InvalidInputError."""
    if len(reference) > LONGEST_IMAGE:
        raise InvalidInputError(f"{reference[:40]!r}… is not an image: it has {len(reference)} characters")
    if _REFERENCE.fullmatch(reference) or _IMAGE_ID.fullmatch(reference):
        return reference
    hint = ""
    if reference != reference.lower() and _REFERENCE.fullmatch(reference.lower()):
        hint = f"; names are lower case: {reference.lower()}"
    raise InvalidInputError(f"{reference!r} is not an image: write name, name:tag or host/name:tag{hint}")


def check_port(port: int) -> int:
    """Return a TCP port. Raises InvalidInputError."""
    if not 0 < port < 65536:
        raise InvalidInputError(f"port {port} is not a port: use a number from 1 to 65535")
    return port


def check_replicas(replicas: int, rules: Rules) -> int:
    """Return a number of replicas; a rollout has twice as many on the app's network. Raises InvalidInputError."""
    most = min(MOST_REPLICAS, rules.endpoints_per_network // 2)
    if not 1 <= replicas <= most:
        why = "" if most == MOST_REPLICAS else " (a rollout doubles them, and internal_subnet has no room for more)"
        raise InvalidInputError(f"{replicas} replicas: use a number from 1 to {most}{why}")
    return replicas


def check_command(command: Iterable[str]) -> tuple[str, ...]:
    """Return the words of a command. Raises InvalidInputError."""
    words = tuple(command)
    if any("\0" in word for word in words):
        raise InvalidInputError("the command holds a NUL character, which no program can be given")
    if words and not words[0]:
        raise InvalidInputError("the command begins with an empty word: it is the program to run")
    return words


def check_domains(texts: Iterable[str]) -> tuple[str, ...]:
    """Domains as they are kept, each once. Raises InvalidInputError naming all that are none."""
    found: dict[str, None] = {}
    faults = []
    for text in texts:
        domain = parse_domain(text.strip())
        if domain is None:
            faults.append(repr(text))
        else:
            found[str(domain)] = None
    if faults:
        raise InvalidInputError(
            f"{', '.join(faults)} {'is' if len(faults) == 1 else 'are'} not a domain: "
            "write shop.example.com, *.shop.example.com or example.com/api"
        )
    return tuple(found)


def check_free_domains(app: str, domains: Iterable[str], intent: Intent, apps: Collection[App], base: str) -> None:
    """Raise RefusedError naming who has which of these domains already."""
    taken = []
    for text in domains:
        domain = parse_domain(text)
        assert domain is not None  # checked before
        if holder := _holder(app, domain, intent, apps, base):
            taken.append(f"{text} belongs to the app {holder}")
    if taken:
        raise RefusedError(f"{'; '.join(taken)}: nothing was changed; remove it there first")


def check_domain_count(app: App, given_domains: Iterable[str]) -> None:
    """Raise RefusedError where an app had too many domains with these by command, those of its labels included."""
    number = len(listed_domains(app, {app.name: tuple(given_domains)}))
    if number > MOST_DOMAINS:
        raise RefusedError(
            f"{app.name} would have {number:,} domains, and an app has {MOST_DOMAINS:,} at most: nothing was changed"
        )


def _holder(app: str, domain: Domain, intent: Intent, apps: Collection[App], base: str) -> str:
    name, _, rest = domain.host.partition(".")
    if rest == base and name != "*":
        return "" if name == app else name
    text = str(domain)
    others = (other for other, given_domains in intent.domains.items() if other != app and text in given_domains)
    listing = (a.name for a in apps if a.name != app and domain in listed_domains(a, {}))
    return next((holder for holder in (intent.claims.get(text, app), *others, *listing) if holder != app), "")
