"""What a run will cost, before it begins; and what teachers cost."""

from pathlib import Path

import pytest

from reflux.estimate import estimate
from reflux.prices import PRICES, find, priced, usd
from services.api.price_table import read
from tests.unit.stories import Story, spec


def test_a_run_is_estimated_from_its_spec_and_then_from_its_dataset() -> None:
    wanted = spec(prompts={"practice": 100}, refining={"max_epochs": 2}, teacher={"max_teacher_tokens": 300})
    before = estimate(wanted)
    assert before is not None
    assert (before.calls, before.most_calls) == (100 + 62, 100 + 200)
    assert before.output_tokens == before.calls * 300
    assert before.cost_usd == pytest.approx((3 * before.input_tokens + 15 * before.output_tokens) / 1e6, abs=1e-4)
    fewer = estimate(wanted, practice=10, practice_characters=100_000)
    assert fewer is not None
    assert fewer.calls == 16
    assert fewer.input_tokens > fewer.calls * 100_000 / 10 / 4


def test_more_practice_than_corrections_is_capped() -> None:
    most = estimate(spec(prompts={"practice": 1000}, refining={"max_epochs": 3, "max_corrections": 50}))
    assert most is not None
    assert most.most_calls == 1000 + 2 * 2 * 50


def test_without_a_teacher_there_is_nothing_to_estimate() -> None:
    assert estimate(spec(recipe="finetune")) is None


def test_the_last_epoch_buys_nothing() -> None:
    only = estimate(spec(refining={"max_epochs": 1}, teaching={"enabled": False}))
    assert only is not None
    assert (only.calls, only.most_calls, only.cost_usd, only.most_cost_usd) == (0, 0, 0.0, 0.0)


def test_the_run_keeps_its_estimate() -> None:
    story = Story()
    story.until(story.run.stage.PREPARING)
    story.done("prepare", practice=40, practice_characters=4000)
    assert story.run.estimate == estimate(story.run.spec, 40, 4000)


def test_the_longest_name_that_fits_gives_the_price() -> None:
    assert find("eu.anthropic.claude-opus-4-5-20251101-v1:0") == PRICES["claude-opus-4-5"]
    assert find("anthropic.claude-opus-4-20250514-v1:0") == PRICES["claude-opus-4"]
    assert find("our-own-70b") is None
    unknown = spec(teacher={"model": "our-own-70b"}).teacher
    assert priced(unknown) == unknown
    assert usd(unknown, 1_000_000, 1_000_000) == 0


def test_the_spec_goes_before_the_table() -> None:
    teacher = spec(teacher={"input_usd_per_million": 1.0}).teacher
    full = priced(teacher)
    assert (full.input_usd_per_million, full.output_usd_per_million) == (1.0, 15.0)
    assert usd(teacher, 1_000_000, 2_000_000) == 31.0


def test_a_deployment_has_its_own_table(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("our-own: {input: 0.5, output: 1}\nclaude-sonnet-4: {input: 2, output: 9}\n")
    table = read(file)
    assert find("our-own-70b", table) is not None
    assert priced(spec().teacher, table).output_usd_per_million == 9
    for wrong in ("x: 5", "a: {input: -1, output: 2}", "a: [", "- 1"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"."):
            read(file)
