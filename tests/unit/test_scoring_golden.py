"""Answers with the scores and the evidence that the rubric, read by a person, gives them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from reflux.records import Evidence, Verdict
from services.evaluator.rubric import Rubric
from services.evaluator.score import Attempt, the_scorer

GOLDEN = [
    (path.stem, row)
    for path in sorted((Path(__file__).parent / "golden").glob("*.yaml"))
    for row in yaml.safe_load(path.read_text())
]
PARTS = ("syntax", "protocol", "safety", "style")
WEIGHTS = (0.30, 0.30, 0.25, 0.15)


def verdict_on(row: dict[str, Any]) -> Verdict:
    return the_scorer().score(Attempt(row["answer"], row.get("prompt", ""), row.get("domain", "generic")))


def matches(item: Evidence, wanted: str) -> bool:
    """`wanted` is "rule@line points", without what does not matter."""
    place, *points = wanted.split()
    rule, *line = place.split("@")
    return (
        item.rule == rule
        and (not line or item.line == int(line[0]))
        and (not points or item.points == pytest.approx(float(points[0])))
    )


def test_there_are_enough_of_them() -> None:
    assert len(GOLDEN) >= 60
    assert len({(file, row["name"]) for file, row in GOLDEN}) == len(GOLDEN)


@pytest.mark.parametrize(("file", "row"), GOLDEN, ids=[f"{file}: {row['name']}" for file, row in GOLDEN])
def test_golden_answer(file: str, row: dict[str, Any]) -> None:
    verdict = verdict_on(row)
    found = [getattr(verdict, part) for part in PARTS]
    shown = "\n".join(f"{item.part} {item.rule}@{item.line} {item.points} {item.message}" for item in verdict.evidence)
    assert found == pytest.approx(row["scores"]), shown
    assert verdict.overall == pytest.approx(
        sum(weight * score for weight, score in zip(WEIGHTS, row["scores"], strict=True)), abs=1e-6
    )
    assert verdict.language == row.get("language", "c")
    assert verdict.rubric == Rubric().version
    for wanted in row.get("evidence", []):
        assert any(matches(item, wanted) for item in verdict.evidence), f"{wanted} is not in\n{shown}"


@pytest.mark.parametrize(("file", "row"), GOLDEN, ids=[f"{file}: {row['name']}" for file, row in GOLDEN])
def test_the_evidence_sums_to_the_scores(file: str, row: dict[str, Any]) -> None:
    verdict = verdict_on(row)
    for part in PARTS:
        points = sum(item.points for item in verdict.evidence if item.part == part)
        assert points == pytest.approx(getattr(verdict, part)), part
    lines = verdict.code.count("\n") + 1
    assert all(1 <= item.line <= lines for item in verdict.evidence if item.line is not None)
