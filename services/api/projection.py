"""The JSON files of a run, drawn from Postgres: system-state, spec, training, training_summary. One writer, atomic puts."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts, run_folder
from reflux.run import Run, summary
from services.api.tables import EventRow, RunRow, TaskRow

WRITING = 7205316  # with a run's hash: who writes its files

# The names that users of the first pipelines know, beside ours.
CANONICAL = {
    "queued": "initialization",
    "validating": "initialization",
    "provisioning": "initialization",
    "preparing": "data_sync",
    "teaching": "data_sync",
    "training": "training",
    "refining": "training",
    "evaluating": "training",
    "exporting": "results_sync",
    "cleaning_up": "cleanup",
    "succeeded": "finished",
    "failed": "failed",
    "aborted": "killed",
}
PHASES = {
    "preflight": ("validating",),
    "data_sync": ("preparing", "teaching"),
    "training": ("training", "refining", "evaluating"),
    "results_sync": ("exporting",),
}


def project(engine: Engine, artifacts: Artifacts) -> None:
    """Write the files of every run that has moved since they were written."""
    with Session(engine) as session:
        moved = session.scalars(select(RunRow.id).where(RunRow.projected_seq < RunRow.seq).order_by(RunRow.id)).all()
    for run_id in moved:
        with Session(engine) as session, session.begin():
            if session.scalar(select(func.pg_try_advisory_xact_lock(WRITING, func.hashtext(run_id)))):
                _write(session, run_id, artifacts)


def _write(session: Session, run_id: str, artifacts: Artifacts) -> None:
    """The one writer of a run's files. The run itself is not locked: it goes on, however slow the store is."""
    row = session.get(RunRow, run_id)
    if row is None or row.projected_seq >= row.seq:
        return
    folder, seq = run_folder(run_id), row.seq
    run = Run.model_validate(row.state)
    if row.projected_seq < 0:
        artifacts.put_json(f"{folder}/spec.json", run.spec)
    artifacts.put_json(f"{folder}/training.json", _training(session, row, run))
    artifacts.put_json(f"{folder}/training_summary.json", summary(run))
    artifacts.put_json(f"{folder}/system-state.json", _system_state(session, row, run))
    session.execute(update(RunRow).where(RunRow.id == run_id).values(projected_seq=seq))


def _system_state(session: Session, row: RunRow, run: Run) -> dict[str, Any]:
    told = _phases_told(session, row)
    return {
        "run_id": row.id,
        "status": row.status,
        "canonical_status": told[-1].body["phase"] if told and row.stage == "training" else CANONICAL[row.stage],
        "current_step": row.stage,
        "outcome": run.outcome,
        "epoch": run.epoch,
        "sequence": row.seq,
        "instance_id": run.resource_ids[-1] if run.resource_ids else None,
        "timestamps": {stage: _iso(at) for stage, at in (_first_times(session, row) | _phase_times(told)).items()},
        "training_config": _training_config(run),
        "error_message": str(run.error) if run.error else None,
    }


def _training_config(run: Run) -> dict[str, Any]:
    spec = run.spec
    what = {"command": spec.job.command, **spec.job.parameters} if spec.recipe == "job" else {"student": spec.student.model}
    return {"recipe": spec.recipe, "name": spec.name, "instance_type": spec.compute.instance_type, **what}


def _training(session: Session, row: RunRow, run: Run) -> dict[str, Any]:
    """Phases in the canonical form; a phase's seconds are those that its tasks worked."""
    tasks = session.scalars(select(TaskRow).where(TaskRow.run_id == row.id)).all()
    phases = {}
    for phase, stages in PHASES.items():
        ours = [task for task in tasks if task.stage in stages]
        if not ours:
            continue
        failed = [task for task in ours if task.status == "failed"]
        phases[phase] = {
            "status": "fail" if failed else "pass" if all(t.status == "done" for t in ours) else "running",
            "duration_seconds": round(sum(_seconds(task) for task in ours), 1),
            "tasks": len(ours),
            "retry_count": sum(max(0, task.attempt - 1) for task in ours),
            "error": failed[0].error if failed else None,
        }
    for told in _phases_told(session, row):
        name, status = told.body["phase"], told.body["phase_status"]
        if status != "begun":
            phases[name] = phases.get(name, {}) | {"status": status, "error": None} | told.body["facts"]
    return {
        "run_id": row.id,
        "phases": phases,
        "counts": summary(run).counts,
        "total_duration_seconds": (row.ended_at - row.created_at).total_seconds() if row.ended_at else None,
        "timestamp_start": _iso(row.created_at),
        "timestamp_end": _iso(row.ended_at),
    }


def _first_times(session: Session, row: RunRow) -> dict[str, datetime]:
    """When each status was first taken."""
    times: dict[str, datetime] = {}
    for status, at in session.execute(
        select(EventRow.status, EventRow.at).where(EventRow.run_id == row.id).order_by(EventRow.seq)
    ):
        times.setdefault(status, at)
    return times


def _phases_told(session: Session, row: RunRow) -> list[EventRow]:
    """What a job has said of its phases, in its order. Other recipes say nothing."""
    if row.recipe != "job":
        return []
    told = select(EventRow).where(EventRow.run_id == row.id, EventRow.type == "task_phase").order_by(EventRow.seq)
    return list(session.scalars(told))


def _phase_times(told: list[EventRow]) -> dict[str, datetime]:
    """When a job's phases last began, and when its command ended."""
    names = {"training": "training_start"}
    times = {}
    for event in told:
        phase, begun = event.body["phase"], event.body["phase_status"] == "begun"
        if begun:
            times[names.get(phase, phase)] = event.at
        elif phase == "training":
            times["training_end"] = event.at
    return times


def _seconds(task: TaskRow) -> float:
    return (task.ended_at - task.claimed_at).total_seconds() if task.ended_at and task.claimed_at else 0.0


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
