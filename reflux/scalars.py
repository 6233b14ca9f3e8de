"""A run in scalars, under the names and at the steps at which MLflow and TensorBoard draw them.

What workers tell (`loss`, `tokens_per_second` …) keeps its name; its steps go on from one epoch to the next. What is known
once an epoch is finished, or the run over, stands at the epoch's number.
"""

from collections.abc import Sequence

from reflux.summary import Comparison, EpochMetrics, Scores, Usage

PARTS = ("overall", "syntax", "protocol", "safety", "style", "compiling")


def steps_before(epochs: Sequence[EpochMetrics]) -> dict[int, int]:
    """How many steps were made before each epoch; the one in hand too."""
    before, found = 0, {}
    for epoch in epochs:
        found[epoch.epoch] = before
        before += epoch.steps
    found[(epochs[-1].epoch if epochs else 0) + 1] = before
    return found


def of_epoch(epoch: EpochMetrics) -> dict[str, float]:
    """Scores in [0, 10], rates and `compiling` as shares, USD, seconds."""
    found = {"epoch/train_loss": epoch.train_loss, "epoch/rows": epoch.rows, "epoch/correction_rate": epoch.correction_rate}
    if epoch.val_loss is not None:
        found["epoch/val_loss"] = epoch.val_loss
    found |= _scores("practice", epoch.practice) | (_scores("dev", epoch.dev) if epoch.dev else {})
    found |= {f"corrections/{name}": getattr(epoch, name) for name in ("requested", "admitted", "refused")}
    found |= {f"seconds/{kind}": seconds for kind, seconds in epoch.seconds.items()}
    return {name: float(value) for name, value in (found | of_usage("teacher", epoch.usage)).items()}


def of_comparison(comparison: Comparison) -> dict[str, float]:
    gained = {f"test/{name}": getattr(comparison, name) for name in ("difference", "low", "high")}
    return _scores("test/base", comparison.base) | _scores("test/best", comparison.best) | gained


def of_usage(prefix: str, usage: Usage) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in usage.model_dump().items()}


def _scores(prefix: str, scores: Scores) -> dict[str, float]:
    return {f"{prefix}/{part}": getattr(scores, part) for part in PARTS} if scores.count else {}
