"""Errands: small questions from people, carried out by a worker beside its tasks. No run waits for them, and none is moved.

    worker                                        API
      POST /v1/errands/claim    ErrandClaim  ──►   an Errand, or after a while 204
      POST /v1/errands/{id}/said       Said  ──►   GoOn, again and again: the sign of life too
      POST /v1/errands/{id}/end    ErrandEnd  ──►   GoOn   or  …/fail  ErrandFailing

A worker asks over HTTP and is kept waiting: it needs no road to the queue.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from reflux.completions import Tokens
from reflux.errors import Failure
from reflux.previews import LinesPreview, PreviewRequest, SourcesPreview
from reflux.records import Message, Verdict
from reflux.spec import RunSpec


class CompleteErrand(BaseModel):
    """Answer the last of `turns`, which is the user's. Without `adapter_path` the base answers. `spec` says how."""

    kind: Literal["complete"] = "complete"
    turns: tuple[Message, ...]
    adapter_path: str | None = None
    sample: int = 0


class JudgeErrand(BaseModel):
    """Score a text by the spec's rubric."""

    kind: Literal["judge"] = "judge"
    text: str
    prompt: str
    domain: str = "generic"


class PreviewErrand(PreviewRequest):
    """Look at data. It is of no run."""

    kind: Literal["preview"] = "preview"


Order = Annotated[CompleteErrand | JudgeErrand | PreviewErrand, Field(discriminator="kind")]
SERVICES = {"complete": "gpu_trainer", "judge": "evaluator", "preview": "teacher_worker"}


class Written(BaseModel):
    """How an answer ended. Its text was said before."""

    finish_reason: Literal["stop", "length"]
    usage: Tokens


Result = Written | Verdict | SourcesPreview | LinesPreview
RESULTS = {"complete": (Written,), "judge": (Verdict,), "preview": (SourcesPreview, LinesPreview)}


class ErrandClaim(BaseModel):
    """For as long as `seconds` there may be nothing to do."""

    worker: str
    incarnation: str
    service: str
    seconds: float = Field(15.0, ge=0, le=15)


class Errand(BaseModel):
    """An errand in a worker's hands; silent for the lease, it is somebody else's. A preview is of no run, and has no spec."""

    id: int
    attempt: int
    run_id: str | None
    spec: RunSpec | None
    order: Order
    beat_seconds: float


class Said(BaseModel):
    """`text` goes on after the first `at` characters of what this attempt said: said twice, it is there once."""

    attempt: int
    at: int = Field(0, ge=0)
    text: str = ""


class ErrandEnd(Said):
    result: Result


class GoOn(BaseModel):
    """Whether anybody still waits for it."""

    go_on: bool


class ErrandFailing(BaseModel):
    attempt: int
    failure: Failure
