"""What a run has left in Postgres besides its state: events, logs, metrics."""

from collections.abc import Sequence
from itertools import groupby
from math import isfinite

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from reflux.views import EventView, LogView, MetricPointView, MetricSeries
from services.api.tables import EventRow, LogRow

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


def events(session: Session, run_id: str, after: int, limit: int) -> list[EventView]:
    query = select(EventRow).where(EventRow.run_id == run_id, EventRow.seq > after).order_by(EventRow.seq).limit(limit)
    return [EventView(seq=e.seq, type=e.type, status=e.status, at=e.at, body=e.body) for e in session.scalars(query)]


def logs(session: Session, run_id: str, *, after: int, limit: int, service: str | None, level: str | None) -> list[LogView]:
    query = select(LogRow).where(LogRow.run_id == run_id, LogRow.id > after).order_by(LogRow.id).limit(limit)
    if service:
        query = query.where(LogRow.service == service)
    if level:
        query = query.where(LogRow.level == level)
    return [
        LogView(id=row.id, at=row.at, task=row.task, service=row.service, level=row.level, line=row.line)
        for row in session.scalars(query)
    ]


def metrics(session: Session, run_id: str, names: Sequence[str], max_points: int) -> list[MetricSeries]:
    """Each series in the order in which it was told, thinned to `max_points` (4 or more): first, last and extremes stay."""
    values = {"run_id": run_id, "names": list(names) or None, "most": max_points, "stretches": (max_points - 2) // 2}
    return [
        MetricSeries(
            name=name,
            points=[
                MetricPointView(epoch=row.epoch, step=row.step, value=row.value if isfinite(row.value) else None, at=row.at)
                for row in rows
            ],
        )
        for name, rows in groupby(session.execute(SERIES, values), key=lambda row: row.name)
    ]
