"""What a service does while a question waits for it, and for how long: in words, from the tasks in hand."""

from datetime import datetime

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from reflux.completions import Waiting
from reflux.queues import kinds
from services.api.settings import Settings
from services.api.tables import ErrandRow, RunRow, TaskRow, WorkerRow

DOING = {
    "train": "training epoch {epoch} of run {run}",
    "generate": "writing answers of epoch {epoch} of run {run}",
    "export_model": "exporting the model of run {run}",
}


def alive(session: Session, service: str, settings: Settings) -> bool:
    recent = WorkerRow.seen_at > func.now() - 2 * settings.lease
    return bool(session.scalar(select(exists().where(WorkerRow.service == service, recent))))


def waiting(session: Session, errand: ErrandRow, now: datetime, settings: Settings) -> Waiting:
    """Why nothing of the answer is written yet."""
    if errand.status == "ready" and not alive(session, errand.service, settings):
        return Waiting(doing=f"no {errand.service} is alive: waiting for one to be started")
    before = 0
    in_hand = select(TaskRow).where(TaskRow.status == "claimed", TaskRow.kind.in_(kinds(errand.service)))
    if errand.status == "claimed":
        in_hand = in_hand.where(TaskRow.worker == errand.worker)
    else:
        earlier = ErrandRow.status.in_(("ready", "claimed")) & (ErrandRow.id < errand.id)
        before = session.scalar(select(func.count()).where(ErrandRow.service == errand.service, earlier)) or 0
    questions = f"answering {before} question{'s' * (before > 1)} before this one" if before else ""
    task = session.scalar(in_hand.order_by(TaskRow.id).limit(1))
    if task is None:
        return Waiting(
            doing=questions
            or ("loading the student, reading the prompt" if errand.status == "claimed" else "going to the worker")
        )
    doing = DOING.get(task.kind, "{kind} of run {run}").format(kind=task.kind, epoch=task.epoch, run=task.run_id)
    return Waiting(doing=f"{doing}, then {questions}" if questions else doing, eta_seconds=_eta(session, task, now))


def _eta(session: Session, task: TaskRow, now: datetime) -> float | None:
    """Seconds until the task lets a question in: at its end, or (writing answers) at the end of a batch."""
    if not task.progress or not task.progress["done"] or task.progress_at is None or task.claimed_at is None:
        return None
    done, left = task.progress["done"], task.progress["total"] - task.progress["done"]
    if task.kind == "generate":
        size = RunRow.state["spec"]["generation"]["batch_size"].as_integer()
        left = min(left, session.scalar(select(size).where(RunRow.id == task.run_id)) or left)
    each = (task.progress_at - task.claimed_at).total_seconds() / done
    return max(0.0, round(float(each * left) - (now - task.progress_at).total_seconds(), 1))
