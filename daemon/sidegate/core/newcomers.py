"""Where containers that are yet to come belong, worked out beforehand: `docker run` leaves 2 ms between a container's
create event and its start, too little for a pass. Only a head start: the pass that follows decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidegate.core import compose
from sidegate.core.desired import Desired, aliases, is_ours
from sidegate.core.labels import APP, DATABASE, ENABLE, INSTANCE, PHASE, discover
from sidegate.core.model import DEFAULT_INSTANCE, Container, EngineState, Rules

Join = tuple[str, frozenset[str]]
"""A network's name, and the aliases that a container has there."""


@dataclass(frozen=True, slots=True)
class Newcomers:
    """By the name that a container's label gives: the networks to join on its create event. Travels as JSON."""

    apps: Mapping[str, tuple[Join, ...]] = field(default_factory=dict)
    databases: Mapping[str, tuple[Join, ...]] = field(default_factory=dict)
    instance: str = DEFAULT_INSTANCE
    trust_image_labels: bool = False
    services: Mapping[str, str] | None = None
    """A compose service's project and name, with a slash between, -> the name that it has now; None: labels only."""


def expect(desired: Desired, state: EngineState, rules: Rules) -> Newcomers:
    """What is desired, as far as its networks exist and have room. A database's name that is taken expects nobody."""
    existing = {n.name for n in state.networks if is_ours(n, rules)}
    apps: dict[str, tuple[Join, ...]] = {}
    databases: dict[str, tuple[Join, ...]] = {}
    for network in desired.networks.values():
        if network.name not in existing or len(network.members) >= rules.endpoints_per_network:
            continue
        for end in network.ends if len(network.ends) > 1 else ():
            join = (network.name, aliases(end))
            if end not in desired.discovery.databases:
                apps[end] = (*apps.get(end, ()), join)
                if end not in desired.discovery.apps:
                    databases[end] = (*databases.get(end, ()), join)
    known = desired.discovery.services.items()
    services = {_key(service): name for name, service in known} if rules.discover == "all" else None
    return Newcomers(apps, databases, rules.instance, rules.trust_image_labels, services)


def joins(container: Container, newcomers: Newcomers) -> tuple[Join, ...]:
    """The networks for a container of which only a create event's word is known: name, labels, the image's labels."""
    rules = Rules(instance=newcomers.instance, trust_image_labels=newcomers.trust_image_labels)
    found = discover([container], rules)
    named = [newcomers.apps.get(name, ()) for name in found.apps]
    named += [newcomers.databases.get(name, ()) for name in found.databases]
    name = "" if named else _service_name(container, newcomers)
    return named[0] if named else newcomers.apps.get(name) or newcomers.databases.get(name, ())


def _service_name(container: Container, newcomers: Newcomers) -> str:
    """What the service of a container without labels is called: as its other containers are, else as it would be by
    itself; empty where that is somebody else's name."""
    service, services = compose.service_of(container), newcomers.services
    given = container.labels.get(INSTANCE, DEFAULT_INSTANCE)
    said = not container.labels.keys().isdisjoint((APP, DATABASE, ENABLE, PHASE))
    if service is None or services is None or said or given != newcomers.instance or compose.one_off(container):
        return ""
    alone = compose.names((service,))[service]
    return services.get(_key(service), "" if alone in services.values() else alone)


def _key(service: compose.Service) -> str:
    return f"{service.project}/{service.service}"
