"""When the loop stops. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from reflux.spec import Refining
from reflux.summary import EpochMetrics


@dataclass(frozen=True)
class Decision:
    """`reason` is set when the loop stops; `converged` when it stops because the student is good enough."""

    reason: str | None = None
    converged: bool = False


def check(epochs: tuple[EpochMetrics, ...], refining: Refining) -> Decision:
    """Whether the loop stops after the last of `epochs`."""
    at_threshold = _last_in_a_row(epochs, lambda e: e.practice.overall >= refining.target_score)
    low_rate = _last_in_a_row(epochs, lambda e: e.practice.count > 0 and e.correction_rate < refining.min_correction_rate)
    if at_threshold >= refining.patience:
        return Decision("quality threshold met", converged=True)
    if low_rate >= refining.patience:
        return Decision("few corrections", converged=True)
    if len(epochs) >= refining.max_epochs:
        return Decision("max epochs")
    return Decision()


def _last_in_a_row(epochs: tuple[EpochMetrics, ...], holds: Callable[[EpochMetrics], bool]) -> int:
    count = 0
    for epoch in reversed(epochs):
        if not holds(epoch):
            break
        count += 1
    return count
