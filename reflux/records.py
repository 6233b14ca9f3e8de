"""The rows of Reflux's JSONL artifacts, one model a kind of row."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PromptSet = Literal["practice", "dev", "test"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str


class Lineage(Record):
    """Where a training row comes from. `lines` are 1-based and inclusive.

    `sha256` is of the source's text, or of the prompt that a teacher answered; `attempt` which ask it answered.
    """

    origin: Literal["source", "teacher", "correction", "upload"]
    path: str | None = None
    lines: tuple[int, int] | None = None
    licence: str | None = None
    sha256: str | None = None
    prompt_id: str | None = None
    teacher: str | None = None
    provider: str | None = None
    answered_at: str | None = None
    attempt: int | None = None
    score_before: float | None = None
    score_after: float | None = None


class TrainedRow(Record):
    """What an epoch was trained on: a row's id, and where it comes from."""

    id: str
    lineage: Lineage | None = None


class Example(Record):
    """One training row. `family` names the function (and its near-duplicates) that it was made from."""

    id: str
    messages: tuple[Message, ...]
    domain: str = "generic"
    family: str
    lineage: Lineage


class Prompt(Record):
    """One prompt for the student. Only `practice` prompts are ever corrected; `test` is seen at the end alone."""

    id: str
    text: str
    domain: str = "generic"
    set: PromptSet
    family: str


class Answer(Record):
    """What the student wrote. `sample` counts the answers to one prompt; `error` means that there is no text."""

    prompt_id: str
    prompt: str
    domain: str = "generic"
    sample: int = 0
    text: str
    tokens: int = 0
    finish_reason: Literal["stop", "length", "error"] = "stop"
    error: str | None = None


class Evidence(Record):
    """One reason for a score. Points are what it gave or took; line and column are in the student's own text."""

    part: Literal["syntax", "protocol", "safety", "style", "overall"]
    rule: str
    message: str
    points: float = 0.0
    line: int | None = None
    column: int | None = None


WEIGHTS = {
    "syntax": 0.30,
    "protocol": 0.30,
    "safety": 0.25,
    "style": 0.15,
}  # of the parts; `rubric.overrides` change them


class Verdict(Record):
    """Scores in [0, 10] of one answer, with all the evidence."""

    prompt_id: str
    sample: int = 0
    overall: float
    syntax: float
    protocol: float
    safety: float
    style: float
    compiles: bool
    code: str
    language: Literal["c", "c++"] = "c"
    heuristic: bool = False
    rubric: str
    evidence: tuple[Evidence, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)


class TeacherAnswer(Record):
    """What the teacher wrote to a prompt, or why it did not.

    `cost_usd` by the prices of the spec; nothing if `reused`: another run bought it. `answered_at` is UTC, ISO 8601.
    `in_vain` calls went before whose answers never came: the provider may have charged for them.
    """

    prompt_id: str
    prompt: str
    domain: str = "generic"
    text: str = ""
    model: str
    provider: str = ""
    answered_at: str = ""
    reused: bool = False
    in_vain: int = 0
    tries: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    error: str | None = None


class Correction(Record):
    """The teacher's better version of a poor answer; once judged, whether it may be trained on."""

    prompt_id: str
    prompt: str
    domain: str = "generic"
    attempt: Answer
    attempt_verdict: Verdict
    answer: TeacherAnswer
    ask: int = 1
    verdict: Verdict | None = None
    admitted: bool | None = None
    why: str = ""


def digest(*parts: str) -> str:
    """A short stable id of its parts: 16 hex digits of SHA-256."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
