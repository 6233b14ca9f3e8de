"""How far a run is, and how long it may still take."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from reflux.run import Run
from reflux.stages import Stage
from reflux.views import ProgressView

# What a stage takes of a run's time, until its own epochs have shown it; an epoch is training and refining.
BEFORE = {Stage.VALIDATING: 1.0, Stage.PREPARING: 2.0, Stage.TEACHING: 4.0}
AFTER = {Stage.EVALUATING: 25.0, Stage.EXPORTING: 3.0, Stage.CLEANING_UP: 1.0}
TRAINING, REFINING = 40.0, 25.0


class Task(Protocol):
    """What is looked at of an unfinished task: a row, or what a list has of it."""

    status: Any
    kind: Any
    progress: Any
    orphaned_at: Any
    error: Any


def estimate(run: Run, tasks: Sequence[Task], *, started_at: datetime | None, now: datetime) -> ProgressView:
    """Percent by stages, epochs and the progress of the task in hand; the ETA by the time used so far."""
    if run.stage.terminal:
        return ProgressView(percent=100.0, eta_seconds=0.0, updated_at=now)
    done, total = _work(run, tasks)
    share = done / total
    eta = None
    if started_at is not None and share > 0.03 and not run.paused and not run.waits_for_review:
        eta = (now - started_at).total_seconds() * (1 - share) / share
    doing = "waiting for your review of corrections" if run.waits_for_review else _doing(tasks)
    return ProgressView(percent=round(100 * share, 1), eta_seconds=eta, doing=doing, updated_at=now)


def _work(run: Run, tasks: Sequence[Task]) -> tuple[float, float]:
    epochs = run.spec.refining.max_epochs if run.spec.recipe == "distill" else 1
    before, after, epoch = sum(BEFORE.values()), sum(AFTER.values()), TRAINING + REFINING
    total = before + epochs * epoch + after
    part = _share(tasks)
    stage = run.stage
    if stage in BEFORE or stage == Stage.PROVISIONING:
        done = sum(weight for s, weight in BEFORE.items() if s.order < stage.order) + part * BEFORE.get(stage, 0)
    elif stage == Stage.TRAINING:
        done = before + len(run.epochs) * epoch + part * TRAINING
    elif stage == Stage.REFINING:
        done = before + len(run.epochs) * epoch + TRAINING + part * REFINING
    elif stage in AFTER:
        done = total - after + sum(weight for s, weight in AFTER.items() if s.order < stage.order) + part * AFTER[stage]
    else:
        done = 0.0
    return done, total


def _share(tasks: Sequence[Task]) -> float:
    """The mean share done of the tasks in hand that tell; a machine is made beside them."""
    work = [task for task in tasks if task.kind != "provision"]
    shares = [min(1.0, t.progress["done"] / t.progress["total"]) if t.progress and t.progress["total"] else 0.0 for t in work]
    return sum(shares) / len(shares) if shares else 0.0


def _doing(tasks: Sequence[Task]) -> str:
    told = [task for task in tasks if task.progress] or [task for task in tasks if task.status == "claimed"]
    if not told:
        return f"waiting for a worker: {tasks[0].kind}" if tasks else ""
    task = next((task for task in told if task.status == "claimed"), told[0])
    if not task.progress:
        return str(task.kind)
    return f"{task.kind} {task.progress['done']:g}/{task.progress['total']:g} {task.progress['note']}".strip()
