"""What a pass has tried of one kind of actions: what failed is not tried again while nothing has changed."""

from collections.abc import Awaitable, Callable

from sidegate.core.plan import CutAction, CutForwarded, Plan
from sidegate.reconciler.apply import Failure


class Attempts:
    """`apply` carries out a plan and returns what of it failed."""

    def __init__(self, apply: Callable[[Plan], Awaitable[tuple[Failure, ...]]]) -> None:
        self.actions = 0
        self.failed: tuple[Failure, ...] = ()
        """What failed of the plan that was tried last."""
        self._apply = apply
        self._tried = ""
        self._uncut: list[Failure] = []

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The same, and every cut that failed: a later plan has nothing of it any more."""
        return (*(failure for failure in self.failed if failure not in self._uncut), *self._uncut)

    async def make(self, plan: Plan) -> bool:
        """Apply it; False where there is nothing to do, or nothing but what has just failed."""
        text = str(plan)
        if not plan or (self.failed and text == self._tried):
            return False
        self._tried = text
        self.actions += len(plan.actions)
        self.failed = await self._apply(plan)
        self._uncut += [failure for failure in self.failed if isinstance(failure.action, CutAction | CutForwarded)]
        return True
