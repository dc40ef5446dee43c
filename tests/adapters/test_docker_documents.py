"""How the engine's documents become our model, for the engines that are not at hand."""

import msgspec
import pytest

from sidegate.adapters.docker.documents import (
    ContainerDocument,
    ContainerRow,
    NetworkDocument,
    container_of,
    network_of,
    utc,
)
from sidegate.adapters.docker.greeter import full_name
from sidegate.core.model import Container, Endpoint

ID = "036ed8179d3cc65a4a0163a3044d9fe6c71e6dfbe2f03f95c09422cc3a1c764c"


def container(**parts: object) -> Container:
    return container_of(msgspec.convert({"Id": ID, "Name": "/shop-1", **parts}, type=ContainerDocument), {})


def test_everything_may_be_null_or_missing() -> None:
    """A document in which each optional field is null is a container with nothing to say."""
    empty = container(
        Config={"Labels": None, "Env": None, "ExposedPorts": None},
        HostConfig={"NetworkMode": "default", "PortBindings": None, "Links": None},
        NetworkSettings={"Networks": None, "Ports": None},
        State={"Status": "created", "Health": None},
    )
    assert empty == Container(id=ID, name="shop-1", state="created")
    assert container() == Container(id=ID, name="shop-1", state="")


def test_a_step_of_a_build_is_nobody() -> None:
    """R20: its image does not have the Dockerfile's label yet, so it would count as the container's own."""
    config = {"Labels": {"sidegate.app": "shop"}, "Cmd": ["/bin/sh", "-c", "#(nop) ", "LABEL sidegate.app=shop"]}
    assert container(Config=config).labels == {"sidegate.app": "shop", "sidegate.phase": "build"}
    assert container(Config={**config, "Cmd": ["python3", "app.py"]}).labels == {"sidegate.app": "shop"}


@pytest.mark.parametrize(
    ("names", "aliases"),
    [
        ({"Aliases": ["shop", ID[:12]]}, {"shop"}),  # up to API 1.43
        ({"Aliases": ["shop"], "DNSNames": ["shop-1", "shop", ID[:12]]}, {"shop"}),  # 1.44 and later
        ({"Aliases": None, "DNSNames": ["shop-1", "shop", ID[:12]]}, {"shop"}),
        ({"Aliases": ["shop-1"], "DNSNames": ["shop-1", ID[:12]]}, {"shop-1"}),  # asked for by that name
        ({"Aliases": None}, set()),
    ],
)
def test_aliases_are_those_that_were_asked_for(names: dict[str, object], aliases: set[str]) -> None:
    """Whichever field holds them, what the engine adds by itself is left out."""
    (endpoint,) = container(NetworkSettings={"Networks": {"net": {"IPAddress": "10.1.2.3", **names}}}).endpoints
    assert endpoint == Endpoint("net", "10.1.2.3", frozenset(aliases))


def test_ports() -> None:
    """Exposed are TCP ports in order; published are host ports, running or not, and 0 is one not yet chosen."""
    assert container(Config={"ExposedPorts": {"8080/tcp": {}, "53/udp": {}, "80/tcp": {}}}).exposed_ports == (80, 8080)
    assert container(Config={"ExposedPorts": {f"{'1' * 5000}/tcp": {}, "٣/tcp": {}}}).exposed_ports == ()
    binding = {"3306/tcp": [{"HostIp": "", "HostPort": "13306"}], "9/tcp": None}
    assert container(HostConfig={"PortBindings": binding}).published_ports == (13306,)
    assert container(NetworkSettings={"Ports": binding}).published_ports == (13306,)
    unchosen = {"3306/tcp": [{"HostPort": ""}]}
    assert container(HostConfig={"PortBindings": unchosen}).published_ports == (0,)
    assert container(HostConfig={"PortBindings": unchosen}, NetworkSettings={"Ports": binding}).published_ports == (
        13306,
    )


def test_environment_is_split_at_the_first_equals_sign() -> None:
    """A value keeps its own equals signs; a name without one is no variable."""
    assert container(Config={"Env": ["A=b=c", "B=", "C", "D=\n"]}).env == {"A": "b=c", "B": "", "D": "\n"}


def test_a_namespace_that_is_shared_is_kept() -> None:
    """network_mode names the container whose namespace is used; links and health are taken as they are."""
    shared = container(
        HostConfig={"NetworkMode": f"container:{ID}", "Links": ["/db:/shop-1/db"]},
        State={"Status": "running", "Pid": 7, "Health": {"Status": "starting"}},
    )
    assert (shared.network_mode, shared.links) == (f"container:{ID}", ("/db:/shop-1/db",))
    assert (shared.pid, shared.health) == (7, "starting")
    assert container(State={"Status": "running", "Health": {"Status": "none"}}).health == ""


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("2026-11-23T01:51:05.172388536Z", "2026-11-23T01:51:05.172388536Z"),
        ("2026-11-23T01:51:05.17Z", "2026-11-23T01:51:05.170000000Z"),
        ("2026-11-23T01:51:05Z", "2026-11-23T01:51:05.000000000Z"),
        ("2026-11-23T01:51:05.5+02:00", "2026-11-22T23:51:05.500000000Z"),
        ("", ""),
    ],
)
def test_times_sort_as_text(written: str, normal: str) -> None:
    """The engine trims trailing zeros, and another may write its own zone: all become one form."""
    assert utc(written) == normal


def row(**parts: object) -> ContainerRow:
    return msgspec.convert({"Id": ID, "State": "running", **parts}, type=ContainerRow)


def test_a_row_tells_when_to_inspect_again() -> None:
    """State, health, name and places count; the running time does not."""
    network = {"NetworkSettings": {"Networks": {"net": {"EndpointID": "e1", "IPAddress": "10.0.0.2", "Aliases": None}}}}
    known = row(Status="Up 2 seconds (healthy)", Names=["/shop-1"], **network).fingerprint()
    assert row(Status="Up 3 hours (healthy)", Names=["/shop-1"], **network).fingerprint() == known
    for changed in (
        row(Status="Up 3 hours (unhealthy)", Names=["/shop-1"], **network),
        row(Status="Up 3 hours", Names=["/shop-1"], **network),
        row(Status="Up 2 seconds (healthy)", Names=["/shop-2"], **network),
        row(Status="Up 2 seconds (healthy)", Names=["/shop-1"]),
    ):
        assert changed.fingerprint() != known
    assert row(Status="Up 1 second (health: starting)").fingerprint() != row(Status="Up 1 second").fingerprint()


def test_networks_with_and_without_addresses() -> None:
    """IPv6 subnets are left out, and a network may have neither subnet nor gateway."""
    both = {
        "Id": "n1",
        "Name": "net",
        "Driver": "bridge",
        "IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "10.1.0.0/27", "Gateway": "10.1.0.1"}]},
    }
    found = network_of(msgspec.convert(both, type=NetworkDocument))
    assert (found.subnets, found.gateway) == (("10.1.0.0/27",), "10.1.0.1")
    host = network_of(
        msgspec.convert({"Id": "n2", "Name": "host", "Driver": "host", "IPAM": None}, type=NetworkDocument)
    )
    assert (host.subnets, host.gateway, host.labels) == ((), "", {})


def test_names_of_images() -> None:
    """An image's name gets the tag that image events give it, unless it has one or is an id or a digest."""
    assert full_name("shop") == "shop:latest"
    assert full_name("registry:5000/a/shop") == "registry:5000/a/shop:latest"
    for complete in ("shop:1", "registry:5000/shop:1", "sha256:1590d3b8", "shop@sha256:1590d3b8"):
        assert full_name(complete) == complete
