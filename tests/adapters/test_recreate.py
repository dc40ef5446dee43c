"""From inspect documents to what makes the same container again; the documents were captured from engine 20.10.

`inspected/` holds: web (compose-like, with everything), linked (--link, --volumes-from), inside (another's network
namespace, entrypoint reset), left (taken off the default bridge), host (the host's namespaces).
"""

import copy
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidegate.adapters.docker.documents import NetworkDocument
from sidegate.adapters.docker.recreate import Creation, copy_of, creation_of
from sidegate.adapters.docker.suitability import refusal, strategy_fault
from sidegate.core.workloads import ContainerSpec

INSPECTED = Path(__file__).parent / "inspected"
NETWORKS = msgspec.json.decode((INSPECTED / "networks.json").read_bytes(), type=list[NetworkDocument])
NAMES = ("web", "linked", "inside", "left", "host")


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INSPECTED / f"{name}.json").read_text())
    return found


def env_of(inspected: dict[str, Any]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in inspected["Config"]["Env"] or () if "=" in entry)


def copied(inspected: dict[str, Any], env: dict[str, str] | None = None) -> Creation:
    return copy_of(inspected, inspected["Config"]["Image"], env_of(inspected) if env is None else env, NETWORKS)


# --- what holds for every container --------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_passed_on(name: str) -> None:
    """Config and HostConfig go through whole: the exceptions are those that cannot be said again."""
    inspected = document(name)
    before = copy.deepcopy(inspected)
    creation = copied(inspected)
    assert inspected == before
    body = json.loads(json.dumps(creation.body))
    changed = {key for key, value in inspected["Config"].items() if body[key] != value}
    assert changed <= {"Hostname", "Domainname", "ExposedPorts", "Entrypoint"}
    host = inspected["HostConfig"]
    assert {key for key, value in host.items() if body["HostConfig"][key] != value} <= {"Links", "Mounts"}
    assert body.keys() - inspected["Config"].keys() <= {"HostConfig", "NetworkingConfig"}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_engines_own_choice_is_asked_for(name: str) -> None:
    """Neither the id (a default hostname, an alias) nor an address, a MAC address or an endpoint."""
    inspected = document(name)
    creation = copied(inspected)
    said = json.dumps([creation.body, creation.connect])
    assert inspected["Id"][:12] not in said
    for endpoint in inspected["NetworkSettings"]["Networks"].values():
        for key in ("EndpointID", "NetworkID", "MacAddress", "Gateway"):
            assert not endpoint[key] or endpoint[key] not in said
        if not (endpoint["IPAMConfig"] or {}).get("IPv4Address") and endpoint["IPAddress"]:
            assert endpoint["IPAddress"] not in said


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_those_it_is_on(name: str) -> None:
    """What it is created on and what it is connected to, less what it is taken off, is where the original is."""
    inspected = document(name)
    creation = copied(inspected)
    mode = inspected["HostConfig"]["NetworkMode"]
    first = {"default": {"bridge"}}.get(mode, set() if mode.startswith("container:") else {mode})
    on = (first | set(creation.connect)) - set(creation.disconnect)
    assert on == set(inspected["NetworkSettings"]["Networks"])
    assert not first & set(creation.connect)
    assert len(creation.body.get("NetworkingConfig", {}).get("EndpointsConfig", {})) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_volume_is_asked_for_by_name_once(name: str) -> None:
    """Whatever gave a volume, the copy asks for the same one, or for the container that it came from."""
    inspected = document(name)
    host = copied(inspected).body["HostConfig"]
    named = [bind.split(":")[0] for bind in host["Binds"] or ()] + [m.get("Source") for m in host.get("Mounts") or ()]
    own = {mount["Name"] for mount in inspected["Mounts"] if mount["Type"] == "volume"}
    assert len(named) == len(set(named) | {None}) - (None not in named)
    if not host["VolumesFrom"]:
        assert own <= set(named)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_a_copy_is_the_same(name: str) -> None:
    """What is asked for a second time is what was asked for the first time."""
    inspected = document(name)
    first = copied(inspected)
    again = copy.deepcopy(inspected)
    config = {key: value for key, value in first.body.items() if key not in ("HostConfig", "NetworkingConfig")}
    again["Config"] = {**inspected["Config"], **config}
    again["HostConfig"] = {**first.body["HostConfig"], "Links": inspected["HostConfig"]["Links"]}
    assert copied(again) == first


@pytest.mark.parametrize("name", NAMES)
def test_variables_are_exactly_those_given(name: str) -> None:
    """Whatever is added, changed or taken away; those that stay keep their places."""
    inspected = document(name)
    chance = random.Random(name)
    for _ in range(50):
        present = [f"{chance.choice('ABCDE')}={chance.choice(['', '1', 'a=b', 'x y', chr(10)])}" for _ in range(6)]
        inspected["Config"]["Env"] = present if chance.random() < 0.9 else None
        wanted = {key: chance.choice(["", "1", "a=b", "neu é"]) for key in chance.sample("ABCDEFG", 4)}
        entries = copied(inspected, wanted).body["Env"]
        assert dict(entry.split("=", 1) for entry in entries) == wanted
        assert copied(inspected).body["Env"] == inspected["Config"]["Env"]


# --- what is particular --------------------


def test_a_compose_like_container() -> None:
    """Aliases, static addresses, links of its second network; anonymous volumes of either kind by their names."""
    inspected = document("web")
    creation = copied(inspected, {**env_of(inspected), "NEW": "1"})
    endpoints = creation.body["NetworkingConfig"]["EndpointsConfig"]
    assert endpoints == {"lab-front": {"Aliases": ["web", "www"]}}
    assert creation.connect == {
        "lab-back": {
            "IPAMConfig": {"IPv4Address": "10.250.78.99", "IPv6Address": "fd00:77::99"},
            "Links": ["lab-db:thedb"],
            "Aliases": ["back"],
            "DriverOpts": {},
        }
    }
    assert creation.disconnect == ()
    names = {mount["Destination"]: mount.get("Name") for mount in inspected["Mounts"]}
    by_name = {"Source": names["/m2"], "VolumeOptions": {"NoCopy": True}}
    assert creation.body["HostConfig"]["Mounts"] == [
        {"Type": "volume", "Target": "/m2"} | by_name,
        {"Type": "tmpfs", "Target": "/tmpm", "TmpfsOptions": {"SizeBytes": 1000000}},
        {"Type": "volume", "Target": "/data"} | by_name | {"Source": names["/data"]},
    ]
    assert creation.body["HostConfig"]["Binds"] == ["lab-vol:/named:ro", "/usr/share:/host:ro"]
    assert creation.body["Env"] == [*inspected["Config"]["Env"], "NEW=1"]
    assert creation.body["Hostname"] == ""


def test_links_and_volumes_of_others() -> None:
    """A link as it is asked for; of the volumes only its own one is named, the rest comes from where it came from."""
    inspected = document("linked")
    body = copied(inspected).body
    assert body["HostConfig"]["Links"] == ["lab-db:thedb"]
    assert body["HostConfig"]["VolumesFrom"] == ["lab-web-1"]
    assert [mount["Target"] for mount in body["HostConfig"]["Mounts"]] == ["/own"]
    assert body["Hostname"] == "foo"


def test_another_containers_namespace() -> None:
    """Its name, its ports and its domain are not asked for: the engine would refuse."""
    inspected = document("inside")
    body = copied(inspected).body
    assert (body["Hostname"], body["Domainname"], body["ExposedPorts"]) == ("", "", None)
    assert "NetworkingConfig" not in body
    assert (inspected["Config"]["Entrypoint"], body["Entrypoint"]) == (None, [""])


def test_a_network_that_was_left() -> None:
    """The engine connects the default bridge by itself: the copy is taken off it."""
    creation = copied(document("left"))
    assert creation.disconnect == ("bridge",)
    assert creation.connect.keys() == {"lab-front"}


def test_the_hosts_names_and_networks() -> None:
    """Nothing is connected, and with the host's own name none is given."""
    creation = copied(document("host"))
    assert (creation.connect, creation.disconnect, creation.body["Hostname"]) == ({}, (), "")


def test_networks_are_told_by_name_or_id() -> None:
    """A container created with a network's id, whole or its beginning, is on that network; one that is gone is left."""
    inspected = document("web")
    front = next(network for network in NETWORKS if network.name == "lab-front")
    for mode in (front.id, front.id[:12]):
        inspected["HostConfig"]["NetworkMode"] = mode
        assert copied(inspected).body["NetworkingConfig"]["EndpointsConfig"].keys() == {"lab-front"}
    others = [network for network in NETWORKS if network.name != "lab-back"]
    assert copy_of(inspected, "i", {}, others).connect == {}


def test_a_mac_address_that_was_asked_for() -> None:
    """It goes where either version of the engine's API looks for it."""
    inspected = document("web")
    inspected["Config"]["MacAddress"] = "02:42:aa:bb:cc:dd"
    body = copied(inspected).body
    endpoint = body["NetworkingConfig"]["EndpointsConfig"]["lab-front"]
    assert body["MacAddress"] == endpoint["MacAddress"] == "02:42:aa:bb:cc:dd"


def test_binds_without_a_source() -> None:
    """An API client may ask for an anonymous volume by a bind that is only a path."""
    inspected = document("web")
    inspected["HostConfig"]["Binds"] = ["/data/", "lab-vol:/named:ro"]
    host = copied(inspected).body["HostConfig"]
    assert host["Binds"] == ["lab-vol:/named:ro"]
    assert "/data" in [mount["Target"] for mount in host["Mounts"]]


def test_a_container_of_our_own() -> None:
    """Restarted unless stopped, on one network, with named volumes; what is empty is left to the image."""
    spec = ContainerSpec(
        "shop:1", env={"A": "b=c"}, labels={"l": "1"}, network="n", aliases=("shop",), volumes={"v": "/data"}
    )
    body = creation_of(spec, "sha256:1").body
    assert (body["Image"], body["Env"], body["Labels"]) == ("sha256:1", ["A=b=c"], {"l": "1"})
    assert body["HostConfig"] == {
        "NetworkMode": "n",
        "RestartPolicy": {"Name": "unless-stopped"},
        "Mounts": [{"Type": "volume", "Source": "v", "Target": "/data"}],
    }
    assert body["NetworkingConfig"] == {"EndpointsConfig": {"n": {"Aliases": ["shop"]}}}
    assert not {"Cmd", "StopTimeout"} & body.keys()
    more = creation_of(ContainerSpec("shop:1", command=("a", "b"), stop_timeout=3), "shop:1").body
    assert (more["Cmd"], more["StopTimeout"]) == (["a", "b"], 3)


# --- what cannot be --------------------


def test_why_two_cannot_run_side_by_side() -> None:
    """What is taken from the host or the network once is said; a port that the engine chooses is not."""
    web = document("web")
    assert strategy_fault(web) == "it publishes its port 80/tcp at the host's port 24992"
    del web["HostConfig"]["PortBindings"]["80/tcp"]
    assert strategy_fault(web) == "it has the fixed address 10.250.78.99 on network lab-back"
    web["NetworkSettings"]["Networks"]["lab-back"]["IPAMConfig"] = {}
    assert strategy_fault(web) == ""
    web["Config"]["MacAddress"] = "02:42:aa:bb:cc:dd"
    assert strategy_fault(web) == "it has the fixed MAC address 02:42:aa:bb:cc:dd"
    web["Config"]["Labels"]["sidegate.database"] = "shop-db"
    assert strategy_fault(web) == "two database servers cannot share their data"
    web["Config"]["Labels"]["sidegate.strategy"] = "recreate"
    assert strategy_fault(web) == "its label sidegate.strategy says recreate"
    assert strategy_fault(document("host")) == "it listens on the host's own network"
    assert strategy_fault(document("inside")).startswith("it listens in the network namespace of container ")
    assert strategy_fault(document("left")) == strategy_fault(document("linked")) == ""


def row(name: str, number: str, *names: str, mode: str = "default") -> dict[str, Any]:
    return {"Id": number * 64, "Names": [f"/{name}", *names], "HostConfig": {"NetworkMode": mode}}


def test_why_it_cannot_be_made_anew() -> None:
    """Itself, what it needs, and who needs it."""
    web = document("web")
    own = {"Id": web["Id"], "Names": [web["Name"]], "HostConfig": {"NetworkMode": "lab-front"}}
    assert refusal(web, [own, row("other", "a")]) == ""
    assert "container other lives in its network" in refusal(
        web, [own, row("other", "a", mode=f"container:{web['Id']}")]
    )
    assert "container parent has a --link to it" in refusal(web, [{**own, "Names": ["/parent/db", web["Name"]]}])
    linked = document("linked")
    assert refusal(linked, [row("lab-web-1", "a")]) == ""
    assert refusal(linked, []) == "it has its volumes from container lab-web-1, which is gone"
    inside = document("inside")
    shared = inside["HostConfig"]["NetworkMode"].partition(":")[2]
    assert refusal(inside, [{**row("lab-db", "a"), "Id": shared}]) == ""
    assert f"the network namespace of container {shared[:12]}, which is gone" in refusal(inside, [])
    assert "the process namespace of" in refusal(document("host"), [])
    for section, key, value, why in (
        ("HostConfig", "AutoRemove", True, "--rm"),
        ("State", "Status", "removing", "being removed"),
        ("Config", "Labels", {"com.docker.swarm.task.id": "x"}, "swarm"),
    ):
        changed = document("web")
        changed[section][key] = value
        assert why in refusal(changed, [own])
