"""What the API answers: a run, its events, tasks and workers as a user sees them. Served by the API, read by the client."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reflux.errors import Failure
from reflux.machines import Ended, Kind
from reflux.records import Correction, Lineage, Verdict
from reflux.run import Origin
from reflux.spec import FieldProblem
from reflux.summary import Comparison, EpochMetrics, Estimate, Usage
from reflux.training_rows import Row

Health = Literal["ok", "recovering", "orphaned"]
Role = Literal["viewer", "operator", "worker"]
Removable = Literal["artifacts", "results", "logs", "metrics"]

REMOVABLE: dict[Removable, str] = {
    "artifacts": "Answers, corrections and checkpoints",
    "results": "The exported model and the report",
    "logs": "Log lines",
    "metrics": "Metrics",
}


class ProgressView(BaseModel):
    """`eta_seconds` is None until there is enough to go by."""

    percent: float
    eta_seconds: float | None = None
    doing: str = ""
    updated_at: datetime | None = None


class TaskView(BaseModel):
    key: str
    kind: str
    stage: str
    epoch: int
    status: str
    attempt: int
    worker: str | None = None
    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    due_at: datetime | None = None
    claimed_at: datetime | None = None
    ended_at: datetime | None = None


class RemovedView(BaseModel):
    """What retention has taken from a run. `count` of objects, lines or points; `bytes` of objects."""

    what: Removable
    why: str
    at: datetime
    count: int
    bytes: int | None = None

    @property
    def told(self) -> str:
        return f"{REMOVABLE[self.what]} were removed by retention on {self.at:%Y-%m-%d}: {self.why}."


class RunView(BaseModel):
    id: str
    name: str
    recipe: str
    status: str
    stage: str
    outcome: str | None = None
    health: Health = "ok"
    epoch: int
    max_epochs: int
    progress: ProgressView
    counts: dict[str, int] = Field(default_factory=dict)
    epochs: list[EpochMetrics] = Field(default_factory=list)
    best_epoch: int | None = None
    comparison: Comparison | None = None
    usage: Usage = Usage()
    estimate: Estimate | None = None
    waits_for_review: bool = False
    origin: Origin | None = None
    reason: str = ""
    partial: bool = False
    error: Failure | None = None
    warnings: list[str] = Field(default_factory=list)
    manual_action_required: bool = False
    artifacts_url: str = ""
    removed: list[RemovedView] = Field(default_factory=list, description="Of one run that is shown whole, as `spec` and `tasks`")
    metadata: dict[str, str] = Field(default_factory=dict)
    last_event: int = 0
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    spec: dict[str, Any] | None = None
    tasks: list[TaskView] | None = None

    @property
    def terminal(self) -> bool:
        return self.outcome is not None and self.ended_at is not None


class RunList(BaseModel):
    data: list[RunView]
    has_more: bool


class EventView(BaseModel):
    """`seq` counts a run's events without gaps; `status` is the run's after the event."""

    seq: int
    type: str
    status: str
    at: datetime
    body: dict[str, Any]


class EventList(BaseModel):
    data: list[EventView]
    has_more: bool


class EpochList(BaseModel):
    data: list[EpochMetrics]
    has_more: bool


class AnswerView(BaseModel):
    """One scored answer. `correction` is the teacher's, with what became of it; `lineage` that of the row it is trained as."""

    id: str
    prompt_id: str
    prompt: str
    domain: str
    set: str
    model: str
    sample: int
    text: str
    finish_reason: str
    error: str | None = None
    verdict: Verdict
    correction: Correction | None = None
    lineage: Lineage | None = None


class AnswerList(BaseModel):
    epoch: int
    data: list[AnswerView]
    has_more: bool


class MetricPointView(BaseModel):
    """`value` is None where it was no finite number."""

    epoch: int
    step: int
    value: float | None
    at: datetime


class MetricSeries(BaseModel):
    name: str
    points: list[MetricPointView]


class SeriesList(BaseModel):
    data: list[MetricSeries]


class LogView(BaseModel):
    id: int
    at: datetime
    task: str
    service: str
    level: str
    line: str


class LogList(BaseModel):
    data: list[LogView]
    has_more: bool


class CheckpointView(BaseModel):
    """An adapter. `score` is what the best is chosen by: None until the epoch's answers are scored."""

    epoch: int
    path: str
    train_loss: float
    val_loss: float | None = None
    score: float | None = None
    best: bool = False


class CheckpointList(BaseModel):
    data: list[CheckpointView]


class ArtifactView(BaseModel):
    """`path` is below the run's folder; `size` in bytes."""

    path: str
    size: int


class ArtifactList(BaseModel):
    data: list[ArtifactView]
    has_more: bool


class ReviewView(BaseModel):
    """Corrections that wait for a person: each beats the student's answer, by the evaluator's verdict."""

    key: str
    epoch: int
    corrections: list[Correction]


class Decision(BaseModel):
    """On one correction. `text` is the whole answer as it should be trained on, with its code block; only for `edit`."""

    model_config = ConfigDict(extra="forbid")

    prompt_id: str
    decision: Literal["approve", "edit", "refuse"]
    text: str = Field("", max_length=200_000)
    why: str = Field("", max_length=2000)


class GpuHours(BaseModel):
    """Of training and generation: likely, and between what. `basis` says what the numbers stand on."""

    likely: float
    low: float
    high: float
    basis: str
    usd_per_hour: float | None = Field(None, description="Of the machine that `compute` names, on demand; spot costs less")


class DryRun(BaseModel):
    """A spec that is valid, with every default resolved, and what the run would ask its teacher for."""

    spec: dict[str, Any]
    estimate: Estimate | None = None
    gpu_memory_gb: float | None = Field(None, description="At the peak of training; of students in the catalogue only")
    gpu_hours: GpuHours | None = None


class DatasetView(BaseModel):
    """Stored rows: `uri` is what `data.train` takes; `preview` has the first."""

    uri: str
    rows: int
    bytes: int
    preview: list[Row]


class MethodView(BaseModel):
    """What training a model by a preset needs at its peak, in GB of 10^9 bytes, as estimated (`reflux/memory.py`)."""

    preset: str
    gpu_memory_gb: float


class ModelView(BaseModel):
    """A student. `model` is what `student.model` takes; `parameters` in billions; `context` in tokens."""

    model: str
    title: str
    parameters: float
    context: int
    licence: str
    gated: bool = False
    fits: list[MethodView]


class ModelList(BaseModel):
    data: list[ModelView]


class PresetView(BaseModel):
    """`id` is what `preset` of a spec takes; `spec` holds the sections that it fills in. A student's names a model too."""

    id: str
    kind: Literal["student", "method"]
    title: str
    description: str
    spec: dict[str, Any]


class PresetList(BaseModel):
    data: list[PresetView]


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Role
    label: str = Field(min_length=1, max_length=100, pattern=r"^[\w .,:@/-]+$", description="Whose it is, or what for")


class KeyView(BaseModel):
    """A key without what opens: that was shown once."""

    id: str
    role: Role
    label: str
    created_at: datetime
    revoked_at: datetime | None = None


class KeyMade(KeyView):
    """`key` is shown here and never again."""

    key: str


class KeyList(BaseModel):
    data: list[KeyView]


class ReadyView(BaseModel):
    status: Literal["ok", "degraded"]
    database: Literal["ok", "away"]
    broker: Literal["ok", "away"]
    artifacts: Literal["ok", "away"]


class ResourceView(BaseModel):
    """A machine that exists only for a run. `last`: what the last look at it found."""

    token: str
    run_id: str
    run_status: str | None
    kind: Kind
    region: str
    status: str
    id: str | None
    last: Ended | None
    intended_at: datetime
    looked_at: datetime | None


class RemovalView(BaseModel):
    """What retention would take from a run, and why."""

    run_id: str
    name: str
    ended_at: datetime
    what: Removable
    why: str
    count: int
    bytes: int | None = None


class KeptView(BaseModel):
    """What is old, and stays as others need it."""

    run_id: str
    what: Removable
    why: str


class RetentionPlan(BaseModel):
    """What would go at the next look. `has_more`: it would take several."""

    removals: list[RemovalView]
    kept: list[KeptView]
    has_more: bool = False


class WorkerView(BaseModel):
    name: str
    service: str
    alive: bool
    capabilities: dict[str, Any]
    registered_at: datetime
    seen_at: datetime
    doing: list[str] = Field(default_factory=list)


class Problem(BaseModel):
    """RFC 9457, with what to do: `hint`, and for each wrong field its path, message and hint."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    errors: list[FieldProblem] = Field(default_factory=list)
