"""The API's half of the task protocol. Every function is one transaction's work; the caller commits, then answers."""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from reflux import leaks
from reflux.artifacts import attempt_folder
from reflux.commands import CleanUp, CommandAdapter, Provision
from reflux.errors import POLICIES, ErrorClass, Failure, failure, next_wait
from reflux.events import (
    ANSWERS,
    ChunkGenerated,
    CleanedUp,
    Event,
    MachineLost,
    MachineProvisioned,
    TaskFailed,
    TaskStopped,
)
from reflux.protocol import Accepted, Assignment, Beat, BeatAnswer, Claim, ClaimNext, Phase, Registration, Share
from reflux.queues import GPU, ROUTES, kinds, service
from reflux.run import Run
from services.api import resources
from services.api.advance import PROGRESS, advance, append, lock
from services.api.auth import machine_key
from services.api.settings import Settings
from services.api.tables import EventRow, LogRow, MetricRow, RunRow, TaskRow, WorkerRow
from services.api.turns import next_task

log = structlog.get_logger()

BARREN_ATTEMPTS = 3
ASKING = ("teach", "correct")  # the kinds of task that ask the teacher


def register(session: Session, body: Registration) -> None:
    """Note a worker. Tasks that an earlier incarnation of it still holds are orphans at once."""
    row = session.get(WorkerRow, body.name, with_for_update=True)
    if row is None:
        row = WorkerRow(name=body.name)
        session.add(row)
    reborn = row.incarnation is not None and row.incarnation != body.incarnation
    row.service, row.incarnation, row.capabilities = body.service, body.incarnation, leaks.cleaned(body.capabilities)
    row.registered_at = row.seen_at = func.now()
    if reborn:
        held = (
            select(TaskRow.id, TaskRow.attempt)
            .where(TaskRow.worker == body.name, TaskRow.incarnation != body.incarnation, TaskRow.status == "claimed")
            .order_by(TaskRow.run_id)
        )
        for task_id, attempt in session.execute(held).all():
            orphan(session, task_id, attempt, f"{body.name} was started anew")


def claim(session: Session, task_id: int, body: Claim, settings: Settings) -> Assignment | None:
    """Give this worker the task, or with `body.service` the one whose turn it is. None: there is nothing to do."""
    if body.service is None:
        return _claim(session, task_id, body, settings)
    mine = (TaskRow.status == "claimed") & (TaskRow.worker == body.worker) & (TaskRow.claim_token == body.token)
    told = select(TaskRow.id).where(mine).scalar_subquery()
    whose = select(func.coalesce(told, next_task(body.service)))
    while (turn := session.scalar(whose)) is not None:
        if assignment := _claim(session, turn, body, settings):
            return assignment
        session.rollback()  # another worker was first; two runs' locks are never held at once
    return None


def _claim(session: Session, task_id: int, body: Claim, settings: Settings) -> Assignment | None:
    """The task, unless it is claimed, finished, not due, or not known."""
    locked = lock_task(session, task_id)
    if locked is None:
        return None
    row, task = locked
    now = session.execute(select(func.now())).scalar_one()
    if task.status == "claimed" and (task.worker, task.claim_token) == (body.worker, body.token):
        return _assignment(session, row, task, settings)
    if task.status != "ready" or task.due_at > now or task.kind not in ROUTES:
        return None
    task.status = "claimed"
    task.attempt += 1
    task.worker, task.incarnation, task.claim_token = body.worker, body.incarnation, body.token
    task.claimed_at = task.heard_at = now
    task.progress = task.progress_at = None
    session.execute(update(WorkerRow).where(WorkerRow.name == body.worker).values(seen_at=now))
    append(session, row, "task_claimed", {"key": task.key, "attempt": task.attempt, "worker": body.worker})
    return _assignment(session, row, task, settings)


def claim_next(session: Session, run_id: str, body: ClaimNext, settings: Settings) -> Assignment | None:
    """The oldest GPU task of the run that is due, for the run's own machine."""
    session.execute(update(WorkerRow).where(WorkerRow.name == body.worker).values(seen_at=func.now()))
    if resources.is_lost(session, body.worker):
        return None
    ready = (TaskRow.status == "ready") & (TaskRow.due_at <= func.now())
    asked_again = (TaskRow.status == "claimed") & (TaskRow.worker == body.worker) & (TaskRow.claim_token == body.token)
    ours = select(TaskRow.id).where(TaskRow.run_id == run_id, TaskRow.kind.in_(kinds(GPU)), ready | asked_again)
    for task_id in session.scalars(ours.order_by(TaskRow.id)).all():
        if assignment := _claim(session, task_id, body, settings):
            return assignment
    return None


def beat(session: Session, task_id: int, body: Beat, settings: Settings) -> BeatAnswer:
    """Keep the lease, note the progress, and say what to do."""
    history = bool(body.chunks or body.phases)
    task = session.get(TaskRow, task_id, with_for_update=not history)
    if task is None:
        return BeatAnswer(answer="lost", why="there is no such task")
    row: RunRow | None = None
    if history:
        row, task = lock_task(session, task_id) or (None, task)
    if task.status != "claimed" or task.attempt != body.attempt:
        return BeatAnswer(answer="lost", why=f"attempt {body.attempt} was given up; the task is {task.status}")
    task.heard_at = func.now()
    session.execute(update(WorkerRow).where(WorkerRow.name == task.worker).values(seen_at=func.now()))
    _note(session, task, body)
    if row is not None:
        for chunk in body.chunks:
            advance(session, row, ChunkGenerated(key=task.key, chunk=chunk))
        for phase in body.phases:
            _tell(session, row, task, phase)
    stopping, since, now = session.execute(
        select(RunRow.stopping, RunRow.stopping_since, func.now()).where(RunRow.id == task.run_id)
    ).one()
    if stopping is None:
        return BeatAnswer(answer="go_on", share=_share(session, task))
    return BeatAnswer(answer="stop", why=stopping, kill=_is_over(since, now, settings))


def complete(session: Session, task_id: int, attempt: int, event: Event) -> Accepted:
    """Accept the first success of a task, from whichever attempt."""
    locked = lock_task(session, task_id)
    if locked is None:
        return Accepted(accepted=False, why="there is no such task")
    row, task = locked
    if task.status == "done":
        mine = task.accepted_attempt == attempt
        return Accepted(accepted=mine, why="" if mine else f"attempt {task.accepted_attempt} was first")
    if not isinstance(event, ANSWERS[task.kind]) or event.key != task.key:
        return Accepted(accepted=False, why=f"{event.type} does not answer {task.key}")
    if task.key not in Run.model_validate(row.state).open:
        return Accepted(accepted=False, why=f"the run does not wait for it; the task is {task.status}")
    if any(leaks.places(plain := event.model_dump())):
        event = type(event).model_validate(leaks.cleaned(plain))
    task.status, task.accepted_attempt = "done", attempt
    task.ended_at = func.now()
    task.orphaned_at = None
    _note_machines(session, task, event)
    advance(session, row, event)
    return Accepted(accepted=True)


def _note_machines(session: Session, task: TaskRow, event: Event) -> None:
    if isinstance(event, MachineProvisioned):
        resources.made(session, task.run_id, Provision.model_validate(task.command), event.resource_id)
    if isinstance(event, CleanedUp):
        resources.ended(session, event.machines)


def fail(session: Session, task_id: int, attempt: int, why: Failure) -> Accepted:
    """Try again by the policy table, or give the failure to the run."""
    locked = lock_task(session, task_id)
    if locked is None or locked[1].status != "claimed" or locked[1].attempt != attempt:
        return Accepted(accepted=False, why="this attempt was given up before")
    plain = {"message": leaks.redacted(why.message), "log": leaks.redacted(why.log)}
    _fail(session, *locked, why.model_copy(update=plain))
    return Accepted(accepted=True)


def stopped(session: Session, task_id: int, attempt: int, *, handed_back: bool) -> Accepted:
    """The attempt saved its work and ended. Without a stop of the run, the next attempt is due at once."""
    locked = lock_task(session, task_id)
    if locked is None or locked[1].status != "claimed" or locked[1].attempt != attempt:
        return Accepted(accepted=False, why="this attempt was given up before")
    row, task = locked
    if row.stopping:
        stop(session, row, task, forced=False)
    else:
        _ready_again(session, row, task, 0.0, "task_handed_back" if handed_back else "task_stopped_unasked")
    return Accepted(accepted=True)


def stop(session: Session, row: RunRow, task: TaskRow, *, forced: bool) -> None:
    task.status = "stopped"
    task.ended_at = func.now()
    session.flush()
    advance(session, row, TaskStopped(key=task.key, forced=forced))


def orphan(session: Session, task_id: int, attempt: int, why: str, unheard_since: datetime | None = None) -> None:
    """Take a task from a worker that is silent or gone; after three attempts without any progress, give up.

    Nothing is done where that attempt is over, or was heard of since `unheard_since`: another process may have been first.
    """
    locked = lock_task(session, task_id)
    if locked is None or (locked[1].status, locked[1].attempt) != ("claimed", attempt):
        return
    row, task = locked
    if unheard_since is not None and task.heard_at != unheard_since:
        return
    log.warning("task_orphaned", **named(task), why=why)
    task.orphaned_at = func.now()
    resources.doubtful(session, task.worker or "")
    if row.stopping:
        stop(session, row, task, forced=True)
        return
    _fail(session, row, task, failure("worker_lost", f"{task.worker} was lost in attempt {task.attempt} of {task.key}: {why}"))


def named(task: TaskRow) -> dict[str, Any]:
    """As every line of the logs names a task."""
    return {"run_id": task.run_id, "task": task.key, "attempt": task.attempt, "epoch": task.epoch, "stage": task.stage}


def machine_lost(
    session: Session, run_id: str, token: str, why: Failure, *, name: str | None = None, saving: bool = False
) -> None:
    """A run's own machine is of no use any more: it is to be ended, and the run decides what takes its place.

    What it had in hand is free for the next one, unless it is still `saving` it and will give it back. `name` is the provider's.
    """
    row = lock(session, run_id)
    if row is None or row.ended_at is not None or not resources.lost(session, token, name, saving=saving):
        return
    at = {"epoch": row.state["epoch"], "stage": row.stage}
    log.warning("machine_lost", run_id=row.id, machine=name or token, code=why.code, why=why.message, **at)
    advance(session, row, MachineLost(number=resources.number(token), resource_id=name, failure=why))
    ours = (TaskRow.run_id == row.id, TaskRow.kind.in_(kinds(GPU)), TaskRow.status.in_(("ready", "claimed")))
    for task in session.scalars(select(TaskRow).where(*ours).with_for_update()).all():
        task.barren = 0  # the losses of machines are counted instead
        if saving or (task.status, task.worker) != ("claimed", token):
            continue
        task.orphaned_at, task.error = func.now(), why.model_dump(mode="json")
        if row.stopping:
            stop(session, row, task, forced=True)
        else:
            _ready_again(session, row, task, 0.0, "task_retried", failure=task.error, wait_seconds=0.0)


def accepted_folders(session: Session, run_id: str) -> tuple[str, ...]:
    done = select(TaskRow.key, TaskRow.accepted_attempt).where(TaskRow.run_id == run_id, TaskRow.status == "done")
    return tuple(attempt_folder(run_id, key, attempt) for key, attempt in session.execute(done) if attempt is not None)


def _assignment(session: Session, row: RunRow, task: TaskRow, settings: Settings) -> Assignment:
    command, key = CommandAdapter.validate_python(task.command), None
    if isinstance(command, CleanUp):
        left = {"keep_prefixes": accepted_folders(session, row.id), "machines": resources.of_run(session, row.id)}
        command = command.model_copy(update=left)
    if isinstance(command, Provision):
        machine = resources.intended(session, row.id, command)
        command, key = command.model_copy(update={"machine": machine}), machine_key(session, row.id, machine.token)
    return Assignment(
        task_id=task.id,
        run_id=row.id,
        attempt=task.attempt,
        command=command,
        spec=Run.model_validate(row.state).spec,
        lease_seconds=settings.lease.total_seconds(),
        beat_seconds=settings.beat.total_seconds(),
        share=_share(session, task),
        machine_key=key,
    )


def _share(session: Session, task: TaskRow) -> Share:
    """The task's place among those of its run that ask the teacher now."""
    if task.kind not in ASKING:
        return Share()
    asking = select(TaskRow.id).where(TaskRow.run_id == task.run_id, TaskRow.kind.in_(ASKING), TaskRow.status == "claimed")
    ids = session.scalars(asking).all()
    return Share(place=sum(other < task.id for other in ids), of=max(1, len(ids)))


def lock_task(session: Session, task_id: int) -> tuple[RunRow, TaskRow] | None:
    """The run, then the task, both locked."""
    of_task = select(TaskRow.run_id).where(TaskRow.id == task_id).scalar_subquery()
    row = session.scalar(select(RunRow).where(RunRow.id == of_task).with_for_update().execution_options(populate_existing=True))
    task = session.get(TaskRow, task_id, with_for_update=True, populate_existing=True) if row else None
    return (row, task) if row and task else None


def _note(session: Session, task: TaskRow, body: Beat) -> None:
    if body.progress is not None:
        new = leaks.cleaned(body.progress.model_dump(mode="json"))
        if new != task.progress:
            task.progress = new
            task.progress_at = func.now()
            task.barren = 0
            task.orphaned_at = None
    for point in body.metrics:
        for name, value in point.values.items():
            session.add(MetricRow(run_id=task.run_id, epoch=task.epoch, name=name, step=point.step, value=value))
    for line in body.logs:
        session.add(
            LogRow(
                run_id=task.run_id,
                task=task.key,
                service=service(task.kind),
                level=line.level,
                line=leaks.redacted(line.line)[:2000],
            )
        )
    if body.progress is not None or body.metrics or body.logs:
        session.execute(text("select pg_notify(:channel, :payload)"), {"channel": PROGRESS, "payload": task.run_id})


def _tell(session: Session, row: RunRow, task: TaskRow, phase: Phase) -> None:
    """Put a phase into the run's history, once: a beat may come twice."""
    body = {"key": task.key, "attempt": task.attempt, "phase": phase.name, "phase_status": phase.status}
    told = select(EventRow.id).where(EventRow.run_id == row.id, EventRow.type == "task_phase", EventRow.body.contains(body))
    if session.scalar(told.limit(1)) is None:
        facts = {name: leaks.redacted(value) if isinstance(value, str) else value for name, value in phase.facts.items()}
        append(session, row, "task_phase", {**body, "facts": facts})


def _fail(session: Session, row: RunRow, task: TaskRow, why: Failure) -> None:
    if row.stopping:
        stop(session, row, task, forced=False)
        return
    policy = POLICIES.get(why.code) or POLICIES["internal"]
    if policy.of_machine and task.kind == "provision":
        task.status, task.error, task.ended_at = "failed", why.model_dump(mode="json"), func.now()
        machine_lost(session, row.id, resources.token(row.id, Provision.model_validate(task.command)), why)
        return
    if policy.forgiven_by_progress:
        task.barren = 1 if task.progress_at is not None else task.barren + 1
        wait = 0.0 if task.barren < BARREN_ATTEMPTS else None
    else:
        task.failures += 1
        wait = next_wait(why.code, task.failures)
    task.error = why.model_dump(mode="json")
    if wait is not None and why.error_class != ErrorClass.TERMINAL:
        _ready_again(session, row, task, wait, "task_retried", failure=task.error, wait_seconds=wait)
        return
    task.status = "failed"
    task.ended_at = func.now()
    session.flush()
    advance(session, row, TaskFailed(key=task.key, failure=why))


def _ready_again(session: Session, row: RunRow, task: TaskRow, wait: float, kind: str, **body: Any) -> None:
    due = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, wait)
    task.status, task.rings = "ready", 0
    task.due_at = task.ring_at = due
    append(session, row, kind, {"key": task.key, "attempt": task.attempt, **body})


def _is_over(since: datetime | None, now: datetime, settings: Settings) -> bool:
    return since is not None and now - since > settings.grace
