"""Replacing containers, as a model: every step executed on a small engine, with every fault at every step.

Whatever happens, in the end there is exactly one healthy container per slot, the old one or the new one, under its
final name, and nothing else; and where two copies can run side by side, one takes requests at every instant.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from sidegate.core.model import Container
from sidegate.core.rollout import (
    NEXT,
    OLD,
    Copy,
    Create,
    LetGo,
    Remove,
    Rename,
    Situation,
    Slot,
    Start,
    Step,
    Stop,
    back,
    base_name,
    decisive,
    forward,
    standing,
)

FAULTS = ("refused", "killed before", "killed after", "unconfirmed")
"""The engine refuses the call; the daemon ends before or after it; the engine does it and does not say so."""


class RefusedError(Exception):
    pass


class KilledError(Exception):
    pass


@dataclass
class Box:
    """A container. `health` is what it comes to once it runs: well, sick or ended."""

    id: str
    name: str
    state: str
    new: bool
    health: str = "well"
    let_go: bool = False
    whole: bool = True

    @property
    def ready(self) -> bool:
        return self.state == "running" and self.health == "well"


@dataclass
class Model:
    """An app being replaced. `health` is how the new containers turn out, by slot; `surplus` slots are to go."""

    slots: int
    recreate: bool
    own: bool = False
    fresh: int = 0
    surplus: int = 0
    health: tuple[str, ...] = ()
    faults: dict[int, str] = field(default_factory=dict)
    rolling: bool = True  # the intent has the rollout
    watched: bool = True  # somebody takes requests at every instant
    boxes: dict[str, Box] = field(default_factory=dict)
    calls: int = 0
    log: list[str] = field(default_factory=list)
    serial: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    admitted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for number in range(1, self.slots + self.surplus + 1):
            name = f"app-{number}"
            self.boxes[f"old-{number}"] = Box(f"old-{number}", name, "running", new=False)
        self.replaces = frozenset(self.boxes)
        self.wanted = {f"app-{number}" for number in range(1, self.slots + self.fresh + 1)}
        if self.surplus:
            self.wanted = {f"app-{number}" for number in range(1, self.slots + 1)}
        self.before = {box.name for box in self.boxes.values()}

    # --- looking

    def situation(self, *, late: bool) -> Situation:
        wanted = self.wanted if self.rolling else self.before
        names = sorted(wanted | {base_name(box.name) for box in self.boxes.values()})
        return Situation(
            tuple(
                Slot(name, self.copy(name), self.copy(name + NEXT), self.copy(name + OLD), name in wanted)
                for name in names
            ),
            self.replaces if self.rolling else frozenset(),
            self.recreate,
            self.own,
            late,
        )

    def box(self, name: str) -> Box | None:
        return next((box for box in self.boxes.values() if box.name == name), None)

    def copy(self, name: str) -> Copy | None:
        box = self.box(name)
        if box is None:
            return None
        return Copy(box.id, box.state, box.ready, box.let_go, box.whole, box.state == "exited")

    def serving(self) -> list[Box]:
        containers = [Container(id=box.id, name=box.name, state=box.state) for box in self.boxes.values()]
        out = standing(containers, going_forward=self.rolling, admitted=self.admitted)
        return [box for box in self.boxes.values() if box.state == "running" and box.id not in out]

    # --- doing

    def carry_out(self, step: Step) -> None:
        fault = self.faults.get(self.calls, "")
        self.calls += 1
        self.log.append(f"{step} {fault}")
        if fault == "killed before":
            raise KilledError
        if fault == "refused":
            raise RefusedError
        self._do(step)
        if fault == "killed after":
            raise KilledError
        if fault == "unconfirmed" and isinstance(step, Stop | Remove | Rename):
            raise RefusedError  # so Workloads looks again for the others

    def _do(self, step: Step) -> None:
        match step:
            case Create():
                assert self.box(step.name) is None, "its name is taken"
                number = next(self.serial)
                index = int(step.slot.rpartition("-")[2]) - 1
                health = self.health[index] if index < len(self.health) else "well"
                self.boxes[f"new-{number}"] = Box(f"new-{number}", step.name, "created", new=True, health=health)
            case Start():
                box = self.boxes[step.id]
                if self.recreate:  # such as a port of the host
                    rivals = [b for b in self.boxes.values() if base_name(b.name) == base_name(box.name)]
                    assert not any(b.state == "running" for b in rivals if b is not box), "two cannot run side by side"
                box.state = "exited" if box.health == "ended" else "running"
                box.let_go = False
            case Rename():
                assert self.box(step.name) is None, "its name is taken"
                self.boxes[step.id].name = step.name
            case LetGo():
                box = self.boxes[step.id]
                assert box not in self.serving(), "it is let go of while it takes requests"
                box.let_go = True
            case Stop():
                assert self.boxes[step.id].let_go, "it was not let go of"
                self.boxes[step.id].state = "exited"
            case Remove():
                box = self.boxes.pop(step.id)
                assert box.state != "running", "removed while it runs"

    def step(self, *, late: bool) -> bool:
        """One look and what follows from it; whether there was anything to do."""
        now = self.situation(late=late)
        self.admitted = {slot.next.id for slot in now.slots if slot.next and slot.next.ready}
        decision = forward(now) if self.rolling else back(now)
        if decision.failed or (decision.done and self.rolling):
            self.rolling = False
            self.replaces = frozenset()
            if not decision.failed:
                self.before = self.wanted
            return True
        for step in decision.steps:
            try:
                self.carry_out(step)
            except RefusedError:
                if decisive(step, going_forward=self.rolling):
                    self.rolling = False
                    return True
            self.check()
        return bool(decision.steps or decision.waiting)

    def check(self) -> None:
        if self.watched and not self.recreate and self.slots:
            assert any(box.ready for box in self.serving()), self.log

    def run(self) -> None:
        """To the end; a daemon that is killed starts again, knowing nothing but what is in the intent."""
        late = False
        for _ in range(300):
            before = (self.calls, self.rolling)
            try:
                if not self.step(late=late):
                    return
            except KilledError:
                self.admitted = set()
                for box in self.boxes.values():
                    box.let_go = False
                    box.whole = box.state != "created"
                late = False
            else:
                late = (self.calls, self.rolling) == before  # nothing happens any more: time passes
            self.check()
        raise AssertionError(f"no end: {self.log[-10:]}")

    def verify(self) -> None:
        """Exactly one healthy container per slot, and nothing left over."""
        assert {box.name for box in self.boxes.values()} == self.before, self.log
        assert all(box.ready for box in self.boxes.values()), self.log


SHAPES = [
    pytest.param(Model(1, recreate=False), id="rolling, one replica"),
    pytest.param(Model(2, recreate=False), id="rolling, two"),
    pytest.param(Model(1, recreate=True), id="recreate, one"),
    pytest.param(Model(2, recreate=True), id="recreate, two"),
    pytest.param(Model(1, recreate=False, own=True, fresh=1), id="own, one more than before"),
    pytest.param(Model(1, recreate=False, own=True, surplus=1), id="own, one less than before"),
    pytest.param(Model(0, recreate=False, own=True, fresh=2), id="own, none before"),
]


def anew(shape: Model, health: tuple[str, ...] = (), faults: dict[int, str] | None = None) -> Model:
    return Model(
        shape.slots,
        shape.recreate,
        shape.own,
        shape.fresh,
        shape.surplus,
        health,
        faults or {},
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_without_faults_all_containers_are_new(shape: Model) -> None:
    model = anew(shape)
    model.run()
    model.verify()
    assert all(box.new for box in model.boxes.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sick", ["sick", "ended"])
def test_one_that_does_not_become_healthy_changes_nothing(shape: Model, sick: str) -> None:
    for health in ((sick,), ("well", sick), (sick, sick)):
        model = anew(shape, health)
        model.run()
        model.verify()
        if len(health) <= shape.slots + shape.fresh:
            assert not any(box.new for box in model.boxes.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("health", [(), ("sick",), ("ended",), ("well", "sick"), ("well", "ended")])
def test_a_fault_at_every_step(shape: Model, health: tuple[str, ...]) -> None:
    plain = anew(shape, health)
    plain.run()
    for at, fault in itertools.product(range(plain.calls), FAULTS):
        model = anew(shape, health, {at: fault})
        model.run()
        model.verify()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("health", [(), ("well", "ended")])
def test_two_faults(shape: Model, health: tuple[str, ...]) -> None:
    plain = anew(shape, health)
    plain.run()
    for first, one in itertools.product(range(plain.calls), FAULTS):
        middle = anew(shape, health, {first: one})
        middle.run()
        for second, other in itertools.product(range(first + 1, middle.calls), FAULTS):
            model = anew(shape, health, {first: one, second: other})
            model.run()
            model.verify()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_new_one_that_dies_at_any_moment(shape: Model) -> None:
    """After its start and before the old ones have gone; the old ones come back as far as they are still there."""
    plain = anew(shape)
    plain.run()
    for at in range(1, plain.calls + 1):
        model = anew(shape)
        while model.calls < at and model.step(late=False):
            pass
        dying = next((box for box in model.boxes.values() if box.new and box.state == "running"), None)
        if dying is None:
            continue
        slot = base_name(dying.name)
        others = [box for box in model.boxes.values() if base_name(box.name) == slot and not box.new]
        dying.state, dying.health = "exited", "ended"
        model.watched = any(box.state == "running" for box in others)
        late = False
        for _ in range(100):
            before = (model.calls, model.rolling)
            if not model.step(late=late):
                break
            late = (model.calls, model.rolling) == before
        assert {box.name for box in model.boxes.values()} == model.before, model.log
        if others:
            assert any(box.ready for box in model.boxes.values()), model.log


def test_other_peoples_container_that_was_removed_meanwhile() -> None:
    """Its successor is the last that is left of it, and gets its name."""
    slot = Slot("shop", next=Copy("b", "running", ready=True))
    assert back(Situation((slot,))).steps == (Rename("b", "shop"),)
    assert back(Situation((slot,), own=True)).steps == (LetGo("b"),)
    assert back(Situation((replace(slot, next=Copy("b", "exited")),))).steps == (Remove("b"),)


def test_a_container_that_came_meanwhile_is_nobodys_business() -> None:
    slots = (Slot("shop", current=Copy("c", ready=True), next=Copy("b", "exited", ended=True)),)
    assert forward(Situation(slots, frozenset({"a"}))).steps == (Remove("b"),)
    assert forward(Situation((Slot("shop", current=Copy("c")),), frozenset({"a"}))).done


def test_all_old_ones_stay_until_all_new_ones_are_well() -> None:
    well = Slot("shop-1", current=Copy("c", ready=True), old=Copy("a", ready=True))
    sick = Slot("shop-2", current=Copy("d"), old=Copy("b", ready=True))
    now = Situation((well, sick), frozenset({"a", "b"}))
    assert forward(now).waiting == ("d",)
    assert forward(replace(now, late=True)).failed == "d"


def test_who_stands_where() -> None:
    names = {"a": "shop", "b": "shop" + NEXT, "c": "shop-2" + OLD, "d": "shop-2" + NEXT}
    containers = [Container(id=key, name=name) for key, name in names.items()]
    assert standing(containers, going_forward=True, admitted=()) == {"b": "starting", "c": "stopping"}
    assert standing(containers, going_forward=True, admitted={"b"}) == {"c": "stopping"}
    assert standing(containers, going_forward=False, admitted={"b"}) == {"b": "stopping", "d": "stopping"}
    stopped = [replace(c, state="exited") if c.id == "c" else c for c in containers]
    assert standing(stopped, going_forward=True, admitted=())["d"] == "starting"
