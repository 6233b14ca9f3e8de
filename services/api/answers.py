"""An epoch's scored answers, out of the artifact store. Which files count is said by the run's tasks and events."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts
from reflux.commands import Chunk
from reflux.events import CorrectionsJudged, CorrectionsReviewed, CorrectionsWritten, EventAdapter
from reflux.records import Answer, Correction, Lineage, PromptSet, Verdict
from reflux.run import Run
from reflux.views import AnswerView
from services.api.problems import ProblemError
from services.api.tables import EventRow, TaskRow

Order = Literal["worst", "prompt"]
Model = Literal["student", "base", "best"]
Row = TypeVar("Row", bound=BaseModel)


READ_AT_ONCE = 8  # files


class Brief(BaseModel):
    """What an answer is sorted by: a verdict without its evidence."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt_id: str
    sample: int = 0
    overall: float
    compiles: bool


@dataclass(frozen=True)
class Scored:
    """A scored answer, the chunk that it lies in, and the path of the chunk's verdicts."""

    chunk: Chunk
    verdicts: str
    brief: Brief

    @property
    def id(self) -> str:
        return f"{self.chunk.name}/{self.brief.prompt_id}/{self.brief.sample}"


def page(
    session: Session,
    artifacts: Artifacts,
    run: Run,
    *,
    epoch: int | None,
    model: Model,
    prompt_set: PromptSet | None,
    order: Order,
    after: str | None,
    limit: int,
) -> tuple[int, list[AnswerView], bool]:
    """The epoch, its answers from the one after `after` on, and whether there are more. Without `epoch`: the run's newest."""
    epoch = run.epoch if epoch is None else epoch
    found = ordered(session, artifacts, run.id, epoch, model, prompt_set, order)
    start = 0
    if after:
        start = next((place for place, row in enumerate(found, 1) if row.id == after), 0)
        if not start:
            raise ProblemError(404, "answer_not_found", f"There is no answer {after} here.", "Start again without `after`.")
    return epoch, whole(session, artifacts, run.id, epoch, found[start : start + limit]), len(found) > start + limit


def ordered(
    session: Session,
    artifacts: Artifacts,
    run_id: str,
    epoch: int,
    model: Model,
    prompt_set: PromptSet | None,
    order: Order,
) -> list[Scored]:
    """All scored answers of an epoch, without their texts."""
    found = [
        Scored(chunk, path, brief)
        for chunk, path in _chunks(session, run_id, epoch, model)
        if prompt_set in (None, chunk.set)
        for brief in _rows(artifacts, path, Brief)
    ]
    found.sort(key=lambda row: ((row.brief.overall,) if order == "worst" else ()) + (row.brief.prompt_id, row.brief.sample))
    return found


def whole(session: Session, artifacts: Artifacts, run_id: str, epoch: int, wanted: Sequence[Scored]) -> list[AnswerView]:
    """The answers wanted, with text, verdict and correction."""
    chunks = {row.chunk.path: row.verdicts for row in wanted}
    texts = {(path, answer.prompt_id, answer.sample): answer for path in chunks for answer in _rows(artifacts, path, Answer)}
    verdicts = {(path, v.prompt_id, v.sample): v for path in chunks for v in _rows(artifacts, chunks[path], Verdict)}
    practised = any(row.chunk.set == "practice" and row.chunk.model == "student" for row in wanted)
    corrections = _corrections(session, artifacts, run_id, epoch) if practised else {}
    views = []
    for row in wanted:
        key = (row.chunk.path, row.brief.prompt_id, row.brief.sample)
        correction = corrections.get(key[1:]) if row.chunk.set == "practice" else None
        if key in texts and key in verdicts:
            views.append(_view(row.id, row.chunk, texts[key], verdicts[key], correction))
    return views


def counts(session: Session, run_id: str) -> dict[tuple[int, str, str], int]:
    """How many answers are scored, by epoch, model and set."""
    chunk = TaskRow.command["chunk"]
    model, prompt_set = chunk["model"].astext.label("model"), chunk["set"].astext.label("set")
    scored = (
        select(TaskRow.epoch, model, prompt_set, EventRow.body["count"].as_integer().label("count"))
        .join(EventRow, (EventRow.run_id == TaskRow.run_id) & (EventRow.body["key"].astext == TaskRow.key))
        .where(TaskRow.run_id == run_id, TaskRow.kind == "score", TaskRow.status == "done", EventRow.type == "chunk_scored")
        .subquery()
    )
    of = (scored.c.epoch, scored.c.model, scored.c.set)
    found = session.execute(select(*of, func.sum(scored.c.count)).group_by(*of))
    return {(epoch, model, prompt_set): int(count) for epoch, model, prompt_set, count in found}


def across(
    session: Session, artifacts: Artifacts, run_id: str, prompt_id: str, like: Chunk, model: Model = "student"
) -> list[tuple[int, Verdict]]:
    """The verdicts on one prompt by epoch, sample by sample. It is looked for first in chunks of the place that `like` has."""
    epochs: dict[int, list[tuple[Chunk, str]]] = {}
    for epoch, chunk, path in _scored_chunks(session, run_id, model):
        if chunk.set == like.set:
            epochs.setdefault(epoch, []).append((chunk, path))

    def look(epoch: int) -> list[tuple[int, Verdict]]:
        for _, path in sorted(epochs[epoch], key=lambda one: one[0].index != like.index):
            found = [(epoch, verdict) for verdict in _verdicts_on(artifacts, path, prompt_id)]
            if found:
                return found
        return []

    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        return [row for rows in pool.map(look, sorted(epochs)) for row in rows]


def _chunks(session: Session, run_id: str, epoch: int, model: Model) -> list[tuple[Chunk, str]]:
    return [(chunk, path) for of, chunk, path in _scored_chunks(session, run_id, model, epoch) if of == epoch]


def _scored_chunks(session: Session, run_id: str, model: Model, epoch: int | None = None) -> Iterator[tuple[int, Chunk, str]]:
    """Epoch, chunk and the path of its verdicts, of every chunk that is scored."""
    done = (
        select(TaskRow.epoch, TaskRow.command["chunk"], EventRow.body["path"].astext)
        .join(EventRow, (EventRow.run_id == TaskRow.run_id) & (EventRow.body["key"].astext == TaskRow.key))
        .where(TaskRow.run_id == run_id, TaskRow.kind == "score", TaskRow.status == "done", EventRow.type == "chunk_scored")
        .order_by(EventRow.seq)
    )
    if epoch is not None:
        done = done.where(TaskRow.epoch == epoch)
    for of, chunk, path in session.execute(done):
        if chunk["model"] == model and path:
            yield of, Chunk.model_validate(chunk), path


def _verdicts_on(artifacts: Artifacts, path: str, prompt_id: str) -> list[Verdict]:
    try:
        rows = artifacts.get(path).decode().split("\n")
    except FileNotFoundError:
        return []
    found = [Verdict.model_validate_json(row) for row in rows if prompt_id in row]
    return [verdict for verdict in found if verdict.prompt_id == prompt_id]


def _corrections(session: Session, artifacts: Artifacts, run_id: str, epoch: int) -> dict[tuple[str, int], Correction]:
    """By prompt and sample, each as it was last told of: written, judged, reviewed; the first ask, then the second."""
    paths = {
        event.key: event.path
        for event in _facts(session, run_id, "corrections_written", "corrections_judged", "corrections_reviewed")
        if isinstance(event, CorrectionsWritten | CorrectionsJudged | CorrectionsReviewed)
        and event.key.split("-")[1] == f"{epoch:03d}"
    }
    return {(row.prompt_id, row.attempt.sample): row for path in paths.values() for row in _rows(artifacts, path, Correction)}


def _facts(session: Session, run_id: str, *types: str) -> list[object]:
    query = select(EventRow.body).where(EventRow.run_id == run_id, EventRow.type.in_(types)).order_by(EventRow.seq)
    return [EventAdapter.validate_python(body) for body in session.scalars(query)]


def _rows(artifacts: Artifacts, path: str, model: type[Row]) -> list[Row]:
    """Nothing where the file is gone: the run was discarded."""
    try:
        return list(artifacts.read_rows(path, model))
    except FileNotFoundError:
        return []


def _view(row_id: str, chunk: Chunk, answer: Answer, verdict: Verdict, correction: Correction | None) -> AnswerView:
    return AnswerView(
        id=row_id,
        prompt_id=answer.prompt_id,
        prompt=answer.prompt,
        domain=answer.domain,
        set=chunk.set,
        model=chunk.model,
        sample=answer.sample,
        text=answer.text,
        finish_reason=answer.finish_reason,
        error=answer.error,
        verdict=verdict,
        correction=correction,
        lineage=_lineage(correction) if correction and correction.admitted else None,
    )


def _lineage(correction: Correction) -> Lineage:
    return Lineage(
        origin="correction",
        prompt_id=correction.prompt_id,
        teacher=correction.answer.model,
        provider=correction.answer.provider,
        answered_at=correction.answer.answered_at,
        attempt=correction.ask,
        score_before=correction.attempt_verdict.overall,
        score_after=correction.verdict.overall if correction.verdict else None,
    )
