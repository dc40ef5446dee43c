"""Replacing an app's containers: what to do next, decided from what there is.

A *slot* is a container's final name. Beside the one that bears it there may be two more: X.sidegate-next, which is to
take the place of X, and X.sidegate-old, whose place was taken. These names are all the state there is, so whoever
comes to it half-way, a daemon after a crash too, goes on from there.

Forward, all that are to come are made first. Where two copies can run side by side ("rolling") they are started, and
once every one is ready each takes its name; the old ones leave the routes, finish what they have in hand, and go.
Where they cannot ("recreate") it is slot after slot, and the old one is stopped before the new one starts; it is kept
until all are ready. Back, the old ones get their names again and what was to come goes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sidegate.core.model import Container

NEXT, OLD = ".sidegate-next", ".sidegate-old"
ALIVE = frozenset({"running", "paused", "restarting"})
LEAVING, STARTING = "stopping", "starting"


@dataclass(frozen=True, slots=True)
class Copy:
    """One container of a slot. `state` is the engine's word.

    `ready`: it could take requests. `idle`: no requests are left that it has in hand. `whole`: it was made to its end.
    `ended`: it does not come up by itself any more.
    """

    id: str
    state: str = "running"
    ready: bool = False
    idle: bool = False
    whole: bool = True
    ended: bool = False

    @property
    def alive(self) -> bool:
        """Whether it has to be stopped before it can be removed in peace."""
        return self.state in ALIVE


@dataclass(frozen=True, slots=True)
class Slot:
    """The up to three containers of one final name. `wanted`: one of them is to stay."""

    name: str
    current: Copy | None = None
    next: Copy | None = None
    old: Copy | None = None
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision rests on. `replaces`: ids of the containers that are to go; `recreate`: two copies cannot run
    side by side; `own`: Sidegate makes the app's containers; `late`: who is not ready by now has had his time."""

    slots: tuple[Slot, ...]
    replaces: frozenset[str] = frozenset()
    recreate: bool = False
    own: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """Make `name`, the container that is to take the place of the slot's present one."""

    slot: str

    @property
    def name(self) -> str:
        return self.slot + NEXT


@dataclass(frozen=True, slots=True)
class Start:
    id: str


@dataclass(frozen=True, slots=True)
class Rename:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """Have it out of the routes, and give it the time to finish what it has in hand."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    id: str


@dataclass(frozen=True, slots=True)
class Remove:
    id: str


Step = Create | Start | Rename | LetGo | Stop | Remove


@dataclass(frozen=True, slots=True)
class Decision:
    """`steps` in any order, each about another container; or whom to wait for (`waiting`, ids); or that it has
    `failed`, by the fault of that container; or nothing: it is done."""

    steps: tuple[Step, ...] = ()
    waiting: tuple[str, ...] = ()
    failed: str = ""

    @property
    def done(self) -> bool:
        return not (self.steps or self.waiting or self.failed)


def decisive(step: Step, *, going_forward: bool) -> bool:
    """Whether it has failed when the engine refuses this step; all others are tried again for as long as it takes."""
    return going_forward and isinstance(step, Create | Start)


def base_name(name: str) -> str:
    """The slot of a container of this name."""
    return name.removesuffix(NEXT).removesuffix(OLD)


def forward(s: Situation) -> Decision:
    """The next step to the new containers."""
    if steps := tuple(step for slot in s.slots for step in _clear(slot, s)):
        return Decision(steps)
    pending = [slot for slot in s.slots if slot.wanted and not _settled(slot, s)]
    if missing := tuple(Create(slot.name) for slot in pending if slot.next is None):
        return Decision(missing)
    decision = _one_by_one(pending, s) if s.recreate else _side_by_side(pending, s)
    if not decision.done:
        return decision
    surplus = [slot for slot in s.slots if not slot.wanted]
    if taken := tuple(Rename(slot.current.id, slot.name + OLD) for slot in surplus if slot.current):
        return Decision(taken)
    # An old one that still runs is what one can go back to: it stays until the new one is seen to be well.
    unready = [slot.current for slot in s.slots if slot.wanted and slot.old and slot.current and not slot.current.ready]
    if unready:
        return _wait(unready, s)
    return Decision(tuple(_retire(slot.old) for slot in s.slots if slot.old))


def back(s: Situation) -> Decision:
    """The next step to the containers that were there before, as far as they still are."""
    steps = [(slot, step) for slot in s.slots if (step := _restore(slot, s))]
    # What serves while others are still being brought back goes on serving.
    urgent = [step for slot, step in steps if slot.current or not (slot.next and slot.next.ready)]
    return Decision(tuple(urgent or (step for _, step in steps)))


def _settled(slot: Slot, s: Situation) -> bool:
    return slot.current is not None and slot.current.id not in s.replaces


def _clear(slot: Slot, s: Situation) -> Iterable[Step]:
    """What is in the way of everything else."""
    if slot.next and (not slot.wanted or _settled(slot, s)):
        yield _retire(slot.next)
    elif slot.next and not slot.next.whole:
        yield Remove(slot.next.id)
    if slot.old and slot.current and (not slot.wanted or not _settled(slot, s)):
        yield _retire(slot.old)


def _side_by_side(pending: Iterable[Slot], s: Situation) -> Decision:
    coming = [slot.next for slot in pending if slot.next]
    if steps := tuple(Start(copy.id) for copy in coming if copy.state == "created"):
        return Decision(steps)
    if unready := [copy for copy in coming if not copy.ready]:
        return _wait(unready, s)
    return Decision(tuple(_take_place(slot) for slot in pending))


def _one_by_one(pending: Iterable[Slot], s: Situation) -> Decision:
    for slot in sorted(pending, key=lambda slot: slot.current is not None):
        coming = slot.next
        if coming is None or coming.ready:
            continue
        if slot.current:
            return Decision((Rename(slot.current.id, slot.name + OLD),))
        if slot.old and slot.old.alive:
            return Decision((_retire(slot.old),))
        if coming.state == "created":
            return Decision((Start(coming.id),))
        return _wait([coming], s)
    return Decision(tuple(_take_place(slot) for slot in pending))


def _take_place(slot: Slot) -> Step:
    if slot.current:
        return Rename(slot.current.id, slot.name + OLD)
    assert slot.next is not None
    return Rename(slot.next.id, slot.name)


def _wait(copies: list[Copy], s: Situation) -> Decision:
    if ended := next((copy for copy in copies if copy.ended), None):
        return Decision(failed=ended.id)
    return Decision(failed=copies[0].id) if s.late else Decision(waiting=tuple(copy.id for copy in copies))


def _retire(copy: Copy) -> Step:
    if copy.alive and not copy.idle:
        return LetGo(copy.id)
    return Stop(copy.id) if copy.alive else Remove(copy.id)


def _restore(slot: Slot, s: Situation) -> Step | None:
    current, coming, old = slot.current, slot.next, slot.old
    if old is None:
        if coming is None:
            surplus = current and s.own and not slot.wanted
            return Rename(current.id, slot.name + NEXT) if current and surplus else None
        # Somebody removed the one that it was to replace: it is the last that is left of other people's slot.
        last = current is None and coming.alive and slot.wanted and not s.own
        return Rename(coming.id, slot.name) if last else _retire(coming)
    if current:
        if coming:
            return _retire(coming)
        if current.ready and not old.alive:
            return Remove(old.id)
        return Rename(current.id, slot.name + NEXT)
    if old.alive:
        return Rename(old.id, slot.name)
    return _retire(coming) if coming else Start(old.id)


def standing(containers: Iterable[Container], *, going_forward: bool, admitted: Collection[str]) -> Mapping[str, str]:
    """Which of an app's containers take no requests, by the part that they have in replacing it: id -> LEAVING (out of
    the routes, with the time to finish) or STARTING (not in them yet).

    `admitted`: ids of those to come that were seen to be ready.
    """
    by_name = {container.name: container for container in containers}
    found: dict[str, str] = {}
    for name, container in by_name.items():
        slot = base_name(name)
        old = by_name.get(slot + OLD)
        current = by_name.get(slot)
        if name.endswith(OLD) and going_forward:
            if current is None or current.running:  # else its successor has died meanwhile
                found[container.id] = LEAVING
        elif name.endswith(NEXT) and not going_forward:
            found[container.id] = LEAVING
        elif name.endswith(NEXT) and container.id not in admitted:
            # Between two renames there is no X: the one to come was ready, or nothing would have been renamed.
            renaming = current is None and old is not None and old.state in ALIVE
            if not renaming:
                found[container.id] = STARTING
    return found
