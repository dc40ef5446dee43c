"""The nftables rules of the kernel forwarder, as nft's JSON. Pure: what to tell the kernel, and what it told us.

    set lease: TCP, for LEASE_SECONDS                     not renewed, it lapses, and nobody is taken in any more
    map ports: public port -> goto port-N                 one look-up per new session, however many ports are open
    chain prerouting (nat, before Docker's own)           a SYN to an address of this machine: look up its port
    chain port-N: not admitted, too many, too fast: return; else DNAT to the database
    chain postrouting (nat, before Docker's own)          masquerade what was DNATed onto one of our bridges

A client that returns meets the local stack, where the userspace forwarder's listener on the same port refuses it with a
reason. Only a SYN is taken in: what is left of a session that was cut is answered by the local stack with a RST.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from sidegate.adapters.host import OUR_DEVICES
from sidegate.adapters.nft.commands import Object
from sidegate.core.gates import KernelForward, Range
from sidegate.core.model import DATABASE_PORT

FAMILY = "ip"
PORTS, LEASE = "ports", "lease"
LEASE_SECONDS = 10
PREROUTING, POSTROUTING = "prerouting", "postrouting"
BEFORE_DOCKER = 10
ADDRESSES_WATCHED = 65535
RATE_MEMORY = 60
"""Seconds after which an address that opens no more sessions is forgotten by its rate limit."""

_BASE = -1


@dataclass(frozen=True, slots=True)
class Listing:
    """What the kernel has of our table, to be compared with what it had after our last change.

    `ports` holds what belongs to one public port, `base` all the rest. nft versions print the same rule in different
    ways, so a listing is compared with another listing, never with what was sent.
    """

    base: str
    ports: Mapping[int, str]


class Table:
    """Writes the transactions for one table. `lease`: seconds that it works without being renewed."""

    def __init__(self, name: str, lease: int = LEASE_SECONDS) -> None:
        self.name = name
        self._lease = lease

    def create(self, forwards: Iterable[KernelForward]) -> list[Object]:
        """The whole table where there is none; fails where there is one. Much faster than `rebuild`: nft ends 10 ms
        later where something is deleted, since the kernel then waits until nobody looks at it any more."""
        return [{"create": {"table": {"family": FAMILY, "name": self.name}}}, *self._contents(forwards)]

    def rebuild(self, forwards: Iterable[KernelForward]) -> list[Object]:
        """The whole table anew, in one transaction; sessions go on, limits begin to count anew."""
        return [*self.delete(), *self._contents(forwards)]

    def _contents(self, forwards: Iterable[KernelForward]) -> list[Object]:
        return [
            self._base_chain(PREROUTING, -100),
            self._base_chain(POSTROUTING, 100),
            self._add("map", PORTS, type="inet_service", map="verdict"),
            self._add("set", LEASE, type="inet_proto", flags=["timeout"], timeout=self._lease),
            self._elements(LEASE, ["tcp"]),
            self._rule(
                PREROUTING,
                _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"),
                _match(_field("ip", "daddr"), {"prefix": {"addr": "127.0.0.0", "len": 8}}, "!="),
                _match({"&": [_field("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}, "syn"),
                _match(_field("ip", "protocol"), f"@{LEASE}"),
                {"vmap": {"key": _field("tcp", "dport"), "data": f"@{PORTS}"}},
            ),
            self._rule(
                POSTROUTING,
                _match({"ct": {"key": "status"}}, "dnat", "in"),
                _match({"meta": {"key": "oifname"}}, f"{OUR_DEVICES}*"),
                _match(_field("tcp", "dport"), DATABASE_PORT),
                {"masquerade": None},
            ),
            *(command for forward in forwards for command in self._open(forward, None)),
        ]

    def renew(self) -> list[Object]:
        """The whole lease from now on, lapsed or not; in one transaction there is no moment between. Adding what is
        there does not renew it before Linux 6.12, hence the deletion, which in turn wants something to delete."""
        hold = self._elements(LEASE, ["tcp"])
        return [hold, {"delete": hold["add"]}, hold]

    def delete(self) -> list[Object]:
        """Adding what is there already is success: so that deleting always is."""
        table = {"table": {"family": FAMILY, "name": self.name}}
        return [{"add": table}, {"delete": table}, {"add": table}]

    def drop(self) -> list[Object]:
        return self.delete()[:2]

    def change(self, old: Mapping[int, KernelForward], new: Mapping[int, KernelForward]) -> list[Object]:
        """From one set of forwards to another; what is equal in both is not touched."""
        commands: list[Object] = []
        for port, was in old.items():
            if port not in new:
                commands += self._close(was)
        for port, wanted in new.items():
            if old.get(port) != wanted:
                commands += self._open(wanted, old.get(port))
        return commands

    # --- one port --------------------

    def _open(self, forward: KernelForward, was: KernelForward | None) -> list[Object]:
        """A limit that stays goes on counting; one that changes begins anew, since the kernel keeps it per address."""
        port = forward.port
        chain, allow, count, rate = names(port)
        before = was or replace(forward, admitted=None, max_sessions=0, max_new=0)
        commands = [self._add("chain", chain)]
        if was is not None:
            commands.append({"flush": {"chain": self._named(chain)}})
        if before.admitted != forward.admitted:
            commands += self._drop_set(allow, before.admitted is not None)
            if forward.admitted is not None:
                commands.append(self._add("set", allow, type="ipv4_addr", flags=["interval"]))
                commands.append(self._elements(allow, [_range(r) for r in forward.admitted]))
        if before.max_sessions != forward.max_sessions:
            commands += self._drop_set(count, before.max_sessions > 0)
            if forward.max_sessions:
                commands.append(self._add("set", count, type="ipv4_addr", size=ADDRESSES_WATCHED))
        if before.max_new != forward.max_new:
            commands += self._drop_set(rate, before.max_new > 0)
            if forward.max_new:
                commands.append(
                    self._add(
                        "set",
                        rate,
                        type="ipv4_addr",
                        size=ADDRESSES_WATCHED,
                        flags=["timeout"],
                        timeout=RATE_MEMORY,
                    )
                )
        client = _field("ip", "saddr")
        if forward.admitted is not None:
            commands.append(self._rule(chain, _match(client, f"@{allow}", "!="), {"return": None}))
        if forward.max_new:
            speed = {"rate": forward.max_new, "burst": forward.max_new, "per": "second", "inv": True}
            commands.append(self._rule(chain, _watch("update", rate, client, {"limit": speed}), {"return": None}))
        if forward.max_sessions:
            over = {"ct count": {"val": forward.max_sessions, "inv": True}}
            commands.append(self._rule(chain, _watch("add", count, client, over), {"return": None}))
        address, port_there = forward.target
        commands.append(
            self._rule(
                chain,
                _match({"meta": {"key": "l4proto"}}, "tcp"),
                {"counter": None},
                {"dnat": {"addr": address, "port": port_there}},
            )
        )
        if was is None:
            commands.append(self._elements(PORTS, [[port, {"goto": {"target": chain}}]]))
        return commands

    def _close(self, forward: KernelForward) -> list[Object]:
        chain, allow, count, rate = names(forward.port)
        element = [[forward.port, {"goto": {"target": chain}}]]
        return [
            {"delete": {"element": {**self._named(PORTS), "elem": element}}},
            {"flush": {"chain": self._named(chain)}},
            {"delete": {"chain": self._named(chain)}},
            *self._drop_set(allow, forward.admitted is not None),
            *self._drop_set(count, forward.max_sessions > 0),
            *self._drop_set(rate, forward.max_new > 0),
        ]

    # --- words --------------------

    def _named(self, name: str) -> Object:
        return {"family": FAMILY, "table": self.name, "name": name}

    def _add(self, kind: str, name: str, **more: object) -> Object:
        return {"add": {kind: {**self._named(name), **more}}}

    def _base_chain(self, hook: str, docker: int) -> Object:
        return self._add("chain", hook, type="nat", hook=hook, prio=docker - BEFORE_DOCKER, policy="accept")

    def _rule(self, chain: str, *statements: Object) -> Object:
        return {"add": {"rule": {"family": FAMILY, "table": self.name, "chain": chain, "expr": list(statements)}}}

    def _elements(self, name: str, elements: list[object]) -> Object:
        return {"add": {"element": {**self._named(name), "elem": elements}}}

    def _drop_set(self, name: str, there: bool) -> list[Object]:
        return [{"delete": {"set": self._named(name)}}] if there else []


def names(port: int) -> tuple[str, str, str, str]:
    """The chain of a port and its three sets: who is admitted, sessions counted, new sessions timed."""
    return f"port-{port}", f"allow-{port}", f"count-{port}", f"rate-{port}"


def read_listing(objects: Iterable[Object]) -> Listing:
    """Split a table's objects by the public port that they belong to, less what changes by itself."""
    found: dict[int, list[object]] = {_BASE: []}
    for item in objects:
        ((kind, body),) = item.items()
        if kind == "metainfo":
            continue
        body = {key: value for key, value in body.items() if key != "handle"}
        if kind == "map" and body["name"] == PORTS:
            for element in body.pop("elem", ()):
                found.setdefault(_port_of(element), []).append(element)
            found[_BASE].append(body)
            continue
        name = str(body["chain"] if kind == "rule" else body["name"])
        stem, _, number = name.rpartition("-")
        if stem in ("count", "rate") or (kind == "set" and name == LEASE):
            body.pop("elem", None)  # the clients of the moment; what the time is of the lease
        owner = int(number) if stem in ("port", "allow", "count", "rate") and number.isdecimal() else _BASE
        if kind == "rule":
            body["expr"] = [_without_traffic(statement) for statement in body["expr"]]
        found.setdefault(owner, []).append([kind, body])
    texts = {owner: json.dumps(part, sort_keys=True) for owner, part in found.items()}
    return Listing(texts.pop(_BASE), texts)


def read_counts(objects: Iterable[Object]) -> dict[int, int]:
    """Public port -> how many connections its rule has taken in since it was put: a nat chain sees the first packet of
    each."""
    rules = (item["rule"] for item in objects if "rule" in item)
    return {
        int(rule["chain"].removeprefix("port-")): statement["counter"]["packets"]
        for rule in rules
        if rule["chain"].startswith("port-") and rule["chain"].removeprefix("port-").isdecimal()
        for statement in rule["expr"]
        if isinstance(statement.get("counter"), dict)
    }


def _port_of(element: object) -> int:
    match element:
        case [int(port), _]:
            return port
        case _:
            return _BASE


def _without_traffic(statement: Object) -> Object:
    """A rule as it is written: counters move, and dynamic sets show their elements in some versions."""
    return {key: None if key == "counter" else value for key, value in statement.items()}


def _range(ends: Range) -> object:
    first, last = (str(IPv4Address(end)) for end in ends)
    return first if first == last else {"range": [first, last]}


def _field(protocol: str, field: str) -> Object:
    return {"payload": {"protocol": protocol, "field": field}}


def _match(left: Object, right: object, operator: str = "==") -> Object:
    return {"match": {"op": operator, "left": left, "right": right}}


def _watch(operation: str, name: str, key: Object, statement: Object) -> Object:
    return {"set": {"op": operation, "elem": key, "set": f"@{name}", "stmt": [statement]}}
