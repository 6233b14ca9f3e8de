"""Base against best on the same prompts: means, and how sure one may be of the difference."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from reflux.errors import Terminal
from reflux.records import Verdict
from reflux.summary import Comparison, Scores

RESAMPLES = 2000


def compare(base: Iterable[Verdict], best: Iterable[Verdict], seed: int) -> Comparison:
    """Paired by prompt. The interval is the middle 95% of RESAMPLES bootstrap means of the differences.

    Terminal(empty_dataset) when no prompt was answered by both.
    """
    base_rows, best_rows = _by_prompt(base), _by_prompt(best)
    prompts = sorted(set(base_rows) & set(best_rows))
    if not prompts:
        raise Terminal(
            "empty_dataset",
            "no test prompt was answered by both the base model and the best adapter: there is nothing to compare",
            "Set prompts.test to at least 1, or switch evaluation.enabled off.",
        )
    differences = [_mean_overall(best_rows[prompt]) - _mean_overall(base_rows[prompt]) for prompt in prompts]
    low, high = _interval(differences, seed)
    return Comparison(
        prompts=len(prompts),
        samples=max(len(rows[prompt]) for rows in (base_rows, best_rows) for prompt in prompts),
        base=_scores([base_rows[prompt] for prompt in prompts]),
        best=_scores([best_rows[prompt] for prompt in prompts]),
        difference=sum(differences) / len(differences),
        low=low,
        high=high,
    )


def _by_prompt(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    rows = defaultdict[str, list[Verdict]](list)
    for verdict in verdicts:
        rows[verdict.prompt_id].append(verdict)
    return rows


def _mean_overall(rows: Sequence[Verdict]) -> float:
    return sum(row.overall for row in rows) / len(rows)


def _interval(differences: Sequence[float], seed: int) -> tuple[float, float]:
    chance = random.Random(seed)  # noqa: S311 resampling, no secret
    count = len(differences)
    means = sorted(sum(chance.choices(differences, k=count)) / count for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def _scores(prompts: Sequence[Sequence[Verdict]]) -> Scores:
    """Each prompt weighs the same, however many samples it has; `count` counts the answers."""

    def mean(part: str) -> float:
        return sum(sum(float(getattr(row, part)) for row in rows) / len(rows) for rows in prompts) / len(prompts)

    parts = {part: mean(part) for part in ("overall", "syntax", "protocol", "safety", "style")}
    return Scores(count=sum(map(len, prompts)), **parts, compiling=mean("compiles"))
