"""The least that Sidegate must reach in each case, and whether it did."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bench.report import Result


@dataclass(frozen=True, slots=True)
class Floor:
    """`server` against `other` of the same case: at least `least` times as much, at most `more` more, or, with no
    `other`, at most `most`, both in the case's unit."""

    case: str
    other: str = ""
    least: float = 0.0
    most: float = 0.0
    more: float = 0.0
    server: str = "sidegate"


FLOORS = (
    Floor("http-55b", "nginx", least=0.65),
    Floor("http-55b", "envoy", least=1.6),
    Floor("http-55b", "caddy", least=3.0),
    Floor("http-16k", "nginx", least=0.75),
    Floor("http-1m", "nginx", least=1.0),
    Floor("tls-55b", "nginx", least=0.65),
    Floor("tls-new", "nginx", least=0.38),
    Floor("websocket", "haproxy", least=0.9),
    Floor("idle-memory", most=12),
    Floor("idle-memory", most=32, server="sidegate+tls"),
    Floor("routes-10k", "sidegate+10", least=0.95),
    Floor("start", "direct", more=100),
    Floor("tcp-small", "docker-p", least=0.93, server="sidegate-kernel"),
    Floor("tcp-small", "haproxy", least=1.8, server="sidegate-kernel"),
    Floor("tcp-small", "haproxy", least=0.95, server="sidegate-userspace"),
    Floor("internal", "sidegate-userspace", least=1.3, server="internal"),
    Floor("internal", "sidegate-kernel", least=1.0, server="internal"),
    Floor("switch", most=30, server="sidegate-kernel+on"),
    Floor("switch", most=30, server="sidegate-userspace+on"),
    Floor("switch", most=1000, server="sidegate-kernel+off"),
    Floor("switch", most=1000, server="sidegate-userspace+off"),
)


def verdicts(results: Iterable[Result]) -> list[str]:
    """A line for each floor of the cases that were measured, where both of its servers were."""
    found = {(result.case, result.server): result for result in results}
    lines = []
    for floor in FLOORS:
        own = found.get((floor.case, floor.server))
        other = found.get((floor.case, floor.other))
        if own is not None and (other is not None or not floor.other):
            lines.append(_verdict(floor, own, other.median if other is not None else 0.0))
    return lines


def _verdict(floor: Floor, own: Result, other: float) -> str:
    if floor.least:
        reached = own.median / other if other else math.inf
        return _line(reached >= floor.least, f"{floor.server} is {reached:.2f} of {floor.other}, floor {floor.least:g}")
    if floor.other:
        more = own.median - other
        text = f"{floor.server} takes {more:.3g} {own.unit} more than {floor.other}, at most {floor.more:g}"
        return _line(more <= floor.more, text)
    text = f"{floor.server} takes {own.median:.3g} {own.unit}, at most {floor.most:g}"
    return _line(own.median <= floor.most, text)


def _line(met: bool, text: str) -> str:
    return f"{text}: {'met' if met else 'NOT MET'}"
