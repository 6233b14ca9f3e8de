"""Events: facts in the past tense. A fact from a worker names, by `key`, the command that it answers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from reflux.commands import Chunk
from reflux.errors import Failure
from reflux.machines import Ended
from reflux.stages import Stage
from reflux.summary import Comparison, Usage


class Fact(BaseModel):
    model_config = ConfigDict(frozen=True)

    v: int = 1


class Answering(Fact):
    """A fact that a worker reports about one command of the run."""

    key: str
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


# What people and the clock ask for


class RunAdmitted(Fact):
    type: Literal["run_admitted"] = "run_admitted"


class AbortRequested(Fact):
    type: Literal["abort_requested"] = "abort_requested"
    by: str = ""
    discard: bool = False


class PauseRequested(Fact):
    type: Literal["pause_requested"] = "pause_requested"
    by: str = ""


class ResumeRequested(Fact):
    type: Literal["resume_requested"] = "resume_requested"
    by: str = ""


class TimeLimitReached(Fact):
    """The run has lasted as long as it may; or `stage`, which it is in, has."""

    type: Literal["time_limit_reached"] = "time_limit_reached"
    stage: Stage | None = None


class CleanupOverdue(Fact):
    type: Literal["cleanup_overdue"] = "cleanup_overdue"


class MachineLost(Fact):
    """The run's `number`th machine is of no use any more, or never was. `resource_id` is the provider's, where it is known."""

    type: Literal["machine_lost"] = "machine_lost"
    number: int
    resource_id: str | None = None
    failure: Failure


# What workers report


class PreflightPassed(Answering):
    type: Literal["preflight_passed"] = "preflight_passed"


class MachineProvisioned(Answering):
    type: Literal["machine_provisioned"] = "machine_provisioned"
    resource_id: str


class DatasetPrepared(Answering):
    """`skipped` counts source files that were left out, by reason. `practice_characters`: of all practice prompts together."""

    type: Literal["dataset_prepared"] = "dataset_prepared"
    train_path: str
    val_path: str
    prompts_path: str
    files: int
    train: int
    val: int
    practice: int
    dev: int
    test: int
    practice_characters: int = 0
    skipped: dict[str, int] = Field(default_factory=dict)


class PromptsTaught(Answering):
    """`unasked` were left, as the command's budget was used up."""

    type: Literal["prompts_taught"] = "prompts_taught"
    path: str
    answered: int
    failed: int
    unasked: int = 0
    usage: Usage = Usage()


class AdapterTrained(Answering):
    """`rows` were trained on, `rows_truncated` of them cut to `max_length`."""

    type: Literal["adapter_trained"] = "adapter_trained"
    adapter_path: str
    train_loss: float
    val_loss: float | None = None
    steps: int
    rows: int
    rows_truncated: int = 0


class JobFinished(Answering):
    type: Literal["job_finished"] = "job_finished"
    outputs_path: str


class ChunkGenerated(Fact):
    """A piece of a Generate that goes on."""

    type: Literal["chunk_generated"] = "chunk_generated"
    key: str
    chunk: Chunk


class AnswersGenerated(Answering):
    type: Literal["answers_generated"] = "answers_generated"
    chunks: tuple[Chunk, ...]
    tokens: int


class ChunkScored(Answering):
    """Sums over the `count` answers of the chunk; the parts are syntax, protocol, safety, style. `poor` need correction."""

    type: Literal["chunk_scored"] = "chunk_scored"
    chunk: str
    path: str
    count: int
    poor: int
    compiling: int
    overall: float
    parts: tuple[float, float, float, float]


class CorrectionsWritten(Answering):
    type: Literal["corrections_written"] = "corrections_written"
    path: str
    requested: int
    answered: int
    unasked: int = 0
    usage: Usage = Usage()


class CorrectionsJudged(Answering):
    """`path` holds all corrections, each marked admitted or refused."""

    type: Literal["corrections_judged"] = "corrections_judged"
    path: str
    admitted: int
    refused: int


class CorrectionsReviewed(Answering):
    """A person has decided. `path` holds the corrections, each marked admitted or not; `edited_path` those to be judged again."""

    type: Literal["corrections_reviewed"] = "corrections_reviewed"
    path: str
    admitted: int
    refused: int
    edited: int = 0
    edited_path: str | None = None
    by: str = ""


class ModelsCompared(Answering):
    type: Literal["models_compared"] = "models_compared"
    comparison: Comparison


class ModelExported(Answering):
    type: Literal["model_exported"] = "model_exported"
    path: str
    files: int
    merged: bool = False


class ResultsDelivered(Answering):
    type: Literal["results_delivered"] = "results_delivered"
    targets: tuple[str, ...] = ()


class CleanedUp(Answering):
    """`machines`: what became of each that the run had."""

    type: Literal["cleaned_up"] = "cleaned_up"
    path: str
    machines: tuple[Ended, ...] = ()
    manual_action_required: bool = False


class TaskFailed(Answering):
    """The attempts are used up, or the error is terminal."""

    type: Literal["task_failed"] = "task_failed"
    failure: Failure


class TaskStopped(Answering):
    """Asked to stop, the task saved its work; `forced`: its worker had to be cut off, or it had never begun."""

    type: Literal["task_stopped"] = "task_stopped"
    forced: bool = False


Event = Annotated[
    RunAdmitted
    | AbortRequested
    | PauseRequested
    | ResumeRequested
    | TimeLimitReached
    | CleanupOverdue
    | MachineLost
    | PreflightPassed
    | MachineProvisioned
    | DatasetPrepared
    | PromptsTaught
    | AdapterTrained
    | JobFinished
    | ChunkGenerated
    | AnswersGenerated
    | ChunkScored
    | CorrectionsWritten
    | CorrectionsJudged
    | CorrectionsReviewed
    | ModelsCompared
    | ModelExported
    | ResultsDelivered
    | CleanedUp
    | TaskFailed
    | TaskStopped,
    Field(discriminator="type"),
]
EventAdapter: TypeAdapter[Event] = TypeAdapter(Event)

# The fact that says that a command of this kind is done
ANSWERS: dict[str, type[Answering]] = {
    "preflight": PreflightPassed,
    "provision": MachineProvisioned,
    "prepare": DatasetPrepared,
    "teach": PromptsTaught,
    "train": AdapterTrained,
    "run_job": JobFinished,
    "generate": AnswersGenerated,
    "score": ChunkScored,
    "correct": CorrectionsWritten,
    "judge": CorrectionsJudged,
    "review": CorrectionsReviewed,
    "compare": ModelsCompared,
    "export_model": ModelExported,
    "deliver": ResultsDelivered,
    "clean_up": CleanedUp,
}
