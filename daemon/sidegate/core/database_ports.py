"""Every database answers at 3306: what redirects there are and what to do about them. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from sidegate.core.database_engines import DATABASE_ENGINES
from sidegate.core.desired import join_fault
from sidegate.core.labels import Discovery
from sidegate.core.model import DATABASE_PORT, Container
from sidegate.core.plan import ContainerRef, PortAction, RedirectPort, RemoveRedirect


class PortState(Enum):
    """How a database answers at 3306."""

    ABSENT = "absent"
    """Not at all: nothing listens there and nothing is redirected."""

    OWN = "own"
    """It listens there itself; a redirect would take its port away."""

    REDIRECTED = "redirected"
    GONE = "gone"
    """The process does not run (any more)."""

    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class DatabasePort:
    """What was found in one namespace: `target` is where a redirect leads, 0 without one."""

    state: PortState
    target: int = 0


def with_other_ports(discovery: Discovery) -> Iterator[Container]:
    """Running databases whose engine has another port of its own, each in a network namespace of its own."""
    for database in discovery.databases.values():
        container = database.container
        if container.pid and DATABASE_ENGINES[database.engine].port != DATABASE_PORT and not join_fault(container):
            yield container


def plan_redirects(
    discovery: Discovery, containers: Iterable[Container], ports: Mapping[int, DatabasePort]
) -> Iterator[PortAction]:
    """`ports`: pid of a container -> what was found there. One that could not be looked at is tried all the same: its
    failure says why."""
    natives = {d.container.id: (name, DATABASE_ENGINES[d.engine].port) for name, d in discovery.databases.items()}
    for container in containers:
        found = ports.get(container.pid)
        if found is None or found.state is PortState.GONE:
            continue
        ref = ContainerRef.of(container)
        name, native = natives.get(container.id, (container.name, DATABASE_PORT))
        if native == DATABASE_PORT or found.state is PortState.OWN:
            if found.target:
                why = "it listens there itself" if native != DATABASE_PORT else "it is no longer a database"
                yield RemoveRedirect(database=name, container=ref, native=found.target, cause=why)
        elif found != DatabasePort(PortState.REDIRECTED, native):
            why = f"{name} answers at {DATABASE_PORT} like every database"
            yield RedirectPort(database=name, container=ref, native=native, cause=why)
