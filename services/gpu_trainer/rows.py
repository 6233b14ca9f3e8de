"""Which conversations an epoch trains on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from reflux.commands import Train
from reflux.errors import Terminal
from reflux.records import Correction, Lineage, Message, TeacherAnswer, TrainedRow, digest
from reflux.spec import RunSpec
from reflux.task import Task
from services.gpu_trainer import ranks
from services.gpu_trainer.seeds import draws

VALIDATION_ROWS = 16


@dataclass(frozen=True)
class Row:
    id: str
    messages: tuple[Message, ...]
    lineage: Lineage | None = None


class ChatRow(BaseModel):
    """What every row of train.jsonl and val.jsonl has, whoever wrote it; other fields are its writer's."""

    model_config = ConfigDict(extra="ignore")

    id: str = ""
    messages: tuple[Message, ...]
    lineage: Lineage | None = None


def training_rows(task: Task, command: Train) -> list[Row]:
    """Source examples and the teacher's answers, one a prompt: its latest admitted correction, or else what was taught.

    Writes down in rows.jsonl where each of them comes from.
    """
    spec = task.spec
    examples = list(_chat_rows(task, command.train_path))
    most = spec.training.max_examples
    if most is not None and len(examples) > most:
        examples = draws(spec.seed, command.epoch, "examples").sample(examples, most)
    answers: dict[str, Row] = {}
    for path in command.taught_paths:
        for taught in task.artifacts.read_rows(path, TeacherAnswer):
            if taught.text and not taught.error:
                answers[taught.prompt_id] = _answered(spec, taught, _lineage("teacher", taught))
    corrections = 0
    for path in command.corrections_paths:
        for correction in task.artifacts.read_rows(path, Correction):
            if correction.admitted and correction.answer.text:
                answers[correction.prompt_id] = _answered(spec, correction.answer, _correction_lineage(correction))
                corrections += 1
    rows = [*examples, *answers.values()]
    if not rows:
        raise Terminal("empty_dataset", f"There is no row to train on: {command.train_path} is empty, and nothing was taught.")
    if ranks.first():
        task.artifacts.write_rows(f"{task.folder}/rows.jsonl", (TrainedRow(id=row.id, lineage=row.lineage) for row in rows))
    task.log(
        f"{len(rows)} rows: {len(examples)} examples, {len(answers)} answers of the teacher ({corrections} corrections read)"
    )
    return rows


def validation_rows(task: Task, command: Train) -> list[Row]:
    """The same few rows in every epoch."""
    rows = list(_chat_rows(task, command.val_path))
    if len(rows) > VALIDATION_ROWS:
        task.log(f"validating on {VALIDATION_ROWS} of {len(rows)} rows")
        rows = draws(task.spec.seed, "validation").sample(rows, VALIDATION_ROWS)
    return rows


def _lineage(origin: Literal["teacher", "correction"], answer: TeacherAnswer, **more: Any) -> Lineage:
    return Lineage(
        origin=origin,
        sha256=digest(answer.prompt),
        prompt_id=answer.prompt_id,
        teacher=answer.model,
        provider=answer.provider or None,
        answered_at=answer.answered_at or None,
        **more,
    )


def _correction_lineage(row: Correction) -> Lineage:
    after = row.verdict.overall if row.verdict else None
    return _lineage("correction", row.answer, attempt=row.ask, score_before=row.attempt_verdict.overall, score_after=after)


def _answered(spec: RunSpec, answer: TeacherAnswer, lineage: Lineage) -> Row:
    turns = [Message(role="system", content=spec.prompts.system)] if spec.prompts.system else []
    turns += [Message(role="user", content=answer.prompt), Message(role="assistant", content=answer.text)]
    return Row(answer.prompt_id, tuple(turns), lineage)


def _chat_rows(task: Task, path: str) -> Iterator[Row]:
    for number, line in enumerate(task.artifacts.get(path).decode().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = ChatRow.model_validate_json(line)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in detail["loc"])
            raise Terminal("invalid_dataset", f"{path}, line {number}: {where or 'the row'}: {detail['msg']}") from error
        if not any(message.role == "assistant" and message.content.strip() for message in row.messages):
            raise Terminal("invalid_dataset", f"{path}, line {number}: no assistant turn has any content")
        if row.messages[0].role == "assistant" and len(row.messages) > 1:
            raise Terminal("invalid_dataset", f"{path}, line {number}: it begins with the assistant's turn")
        yield Row(row.id or f"line-{number}", row.messages, row.lineage)
