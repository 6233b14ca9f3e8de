"""What a run can say about itself: the epochs, what the teacher cost, base against best."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Usage(Frozen):
    """What the teacher was asked, and what it cost.

    `calls` counts answers bought, not tries; `reused` those that another run had bought. `at_risk` are calls whose answer
    never came, as a worker died or the road broke: the provider may have charged for them.
    """

    calls: int = 0
    reused: int = 0
    at_risk: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})

    def __sub__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) - getattr(other, name) for name in type(self).model_fields})


class Estimate(Frozen):
    """What a run will ask its teacher for: what is likely, and the most that its spec allows."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    most_calls: int
    most_cost_usd: float


class Scores(Frozen):
    """Means in [0, 10] over `count` answers; `compiling` is a share."""

    count: int = 0
    overall: float = 0.0
    syntax: float = 0.0
    protocol: float = 0.0
    safety: float = 0.0
    style: float = 0.0
    compiling: float = 0.0


class EpochMetrics(Frozen):
    """One finished epoch. `correction_rate` is poor / generated, over the practice prompts."""

    epoch: int
    adapter_path: str
    train_loss: float
    val_loss: float | None = None
    steps: int
    rows: int
    practice: Scores
    dev: Scores | None = None
    correction_rate: float
    requested: int = 0
    admitted: int = 0
    refused: int = 0
    usage: Usage = Usage()
    seconds: dict[str, float] = {}

    @property
    def choosing_score(self) -> float:
        """What the best adapter is chosen by: dev, which is never practised, where there is one."""
        return (self.dev or self.practice).overall


class Comparison(Frozen):
    """Base against best on the test prompts. `difference` has a bootstrap interval over prompts, [low, high] at 95%."""

    prompts: int
    samples: int
    base: Scores
    best: Scores
    difference: float
    low: float
    high: float

    @property
    def gained(self) -> bool:
        return self.low > 0


class Summary(Frozen):
    """The run as its last page tells it; `training_summary.json`."""

    run_id: str
    name: str
    recipe: str
    outcome: Literal["succeeded", "failed", "aborted"] | None
    reason: str
    partial: bool = False
    student: str
    teacher: str | None
    counts: dict[str, int] = {}
    epochs: tuple[EpochMetrics, ...] = ()
    best_epoch: int | None = None
    comparison: Comparison | None = None
    usage: Usage = Usage()
    estimate: Estimate | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None

    @property
    def teaching_usage(self) -> Usage:
        """What was bought before the first epoch."""
        return self.usage - sum((epoch.usage for epoch in self.epochs), Usage())
