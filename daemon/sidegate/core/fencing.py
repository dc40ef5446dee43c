"""The fence around our networks: which there are to be kept, and the action that does. Pure.

Docker keeps an internal network to itself by chains that it takes out of FORWARD and puts back a moment later whenever
any network comes or goes. What the fence holds does not depend on that moment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sidegate.core.desired import Desired, bridge_device, is_ours
from sidegate.core.model import EngineState, Rules
from sidegate.core.plan import Action


@dataclass(frozen=True, slots=True)
class Fence:
    """Bridge devices of networks: `private` ones, whose containers reach each other and nothing else, and ones with
    `egress`, whose containers reach the world and are reached by nobody. `torn`: its rules are not as this daemon put
    them."""

    private: frozenset[str] = frozenset()
    egress: frozenset[str] = frozenset()
    torn: bool = False

    @classmethod
    def around(cls, devices: Mapping[str, bool]) -> "Fence":
        """From bridge device -> whether it has egress."""
        egress = frozenset(device for device, has in devices.items() if has)
        return cls(frozenset(devices) - egress, egress)

    @property
    def devices(self) -> frozenset[str]:
        return self.private | self.egress


NONE = Fence()


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFence(Action):
    """Before the networks of its plan are made: each is fenced before it is there. Nothing rests on it alone."""

    rank: ClassVar[int] = 0
    essential: ClassVar[bool] = False
    fence: Fence = field(repr=False)

    @property
    def chain(self) -> str:
        return "fence"

    @property
    def what(self) -> str:
        count = len(self.fence.devices)
        return f"fence {count} network{'s' if count > 1 else ''}" if count else "remove the fence"


def fence_actions(desired: Desired, state: EngineState, rules: Rules, present: Fence | None) -> Iterator[Action]:
    """`present` is what stands; None where none can be kept. What is to go stays fenced until it has gone."""
    devices = {bridge_device(n.name): not n.internal for n in state.networks if is_ours(n, rules)}
    theirs = {n.name for n in state.networks if not is_ours(n, rules)}
    wanted = Fence.around(devices | {n.device: n.egress for n in desired.networks.values() if n.name not in theirs})
    if present is not None and present != wanted:
        yield PutFence(fence=wanted, cause=_difference(present, wanted))


def _difference(present: Fence, wanted: Fence) -> str:
    if not wanted.devices:
        return "there is no network of ours"
    if present.torn:
        return "its rules are not those that this daemon put"
    if came := len(wanted.devices - present.devices):
        return f"{came} network{'s' if came > 1 else ''} more"
    if went := len(present.devices - wanted.devices):
        return f"{went} network{'s' if went > 1 else ''} less"
    return "who may reach the world was changed"
