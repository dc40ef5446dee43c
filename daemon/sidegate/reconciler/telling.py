"""What is said of a rollout while it goes on, and when it does not."""

from collections.abc import Iterable, Iterator, Mapping

from sidegate.core.desired import is_ours
from sidegate.core.model import Rules
from sidegate.core.plan import NetworkAction
from sidegate.core.rollout import Create, Decision, LetGo, Situation, Start, Step, Stop, base_name
from sidegate.core.workloads import Snapshot
from sidegate.reconciler.loop import Pass

PATIENCE = 3
"""Restarts of a container by the engine, after which it is not going to come up."""

_TEXTS = (
    (Create, "making the new container {}", "making the new containers {}"),
    (Start, "starting the container {}", "starting the containers {}"),
    (LetGo, "container {} finishes what it has in hand", "containers {} finish what they have in hand"),
    (Stop, "stopping container {}", "stopping containers {}"),
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
    coming = [slot.next or slot.current for slot in now.slots if slot.wanted and (slot.next or slot.old)]
    new = [copy for copy in coming if copy and copy.id not in now.replaces]
    ready = sum(copy.ready for copy in new)
    return f"{ready} of {max(len(new), len(decision.waiting))} new replicas are healthy"


def steps(steps: Iterable[Step], names: Mapping[str, str]) -> Iterator[str]:
    """What is done next; `names` of containers by id."""
    todo = tuple(steps)
    for kind, one, more in _TEXTS:
        found = [s.slot if isinstance(s, Create) else base_name(names[s.id]) for s in todo if isinstance(s, kind)]
        if found:
            yield (one if len(found) == 1 else more).format(", ".join(sorted(found)))


def network_fault(last: Pass, network: str, rules: Rules) -> str:
    """Why the last pass left a network of ours unmade; empty where it is there."""
    if any(n.name == network and is_ours(n, rules) for n in last.state.networks):
        return ""
    failures = (f for f in last.failures if isinstance(f.action, NetworkAction) and f.action.network == network)
    return next((str(f.error) for f in failures), "") or next(
        (p.text for p in last.problems if p.subject == network), last.engine_fault or "see `sidegate status`"
    )
