"""What is made of `kill` events."""

import pytest

from sidegate.adapters.docker.documents import Actor, Event
from sidegate.adapters.docker.stopping import Stopping, StopRule, number
from sidegate.core.model import Container

RUNS = Container("c", "shop-1", pid=100)
RULE = StopRule("")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *(("15", 15), ("SIGTERM", 15), ("term", 15), ("SIGKILL", 9), ("USR1", 10), ("SIGWINCH", 28)),
        *(("SIGRTMIN+3", 37), ("RTMIN", 34), ("37", 37)),
        *(("", 0), ("SIG", 0), ("NONSENSE", 0), ("SIG_DFL", 0), ("-1", 0), ("RTMIN+x", 34), ("٣", 0), ("ALLE", 0)),
        *(("1" * 5000, 0), ("RTMIN+" + "1" * 5000, 0)),
    ],
)
def test_signals_are_told_by_name_and_by_number(name: str, found: int) -> None:
    assert number(name) == found


def test_only_a_kill_event_carries_a_signal() -> None:
    who = Actor(id="c", attributes={"signal": "15"})
    assert Event(type="container", action="kill", actor=who).signal == "15"
    assert Event(type="container", action="die", actor=who).signal == ""
    assert Event(type="container", action="kill").signal == ""


def test_an_events_time_compares_with_a_containers() -> None:
    assert Event(time_nano=1_700_000_000_000_000_007).at == "2023-11-14T22:13:20.000000007Z"


def heard(marks: Stopping, sent: str = "15", *, rule: StopRule = RULE, container: Container = RUNS) -> float:
    event = Event(type="container", action="kill", actor=Actor(id="c", attributes={"signal": sent}), time_nano=10**18)
    return marks.hear(event, container, rule, 100.0)


@pytest.mark.parametrize(
    ("rule", "sent", "seconds"),
    [
        (RULE, "15", 30.0),
        (RULE, "SIGKILL", 30.0),
        (RULE, "1", 0.0),
        (RULE, "", 0.0),
        (StopRule("", 10, 5), "USR1", 30.0),
        (StopRule("", 10, 120), "10", 120.0),
        (StopRule("", 10), "15", 0.0),
        (StopRule("2001-09-09T01:46:40.000000000Z"), "15", 0.0),  # started at that very moment
        (StopRule("2001-09-09T01:46:39.999999999Z"), "15", 30.0),
    ],
)
def test_what_a_kill_event_means(rule: StopRule, sent: str, seconds: float) -> None:
    marks = Stopping()
    assert heard(marks, sent, rule=rule) == seconds
    assert bool(marks) == bool(seconds)


def test_nothing_happens_to_a_container_that_does_not_run() -> None:
    marks = Stopping()
    assert not heard(marks, container=Container("c", "shop-1", state="exited"))
    assert not marks


def test_a_mark_holds_for_the_process_that_was_told_and_for_a_while() -> None:
    marks = Stopping()
    heard(marks)
    assert marks.shown(RUNS, 100.0).stopping
    assert not marks.shown(RUNS, 130.0).stopping
    assert not marks.shown(Container("c", "shop-1", pid=101), 100.0).stopping
    assert not marks.shown(Container("c", "shop-1", pid=0, state="exited"), 100.0).stopping
    assert not marks.shown(Container("d", "shop-2", pid=100), 100.0).stopping


def test_a_container_that_was_marked_is_shown_as_it_is_when_the_mark_has_gone() -> None:
    marks = Stopping()
    heard(marks)
    shown = marks.shown(RUNS, 100.0)
    assert marks.shown(shown, 100.0) is shown
    assert marks.shown(shown, 130.0) == RUNS


def test_marks_are_forgotten_with_their_process() -> None:
    for containers, now in ({}, 100.0), ({"c": Container("c", "shop-1", pid=101)}, 100.0), ({"c": RUNS}, 130.0):
        marks = Stopping()
        heard(marks)
        marks.forget({"c": RUNS}, 100.0)
        assert marks
        marks.forget(containers, now)
        assert not marks
