"""An epoch's scored answers, out of the artifact store. Which files count is said by the run's tasks and events."""

from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts
from reflux.commands import Chunk, CommandAdapter, Score
from reflux.events import ChunkScored, CorrectionsJudged, CorrectionsReviewed, CorrectionsWritten, EventAdapter
from reflux.records import Answer, Correction, Lineage, PromptSet, Verdict
from reflux.run import Run
from reflux.views import AnswerView
from services.api.problems import ProblemError
from services.api.tables import EventRow, TaskRow

Order = Literal["worst", "prompt"]
Model = Literal["student", "base", "best"]
Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True)
class Scored:
    """A verdict, and the chunk that its answer lies in."""

    chunk: Chunk
    verdict: Verdict

    @property
    def id(self) -> str:
        return f"{self.chunk.name}/{self.verdict.prompt_id}/{self.verdict.sample}"


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
    found = [row for row in _scored(session, artifacts, run.id, epoch, model) if prompt_set in (None, row.chunk.set)]
    found.sort(key=lambda row: ((row.verdict.overall,) if order == "worst" else ()) + (row.verdict.prompt_id, row.verdict.sample))
    start = 0
    if after:
        start = next((place for place, row in enumerate(found, 1) if row.id == after), 0)
        if not start:
            raise ProblemError(404, "answer_not_found", f"There is no answer {after} here.", "Start again without `after`.")
    wanted = found[start : start + limit]
    return epoch, _with_texts(session, artifacts, run.id, epoch, wanted), len(found) > start + limit


def _scored(session: Session, artifacts: Artifacts, run_id: str, epoch: int, model: Model) -> list[Scored]:
    done = select(TaskRow).where(
        TaskRow.run_id == run_id, TaskRow.kind == "score", TaskRow.epoch == epoch, TaskRow.status == "done"
    )
    commands = [CommandAdapter.validate_python(task.command) for task in session.scalars(done.order_by(TaskRow.id))]
    chunks = {c.key: c.chunk for c in commands if isinstance(c, Score) and c.chunk.model == model}
    return [
        Scored(chunks[event.key], verdict)
        for event in _facts(session, run_id, "chunk_scored")
        if isinstance(event, ChunkScored) and event.key in chunks
        for verdict in _rows(artifacts, event.path, Verdict)
    ]


def _with_texts(session: Session, artifacts: Artifacts, run_id: str, epoch: int, wanted: list[Scored]) -> list[AnswerView]:
    chunks = {row.chunk.path: row.chunk for row in wanted}
    texts = {(path, answer.prompt_id, answer.sample): answer for path in chunks for answer in _rows(artifacts, path, Answer)}
    practised = any(row.chunk.set == "practice" and row.chunk.model == "student" for row in wanted)
    corrections = _corrections(session, artifacts, run_id, epoch) if practised else {}
    views = []
    for row in wanted:
        answer = texts.get((row.chunk.path, row.verdict.prompt_id, row.verdict.sample))
        correction = corrections.get((row.verdict.prompt_id, row.verdict.sample)) if row.chunk.set == "practice" else None
        if answer is not None:
            views.append(_view(row, answer, correction))
    return views


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


def _view(row: Scored, answer: Answer, correction: Correction | None) -> AnswerView:
    return AnswerView(
        id=row.id,
        prompt_id=answer.prompt_id,
        prompt=answer.prompt,
        domain=answer.domain,
        set=row.chunk.set,
        model=row.chunk.model,
        sample=answer.sample,
        text=answer.text,
        finish_reason=answer.finish_reason,
        error=answer.error,
        verdict=row.verdict,
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
