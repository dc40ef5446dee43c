"""Short words for small states, so that a test of the core reads as a sentence."""

from collections.abc import Mapping

from sidegate.core.model import Container, Endpoint, EngineState, Network

BRIDGE = Network(id="n0", name="bridge", subnets=("172.17.0.0/16",), gateway="172.17.0.1")


def app(app_name: str, number: int = 1, **changes: object) -> Container:
    """The container `<name>-<number>` of an app, running on the default bridge."""
    return _container(f"{app_name}-{number}", {"sidegate.app": app_name}, changes)


def database(database_name: str, **changes: object) -> Container:
    """The container `<name>-1` of a MariaDB, running on the default bridge."""
    return _container(f"{database_name}-1", {"sidegate.database": database_name, "sidegate.engine": "mariadb"}, changes)


def _container(name: str, labels: Mapping[str, str], changes: Mapping[str, object]) -> Container:
    extra = changes.get("labels", {})
    assert isinstance(extra, Mapping)
    values: dict[str, object] = {
        "id": f"id-{name}",
        "name": name,
        "endpoints": (Endpoint("bridge", "172.17.0.9"),),
        "pid": 100,
        "created": "2026-01-01T00:00:00Z",
        **changes,
        "labels": {**labels, **extra},
    }
    return Container(**values)  # type: ignore[arg-type]


def state(*containers: Container, networks: tuple[Network, ...] = ()) -> EngineState:
    return EngineState(containers, (BRIDGE, *networks))


def ours(name: str, subnet: str, *ends: str, instance: str = "sidegate") -> Network:
    """A network that bears our label."""
    labels = {"sidegate.managed": "true", "sidegate.instance": instance, "sidegate.end.a": ends[0]}
    if len(ends) > 1:
        labels["sidegate.end.b"] = ends[1]
    gateway = subnet.rsplit(".", 1)[0] + "." + str(int(subnet.rsplit(".", 1)[1].split("/")[0]) + 1)
    return Network(id=f"id-{name}", name=name, internal=True, labels=labels, subnets=(subnet,), gateway=gateway)
