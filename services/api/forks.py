"""A fork: a new run that goes on after a finished epoch of another, with some settings changed."""

from typing import Any

from sqlalchemy.orm import Session

from reflux import prices
from reflux.estimate import estimate
from reflux.run import Run, fork
from reflux.spec import FieldProblem, RunSpec
from reflux.spec import check as check_spec
from reflux.summary import Estimate
from reflux.views import DryRun
from services.api import catalogue, removals, runs
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
    removals.refuse_if_gone(session, run_id, "artifacts")
    epoch = forked_epoch(run, epoch)
    spec = _changed(run, epoch, changes, table)
    new = fork(run, epoch, runs.new_id(session), spec)
    return runs.insert(session, new.but(estimate=_expected(run, epoch, spec)), by)


def dry_run(run: Run, epoch: int, changes: dict[str, Any], table: prices.Table) -> DryRun:
    """What the fork would be, and ask its teacher for in the epochs that it adds. Nothing is created."""
    spec = _changed(run, epoch, changes, table)
    runs.refuse_secrets(spec.model_dump(mode="json"))
    expected = _expected(run, epoch, spec)
    return DryRun(spec=spec.model_dump(mode="json"), estimate=expected, gpu_memory_gb=catalogue.memory_gb(spec))


def forked_epoch(run: Run, epoch: int | None) -> int:
    """The epoch after which a fork goes on; left out: the last. 409 if there is no such epoch."""
    done = [e.epoch for e in run.epochs]
    if run.spec.recipe != "distill" or not done or run.discard:
        raise ProblemError(409, "nothing_to_fork", f"Run {run.id} has no finished epoch to go on from.", "Start a new run.")
    epoch = done[-1] if epoch is None else epoch
    if epoch not in done:
        raise ProblemError(
            409, "no_such_epoch", f"Run {run.id} has no finished epoch {epoch}.", f"It has {done[0]} to {done[-1]}."
        )
    return epoch


def check(run: Run, epoch: int, changes: dict[str, Any], table: prices.Table) -> tuple[RunSpec | None, list[FieldProblem]]:
    """The fork's spec, or all that is wrong with the changes. Another teacher's model has the table's prices, not the run's."""
    merged = run.spec.model_dump(mode="json")
    teacher = changes.get("teacher")
    if isinstance(teacher, dict) and teacher.get("model", run.spec.teacher.model) != run.spec.teacher.model:
        merged["teacher"] |= {"input_usd_per_million": None, "output_usd_per_million": None}
    problems = []
    for section, change in changes.items():
        if section in FIXED:
            problems.append(FieldProblem(field=section, message="a fork can't change it", hint="Start a new run instead."))
        elif isinstance(change, dict) and isinstance(merged.get(section), dict):
            merged[section] = {**merged[section], **change}
        else:
            merged[section] = change
    checked, wrong = check_spec(merged)
    if checked and checked.refining.max_epochs <= epoch:
        hint = f"Set changes.refining.max_epochs above {epoch}."
        problems.append(FieldProblem(field="refining.max_epochs", message=f"{epoch} epochs are done already", hint=hint))
    problems += wrong
    if problems or checked is None:
        return None, problems
    return checked.model_copy(update={"teacher": prices.priced(checked.teacher, table)}), []


def _expected(run: Run, epoch: int, spec: RunSpec) -> Estimate | None:
    """Of what the fork will ask its teacher for, besides what the run has bought."""
    practice, characters = (run.dataset.practice, run.dataset.practice_characters) if run.dataset else (None, 0)
    return estimate(spec, practice, characters, done=epoch)


def _changed(run: Run, epoch: int, changes: dict[str, Any], table: prices.Table) -> RunSpec:
    spec, problems = check(run, epoch, changes, table)
    if spec is None:
        raise ProblemError(422, "invalid_spec", "The fork's settings are not valid.", "Correct what `errors` names.", problems)
    return spec
