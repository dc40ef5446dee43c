"""What is said of a rollout while it goes on, and when it does not."""

from collections.abc import Iterable, Iterator, Mapping

from sidegate.core.rollout import Create, Decision, LetGo, Situation, Start, Step, Stop, base_name
from sidegate.core.workloads import Snapshot

PATIENCE = 3
"""Restarts of a container by the engine, after which it is not going to come up."""

_TEXTS = (
    (Create, "making the new container {}"),
    (Start, "starting the container {}"),
    (LetGo, "container {} finishes what it has in hand"),
    (Stop, "stopping container {}"),
)


def has_ended(snapshot: Snapshot) -> bool:
    """Whether a container does not come up by itself any more."""
    return snapshot.container.state in ("exited", "dead") or snapshot.restart_count >= PATIENCE


def why(snapshot: Snapshot, fault: str, seconds: float) -> str:
    """What is wrong with a new container that did not become healthy in so many seconds."""
    name = f"the new container {base_name(snapshot.name)}"
    if snapshot.container.state in ("exited", "dead"):
        return f"{name} exited with code {snapshot.exit_code}"
    if has_ended(snapshot):
        code = f", last with code {snapshot.exit_code}" if snapshot.exit_code else ""
        return f"{name} ended {snapshot.restart_count} times{code}"
    return f"{name} was not healthy within {seconds:g} s: {fault or 'it was for a moment only'}"


def waiting(now: Situation, decision: Decision) -> str:
    """How many of the new ones are there."""
    coming = [slot.next or slot.current for slot in now.slots if slot.wanted]
    new = [copy for copy in coming if copy and copy.id not in now.replaces]
    ready = sum(copy.ready for copy in new)
    return f"{ready} of {max(len(new), len(decision.waiting))} new replicas are healthy"


def steps(steps: Iterable[Step], names: Mapping[str, str]) -> Iterator[str]:
    """What is done next; `names` of containers by id."""
    todo = tuple(steps)
    for kind, text in _TEXTS:
        found = [s.slot if isinstance(s, Create) else base_name(names[s.id]) for s in todo if isinstance(s, kind)]
        if found:
            yield text.format(", ".join(sorted(found)))
