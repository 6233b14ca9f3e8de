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
    """`token` is new for each ring: a claim whose answer was lost is asked again with it, and answered again.

    With `service`, the worker takes whichever of that service's tasks has its turn, instead of the one that it was rung for.
    """

    worker: str
    incarnation: str
    token: str
    service: str | None = None


MACHINE = "machine"  # as what the worker on a run's own machine registers: no other run counts on it


class ClaimNext(Claim):
    """From a machine that hears no rings: the next task of its run, waited for at most so long."""

    seconds: float = Field(15.0, ge=0, le=60)


class Share(BaseModel):
    """A task's place among the `of` tasks that share something."""

    place: int = 0
    of: int = 1

    def part(self, whole: int) -> int:
        """How many of `whole` are this task's. The parts of all differ by one at most, and add up to it."""
        return whole * (self.place + 1) // self.of - whole * self.place // self.of


class Assignment(BaseModel):
    """A task in a worker's hands. Silent for `lease_seconds`, it is somebody else's."""

    task_id: int
    run_id: str
    attempt: int
    command: Command
    spec: RunSpec
    lease_seconds: float
    beat_seconds: float
    share: Share = Share()
    machine_key: str | None = Field(None, repr=False, description="With a Provision: what the machine signs in with")


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


class Phase(BaseModel):
    """A part of a task has begun, or is over, with what there is to say of it (seconds, bytes, an exit code)."""

    name: str = Field(pattern=r"^[a-z_]{1,40}$")
    status: Literal["begun", "pass", "fail", "stopped"]
    facts: dict[str, Any] = Field(default_factory=dict)


class Beat(BaseModel):
    attempt: int
    progress: Progress | None = None
    metrics: list[MetricPoint] = Field(default_factory=list)
    logs: list[LogLine] = Field(default_factory=list)
    chunks: list[Chunk] = Field(default_factory=list)
    phases: list[Phase] = Field(default_factory=list)


class BeatAnswer(BaseModel):
    """`stop`: save and report at the next safe point (`kill`: now). `lost`: the task is not this attempt's any more.

    `share`: of the run's teacher, which all its tasks that ask it have together.
    """

    answer: Literal["go_on", "stop", "lost"]
    why: str = ""
    kill: bool = False
    share: Share = Share()


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
