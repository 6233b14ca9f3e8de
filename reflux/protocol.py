"""What a worker and the API say to one another: the bodies of claim, beat, complete, fail."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from reflux.commands import Chunk, Command
from reflux.errors import Failure
from reflux.events import Event
from reflux.spec import RunSpec


class Registration(BaseModel):
    """A worker slot at its start. A new incarnation of a name means that the one before is gone."""

    name: str
    service: str
    incarnation: str
    capabilities: dict[str, Any] = Field(default_factory=dict)


class Claim(BaseModel):
    """`token` is new for each ring: a claim whose answer was lost is asked again with it, and answered again."""

    worker: str
    incarnation: str
    token: str


class Assignment(BaseModel):
    """A task in a worker's hands. Silent for `lease_seconds`, it is somebody else's."""

    task_id: int
    run_id: str
    attempt: int
    command: Command
    spec: RunSpec
    lease_seconds: float
    beat_seconds: float


class Progress(BaseModel):
    done: float
    total: float
    note: str = ""


class MetricPoint(BaseModel):
    step: int
    values: dict[str, float]


class LogLine(BaseModel):
    level: str = "info"
    line: str


class Beat(BaseModel):
    attempt: int
    progress: Progress | None = None
    metrics: list[MetricPoint] = Field(default_factory=list)
    logs: list[LogLine] = Field(default_factory=list)
    chunks: list[Chunk] = Field(default_factory=list)


class BeatAnswer(BaseModel):
    """`stop`: save and report at the next safe point (`kill`: now). `lost`: the task is not this attempt's any more."""

    answer: Literal["go_on", "stop", "lost"]
    why: str = ""
    kill: bool = False


class Completion(BaseModel):
    attempt: int
    event: Event


class Accepted(BaseModel):
    accepted: bool
    why: str = ""


class Failing(BaseModel):
    attempt: int
    failure: Failure


class Stopping(BaseModel):
    """The work stopped as asked, or (`handed_back`) because its worker shuts down."""

    attempt: int
    handed_back: bool = False
