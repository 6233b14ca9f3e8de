"""Pages of runs, quick: what a run shows changes only with its `seq`, so what was drawn from its state is kept in memory by it.

A run that is over is kept as the JSON that is sent; to that of one at work, its progress and health are added each time.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from reflux.run import Run
from services.api import progress, runs
from services.api.tables import RunRow, TaskRow

COLUMNS = (
    RunRow.id,
    RunRow.name,
    RunRow.recipe,
    RunRow.status,
    RunRow.stage,
    RunRow.labels,
    RunRow.seq,
    RunRow.created_at,
    RunRow.started_at,
    RunRow.ended_at,
)
OPEN = (
    select(
        func.jsonb_agg(
            aggregate_order_by(
                func.jsonb_build_object(
                    *("status", TaskRow.status, "kind", TaskRow.kind, "progress", TaskRow.progress),
                    *("orphaned_at", TaskRow.orphaned_at, "error", TaskRow.error),
                ),
                TaskRow.id,
            )
        )
    )
    .where(TaskRow.run_id == RunRow.id, TaskRow.status.in_(("ready", "claimed")), RunRow.ended_at.is_(None))
    .scalar_subquery()
)
NEWEST = select(*COLUMNS, func.clock_timestamp().label("now"), OPEN.label("tasks")).order_by(
    RunRow.created_at.desc(), RunRow.id.desc()
)
STATES = select(RunRow.id, RunRow.seq, RunRow.state)
KEPT_JSON, KEPT_STATES = 5000, 500  # about 20 MB each


@dataclass
class OpenTask:
    """What progress and health are drawn from."""

    status: str
    kind: str
    progress: dict[str, Any] | None
    orphaned_at: str | None
    error: dict[str, Any] | None


class Pages:
    def __init__(self, artifacts_url: str) -> None:
        self.artifacts_url = artifacts_url
        self.over: dict[tuple[str, int], str] = {}
        self.at_work: dict[tuple[str, int], tuple[Run, str]] = {}

    def newest(
        self,
        session: Session,
        *,
        limit: int,
        after: str | None = None,
        status: str | None = None,
        recipe: str | None = None,
        name: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """A page of runs, newest first, as the JSON of a RunList."""
        query = NEWEST
        if after:
            last = runs.get(session, after)
            query = query.where(tuple_(RunRow.created_at, RunRow.id) < (last.created_at, last.id))
        for column, value in ((RunRow.status, status), (RunRow.recipe, recipe), (RunRow.name, name)):
            if value:
                query = query.where(column == value)
        if metadata:
            query = query.where(RunRow.labels.contains(metadata))
        rows = list(session.connection().execute(query.limit(limit + 1)))
        shown = self._shown(session, rows[:limit])
        return f'{{"data":[{",".join(shown)}],"has_more":{"true" if len(rows) > limit else "false"}}}'

    def _shown(self, session: Session, rows: list[Row[Any]]) -> list[str]:
        kept = self._kept(session, rows)
        return [_one(row, *kept[row.id]) for row in rows if row.id in kept]

    def _kept(self, session: Session, rows: list[Row[Any]]) -> dict[str, tuple[Run | None, str]]:
        """By id the state, of those at work, and the JSON of what does not change. A run that was just deleted is left out."""
        found: dict[str, tuple[Run | None, str]] = {}
        for row in rows:
            if known := self.over.get((row.id, row.seq)):
                found[row.id] = None, known
            elif at_work := self.at_work.get((row.id, row.seq)):
                found[row.id] = at_work
        drawn = {row.id: row for row in rows if row.id not in found}
        for run_id, seq, state in session.execute(STATES.where(RunRow.id.in_(drawn))) if drawn else ():
            row, run = drawn[run_id], Run.model_validate(state)
            view = runs.drawn(row, run, [], self.artifacts_url, row.now)
            if row.ended_at is None:
                found[run_id] = run, view.model_dump_json(exclude={"health", "progress"})
            else:
                found[run_id] = None, view.model_dump_json()
            if seq == row.seq:  # else it has moved since its row was read
                self._keep(row, found[run_id])
        return found

    def _keep(self, row: Row[Any], drawn: tuple[Run | None, str]) -> None:
        run, shown = drawn
        if len(self.over) >= KEPT_JSON:
            self.over.clear()
        if len(self.at_work) >= KEPT_STATES:
            self.at_work.clear()
        if run is None:
            self.over[row.id, row.seq] = shown
        else:
            self.at_work[row.id, row.seq] = run, shown


def _one(row: Row[Any], run: Run | None, known: str) -> str:
    if run is None:
        return known
    tasks = [OpenTask(**task) for task in row.tasks or ()]
    moved = progress.estimate(run, tasks, started_at=row.started_at, now=row.now)
    return f'{{"health":"{runs.health(run, tasks)}","progress":{moved.model_dump_json()},{known[1:]}'
