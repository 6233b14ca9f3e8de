"""What a run made, in a form that two runs can be compared in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflux.local.stack import Stack
from reflux.views import RunView
from tests.e2e.tiny import rows

TRAINED = "data"


@dataclass(frozen=True)
class Samples:
    """Keys and texts: training rows, taught and corrected prompts, the student's answers, their scores."""

    train: tuple[str, ...]
    taught: tuple[tuple[str, str], ...]
    corrections: tuple[tuple[str, str, bool], ...]
    answers: tuple[tuple[str, str, int, str], ...]
    verdicts: tuple[tuple[str, str, int, float], ...]

    @classmethod
    def of(cls, stack: Stack, run: RunView) -> "Samples":
        artifacts = Path(stack.folder) / "artifacts"

        def read(pattern: str) -> list[dict[str, Any]]:
            return rows(artifacts, run.id, pattern)

        def piece(pattern: str) -> list[tuple[str, dict[str, Any]]]:
            found = sorted((artifacts / "runs" / run.id).glob(pattern))
            return [
                (str(file.relative_to(artifacts / "runs" / run.id)), row)
                for file in found
                for row in rows(artifacts, run.id, str(file.relative_to(artifacts / "runs" / run.id)))
            ]

        return cls(
            train=tuple(sorted(row["id"] for row in read("tasks/prepare/attempt-*/train.jsonl"))),
            taught=tuple(sorted((row["prompt_id"], row["text"]) for row in read("tasks/teach-*/attempt-*/*.jsonl"))),
            corrections=tuple(
                sorted(
                    (row["prompt_id"], row["answer"]["text"], row["admitted"]) for row in read("tasks/judge-*/attempt-*/*.jsonl")
                )
            ),
            answers=tuple(
                sorted(
                    (name.split("/")[1], row["prompt_id"], row["sample"], row["text"])
                    for name, row in piece("pieces/generate-*/*.jsonl")
                )
            ),
            verdicts=tuple(
                sorted(
                    (name.split("/")[1], row["prompt_id"], row["sample"], row["overall"])
                    for name, row in piece("tasks/score-*/attempt-*/*.jsonl")
                )
            ),
        )
