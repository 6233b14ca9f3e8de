"""How the money for the teacher is dealt out: each command that asks it gets a share, and all shares together fit the limit."""

from reflux.commands import Correct, Teach
from reflux.run import Run


def share(run: Run, items: int, of: int) -> float | None:
    """USD for a command that asks about `items` of the `of` that are still to be asked about; None without a limit.

    What earlier commands left of their shares is dealt out again, as a finished command counts for what it cost.
    """
    limit = run.spec.limits.max_teacher_cost_usd
    if limit is None:
        return None
    given = (*run.open.values(), *run.parked)
    dealt = sum(command.budget_usd or 0.0 for command in given if isinstance(command, Teach | Correct))
    return max(0.0, limit - run.usage.cost_usd - dealt) * items / max(items, of)
