"""Whose turn it is: which of a service's ready tasks a free worker gets.

Runs take turns. The run that has the fewest of the service's workers comes first, then the one that has waited for the longest
since it last had one. So nobody waits for more than one task of each other run, however many tasks that other has.
"""

from sqlalchemy import ScalarSelect, func, select, true

from reflux.queues import GPU, kinds
from services.api.tables import RunRow, TaskRow


def next_task(service: str) -> ScalarSelect[int]:
    """The id of the task whose turn it is, or null if none is due. Nothing is locked.

    A run with a machine of its own has its GPU work done there: that is nobody's turn here.
    """
    ours = TaskRow.kind.in_(kinds(service))
    here = RunRow.state["spec"]["compute"]["kind"].astext == "local" if service == GPU else true()
    waiting = (
        select(TaskRow.run_id, func.min(TaskRow.id).label("first"))
        .join(RunRow, RunRow.id == TaskRow.run_id)
        .where(TaskRow.status == "ready", TaskRow.due_at <= func.now(), ours, here)
        .group_by(TaskRow.run_id)
        .subquery()
    )
    had = (
        select(
            func.count().filter(TaskRow.status == "claimed").label("in_hand"),
            func.max(TaskRow.claimed_at).label("last"),
        )
        .where(TaskRow.run_id == waiting.c.run_id, ours)
        .lateral()
    )
    return (
        select(waiting.c.first)
        .join(had, true())
        .order_by(had.c.in_hand, had.c.last.asc().nulls_first(), waiting.c.first)
        .limit(1)
        .scalar_subquery()
    )
