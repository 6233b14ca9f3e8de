"""What two or more checkpoints are compared by: a run's settings, scores, costs and answers, read from Postgres and the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from reflux.records import PromptSet
from reflux.run import Run
from reflux.views import AnswerView
from services.api import answers, runs
from services.api.answers import Scored
from services.api.dashboard.downloads import store
from services.api.problems import ProblemError

MOST = 4


@dataclass(frozen=True)
class Side:
    """A run at one epoch: the one asked for, else the best one, else the one in hand."""

    run: Run
    status: str
    epoch: int
    asked: str

    @property
    def word(self) -> str:
        return f"{self.run.spec.name}, epoch {self.epoch}" if self.epoch else self.run.spec.name


def sides(session: Session, wanted: Sequence[str]) -> list[Side]:
    """404 for a run or an epoch that there is not."""
    found = []
    for asked in wanted:
        run_id, _, epoch = asked.partition("@")
        row = runs.get(session, run_id)
        run = Run.model_validate(row.state)
        if epoch and not (epoch.isdecimal() and any(int(epoch) == one.epoch for one in run.epochs)):
            done = ", ".join(str(one.epoch) for one in run.epochs) or "none"
            raise ProblemError(404, "no_such_epoch", f"Run {run_id} has no finished epoch {epoch}.", f"It has {done}.")
        chosen = int(epoch) if epoch else run.best.epoch if run.best else run.epoch
        found.append(Side(run, row.status, chosen, asked))
    return found


def settings(compared: Sequence[Side]) -> dict[str, list[str]]:
    """By setting what each side has, of those in which they differ; a setting that one lacks is empty there."""
    flat = [flattened(side.run.spec.model_dump(mode="json")) for side in compared]
    names = list(dict.fromkeys(name for one in flat for name in one))
    found = {name: [one.get(name, "") for one in flat] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def flattened(spec: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """`student.model: …`, for every setting."""
    found: dict[str, str] = {}
    for name, value in spec.items():
        if isinstance(value, dict) and value:
            found |= flattened(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = "" if value is None else str(value)
    return found


@dataclass(frozen=True)
class Prompts:
    """The prompts that every side has answered: by id the mean score of each side. Those that differ most come first."""

    scores: dict[str, list[float]]
    rows: list[dict[str, Scored]]


def prompts(session: Session, compared: Sequence[Side], model: answers.Model, prompt_set: PromptSet) -> Prompts:
    rows = [_first_samples(session, side, model, prompt_set) for side in compared]
    common = set(rows[0]).intersection(*rows[1:]) if rows else set()
    scores = {name: [row[name].brief.overall for row in rows] for name in common}
    order = sorted(scores, key=lambda name: (min(scores[name]) - max(scores[name]), name))
    return Prompts({name: scores[name] for name in order}, rows)


def both(session: Session, compared: Sequence[Side], known: Prompts, prompt_id: str) -> list[AnswerView | None]:
    """What each side answered to one prompt."""
    found: list[AnswerView | None] = []
    for side, rows in zip(compared, known.rows, strict=True):
        row = rows.get(prompt_id)
        whole = answers.whole(session, store(), side.run.id, _epoch_of(side, row), [row]) if row else []
        found.append(whole[0] if whole else None)
    return found


def _first_samples(session: Session, side: Side, model: answers.Model, prompt_set: PromptSet) -> dict[str, Scored]:
    epoch = side.epoch if model == "student" else side.run.epoch
    found = answers.ordered(session, store(), side.run.id, epoch, model, prompt_set, "prompt")
    return {row.brief.prompt_id: row for row in found if row.brief.sample == 0}


def _epoch_of(side: Side, row: Scored) -> int:
    return side.epoch if row.chunk.model == "student" else side.run.epoch
