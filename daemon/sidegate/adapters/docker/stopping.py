"""Containers that were told to stop and still run, as far as `kill` events say: seconds before the engine shows it.

A hint, no more. It ends when the container is seen ended or begun anew, and after a while if it runs on all the same.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from sidegate.adapters.docker.documents import ContainerDocument, Event, utc
from sidegate.core.model import Container

LEAST_SECONDS = 30.0
"""How long a container may at least go on running before it counts as not stopping after all."""

LONGEST_NAME = 20
"""Characters of a signal's name; an image can say anything."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """How a container is told to stop: by which signal, and after how many seconds by SIGKILL.

    `started` is when it began, as `utc` writes times.
    """

    started: str
    signal: int = signal.SIGTERM
    seconds: int = 0

    @classmethod
    def of(cls, document: ContainerDocument) -> Self:
        config = document.config
        sent = number(config.stop_signal) or signal.SIGTERM
        return cls(utc(document.state.started_at), sent, config.stop_timeout or 0)


@dataclass(frozen=True, slots=True)
class Mark:
    """Holds for the process `pid`, until `until` by the event loop's clock."""

    pid: int
    until: float


class Stopping:
    """The marks, by container id."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}

    def __bool__(self) -> bool:
        return bool(self._marks)

    def hear(self, event: Event, container: Container, rule: StopRule, now: float) -> float:
        """Mark the container that a kill event is about; for how many seconds, 0 where that is not what it says.

        A new subscription tells old news too: what came before the container's start says nothing about it.
        """
        if not container.running or event.at <= rule.started:
            return 0.0
        if number(event.signal) not in (rule.signal, signal.SIGKILL):
            return 0.0
        seconds = max(LEAST_SECONDS, rule.seconds)
        self._marks[container.id] = Mark(container.pid, now + seconds)
        return seconds

    def shown(self, container: Container, now: float) -> Container:
        """The container with what is known of its stopping."""
        mark = self._marks.get(container.id)
        stopping = mark is not None and container.running and container.pid == mark.pid and now < mark.until
        return container if stopping == container.stopping else replace(container, stopping=stopping)

    def forget(self, containers: Mapping[str, Container], now: float) -> None:
        """Drop the marks of processes that are no longer there, and those that have held long enough."""
        self._marks = {
            key: mark
            for key, mark in self._marks.items()
            if now < mark.until and key in containers and containers[key].pid == mark.pid
        }


def number(name: str) -> int:
    """A signal's number from 15, "15", TERM or SIGTERM, RTMIN+3 included; 0 where it means nothing here."""
    text = name.upper().removeprefix("SIG")
    if len(text) > LONGEST_NAME:
        return 0
    if text.isascii() and text.isdecimal():
        return int(text)
    base, plus, more = text.partition("+")
    found = getattr(signal, f"SIG{base}", 0)
    return int(found) + (int(more) if plus and more.isascii() and more.isdecimal() else 0)
