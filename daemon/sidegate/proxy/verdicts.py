"""What active health checks found, as the control plane keeps it: the workers that ask come and go. Pure."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sidegate.core.routes import Policy, Routes, Upstream

_LONGEST_FAULT = 200


def asked(routes: Routes) -> Iterable[tuple[str, Policy, Upstream]]:
    """The replicas that are to be asked how they are, resting ones too, each with its app."""
    for name, app in routes.apps.items():
        policy = routes.policies[app.policy]
        if policy.health:
            for upstream in (*app.upstreams, *app.resting):
                yield name, policy, upstream


class Verdicts:
    """Container id -> fault, empty while it is well. `present` is replaced, never changed."""

    def __init__(self) -> None:
        self.present: Mapping[str, str] = MappingProxyType({})
        self._asked: frozenset[str] = frozenset()

    def publish(self, routes: Routes) -> None:
        """Forget what is no longer asked about."""
        self._asked = frozenset(upstream.id for _, _, upstream in asked(routes))
        kept = {replica: fault for replica, fault in self.present.items() if replica in self._asked}
        self.present = MappingProxyType(kept)

    def take(self, replica: str, fault: str) -> bool:
        """Believe a worker, who may be in a stranger's hands, about replicas that it was to ask; whether it counts."""
        if replica not in self._asked:
            return False
        self.present = MappingProxyType({**self.present, replica: fault[:_LONGEST_FAULT]})
        return True
