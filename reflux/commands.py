"""Commands: orders in the imperative, each carried out by one worker. Ids and paths in the artifact store, no payloads.

`key` names a command within its run, for good: the same order given twice is one task.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from reflux.machines import Machine
from reflux.records import PromptSet
from reflux.stages import Stage
from reflux.summary import Summary


class Order(BaseModel):
    model_config = ConfigDict(frozen=True)

    v: int = 1
    stage: Stage
    epoch: int = 0

    @property
    def key(self) -> str:
        raise NotImplementedError


class Chunk(BaseModel):
    """A fixed group of answers, generated and scored together."""

    model_config = ConfigDict(frozen=True)

    set: PromptSet
    index: int
    model: Literal["student", "base", "best"] = "student"
    path: str
    count: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.set}-{self.index:04d}"


class Preflight(Order):
    """Check everything that can be checked before work is paid for."""

    kind: Literal["preflight"] = "preflight"

    @property
    def key(self) -> str:
        return "preflight"


class Provision(Order):
    """Make the machine that exists only for this run, the `number`th, after `wait_seconds`.

    `machine`, its recorded intent, is filled in when it is claimed.
    """

    kind: Literal["provision"] = "provision"
    number: int = 1
    wait_seconds: float = 0.0
    machine: Machine | None = None

    @property
    def key(self) -> str:
        return "provision" if self.number == 1 else f"provision-{self.number}"


class Prepare(Order):
    """Make train.jsonl, val.jsonl and prompts.jsonl out of the sources."""

    kind: Literal["prepare"] = "prepare"

    @property
    def key(self) -> str:
        return "prepare"


class Teach(Order):
    """Let the teacher answer the practice prompts [start, stop), for `budget_usd` at most."""

    kind: Literal["teach"] = "teach"
    shard: int
    start: int
    stop: int
    prompts_path: str
    budget_usd: float | None = None

    @property
    def key(self) -> str:
        return f"teach-{self.shard:04d}"


class Train(Order):
    """Fine-tune the adapter on examples, taught answers and admitted corrections."""

    kind: Literal["train"] = "train"
    train_path: str
    val_path: str
    taught_paths: tuple[str, ...] = ()
    corrections_paths: tuple[str, ...] = ()
    adapter_path: str | None = None

    @property
    def key(self) -> str:
        return f"train-{self.epoch:03d}"


class RunJob(Order):
    """Run the user's own training command (recipe `job`)."""

    kind: Literal["run_job"] = "run_job"

    @property
    def key(self) -> str:
        return "run_job"


class Generate(Order):
    """Answer the prompts of `sets`, chunk by chunk. Without `adapter_path` the base model answers."""

    kind: Literal["generate"] = "generate"
    model: Literal["student", "base", "best"]
    sets: tuple[PromptSet, ...]
    samples: int = 1
    max_new_tokens: int
    prompts_path: str
    adapter_path: str | None = None

    @property
    def key(self) -> str:
        return f"generate-{self.epoch:03d}-{self.model}"


class Score(Order):
    """Score one chunk of answers."""

    kind: Literal["score"] = "score"
    chunk: Chunk

    @property
    def key(self) -> str:
        return f"score-{self.epoch:03d}-{self.chunk.name}"


class Correct(Order):
    """Let the teacher correct poor answers: the worst `limit` of the verdicts named, shard i of n, or (ask 2) those refused.

    No call is begun that could take the cost of this command over `budget_usd`.
    """

    kind: Literal["correct"] = "correct"
    shard: int
    shards: int = 1
    ask: int = 1
    limit: int | None = None
    answers_paths: tuple[str, ...] = ()
    verdicts_paths: tuple[str, ...] = ()
    refused_path: str | None = None
    budget_usd: float | None = None

    @property
    def key(self) -> str:
        return f"correct-{self.epoch:03d}-{self.shard:04d}-{self.ask}"


class Judge(Order):
    """Score corrections; admit those that compile at least as well and score higher than the student's answer.

    `edited`: a person has rewritten them in a review.
    """

    kind: Literal["judge"] = "judge"
    shard: int
    ask: int
    edited: bool = False
    corrections_path: str

    @property
    def key(self) -> str:
        return f"judge-{self.epoch:03d}-{self.shard:04d}-{self.ask}{'-edited' if self.edited else ''}"


class Review(Order):
    """Approve, edit or refuse the admitted corrections. Carried out by a person, through the API; no worker hears of it."""

    kind: Literal["review"] = "review"
    shard: int
    ask: int
    corrections_path: str

    @property
    def key(self) -> str:
        return f"review-{self.epoch:03d}-{self.shard:04d}-{self.ask}"


class Compare(Order):
    """Compare base and best on the test prompts, with an interval."""

    kind: Literal["compare"] = "compare"
    base_paths: tuple[str, ...]
    best_paths: tuple[str, ...]

    @property
    def key(self) -> str:
        return "compare"


class ExportModel(Order):
    """Write adapter, tokenizer and, if asked, merged weights."""

    kind: Literal["export_model"] = "export_model"
    adapter_path: str

    @property
    def key(self) -> str:
        return "export_model"


class Deliver(Order):
    """Copy the exported files to the run's own folder and every target of the spec, with model card and summary."""

    kind: Literal["deliver"] = "deliver"
    model_path: str
    train_path: str | None = None
    summary: Summary

    @property
    def key(self) -> str:
        return "deliver"


class CleanUp(Order):
    """Delete what the run made and nothing accepted; write cleanup_status.json, the summary and the report.

    Filled in when the command is claimed: `keep_prefixes`, the folders of the attempts accepted by then, and `machines`, which
    the run may still have outside.
    """

    kind: Literal["clean_up"] = "clean_up"
    keep_prefixes: tuple[str, ...] = ()
    machines: tuple[Machine, ...] = ()
    discard: bool = False
    resource_ids: tuple[str, ...] = ()
    prompts_path: str | None = None
    summary: Summary

    @property
    def key(self) -> str:
        return "clean_up"


Command = Annotated[
    Preflight
    | Provision
    | Prepare
    | Teach
    | Train
    | RunJob
    | Generate
    | Score
    | Correct
    | Judge
    | Review
    | Compare
    | ExportModel
    | Deliver
    | CleanUp,
    Field(discriminator="kind"),
]
CommandAdapter: TypeAdapter[Command] = TypeAdapter(Command)


def kind_of(key: str) -> str:
    return key.split("-", maxsplit=1)[0]


def whereabouts(key: str) -> tuple[Stage, int | None]:
    """The stage whose command `key` names, and its epoch if the stage comes once an epoch. ValueError if no command has it."""
    match key.split("-"):
        case ["preflight"]:
            return Stage.VALIDATING, None
        case ["provision"] | ["provision", _]:
            return Stage.PROVISIONING, None
        case ["prepare"]:
            return Stage.PREPARING, None
        case ["teach", _]:
            return Stage.TEACHING, None
        case ["train", epoch]:
            return Stage.TRAINING, int(epoch)
        case ["run_job"]:
            return Stage.TRAINING, 1
        case ["generate" | "score", epoch, "base" | "best", *_]:
            return Stage.EVALUATING, int(epoch)
        case ["generate" | "score" | "correct" | "judge" | "review", epoch, _, *_]:
            return Stage.REFINING, int(epoch)
        case ["compare"]:
            return Stage.EVALUATING, None
        case ["export_model" | "deliver"]:
            return Stage.EXPORTING, None
        case ["clean_up"]:
            return Stage.CLEANING_UP, None
    raise ValueError(f"no command has the key {key}")
