"""Corrections that wait for a person: `refining.review`. What a person decides is stored as a worker's result would be."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts, attempt_folder
from reflux.commands import CommandAdapter, Review
from reflux.events import CorrectionsReviewed
from reflux.records import Correction
from reflux.spec import FieldProblem
from reflux.views import Decision, ReviewView
from services.api import runs
from services.api.advance import lock
from services.api.problems import ProblemError
from services.api.tables import TaskRow
from services.api.tasks import complete


def waiting(session: Session, artifacts: Artifacts, run_id: str) -> list[ReviewView]:
    """The open reviews of a run, the oldest first."""
    runs.get(session, run_id)
    query = select(TaskRow).where(TaskRow.run_id == run_id, TaskRow.kind == "review", TaskRow.status == "ready")
    return [
        ReviewView(key=task.key, epoch=task.epoch, corrections=[row for row in _rows(artifacts, task) if row.admitted])
        for task in session.scalars(query.order_by(TaskRow.id))
    ]


def decide(
    session: Session, artifacts: Artifacts, run_id: str, key: str, by: str, decisions: Sequence[Decision], others: str | None
) -> None:
    """Answer a review. `others`, "approve" or "refuse", decides on what `decisions` do not name. The caller commits."""
    run = lock(session, run_id)
    task = session.scalar(select(TaskRow).where(TaskRow.run_id == run_id, TaskRow.key == key, TaskRow.kind == "review"))
    if task is None:
        raise ProblemError(404, "review_not_found", f"Run {run_id} has no review {key}.", "List the reviews that are open.")
    if run is not None and run.stopping == "pause":
        raise ProblemError(409, "review_rests", f"The review {key} rests with its run.", "Resume the run, then decide.")
    if task.status != "ready":
        raise ProblemError(409, "review_is_over", f"The review {key} is {task.status}.", "List the reviews that are open.")
    rows = _rows(artifacts, task)
    by_prompt = {decision.prompt_id: decision for decision in decisions}
    _check(rows, by_prompt, others)
    reviewed = [_decided(row, by_prompt.get(row.prompt_id), others, by) if row.admitted else row for row in rows]
    task.attempt += 1
    path = f"{attempt_folder(run_id, key, task.attempt)}/corrections.jsonl"
    artifacts.write_rows(path, reviewed)
    edited = [row for row in reviewed if row.admitted is None]
    edited_path = f"{attempt_folder(run_id, key, task.attempt)}/edited.jsonl" if edited else None
    if edited_path:
        artifacts.write_rows(edited_path, edited)
    admitted = sum(bool(row.admitted) for row in reviewed)
    event = CorrectionsReviewed(
        key=key,
        path=path,
        admitted=admitted,
        refused=sum(bool(row.admitted) for row in rows) - admitted - len(edited),
        edited=len(edited),
        edited_path=edited_path,
        by=by,
    )
    accepted = complete(session, task.id, task.attempt, event)
    if not accepted.accepted:
        raise ProblemError(409, "review_is_over", f"The review {key} was not taken: {accepted.why}.", "Look at the run.")


def _rows(artifacts: Artifacts, task: TaskRow) -> list[Correction]:
    command = CommandAdapter.validate_python(task.command)
    assert isinstance(command, Review)
    return list(artifacts.read_rows(command.corrections_path, Correction))


def _check(rows: Sequence[Correction], decisions: dict[str, Decision], others: str | None) -> None:
    known = {row.prompt_id for row in rows if row.admitted}
    problems = [
        FieldProblem(field=f"decisions.{name}", message="this review has no such prompt", hint="See the open reviews.")
        for name in sorted(decisions.keys() - known)
    ]
    problems += [
        FieldProblem(field=f"decisions.{name}.text", message="an edit needs the whole answer", hint="Add `text`.")
        for name, decision in decisions.items()
        if decision.decision == "edit" and not decision.text.strip()
    ]
    if others is None:
        problems += [
            FieldProblem(field=f"decisions.{name}", message="nothing was decided on this prompt", hint="Decide, or set `others`.")
            for name in sorted(known - decisions.keys())
        ]
    if problems:
        raise ProblemError(422, "invalid_review", "The review is not complete or not valid.", "See `errors`.", problems)


def _decided(row: Correction, decision: Decision | None, others: str | None, by: str) -> Correction:
    what = decision.decision if decision else others
    why = f": {decision.why}" if decision and decision.why else ""
    if what == "refuse":
        return row.model_copy(update={"admitted": False, "why": f"refused by {by}{why}"})
    if decision and what == "edit":
        answer = row.answer.model_copy(update={"text": decision.text})
        return row.model_copy(update={"answer": answer, "verdict": None, "admitted": None, "why": f"edited by {by}{why}"})
    return row.model_copy(update={"why": f"approved by {by}{why}; {row.why}"})
