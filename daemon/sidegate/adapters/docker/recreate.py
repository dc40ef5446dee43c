"""From a container's inspect document to what makes another one like it.

Pure: JSON in, JSON out (`POST /containers/create`, `POST /networks/{id}/connect`). All that is not named here is passed
on as it is, also fields that are newer than this code.

What cannot be the same in the copy:
- An anonymous volume is mounted by its name, so that it is the same one with its data: an entry more in
  HostConfig.Mounts (or a source and NoCopy in the one that asked for it), and Mode "z" in Mounts, as the engine has it
  for every named volume. `docker rm --volumes` of the copy leaves it.
- Config.Image is the image's id where the reference means another image by now.
- A MAC address is kept for the network that it was created with. Of others, which API 1.44 allows one for, the engine
  does not say whether it was asked for or is its own choice.
"""

import posixpath
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sidegate.adapters.docker.documents import SHORT_ID, NetworkDocument
from sidegate.core.workloads import ContainerSpec

Json: TypeAlias = Mapping[str, Any]

ENDPOINT_WISHES = ("IPAMConfig", "Links", "Aliases", "DriverOpts", "GwPriority")
"""Fields of an endpoint that somebody asked for; the others are what became of them."""


@dataclass(frozen=True, slots=True)
class Creation:
    """What makes a container: the body of its creation, then network -> endpoint to connect before its start, then
    networks that the engine connects by itself and the original had left."""

    body: Json
    connect: Mapping[str, Json] = field(default_factory=dict)
    disconnect: tuple[str, ...] = ()


def creation_of(spec: ContainerSpec, image: str) -> Creation:
    """A container of our own from an image, told by reference or id."""
    config: dict[str, Any] = {
        "Image": image,
        "Env": [f"{key}={value}" for key, value in spec.env.items()],
        "Labels": dict(spec.labels),
        "HostConfig": {
            "NetworkMode": spec.network,
            "RestartPolicy": {"Name": "unless-stopped"},
            "Mounts": [
                {"Type": "volume", "Source": name, "Target": path} for name, path in sorted(spec.volumes.items())
            ],
        },
        "NetworkingConfig": {"EndpointsConfig": {spec.network: {"Aliases": list(spec.aliases)}}},
    }
    if spec.command:
        config["Cmd"] = list(spec.command)
    if spec.stop_timeout:
        config["StopTimeout"] = spec.stop_timeout
    return Creation(config)


def copy_of(document: Json, image: str, env: Mapping[str, str], networks: Collection[NetworkDocument]) -> Creation:
    """The same container with another environment.

    `networks` are those of the engine now: one that has gone meanwhile was taken from the original, and would keep the
    copy from starting. The networks of connections are copied like all others, although the loop would see to them: the
    copy is on them before its first instruction.
    """
    config, host = dict(document["Config"]), dict(document["HostConfig"])
    endpoints = _endpoints(document, {network.name for network in networks})
    mode = host.get("NetworkMode", "default")
    main = main_network(mode, networks)
    config["Image"] = image
    if config.get("Env") or env:
        config["Env"] = _environment(config.get("Env") or (), env)
    config["Entrypoint"] = config.get("Entrypoint") or [""]  # null would mean the image's own, which it does not have
    if config.get("Hostname") == document["Id"][:SHORT_ID] or host.get("UTSMode") == "host":
        config["Hostname"] = ""
    if mode.startswith("container:"):  # these are the other one's, and the engine refuses to be told
        config["Hostname"] = config["Domainname"] = ""
        config["ExposedPorts"] = None
    host["Links"] = [_link(link) for link in host["Links"]] if host.get("Links") else host.get("Links")
    _keep_volumes(document, config, host)
    if main in endpoints and (mac := config.get("MacAddress")):
        endpoints[main] = {**endpoints[main], "MacAddress": mac}
    body = {**config, "HostConfig": host}
    if main in endpoints and any(endpoints[main].values()):
        body["NetworkingConfig"] = {"EndpointsConfig": {main: endpoints[main]}}
    apart = main and main not in endpoints and mode not in ("host", "none")
    return Creation(
        body,
        {name: endpoint for name, endpoint in endpoints.items() if name != main},
        (main,) if apart else (),
    )


def main_network(mode: str, networks: Iterable[NetworkDocument]) -> str:
    """The network that a container of this NetworkMode is connected to when it is created; empty where there is none:
    it lives in another's namespace, or the network has gone."""
    if mode in ("", "default", "bridge"):
        return "bridge"
    if mode.startswith("container:"):
        return ""
    named = [n.name for n in networks if n.name == mode]
    return next(iter(named or [n.name for n in networks if n.id.startswith(mode)]), "")


def _environment(present: Sequence[str], wanted: Mapping[str, str]) -> list[str]:
    """`wanted`, in the order and the spelling of `present`. An entry without a value takes the variable away from the
    process, whatever the image gives."""
    before = dict(entry.split("=", 1) for entry in present if "=" in entry)
    entries: list[str] = []
    changed: set[str] = set()
    for entry in present:
        key, gives, _ = entry.partition("=")
        if key not in wanted:
            if not gives:
                entries.append(entry)
        elif gives and before[key] == wanted[key]:
            entries.append(entry)
        elif key not in changed:
            changed.add(key)
            entries.append(f"{key}={wanted[key]}")
    known = {entry.partition("=")[0] for entry in present}
    return [*entries, *(f"{key}={value}" for key, value in wanted.items() if key not in known)]


def _endpoints(document: Json, present: Collection[str]) -> dict[str, Json]:
    """What was asked for of each network: no address that the engine chose, no alias that it added by itself."""
    found: dict[str, Json] = {}
    short = document["Id"][:SHORT_ID]
    for name, endpoint in (document["NetworkSettings"].get("Networks") or {}).items():
        if name not in present:
            continue
        wishes = {key: endpoint[key] for key in ENDPOINT_WISHES if endpoint.get(key) is not None}
        aliases = [alias for alias in wishes.pop("Aliases", ()) if alias != short]
        found[name] = {**wishes, "Aliases": aliases} if aliases else wishes
    return found


def _link(link: str) -> str:
    """The engine shows a link of the default bridge as /target:/own-name/alias, and takes target:alias."""
    target, _, alias = link.partition(":")
    return f"{target.removeprefix('/')}:{alias.rpartition('/')[2]}"


# --- volumes --------------------


def _keep_volumes(document: Json, config: dict[str, Any], host: dict[str, Any]) -> None:
    """Ask by name for each volume that nobody named. NoCopy: one that was emptied stays empty."""
    nameless = {
        posixpath.normpath(mount["Destination"]): mount
        for mount in document.get("Mounts") or ()
        if mount.get("Type") == "volume" and mount.get("Name")
    }
    kept, mounts = [], []
    for bind in host.get("Binds") or ():
        source, colon, rest = bind.partition(":")
        if colon:
            nameless.pop(posixpath.normpath(rest.partition(":")[0]), None)
            kept.append(bind)
        elif posixpath.normpath(source) not in nameless:
            kept.append(bind)
    if host.get("Binds"):
        host["Binds"] = kept
    for mount in host.get("Mounts") or ():
        volume = nameless.pop(posixpath.normpath(mount["Target"]), None)
        asked = volume and mount.get("Type") == "volume" and not mount.get("Source")
        mounts.append(_named(mount, volume["Name"]) if volume and asked else mount)
    if host.get("VolumesFrom"):  # what else is mounted comes from there
        own = {posixpath.normpath(path) for path in config.get("Volumes") or ()}
        nameless = {path: mount for path, mount in nameless.items() if path in own}
    for mount in nameless.values():
        entry = {"Type": "volume", "Target": mount["Destination"]}
        mounts.append(_named(entry if mount.get("RW", True) else {**entry, "ReadOnly": True}, mount["Name"]))
    if mounts:
        host["Mounts"] = mounts


def _named(mount: Json, volume: str) -> Json:
    return {**mount, "Source": volume, "VolumeOptions": {**(mount.get("VolumeOptions") or {}), "NoCopy": True}}
