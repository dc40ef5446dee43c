"""Inspect documents of one container and of the one that took its place: what differs, field by field."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from adapters.labs import docker

CHANCE = (
    "Created",
    "State/Pid",
    "State/StartedAt",
    "State/FinishedAt",
    "State/Health/Log*",
    "ExecIDs*",
    "GraphDriver/Data/*",
    "NetworkSettings/SandboxID",
    "NetworkSettings/SandboxKey",
    "NetworkSettings/EndpointID",
    "NetworkSettings/Networks/*/EndpointID",
)
"""Ids, times and processes: no two containers have the same."""


async def inspect(container: str) -> dict[str, Any]:
    documents: list[dict[str, Any]] = json.loads(await docker("inspect", container))
    return documents[0]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """path -> value before, value after; None where there is none. A container's own id counts as the same, and so do
    addresses that nobody asked for, as long as there are some."""
    old, new = dict(_fields(_neutral(before), "")), dict(_fields(_neutral(after), ""))
    return {
        path: (old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path) and not any(fnmatchcase(path, chance) for chance in CHANCE)
    }


def _neutral(document: Mapping[str, Any]) -> Any:
    full = document["Id"]
    text = json.dumps({**document, "Mounts": {mount["Destination"]: mount for mount in document["Mounts"]}})
    neutral = json.loads(text.replace(full, "ID").replace(full[:12], "SHORT"))
    settings, mac = neutral["NetworkSettings"], neutral["Config"].get("MacAddress")
    for endpoint in (settings, *settings["Networks"].values()):
        asked = endpoint.get("IPAMConfig") or {}
        for field, wish in (("IPAddress", asked.get("IPv4Address")), ("GlobalIPv6Address", asked.get("IPv6Address"))):
            if not wish and endpoint[field]:
                endpoint[field] = "the engine's choice"
        if not mac and endpoint["MacAddress"]:
            endpoint["MacAddress"] = "the engine's choice"
    return neutral


def _fields(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Empty objects and lists are values of their own: null, [] and {} are not the same thing. Aliases are a set."""
    if path.endswith("/Aliases"):
        value = sorted(value or ()) or value
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _fields(inner, f"{path}/{key}".removeprefix("/"))
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _fields(inner, f"{path}/{number}")
    else:
        yield path, value
