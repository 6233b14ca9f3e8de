"""The spans of runs, stages, tasks and attempts, made of what Postgres knows of them, once they are over.

Each run has its own place up to which its events were traced, and goes on there after a restart, or an outage of the collector:
a span is sent at least once, always under the same id. With the run's end come its own span, its stages', and those of tasks
that were never done.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags
from sqlalchemy import Engine, func, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from reflux import traces
from reflux.artifacts import attempt_folder, run_folder
from reflux.events import ANSWERS
from reflux.stages import Stage
from services.api.settings import Settings
from services.api.tables import EventRow, RunRow, TaskRow

log = structlog.get_logger()

LOCK = 7205317  # one control process traces at a time
KEPT = timedelta(days=1)  # a run that was over for so long is no news any more
EVERY, LONGEST_WAIT = 1.0, 60.0  # seconds
TOGETHER = 500

DONE = {answer.model_fields["type"].default for answer in ANSWERS.values()}
ENDS = DONE | {"task_retried", "task_handed_back", "task_stopped_unasked", "task_stopped", "task_failed"}
OVER = [stage.value for stage in Stage if stage.terminal]

EVENT = (
    *(EventRow.seq, EventRow.type, EventRow.at),
    EventRow.body["key"].astext.label("key"),
    EventRow.body["attempt"].as_integer().label("attempt"),
    EventRow.body["worker"].astext.label("worker"),
    EventRow.body["failure"]["code"].astext.label("code"),
)


def trace_all(stopping: threading.Event, _: Settings, engine: Engine, __: threading.Event) -> None:
    tracing = Tracing(engine, traces.exporter())
    wait = EVERY
    while not stopping.wait(wait):
        try:
            wait = EVERY if tracing.tell() else min(2 * wait, LONGEST_WAIT)
        except DBAPIError as error:
            log.warning("database_away", during="trace", error=str(error.orig)[:200])


@dataclass(frozen=True)
class Tracing:
    engine: Engine
    exporter: SpanExporter

    def tell(self) -> bool:
        """Send all that is over and was not sent. False: the collector does not take it, and is to be asked again later."""
        with Session(self.engine) as guard, guard.begin():
            if not guard.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
                return True
            moved = select(RunRow.id).where(
                RunRow.traced_seq < RunRow.seq, or_(RunRow.ended_at.is_(None), RunRow.ended_at > func.now() - KEPT)
            )
            return all(self._tell(run_id) for run_id in guard.scalars(moved.order_by(RunRow.id)).all())

    def _tell(self, run_id: str) -> bool:
        """The run is read as it is at one moment. Nothing is locked while the collector is asked."""
        with Session(self.engine.execution_options(isolation_level="REPEATABLE READ")) as session:
            news = read(session, run_id)
        if news is None:
            return True
        made = spans(news)
        for start in range(0, len(made), TOGETHER):
            if self.exporter.export(made[start : start + TOGETHER]) is not SpanExportResult.SUCCESS:
                return False
        with Session(self.engine) as session, session.begin():
            session.execute(update(RunRow).where(RunRow.id == run_id, RunRow.traced_seq < news.last).values(traced_seq=news.last))
        return True


@dataclass(frozen=True)
class News:
    """What has happened to a run from event `first` to event `last`; of the tasks that it touched, all that has happened.

    `over_at` where the run's end is among it: then `tasks` are all of the run's.
    """

    run: RunRow
    first: int
    last: int
    over_at: datetime | None
    tasks: Sequence[TaskRow]
    events: dict[str, list[Any]]  # by the task's key


def read(session: Session, run_id: str) -> News | None:
    """None: there is nothing new."""
    run = session.get(RunRow, run_id)
    events = select(*EVENT).where(EventRow.run_id == run_id).order_by(EventRow.seq)
    new = session.execute(events.where(EventRow.seq > run.traced_seq).limit(TOGETHER)).all() if run else ()
    if run is None or not new:
        return None
    first, last = new[0].seq, new[-1].seq
    end = session.execute(events.where(EventRow.status.in_(OVER)).limit(1)).one_or_none() if run.ended_at else None
    over_at = end.at if end and first <= end.seq <= last else None
    tasks = select(TaskRow).where(TaskRow.run_id == run_id).order_by(TaskRow.id)
    told = events.where(EventRow.type.in_({"task_claimed", *ENDS}), EventRow.seq <= last)
    if over_at is None:
        touched = {event.key for event in new if event.type in ENDS}
        tasks, told = tasks.where(TaskRow.key.in_(touched)), told.where(EventRow.body["key"].astext.in_(touched))
    by_key = defaultdict[str, list[Any]](list)
    for event in session.execute(told):
        by_key[event.key].append(event)
    return News(run, first, last, over_at, session.scalars(tasks).all(), by_key)


def spans(news: News) -> list[ReadableSpan]:
    """What has ended in `news`."""
    made, of_stages = [], defaultdict[tuple[str, int], list[tuple[datetime, datetime]]](list)
    for task in news.tasks:
        events = news.events.get(task.key, [])
        lives = attempts(events, task, news.over_at)
        made += [_attempt(news.run, task, life) for life in lives if life.seq >= news.first]
        done = next((event for event in events if event.type in DONE), None)
        if done is None and news.over_at is None:
            continue
        ended = done.at if done else max([task.ended_at or task.created_at, *(life.ended for life in lives)])
        of_stages[task.stage, task.epoch].append((task.created_at, ended))
        if done is None or done.seq >= news.first:
            made.append(_task(news.run, task, ended))
    if news.over_at is not None:
        made += [_stage(news.run, *stage, times) for stage, times in of_stages.items()]
        made.append(_run(news.run, news.over_at))
    return made


@dataclass(frozen=True)
class Attempt:
    """`how` it ended: done, retried, handed_back, stopped, failed, superseded, cancelled; `seq`: by which event."""

    number: int
    worker: str
    began: datetime
    ended: datetime
    how: str
    code: str | None
    seq: int


def attempts(events: Sequence[Any], task: TaskRow, over_at: datetime | None) -> list[Attempt]:
    """Those at one task that are over, by its events in their order. With the run's end, all are."""
    claims, over = dict[int, Any](), list[Attempt]()

    def end(number: int, at: datetime, how: str, code: str | None, seq: int) -> None:
        if (claim := claims.pop(number, None)) is not None:
            over.append(Attempt(number, claim.worker, claim.at, at, how, code, seq))

    for event in events:
        if event.type == "task_claimed":
            claims[event.attempt] = event
        elif event.type in DONE:
            for number in list(claims):
                end(number, event.at, "done" if number == task.accepted_attempt else "superseded", None, event.seq)
        else:
            for number in list(claims) if event.attempt is None else [event.attempt]:
                end(number, event.at, event.type.removeprefix("task_").removesuffix("_unasked"), event.code, event.seq)
    if over_at is not None:
        for number, claim in list(claims.items()):
            end(number, max(claim.at, task.ended_at or over_at), "cancelled", None, 2**31)
    return over


def _run(run: RunRow, ended: datetime) -> ReadableSpan:
    error, origin = run.state.get("error"), run.state.get("origin")
    return _span(
        run,
        f"run {run.recipe}",
        (),
        None,
        (run.created_at, ended),
        {"reflux.run.name": run.name, "reflux.outcome": run.status, "reflux.artifacts": run_folder(run.id)},
        code=error["code"] if error else None,
        link=_context(origin["run_id"]) if origin else None,
    )


def _stage(run: RunRow, stage: str, epoch: int, times: Sequence[tuple[datetime, datetime]]) -> ReadableSpan:
    """From its first task to the end of its last."""
    whole = min(began for began, _ in times), max(ended for _, ended in times)
    return _span(run, stage, ("stage", stage, epoch), (), whole, {"reflux.epoch": epoch})


def _task(run: RunRow, task: TaskRow, ended: datetime) -> ReadableSpan:
    return _span(
        run,
        task.kind,
        (task.key,),
        ("stage", task.stage, task.epoch),
        (task.created_at, ended),
        {
            "reflux.task.key": task.key,
            "reflux.task.id": task.id,
            "reflux.task.status": task.status,
            "reflux.attempts": task.attempt,
            "reflux.epoch": task.epoch,
        },
        code=task.error["code"] if task.status == "failed" and task.error else None,
    )


def _attempt(run: RunRow, task: TaskRow, life: Attempt) -> ReadableSpan:
    """It names the one before it."""
    return _span(
        run,
        f"{task.kind} attempt",
        (task.key, life.number),
        (task.key,),
        (life.began, life.ended),
        {
            "reflux.task.key": task.key,
            "reflux.attempt": life.number,
            "reflux.worker": life.worker,
            "reflux.how": life.how,
            "reflux.artifacts": attempt_folder(run.id, task.key, life.number),
        },
        code=life.code,
        link=_context(run.id, task.key, life.number - 1) if life.number > 1 else None,
    )


Path = tuple[str | int, ...]


def _span(
    run: RunRow,
    name: str,
    path: Path,
    parent: Path | None,
    times: tuple[datetime, datetime],
    attributes: dict[str, str | int],
    *,
    code: str | None = None,
    link: SpanContext | None = None,
) -> ReadableSpan:
    began, ended = (round(at.timestamp() * 1e6) * 1000 for at in times)
    return ReadableSpan(
        name,
        _context(run.id, *path),
        None if parent is None else _context(run.id, *parent),
        traces.resource(),
        {"reflux.run.id": run.id, **attributes},
        links=[Link(link)] if link else (),
        status=Status(StatusCode.ERROR, code) if code else Status(StatusCode.UNSET),
        start_time=began,
        end_time=ended,
    )


def _context(run_id: str, *path: str | int) -> SpanContext:
    span_id = int(traces.span_id(run_id, *path), 16)
    return SpanContext(int(traces.trace_id(run_id), 16), span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
