"""What a run has left in Postgres besides its state: events, logs, metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from math import isfinite

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from reflux.views import EventView, LogView, MetricPointView, MetricSeries
from services.api.tables import EventRow, LogRow, MetricRow, TaskRow

# Of each stretch of a series its lowest and its highest point; and of the whole its first and its last.
SERIES = text("""
    with counted as (
        select id, name, epoch, step, value, at,
               row_number() over (partition by name order by id) as place, count(*) over (partition by name) as points
        from metrics where run_id = :run_id and (cast(:names as text[]) is null or name = any(cast(:names as text[])))
    ), placed as (
        select *, case when points <= :most then place else (place - 1) * :stretches / points end as stretch from counted
    ), ranked as (
        select *, row_number() over (partition by name, stretch order by value, id) as low,
                  row_number() over (partition by name, stretch order by value desc, id) as high
        from placed
    )
    select name, epoch, step, value, at from ranked
    where low = 1 or high = 1 or place = 1 or place = points
    order by name, id
""")

LATEST = text("""
    select n.name, last.epoch, last.step, last.value, last.at
    from unnest(cast(:names as text[])) as n(name)
    cross join lateral (
        select epoch, step, value, at from metrics where run_id = :run_id and name = n.name order by id desc limit 1
    ) last
""")

STATUSES = text("""
    select status, at from (
        select status, at, seq, lag(status) over (order by seq) as before from events where run_id = :run_id
    ) told where before is null or before != status order by seq
""")


@dataclass(frozen=True)
class Work:
    """A task's times. It waited from `due_at` to `claimed_at`, and was worked on from there to `ended_at`."""

    key: str
    kind: str
    stage: str
    epoch: int
    status: str
    worker: str | None
    due_at: datetime
    claimed_at: datetime | None
    ended_at: datetime | None


def events(session: Session, run_id: str, after: int, limit: int) -> list[EventView]:
    query = select(EventRow).where(EventRow.run_id == run_id, EventRow.seq > after).order_by(EventRow.seq).limit(limit)
    return [EventView(seq=e.seq, type=e.type, status=e.status, at=e.at, body=e.body) for e in session.scalars(query)]


def logs(session: Session, run_id: str, *, after: int, limit: int, service: str | None, level: str | None) -> list[LogView]:
    query = select(LogRow).where(LogRow.run_id == run_id, LogRow.id > after).order_by(LogRow.id).limit(limit)
    if service:
        query = query.where(LogRow.service == service)
    if level:
        query = query.where(LogRow.level == level)
    return [_log(row) for row in session.scalars(query)]


def metrics(session: Session, run_id: str, names: Sequence[str], max_points: int) -> list[MetricSeries]:
    """Each series in the order in which it was told, thinned to `max_points` (4 or more): first, last and extremes stay."""
    values = {"run_id": run_id, "names": list(names) or None, "most": max_points, "stretches": (max_points - 2) // 2}
    return [
        MetricSeries(
            name=name,
            points=[MetricPointView(epoch=row.epoch, step=row.step, value=_finite(row.value), at=row.at) for row in rows],
        )
        for name, rows in groupby(session.execute(SERIES, values), key=lambda row: row.name)
    ]


def latest(session: Session, run_id: str, names: Sequence[str]) -> dict[str, MetricPointView]:
    """The newest point of each of the series that has one."""
    found = session.execute(LATEST, {"run_id": run_id, "names": list(names)})
    return {row.name: MetricPointView(epoch=row.epoch, step=row.step, value=_finite(row.value), at=row.at) for row in found}


def last_metric(session: Session, run_id: str) -> int:
    return session.scalar(select(func.max(MetricRow.id)).where(MetricRow.run_id == run_id)) or 0


def metrics_after(
    session: Session, run_id: str, names: Sequence[str], after: int, limit: int
) -> list[tuple[int, str, MetricPointView]]:
    """Id, name and point of what was told after the point `after`."""
    query = (
        select(MetricRow)
        .where(MetricRow.run_id == run_id, MetricRow.name.in_(names), MetricRow.id > after)
        .order_by(MetricRow.id)
        .limit(limit)
    )
    return [
        (row.id, row.name, MetricPointView(epoch=row.epoch, step=row.step, value=_finite(row.value), at=row.at))
        for row in session.scalars(query)
    ]


def last_log(session: Session, run_id: str) -> int:
    return session.scalar(select(func.max(LogRow.id)).where(LogRow.run_id == run_id)) or 0


def newest_logs(session: Session, run_id: str, *, upto: int, limit: int, service: str | None, level: str | None) -> list[LogView]:
    """The last lines up to the one `upto`, the oldest of them first."""
    query = select(LogRow).where(LogRow.run_id == run_id, LogRow.id <= upto).order_by(LogRow.id.desc()).limit(limit)
    if service:
        query = query.where(LogRow.service == service)
    if level:
        query = query.where(LogRow.level == level)
    return [_log(row) for row in reversed(list(session.scalars(query)))]


def log_counts(session: Session, run_id: str) -> dict[tuple[str, str], int]:
    """By service and level."""
    query = (
        select(LogRow.service, LogRow.level, func.count()).where(LogRow.run_id == run_id).group_by(LogRow.service, LogRow.level)
    )
    return {(service, level): count for service, level, count in session.execute(query)}


def works(session: Session, run_id: str, since: datetime | None = None) -> list[Work]:
    """The run's tasks in the order in which they were given; with `since` those alone that were open then, or are new."""
    columns = (TaskRow.key, TaskRow.kind, TaskRow.stage, TaskRow.epoch, TaskRow.status, TaskRow.worker)
    times = (TaskRow.due_at, TaskRow.claimed_at, TaskRow.ended_at)
    query = select(*columns, *times).where(TaskRow.run_id == run_id).order_by(TaskRow.id)
    if since is not None:
        query = query.where(TaskRow.ended_at.is_(None) | (TaskRow.ended_at > since))
    return [Work(*row) for row in session.execute(query)]


def statuses(session: Session, run_id: str) -> list[tuple[str, datetime]]:
    """Each status that the run took, and when."""
    return [(row.status, row.at) for row in session.execute(STATUSES, {"run_id": run_id})]


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _log(row: LogRow) -> LogView:
    return LogView(id=row.id, at=row.at, task=row.task, service=row.service, level=row.level, line=row.line)


def now(session: Session) -> datetime:
    found: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return found
