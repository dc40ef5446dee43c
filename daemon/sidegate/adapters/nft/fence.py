"""The fence around our networks, as nftables rules in tables of its own.

    set within: device . device             packets between two containers of one network cross the forward hook, too
    sets private, egress: device
    chain forward (filter, before Docker's own)
        from a network to itself                        accept
        IPv4: DNATed, as by the kernel forwarder        accept, both ways
        from or to a private network                    drop
        IPv4: new to a network with egress              drop

An accept leaves the packet to whatever rules come after. Networks are told by the names of their bridges, one by one: a
`sg-*` would be other instances' as well. The tables are not the forwarder's: that lets people in and lapses with the
daemon, while these only keep people out, and so stand for as long as the networks do, whoever runs. Ours have no IPv6
unless the engine gives it to every network; no rule for it looks at conntrack, which would have the kernel track all of
the host's.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence

from sidegate.adapters.nft.commands import Commands, Object
from sidegate.adapters.nft.generation import generation
from sidegate.adapters.nft.netlink import open_socket
from sidegate.core.fencing import NONE, Fence
from sidegate.errors import HostToolError

FAMILIES = ("ip", "ip6")
SUFFIX = ".fence"
"""What follows the instance in the tables' name; no instance has a dot in its own."""
CHAIN = "forward"
WITHIN, PRIVATE, EGRESS = "within", "private", "egress"
BEFORE_DOCKER = -10
NEW = ["invalid", "new", "untracked"]


class NftFence:
    """`instance` names the tables. `process` is one that has the host's network, where ours is another."""

    def __init__(self, instance: str, *, commands: Commands | None = None, process: int = 0) -> None:
        self._commands = commands or Commands()
        self._enter = ("nsenter", f"--net={self._commands.proc}/{process}/ns/net") if process else ()
        self._name = f"sidegate-{instance}{SUFFIX}"
        self._families = FAMILIES if (self._commands.proc / "net/if_inet6").exists() else FAMILIES[:1]
        self._rules = ""  # as they were listed after we had put them
        self._there = NONE
        self._looked_at: int | None = None
        """The transaction after which it was looked at last."""

    async def observe(self) -> Fence:
        """What stands. About 5 ms where anything in nftables has changed meanwhile, or in another network than ours;
        raises HostToolError where it cannot be looked at."""
        now = self._generation()
        if now is not None and now == self._looked_at:
            return self._there
        listed = await self._list()
        rules, found = read(listed)
        self._there = Fence(found.private, found.egress, found.torn or (bool(listed) and rules != self._rules))
        self._looked_at = now
        return self._there

    async def put(self, fence: Fence) -> None:
        """Have exactly this, in one transaction; without networks there is nothing. Raises HostToolError."""
        if not fence.devices:
            await self._change([command for family in self._families for command in self._anew(family)[:2]])
        elif self._there.torn or not self._there.devices:
            await self._build(fence)
        else:
            try:
                await self._change(list(self._differences(fence)))
            except HostToolError:  # somebody has edited it since we looked
                await self._build(fence)
        self._there = fence

    async def _build(self, fence: Fence) -> None:
        await self._change([command for family in self._families for command in self._contents(family, fence)])
        self._rules, _ = read(await self._list())

    def _generation(self) -> int | None:
        if self._enter:
            return None
        try:
            with open_socket() as link:
                return generation(link)
        except OSError:
            return None

    async def _list(self) -> list[Object]:
        """The objects of both tables. Asked for two of one name, nft shows one (1.0.6): hence two runs."""
        looks = [self._commands.list_table(family, self._name, *self._enter) for family in self._families]
        return [item for table in await asyncio.gather(*looks) for item in table or ()]

    async def _change(self, commands: Sequence[Object]) -> None:
        await self._commands.change_tables(commands, *self._enter)

    # --- transactions --------------------

    def _anew(self, family: str) -> list[Object]:
        """Adding what is there already is success: so that deleting always is."""
        table = {"table": {"family": family, "name": self._name}}
        return [{"add": table}, {"delete": table}, {"add": table}]

    def _contents(self, family: str, fence: Fence) -> list[Object]:
        named = {"family": family, "table": self._name}
        hook = {"type": "filter", "hook": "forward", "prio": BEFORE_DOCKER, "policy": "accept"}
        return [
            *self._anew(family),
            {"add": {"set": {**named, "name": WITHIN, "type": ["ifname", "ifname"]}}},
            {"add": {"set": {**named, "name": PRIVATE, "type": "ifname"}}},
            {"add": {"set": {**named, "name": EGRESS, "type": "ifname"}}},
            {"add": {"chain": {**named, "name": CHAIN, **hook}}},
            *({"add": {"rule": {**named, "chain": CHAIN, "expr": rule}}} for rule in _rules(family)),
            *self._elements("add", family, fence),
        ]

    def _differences(self, fence: Fence) -> Iterable[Object]:
        there = self._there
        for family in self._families:
            yield from self._elements(
                "delete", family, Fence(there.private - fence.private, there.egress - fence.egress)
            )
            yield from self._elements("add", family, Fence(fence.private - there.private, fence.egress - there.egress))

    def _elements(self, verb: str, family: str, fence: Fence) -> Iterable[Object]:
        pairs: list[object] = [{"concat": [device, device]} for device in sorted(fence.devices)]
        for name, elements in ((WITHIN, pairs), (PRIVATE, sorted(fence.private)), (EGRESS, sorted(fence.egress))):
            if elements:
                place = {"family": family, "table": self._name, "name": name}
                yield {verb: {"element": {**place, "elem": elements}}}


def _rules(family: str) -> Iterable[list[Object]]:
    came, goes = {"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}
    yield [_match({"concat": [came, goes]}, f"@{WITHIN}"), {"accept": None}]
    if family == "ip":
        yield [_match({"ct": {"key": "status"}}, "dnat", "in"), {"accept": None}]
    yield [_match(came, f"@{PRIVATE}"), {"drop": None}]
    yield [_match(goes, f"@{PRIVATE}"), {"drop": None}]
    if family == "ip":
        yield [_match(goes, f"@{EGRESS}"), _match({"ct": {"key": "state"}}, NEW, "in"), {"drop": None}]


def _match(left: Object, right: object, operator: str = "==") -> Object:
    return {"match": {"op": operator, "left": left, "right": right}}


def read(objects: Iterable[Object]) -> tuple[str, Fence]:
    """The rules, to be compared with another listing, and the networks; torn where tables or sets do not agree."""
    rules: list[object] = []
    found: dict[tuple[str, str], frozenset[str]] = {}
    for item in objects:
        ((kind, body),) = item.items()
        if kind == "metainfo":
            continue
        body = {key: value for key, value in body.items() if key != "handle"}
        if kind == "set":
            elements = body.pop("elem", ())
            found[body["family"], body["name"]] = frozenset(map(_device, elements))
        rules.append([kind, body])
    private, egress = (found.get((FAMILIES[0], name), frozenset()) for name in (PRIVATE, EGRESS))
    whole = {WITHIN: private | egress, PRIVATE: private, EGRESS: egress}
    torn = any(elements != whole.get(name) for (_, name), elements in found.items())
    return json.dumps(rules, sort_keys=True), Fence(private, egress, torn)


def _device(element: object) -> str:
    """The device of a set's element; what we put into none is its own text."""
    match element:
        case str():
            return element
        case {"concat": [str(came), goes]} if came == goes:
            return came
    return json.dumps(element)
