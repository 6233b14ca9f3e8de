"""RunSpec: what a user submits. Every default of a run stands here, and nowhere else."""

import difflib
import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from reflux import presets
from reflux.field_problems import FieldProblem as FieldProblem  # noqa: PLC0414 whoever checks a spec reads its problems
from reflux.field_problems import problem, wrong

MOST = 2**31 - 1
Positive = Annotated[int, Field(gt=0, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=0, le=10)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Student(Section):
    model: str = Field(
        "ibm-granite/granite-8b-code-instruct-128k", description="A hub id, a local path, or `package:` with a GGUF file"
    )
    revision: str | None = Field(None, description="The hub commit; resolved and recorded when it is left out")
    method: Literal["lora", "qlora", "full"] = "qlora"
    quantization: Literal["nf4", "none"] = "nf4"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _method_decides_quantization(cls, data: Any) -> Any:
        if isinstance(data, dict) and "quantization" not in data and data.get("method") in ("lora", "full"):
            return {**data, "quantization": "none"}
        return data

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.method == "qlora") != (self.quantization == "nf4"):
            raise wrong("student.quantization", "method qlora goes with nf4, lora and full with none", "Leave it out.")
        return self


class Lora(Section):
    r: Positive = 32
    alpha: Positive = 64
    dropout: Share = 0.05


class Source(Section):
    uri: str = Field(description="file:// or s3:// prefix of source files")
    domain: str = Field("generic", pattern=r"^[a-z0-9_-]{1,40}$")


class Data(Section):
    sources: tuple[Source, ...] = ()
    max_files_per_type: Positive | None = None
    max_file_bytes: Positive = 1_000_000
    validation_share: Share = 0.10
    licences: tuple[str, ...] = Field((), description="SPDX ids that may be used; empty: all")
    exclude: tuple[str, ...] = Field((), description="Glob patterns of paths that may not")
    near_duplicate_threshold: Share = 0.85
    train: str | None = Field(None, description="finetune: JSONL or .csv of `messages`, `prompt` and `completion`, or `text`")
    validation: str | None = None


class Prompts(Section):
    uri: str | None = Field(None, description="JSONL of prompts; left out: made from the sources")
    practice: Positive = 200
    dev: Count = 50
    test: Count = 50
    system: str = Field(
        "You are an expert in automotive embedded C (TSN, AVB, gPTP, CARLA). "
        "Answer with one complete, MISRA-minded C function in a ```c block, and nothing else.",
        description="The system prompt of student and teacher",
    )


class Teacher(Section):
    provider: Literal["bedrock", "openai", "recorded"] = Field(
        "bedrock", description="openai: any server that speaks its chat completions (vLLM, Ollama, a gateway)"
    )
    model: str = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    region: str = "us-east-1"
    api: Literal["converse", "invoke"] = Field("converse", description="bedrock: Converse, or InvokeModel with a Messages body")
    profile: str | None = Field(None, description="bedrock: a profile of the teacher workers' AWS configuration")
    endpoint_url: str | None = Field(None, description="Another endpoint than the provider's own; openai: with its /v1")
    answers_uri: str | None = Field(None, description="recorded: JSONL of prompts and answers; left out: the stack's own")
    hosted: bool | None = Field(
        None, description="Whether what it is asked leaves the company; left out: yes, but for recorded answers"
    )
    terms_acknowledged: bool = Field(False, description="You may train a model on this teacher's answers")
    reuse: bool = Field(False, description="Take answers that other runs bought, to the same question at the same settings")
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    max_teacher_tokens: Positive = 2048
    concurrency: Positive = Field(10, description="Calls at once, at most, over all workers")
    tries: Positive = 5
    backoff_seconds: Annotated[float, Field(gt=0)] = 1.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    input_usd_per_million: Annotated[float, Field(ge=0)] | None = Field(None, description="Left out: by the price table")
    output_usd_per_million: Annotated[float, Field(ge=0)] | None = Field(None, description="Left out: by the price table")
    skip_check: bool = Field(False, description="Do not send the tiny test prompt in preflight")

    @property
    def is_hosted(self) -> bool:
        """Whether prompts go to somebody else's machine."""
        return self.provider != "recorded" if self.hosted is None else self.hosted


class Teaching(Section):
    enabled: bool = True
    required: bool = True
    max_prompts: Positive | None = Field(None, description="Teach only the first so many practice prompts")
    shard_size: Positive = 50


class Training(Section):
    epochs: Positive = Field(1, description="Passes over the rows within one training stage")
    max_steps: Positive | None = Field(None, description="Optimizer steps per training stage, whatever the rows")
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    batch_size: Positive = 1
    accumulation: Positive = 8
    warmup_steps: Count = 10
    max_length: Positive = 4096
    gradient_checkpointing: bool = True
    packing: bool = False
    sharding: Literal["none", "fsdp"] = Field(
        "none",
        description="fsdp: where a worker trains on several GPUs, each holds a part of weights, gradients and moments",
    )
    log_steps: Positive = 10
    eval_steps: Positive = 50
    checkpoint_steps: Positive = 100
    early_stop_patience: Positive = 3
    restart_from_base: bool = False
    max_examples: Positive | None = Field(
        None, description="At most so many source examples per training stage, drawn by seed and epoch"
    )


class Generation(Section):
    max_new_tokens: Positive = 1024
    test_max_new_tokens: Positive = 512
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_prompt_tokens: Positive = 4096
    batch_size: Positive = 16
    chunk_size: Positive = 16
    stop_at_fence: bool = True
    test_samples: Positive = Field(3, description="Answers per test prompt, for base and best alike")


class Refining(Section):
    quality_threshold: Score = 7.0
    target_score: Score = 8.0
    patience: Positive = 3
    min_correction_rate: Share = 0.10
    max_corrections: Positive = 500
    max_epochs: Annotated[int, Field(gt=0, le=10_000)] = 10
    review: bool = Field(False, description="Hold admitted corrections until a person has approved, edited or refused them")


class Rubric(Section):
    """How answers are scored. `overrides` by field name; `services/evaluator/rubric.py` has them all."""

    overrides: dict[str, float] = Field(default_factory=dict)
    misra: bool = Field(False, description="Look for MISRA C:2012 violations too; the evaluators need cppcheck")
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="Further protocol words by domain")
    include_dirs: tuple[str, ...] = Field((), description="Folders of your own headers, as the evaluators see them")
    defines: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(=[^\n]*)?$")], ...] = Field((), description="NAME or NAME=value")
    std_c: Literal["c99", "c11", "c17", "gnu99", "gnu11", "gnu17"] = "c11"
    std_cxx: Literal["c++11", "c++14", "c++17", "c++20", "gnu++17"] = "c++17"
    warnings: tuple[Annotated[str, Field(pattern=r"^-W[a-z][a-z0-9=+-]*$")], ...] = Field((), description="Such as -Wconversion")


class Evaluation(Section):
    enabled: bool = True


class Export(Section):
    merge: bool = False
    output_uri: str | None = Field(None, description="Where the results go besides the run's own artifacts")
    data_uri: str | None = None
    hub_repo: str | None = None


def _span(value: object) -> object:
    """`12h` as ISO 8601."""
    short = re.fullmatch(r"(\d+)\s*([smhd])", value) if isinstance(value, str) else None
    if short is None:
        return value
    number, unit = short.groups()
    return f"P{number}D" if unit == "d" else f"PT{number}{unit.upper()}"


Span = Annotated[timedelta, BeforeValidator(_span), Field(gt=timedelta(0))]
StageSpan = Annotated[Span | None, Field(description="As 90s, 30m, 12h, 2d or ISO 8601 (PT12H), each time anew")]


class StageLimits(Section):
    """How long a stage may last, counted each time that the run enters it. docs/states.md says what follows in each."""

    validating: StageSpan = None
    provisioning: StageSpan = None
    preparing: StageSpan = None
    teaching: StageSpan = None
    training: StageSpan = None
    refining: StageSpan = None
    evaluating: StageSpan = None
    exporting: StageSpan = None

    @model_validator(mode="before")
    @classmethod
    def _cleanup_must_finish(cls, data: Any) -> Any:
        if isinstance(data, dict) and "cleaning_up" in data:
            hint = "Set limits.cleanup_seconds: past it the run ends, and what is left is cleaned up afterwards."
            raise wrong("limits.max_stage_runtime.cleaning_up", "cleaning up can't fail a run", hint)
        return data


class Limits(Section):
    max_runtime: Span = Field(
        timedelta(hours=12),
        description="As 90s, 30m, 12h, 2d or ISO 8601 (PT12H). At the limit the best adapter so far is exported",
    )
    max_stage_runtime: StageLimits = Field(StageLimits(), description="The same by stage, such as {training: 4h}")
    max_teacher_cost_usd: Annotated[float, Field(gt=0)] | None = None
    min_disk_gb: Annotated[float, Field(ge=0)] = 15.0
    stall_seconds: Annotated[float, Field(gt=0)] = Field(1800.0, description="No progress for so long: the attempt is killed")
    cleanup_seconds: Annotated[float, Field(gt=0)] = 900.0


class Compute(Section):
    """Where the GPU work is done. `ec2` and `sagemaker`: on a machine that exists only for this run.

    What is left out is taken from the file that the teacher workers' REFLUX_MACHINES names.
    """

    kind: Literal["local", "ec2", "sagemaker"] = "local"
    region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{4,30}$")
    instance_type: str | None = Field(None, description="Such as g5.2xlarge; sagemaker: ml.g5.2xlarge")
    image: str | None = Field(
        None,
        description="ec2: the AMI, with Docker and the NVIDIA driver; sagemaker: the worker's image in ECR, or worker_image",
    )
    subnet_id: str | None = None
    security_group_ids: tuple[str, ...] = ()
    instance_profile: str | None = Field(None, description="ec2: name of the profile that may read and write the artifact store")
    role_arn: str | None = Field(None, description="sagemaker: the role that the job takes on")
    volume_gb: Annotated[int, Field(ge=8, le=16_000)] = 100
    spot: bool = False
    other_instance_types: tuple[str, ...] = Field((), description="Asked for in turn, where a machine was not to be had or lost")
    other_subnet_ids: tuple[str, ...] = Field((), description="Each type is tried in each subnet before the next type")
    max_wait: Span = Field(timedelta(hours=24), description="sagemaker with spot: from the request to the end, at most")
    start_seconds: Annotated[float, Field(gt=0)] = Field(
        900.0, description="From the request to the machine's first word, at most"
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Further tags of everything that is made")

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data


class Job(Section):
    """recipe job: any command. It finds its folders in REFLUX_INPUTS, REFLUX_OUTPUTS and REFLUX_CHECKPOINTS."""

    command: tuple[str, ...] = Field((), description="Program and arguments, without a shell; `python` is the worker's own")
    code_uri: str | None = Field(None, description="A folder or prefix that is copied to where the command runs")
    inputs_uri: str | None = Field(None, description="A folder or prefix that is copied to REFLUX_INPUTS before")
    outputs_uri: str | None = Field(None, description="Where REFLUX_OUTPUTS is copied to afterwards, beside the run's artifacts")
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="As JSON in the file REFLUX_PARAMETERS")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Further variables; no secrets, they are kept with the run"
    )
    container: str | None = Field(None, description="An image to run the command in; the worker needs Docker or Podman")
    stop_seconds: Annotated[float, Field(gt=0)] = Field(10.0, description="From SIGTERM to SIGKILL, when the command is to end")
    checkpoint_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="How often what is new in REFLUX_CHECKPOINTS is stored"
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or name.startswith("REFLUX_"):
                hint = "Letters, digits and _; names that begin with REFLUX_ are ours."
                raise wrong("job.environment", f"{name!r:.60} can't be a variable of the command", hint)
        return self


class RunSpec(Section):
    name: str = Field("run", min_length=1, max_length=100)
    recipe: Literal["distill", "finetune", "job"] = "distill"
    preset: str | None = Field(None, description="Fills in what the spec leaves open; `GET /v1/presets` has them")
    seed: Annotated[int, Field(ge=-MOST, le=MOST)] = 42
    metadata: dict[str, str] = Field(default_factory=dict)
    student: Student = Student()
    lora: Lora = Lora()
    data: Data = Data()
    prompts: Prompts = Prompts()
    teacher: Teacher = Teacher()
    teaching: Teaching = Teaching()
    training: Training = Training()
    generation: Generation = Generation()
    refining: Refining = Refining()
    rubric: Rubric = Rubric()
    evaluation: Evaluation = Evaluation()
    export: Export = Export()
    limits: Limits = Limits()
    compute: Compute = Compute()
    job: Job = Job()

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(name := data.get("preset"), str):
            return data
        if name not in presets.PRESETS:
            near = difflib.get_close_matches(name, presets.PRESETS, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"One of: {', '.join(presets.PRESETS)}."
            raise wrong("preset", f"there is no preset {name!r:.80}", hint)
        return presets.filled(data, presets.PRESETS[name])

    @model_validator(mode="after")
    def _recipe_has_what_it_needs(self) -> Self:
        needs = {
            "distill": ("data.sources", self.data.sources, "Name at least one file:// or s3:// prefix with source files."),
            "finetune": ("data.train", self.data.train, "Name a JSONL or CSV file of your rows."),
            "job": ("job.command", self.job.command, "Name the command to run."),
        }
        field, given, hint = needs[self.recipe]
        if not given:
            raise wrong(field, f"the recipe {self.recipe} needs it", hint)
        return self


def check(data: object) -> tuple[RunSpec | None, list[FieldProblem]]:
    """The spec that `data` (parsed YAML or JSON) describes, or all that is wrong with it."""
    if not isinstance(data, dict):
        return None, [FieldProblem(field="", message="a spec is a mapping of sections", hint="Start with `name:` and `data:`.")]
    try:
        return RunSpec.model_validate(data), []
    except pydantic.ValidationError as error:
        return None, [problem(RunSpec, detail) for detail in error.errors(include_url=False)]
