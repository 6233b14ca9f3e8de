"""The one place where a run moves: lock it, decide, save, append the event, insert and cancel tasks. One transaction.

The caller commits. Rows are locked run first, then task, everywhere.
"""

from collections import deque
from typing import Any

import structlog
from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from reflux.commands import Command, Provision
from reflux.events import Event, TaskStopped
from reflux.loop import Impossible, decide, is_stale
from reflux.run import Run
from services.api import resources
from services.api.tables import EventRow, RunRow, TaskRow

log = structlog.get_logger()

CHANNEL = "reflux"
PROGRESS = "reflux_progress"  # of tasks: what pages show, but is no event


def lock(session: Session, run_id: str) -> RunRow | None:
    return session.get(RunRow, run_id, with_for_update=True, populate_existing=True)


def advance(session: Session, row: RunRow, event: Event) -> Run:
    """Apply `event` to the locked run. A stale event changes nothing; an impossible one is shown on the run."""
    run = Run.model_validate(row.state)
    waiting = deque([event])
    while waiting:
        event, awaited = waiting.popleft(), set(run.open)
        try:
            if is_stale(run, event):
                log.info("stale_event", run_id=row.id, type=event.type, epoch=run.epoch, stage=run.stage)
                continue
            run, commands = decide(run, event)
        except (Impossible, ValueError) as problem:
            log.error("impossible_event", run_id=row.id, problem=str(problem), epoch=run.epoch, stage=run.stage)
            run = run.warned(f"A defect in Reflux: {problem}")
            append(session, row, "impossible", {"problem": str(problem), "event": event.model_dump(mode="json")})
            _save(row, run)
            continue
        _save(row, run)
        append(session, row, event.type, event.model_dump(mode="json"))
        _give(session, row, commands)
        for command in commands:
            if isinstance(command, Provision):
                resources.intend(session, run, command)
        gone = awaited - set(run.open) - {getattr(event, "key", None)}  # the event's own task has its status already
        waiting.extend(_withdraw(session, row, run, gone))
    return run


def append(session: Session, row: RunRow, kind: str, body: dict[str, Any]) -> None:
    """Add to the run's history, under its lock, and wake whoever listens."""
    row.seq += 1
    session.add(EventRow(run_id=row.id, seq=row.seq, type=kind, status=row.status, body=body))
    session.flush()
    wake(session, row.id)


def wake(session: Session, run_id: str) -> None:
    """Let whoever listens look at the run again, once this transaction is committed."""
    session.execute(text("select pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": run_id})


def _save(row: RunRow, run: Run) -> None:
    now: ColumnElement[Any] = func.now()
    if row.stopping == "pause" and run.stopping is None:  # the limits stood still meanwhile
        row.deadline_at = RunRow.deadline_at + (now - RunRow.stopping_since)
        row.stage_since = RunRow.stage_since + (now - func.greatest(RunRow.stopping_since, RunRow.stage_since))
    if row.stage != run.stage:
        row.stage, row.stage_since = run.stage.value, now
        if row.started_at is None:
            row.started_at = now
            row.deadline_at = now + run.spec.limits.max_runtime
    if row.stopping != run.stopping:
        row.stopping = run.stopping
        row.stopping_since = now if run.stopping else None
    if run.stage.terminal and row.ended_at is None:
        row.ended_at = now
    row.status = run.status
    row.state = run.model_dump(mode="json")


def _give(session: Session, row: RunRow, commands: Any) -> None:
    """Insert tasks. A command given again after a stop wakes its old row; its pieces are still there."""
    for command in commands:
        wait = command.wait_seconds if isinstance(command, Provision) else 0.0
        due = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, wait)
        values = _task(row.id, command)
        fresh = {"status": "ready", "failures": 0, "barren": 0, "rings": 0, "due_at": due, "ring_at": due}
        session.execute(
            insert(TaskRow)
            .values(values | fresh)
            .on_conflict_do_update(
                constraint="tasks_once",
                set_=fresh | {"command": values["command"], "ended_at": None, "error": None},
                where=TaskRow.status.in_(("stopped", "cancelled", "failed")),
            )
        )


def _task(run_id: str, command: Command) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "key": command.key,
        "kind": command.kind,
        "stage": command.stage.value,
        "epoch": command.epoch,
        "command": command.model_dump(mode="json"),
        "attempt": 0,
    }


def _withdraw(session: Session, row: RunRow, run: Run, gone: set[str]) -> list[Event]:
    """Cancel the tasks of keys that nobody waits for any more; while the run stops, stop those that nobody has begun."""
    if gone:
        unfinished = TaskRow.status.in_(("ready", "claimed"))
        session.execute(
            update(TaskRow)
            .where(TaskRow.run_id == row.id, unfinished, TaskRow.key.in_(gone))
            .values(status="cancelled", ended_at=func.now())
        )
    if not run.stopping:
        return []
    not_begun = session.scalars(select(TaskRow).where(TaskRow.run_id == row.id, TaskRow.status == "ready")).all()
    for task in not_begun:
        task.status = "stopped"
        task.ended_at = func.now()
    return [TaskStopped(key=task.key, forced=True) for task in not_begun]
