"""What is told of refused clients: every one counted, few named."""

from sidegate.proxy.messages import Refusal, Refused
from sidegate.proxy.refusals import Refusals


def test_one_client_who_tries_on_and_on_is_one_line_a_second() -> None:
    refusals = Refusals()
    for _ in range(3):
        for _ in range(1000):
            refusals.note("db", "192.0.2.1", "denied")
        assert refusals.take() == [Refused("db", {"denied": 1000}, (Refusal("192.0.2.1", "denied", 1000),))]
    assert refusals.take() == []


def test_a_scan_from_everywhere_is_counted_whole_and_comes_to_two_lines_a_second() -> None:
    refusals = Refusals()
    lines, counted, named, others = [], 0, 0, 0
    for _ in range(30):
        for number in range(500):
            refusals.note("db", f"192.0.2.{number % 250}", "denied")
        (told,) = refusals.take()
        counted += told.reasons["denied"]
        named += sum(one.times for one in told.seen)
        others += told.others
        lines.append(len(told.seen) + bool(told.others))
    assert counted == named + others == 15_000
    assert lines[0] == 10
    assert set(lines[1:]) == {2}


def test_databases_share_the_lines_and_none_is_left_out_of_the_count() -> None:
    refusals = Refusals()
    for number in range(100):
        refusals.note(f"db-{number}", "192.0.2.1", "denied")
    told = refusals.take()
    assert {one.database: one.reasons for one in told} == {f"db-{number}": {"denied": 1} for number in range(100)}
    assert sum(len(one.seen) + bool(one.others) for one in told) == 10
    later = [one for _ in range(60) for one in refusals.take()]
    assert sum(one.others for one in later) == 90
    assert not any(one.reasons or one.seen for one in later)


def test_what_is_forgotten_is_named_and_not_counted() -> None:
    refusals = Refusals()
    refusals.note("db", "192.0.2.1", "denied")
    refusals.note("other", "192.0.2.1", "denied")
    refusals.forget("db")
    assert {one.database: one.reasons for one in refusals.take()} == {"db": {}, "other": {"denied": 1}}
    assert refusals.take() == []
