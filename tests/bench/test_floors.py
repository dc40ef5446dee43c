import pytest

from bench.__main__ import CASES
from bench.floors import FLOORS, verdicts
from bench.report import Result


def result(case: str, server: str, median: float) -> Result:
    return Result(case, server, CASES[case].unit, (median,))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (
            [result("http-55b", "sidegate", 66), result("http-55b", "nginx", 100), result("http-55b", "caddy", 33)],
            ["sidegate is 0.66 of nginx, floor 0.65: met", "sidegate is 2.00 of caddy, floor 3: NOT MET"],
        ),
        (
            [result("idle-memory", "sidegate", 12.5), result("idle-memory", "sidegate+tls", 30)],
            [
                "sidegate takes 12.5 KiB/connection, at most 12: NOT MET",
                "sidegate+tls takes 30 KiB/connection, at most 32: met",
            ],
        ),
        (
            [result("start", "sidegate", 450), result("start", "direct", 360)],
            ["sidegate takes 90 ms more than direct, at most 100: met"],
        ),
        (
            [result("routes-10k", "sidegate", 940), result("routes-10k", "sidegate+10", 1000)],
            ["sidegate is 0.94 of sidegate+10, floor 0.95: NOT MET"],
        ),
        ([result("websocket", "sidegate", 1)], []),
        ([result("cores", "sidegate", 1), result("cores", "nginx", 2)], []),
    ],
    ids=["ratios", "at most", "more than", "against itself", "nothing to compare with", "no floor"],
)
def test_each_floor_has_a_line_where_its_servers_were_measured(results: list[Result], expected: list[str]) -> None:
    assert verdicts(results) == expected


def test_every_floor_is_of_a_case() -> None:
    assert {floor.case for floor in FLOORS} <= set(CASES)
