"""Runs as users handle them: create, read, abort, pause, resume. Routes and pages stand on these queries."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Text, cast, func, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session, defer

from reflux import leaks, prices
from reflux.artifacts import Artifacts, run_folder
from reflux.commands import Provision
from reflux.estimate import estimate
from reflux.events import AbortRequested, PauseRequested, ResumeRequested
from reflux.loop import is_stale
from reflux.run import Run
from reflux.spec import FieldProblem, RunSpec, check
from reflux.stages import Stage
from reflux.views import DryRun, Health, RunView, TaskView
from services.api import catalogue, files, progress, removals
from services.api.advance import advance, append, lock, wake
from services.api.problems import ProblemError
from services.api.progress import Task
from services.api.tables import RunRow, TaskRow

NAMED = 5  # forks that a refusal names


class Listed(Protocol):
    """What a list needs of a run's row, besides its state."""

    id: Any
    name: Any
    recipe: Any
    status: Any
    stage: Any
    labels: Any
    seq: Any
    created_at: Any
    started_at: Any
    ended_at: Any


def create(
    session: Session, spec: RunSpec, by: str, idempotency_key: str | None = None, table: prices.Table = prices.PRICES
) -> tuple[RunRow, bool]:
    """The run, and whether it is new. The same key with the same body gives the same run; with another body, 409.

    What the teacher costs is fixed here, by the price table.
    """
    body_hash = hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    if idempotency_key:
        idempotency_key = hashlib.sha256(idempotency_key.encode()).hexdigest()  # whatever was sent as one, it is not kept
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(idempotency_key, 0))))  # two at once: one waits
        known = session.scalar(select(RunRow).where(RunRow.idempotency_key == idempotency_key))
        if known is not None:
            if known.body_hash != body_hash:
                raise ProblemError(
                    409,
                    "idempotency_conflict",
                    "This Idempotency-Key was used with another body.",
                    "Use a new key for a new run.",
                )
            return known, False
    spec = spec.model_copy(update={"teacher": prices.priced(spec.teacher, table)})
    return insert(session, Run(id=new_id(session), spec=spec), by, idempotency_key, body_hash), True


def checked(data: Any) -> RunSpec:
    """The spec that `data` describes. 422 names all that is wrong with it."""
    spec, problems = check(data)
    if spec is None:
        named = ", ".join(problem.field or "the spec" for problem in problems)
        raise ProblemError(422, "invalid_spec", f"The spec is not valid: {named}.", "Correct what `errors` names.", problems)
    return spec


def dry_run(spec: RunSpec, table: prices.Table = prices.PRICES) -> DryRun:
    """What a run by this spec would be, ask its teacher for, and need. Nothing is created."""
    refuse_secrets(spec.model_dump(mode="json"))
    spec = spec.model_copy(update={"teacher": prices.priced(spec.teacher, table)})
    return DryRun(spec=spec.model_dump(mode="json"), estimate=estimate(spec), gpu_memory_gb=catalogue.memory_gb(spec))


def refuse_secrets(spec: dict[str, Any]) -> None:
    """A spec is shown, logged and written beside the results: it is no place for a key or a password."""
    hint = "Take it out, and change it where it is valid. Secrets belong into the workers' environment."
    wrong = [FieldProblem(field=place, message="this looks like a key or a password", hint=hint) for place in leaks.places(spec)]
    if wrong:
        named = ", ".join(problem.field for problem in wrong)
        raise ProblemError(422, "secret_in_spec", f"The spec holds what looks like a secret: {named}.", hint, wrong)


def new_id(session: Session) -> str:
    now: datetime = session.execute(select(func.now())).scalar_one()
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def insert(session: Session, run: Run, by: str, idempotency_key: str | None = None, body_hash: str = "") -> RunRow:
    spec = run.spec
    refuse_secrets(spec.model_dump(mode="json"))
    row = RunRow(
        id=run.id,
        name=spec.name,
        recipe=spec.recipe,
        status=run.status,
        stage=run.stage.value,
        labels=dict(spec.metadata),
        state=run.model_dump(mode="json"),
        seq=0,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
    )
    session.add(row)
    session.flush()
    origin = {"origin": run.origin.model_dump()} if run.origin else {}
    append(session, row, "run_created", {"by": by, "name": spec.name, **origin})
    return row


def get(session: Session, run_id: str) -> RunRow:
    row = session.get(RunRow, run_id)
    if row is None:
        raise _not_found(run_id)
    return row


def locked(session: Session, run_id: str) -> RunRow:
    row = lock(session, run_id)
    if row is None:
        raise _not_found(run_id)
    return row


def delete(session: Session, run_id: str, artifacts: Artifacts | None) -> None:
    """Forget a run that is over, its artifacts first if they are given, unless forks need them.

    What its teacher answered stays shared.
    """
    row = locked(session, run_id)
    if not is_over(row):
        raise ProblemError(409, "run_is_not_over", f"Run {run_id} is {row.status}.", "Abort it, and wait for its clean-up.")
    if artifacts is not None:
        _refuse_if_needed(session, row, "Delete those first, or this one without its artifacts.")
        files.remove(artifacts, run_id)
    session.execute(sql_delete(RunRow).where(RunRow.id == run_id))
    wake(session, run_id)


def ask(session: Session, run_id: str, request: AbortRequested | PauseRequested | ResumeRequested) -> tuple[RunRow, bool]:
    """Abort, pause or resume; whether that was news to the run. A terminal run refuses with 409."""
    row = locked(session, run_id)
    run = Run.model_validate(row.state)
    if run.stage.terminal:
        raise ProblemError(409, "run_is_over", f"Run {run_id} has {run.outcome}.", "Fork it, or start a new one.")
    if isinstance(request, AbortRequested) and request.discard:
        _refuse_if_needed(session, row, "Abort it without discarding.")
    stale = is_stale(run, request)
    if not stale:
        advance(session, row, request)
    return row, not stale


def _refuse_if_needed(session: Session, row: RunRow, hint: str) -> None:
    """409 while other runs go on from this one's dataset, adapters and corrections. The caller has locked the run."""
    is_fork = func.jsonb_typeof(RunRow.state["origin"]) == "object"
    names_its_folder = cast(RunRow.state, Text).contains(f'"{run_folder(row.id)}/', autoescape=True)
    later = select(RunRow.id).where(RunRow.created_at >= row.created_at, RunRow.id != row.id)
    forks = list(session.scalars(later.where(is_fork, names_its_folder).order_by(RunRow.created_at).limit(NAMED)))
    if forks:
        raise ProblemError(409, "run_is_needed", f"What run {row.id} has made is needed by {', '.join(forks)}.", hint)


def view(session: Session, row: RunRow, artifacts_url: str, *, full: bool = False) -> RunView:
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    tasks = open_tasks(session, row.id)
    run = Run.model_validate(row.state)
    shown = drawn(row, run, tasks, artifacts_url, now)
    if full:
        shown.spec, shown.tasks = run.spec.model_dump(mode="json"), [_task(task) for task in tasks]
        shown.removed = removals.of_run(session, row.id)
    return shown


def drawn(row: Listed, run: Run, tasks: Sequence[Task], artifacts_url: str, now: datetime) -> RunView:
    """The run as lists show it."""
    return RunView(
        id=row.id,
        name=row.name,
        recipe=row.recipe,
        status=row.status,
        stage=row.stage,
        outcome=run.outcome,
        health=health(run, tasks),
        epoch=run.epoch,
        max_epochs=run.spec.refining.max_epochs,
        progress=progress.estimate(run, tasks, started_at=row.started_at, now=now),
        counts=_counts(run),
        epochs=list(run.epochs),
        best_epoch=run.best.epoch if run.best else None,
        comparison=run.comparison,
        usage=run.usage,
        estimate=run.estimate,
        waits_for_review=run.waits_for_review,
        origin=run.origin,
        reason=run.reason,
        partial=run.partial,
        error=run.error,
        warnings=list(run.warnings),
        manual_action_required=run.manual_action_required,
        artifacts_url=f"{artifacts_url.rstrip('/')}/runs/{row.id}",
        metadata=row.labels,
        last_event=row.seq,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def open_tasks(session: Session, run_id: str) -> list[TaskRow]:
    query = select(TaskRow).where(TaskRow.run_id == run_id, TaskRow.status.in_(("ready", "claimed"))).order_by(TaskRow.id)
    return list(session.scalars(query.options(defer(TaskRow.command, raiseload=True))))


def health(run: Run, tasks: Sequence[Task]) -> Health:
    if any(task.orphaned_at is not None and task.status == "ready" for task in tasks):
        return "orphaned"
    another = any(isinstance(command, Provision) and command.number > 1 for command in run.open.values())
    if another or any(task.orphaned_at is not None or task.error is not None for task in tasks):
        return "recovering"
    return "ok"


def is_over(row: RunRow) -> bool:
    return Stage(row.stage).terminal


def _not_found(run_id: str) -> ProblemError:
    return ProblemError(404, "run_not_found", f"There is no run {run_id}.", "`reflux run list` shows the runs there are.")


def _counts(run: Run) -> dict[str, int]:
    if run.dataset is None:
        return {}
    names = ("files", "train", "val", "practice", "dev", "test")
    return {name: getattr(run.dataset, name) for name in names} | {"taught": run.taught}


def _task(task: TaskRow) -> TaskView:
    fields: dict[str, Any] = {name: getattr(task, name) for name in TaskView.model_fields}
    return TaskView(**fields)
