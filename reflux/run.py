"""The state of a run: everything `loop.decide` knows. Frozen; stored in Postgres as one JSON document."""

import re
from typing import Any, Literal, Self

from reflux.commands import Chunk, Command, Review
from reflux.errors import Failure
from reflux.events import AdapterTrained, ChunkScored, DatasetPrepared
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.summary import Comparison, EpochMetrics, Estimate, Frozen, Scores, Summary, Usage

Outcome = Literal["succeeded", "failed", "aborted"]
Stopping = Literal["pause", "abort", "limit", "failure"]


class ScoredChunk(Frozen):
    chunk: Chunk
    scored: ChunkScored | None = None


class LostMachine(Frozen):
    """Why a machine was lost; its `id`, if it had worked."""

    code: str
    id: str | None = None


class Origin(Frozen):
    """The run and its finished epoch from which another run goes on."""

    run_id: str
    epoch: int


class Run(Frozen):
    """`open` are the commands given out and not yet answered; `parked` those that a pause keeps for later.

    While `stopping`, no command is given; once nothing is open, the run goes where `stopping` says.
    `chunks`, `asked`, `admitted`, `refused`, `epoch_usage` and `seconds` belong to the epoch in hand.
    """

    id: str
    spec: RunSpec
    stage: Stage = Stage.QUEUED
    epoch: int = 0
    open: dict[str, Command] = {}
    parked: tuple[Command, ...] = ()
    stopping: Stopping | None = None
    paused: bool = False
    discard: bool = False
    origin: Origin | None = None

    dataset: DatasetPrepared | None = None
    resource_ids: tuple[str, ...] = ()
    lost_machines: tuple[LostMachine, ...] = ()
    taught_paths: tuple[str, ...] = ()
    taught: int = 0
    teaching_failure: Failure | None = None
    corrections_paths: tuple[str, ...] = ()
    job_path: str | None = None

    trained: AdapterTrained | None = None
    chunks: dict[str, ScoredChunk] = {}
    asked: bool = False
    requested: int = 0
    admitted: int = 0
    refused: int = 0
    epoch_usage: Usage = Usage()
    seconds: dict[str, float] = {}

    epochs: tuple[EpochMetrics, ...] = ()
    comparison: Comparison | None = None
    model_path: str | None = None
    estimate: Estimate | None = None
    usage: Usage = Usage()
    warnings: tuple[str, ...] = ()

    outcome: Outcome | None = None
    partial: bool = False
    reason: str = ""
    error: Failure | None = None
    manual_action_required: bool = False

    @property
    def status(self) -> str:
        """What users see."""
        if self.paused:
            return "paused"
        if self.stopping == "abort":
            return "aborting"
        return self.stage.value

    @property
    def waits_for_review(self) -> bool:
        """Whether a person's decision is all that the run waits for."""
        return bool(self.open) and all(isinstance(command, Review) for command in self.open.values())

    @property
    def machine_number(self) -> int:
        """Of the machine that the run has, or gets next; 1 is its first."""
        return len(self.lost_machines) + 1

    @property
    def has_machine(self) -> bool:
        return len(self.resource_ids) > sum(lost.id is not None for lost in self.lost_machines)

    @property
    def ending(self) -> bool:
        """Whether the run is being stopped for good: what still comes in is kept, nothing new is begun."""
        return self.stopping in ("abort", "limit", "failure")

    @property
    def adapter_path(self) -> str | None:
        """The adapter to export: the best one, or, before any was scored, the one just trained."""
        if self.best:
            return self.best.adapter_path
        return self.trained.adapter_path if self.trained else None

    @property
    def best(self) -> EpochMetrics | None:
        """The epoch with the highest choosing score; the earliest of equals."""
        return max(self.epochs, key=lambda e: (e.choosing_score, -e.epoch), default=None)

    @property
    def corrects(self) -> bool:
        """Corrections of the last epoch would be paid for, and never trained on."""
        return self.epoch < self.spec.refining.max_epochs

    @property
    def corrects_at_once(self) -> bool:
        """Poor answers need not wait for the others, as no limit can leave them out."""
        return self.dataset is not None and self.dataset.practice <= self.spec.refining.max_corrections

    def but(self, **changes: Any) -> Self:
        return self.model_copy(update=changes)

    def warned(self, *warnings: str) -> Self:
        new = tuple(w for w in warnings if w not in self.warnings)
        return self.but(warnings=self.warnings + new) if new else self


def fork(run: Run, epoch: int, run_id: str, spec: RunSpec) -> Run:
    """A new run that goes on after a finished `epoch` of `run`: with its dataset, its adapter and its corrections so far."""
    return Run(
        id=run_id,
        spec=spec,
        epoch=epoch,
        origin=Origin(run_id=run.id, epoch=epoch),
        dataset=run.dataset,
        taught_paths=run.taught_paths,
        taught=run.taught,
        corrections_paths=tuple(path for path in run.corrections_paths if _epoch_of(path) <= epoch),
        epochs=tuple(e for e in run.epochs if e.epoch <= epoch),
        estimate=run.estimate,
    )


def _epoch_of(corrections_path: str) -> int:
    """The epoch in whose folder the corrections lie."""
    found = re.search(r"(?:judge|review)-(\d{3})-", corrections_path)
    return int(found[1]) if found else 0


def mean_scores(chunks: dict[str, ScoredChunk], prompt_set: str, model: str = "student") -> Scores:
    """Means over the scored chunks of one set, summed in the chunks' order, so that arrival does not matter."""
    scored = [c.scored for _, c in sorted(chunks.items()) if c.scored and c.chunk.set == prompt_set and c.chunk.model == model]
    count = sum(s.count for s in scored)
    if not count:
        return Scores()
    syntax, protocol, safety, style = (sum(s.parts[i] for s in scored) / count for i in range(4))
    return Scores(
        count=count,
        overall=sum(s.overall for s in scored) / count,
        syntax=syntax,
        protocol=protocol,
        safety=safety,
        style=style,
        compiling=sum(s.compiling for s in scored) / count,
    )


def epoch_metrics(run: Run) -> EpochMetrics:
    """The epoch in hand, finished."""
    assert run.trained is not None
    practice = mean_scores(run.chunks, "practice")
    dev = mean_scores(run.chunks, "dev")
    poor = sum(c.scored.poor for c in run.chunks.values() if c.scored and c.chunk.set == "practice")
    return EpochMetrics(
        epoch=run.epoch,
        adapter_path=run.trained.adapter_path,
        train_loss=run.trained.train_loss,
        val_loss=run.trained.val_loss,
        steps=run.trained.steps,
        rows=run.trained.rows,
        practice=practice,
        dev=dev if dev.count else None,
        correction_rate=poor / practice.count if practice.count else 0.0,
        requested=run.requested,
        admitted=run.admitted,
        refused=run.refused,
        usage=run.epoch_usage,
        seconds=run.seconds,
    )


def summary(run: Run) -> Summary:
    counts: dict[str, int] = {}
    if run.dataset:
        names = ("files", "train", "val", "practice", "dev", "test")
        counts = {name: getattr(run.dataset, name) for name in names} | {"taught": run.taught}
    return Summary(
        run_id=run.id,
        name=run.spec.name,
        recipe=run.spec.recipe,
        outcome=run.outcome,
        reason=run.reason,
        partial=run.partial,
        student=run.spec.student.model,
        teacher=_teacher(run.spec) if run.spec.recipe == "distill" else None,
        counts=counts,
        epochs=run.epochs,
        best_epoch=run.best.epoch if run.best else None,
        comparison=run.comparison,
        usage=run.usage,
        estimate=run.estimate,
        warnings=run.warnings,
        error=str(run.error) if run.error else None,
    )


def _teacher(spec: RunSpec) -> str:
    """Recorded answers are not the model's whose name the spec gives."""
    return "recorded answers" if spec.teacher.provider == "recorded" else spec.teacher.model
