"""A fork: a new run that goes on after a finished epoch of another, with some settings changed."""

from typing import Any

from sqlalchemy.orm import Session

from reflux import prices
from reflux.run import Run, fork
from reflux.spec import FieldProblem, RunSpec, check
from services.api import runs
from services.api.problems import ProblemError
from services.api.tables import RunRow

FIXED = (
    "recipe",
    "seed",
    "data",
    "prompts",
    "student",
    "lora",
    "compute",
    "job",
)  # what the dataset and the adapter were made by


def create(session: Session, run_id: str, by: str, epoch: int | None, changes: dict[str, Any], table: prices.Table) -> RunRow:
    """The new run, queued. 409 if there is no such epoch, 422 for changes that can't be made. The caller commits."""
    run = Run.model_validate(runs.locked(session, run_id).state)  # so that nobody deletes what the fork needs
    done = [e.epoch for e in run.epochs]
    if run.spec.recipe != "distill" or not done or run.discard:
        raise ProblemError(409, "nothing_to_fork", f"Run {run_id} has no finished epoch to go on from.", "Start a new run.")
    epoch = done[-1] if epoch is None else epoch
    if epoch not in done:
        raise ProblemError(
            409, "no_such_epoch", f"Run {run_id} has no finished epoch {epoch}.", f"It has {done[0]} to {done[-1]}."
        )
    spec = _changed(run.spec, changes, epoch)
    spec = spec.model_copy(update={"teacher": prices.priced(spec.teacher, table)})
    return runs.insert(session, fork(run, epoch, runs.new_id(session), spec), by)


def _changed(spec: RunSpec, changes: dict[str, Any], epoch: int) -> RunSpec:
    merged = spec.model_dump(mode="json")
    problems = []
    for section, change in changes.items():
        if section in FIXED:
            problems.append(FieldProblem(field=section, message="a fork can't change it", hint="Start a new run instead."))
        elif isinstance(change, dict) and isinstance(merged.get(section), dict):
            merged[section] = {**merged[section], **change}
        else:
            merged[section] = change
    checked, wrong = check(merged)
    if checked and checked.refining.max_epochs <= epoch:
        hint = f"Set changes.refining.max_epochs above {epoch}."
        problems.append(FieldProblem(field="refining.max_epochs", message=f"{epoch} epochs are done already", hint=hint))
    if problems or wrong or checked is None:
        raise ProblemError(
            422, "invalid_spec", "The fork's settings are not valid.", "Correct what `errors` names.", problems + wrong
        )
    return checked
