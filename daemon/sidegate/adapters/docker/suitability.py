"""Whether a container can be made anew, and whether two of it can run side by side: from its inspect document and the
rows of `GET /containers/json`.

Pure. Each answer is why not, in words that follow "because"; empty where it can.
"""

from collections.abc import Iterable
from typing import Any

from sidegate.adapters.docker.recreate import Json
from sidegate.core.labels import DATABASE, RECREATE, STRATEGY, SWARM_TASK


def strategy_fault(document: Json) -> str:
    """Why two of it cannot run side by side."""
    config, host = document["Config"], document["HostConfig"]
    labels, mode = config.get("Labels") or {}, host.get("NetworkMode") or ""
    if labels.get(STRATEGY) == RECREATE:
        return f"its label {STRATEGY} says {RECREATE}"
    if DATABASE in labels:
        return "two database servers cannot share their data"
    if mode == "host":
        return "it listens on the host's own network"
    if mode.startswith("container:"):
        return f"it listens in the network namespace of container {mode.partition(':')[2][:12]}"
    for inside, bindings in sorted((host.get("PortBindings") or {}).items()):
        for binding in bindings or ():
            if (port := binding.get("HostPort") or "0") != "0":
                return f"it publishes its port {inside} at the host's port {port}"
    for network, endpoint in sorted((document["NetworkSettings"].get("Networks") or {}).items()):
        if address := _static_address(endpoint.get("IPAMConfig") or {}):
            return f"it has the fixed address {address} on network {network}"
    if mac := config.get("MacAddress"):
        return f"it has the fixed MAC address {mac}"
    return ""


def _static_address(ipam: Json) -> str:
    found: list[str] = [ipam.get("IPv4Address") or "", ipam.get("IPv6Address") or "", *(ipam.get("LinkLocalIPs") or ())]
    return next(filter(None, found), "")


def refusal(document: Json, rows: Iterable[Json]) -> str:
    """Why it cannot be made anew at all; `rows` are all containers, its own among them."""
    config, host = document["Config"], document["HostConfig"]
    if SWARM_TASK in (config.get("Labels") or {}):
        return "it is a swarm task, which the swarm alone makes: `docker service update` does"
    if host.get("AutoRemove"):
        return "it was run with --rm, so that the engine removes it as soon as it stops: run it without"
    if document["State"].get("Status") in ("removing", "dead"):
        return "it is being removed"
    rows = list(rows)
    for needed, why in _needed(host):
        if not any(row["Id"].startswith(needed) or f"/{needed}" in _names(row) for row in rows):
            return f"{why} container {needed[:12]}, which is gone"
    return _dependents(document, rows)


def _needed(host: Json) -> Iterable[tuple[str, str]]:
    """Containers without which it cannot be created or started."""
    for key, what in (("NetworkMode", "network"), ("PidMode", "process"), ("IpcMode", "IPC")):
        kind, _, name = (host.get(key) or "").partition(":")
        if kind == "container":
            yield name, f"it lives in the {what} namespace of"
    for source in host.get("VolumesFrom") or ():
        yield source.partition(":")[0], "it has its volumes from"


def _dependents(document: Json, rows: Iterable[Json]) -> str:
    """Others that hold on to this very container, and would lose it: neither follows its name."""
    own = {document["Id"], document["Name"].removeprefix("/")}
    for row in rows:
        kind, _, name = ((row.get("HostConfig") or {}).get("NetworkMode") or "").partition(":")
        if kind == "container" and name in own:
            return f"container {_name(row)} lives in its network namespace and would lose it: recreate both by hand"
        if row["Id"] == document["Id"]:
            for linked in _names(row):  # a container that is linked to is also listed as /parent/alias
                parent, slash, _ = linked.removeprefix("/").partition("/")
                if slash:
                    return f"container {parent} has a --link to it and would lose it: put both on a network instead"
    return ""


def _names(row: Json) -> list[str]:
    names: Any = row.get("Names")
    return list(names or ())


def _name(row: Json) -> str:
    return next((name.removeprefix("/") for name in _names(row) if name.count("/") == 1), str(row["Id"])[:12])
