"""What a run will cost, before it begins; and what teachers cost."""

from pathlib import Path

import pytest

from reflux.estimate import estimate
from reflux.prices import PRICES, find, priced, usd
from reflux.records import Answer, Correction, Evidence, TeacherAnswer, Verdict
from services.api.price_table import read
from services.teacher_worker.purse import worst
from services.teacher_worker.teaching import question_text
from tests.unit.stories import Story, spec


def test_a_run_is_estimated_from_its_spec_and_then_from_its_dataset() -> None:
    wanted = spec(prompts={"practice": 100}, refining={"max_epochs": 2}, teacher={"max_teacher_tokens": 300})
    before = estimate(wanted)
    assert before is not None
    assert (before.calls, before.most_calls) == (100 + 38, 100 + 200)
    assert before.output_tokens == before.calls * 300
    assert before.cost_usd == pytest.approx((3 * before.input_tokens + 15 * before.output_tokens) / 1e6, abs=1e-4)
    fewer = estimate(wanted, practice=10, practice_characters=100_000)
    assert fewer is not None
    assert fewer.calls == 14
    assert fewer.input_tokens > fewer.calls * 100_000 / 10 / 4


def test_a_fork_buys_corrections_of_its_own_epochs_alone() -> None:
    wanted = spec(prompts={"practice": 100}, refining={"max_epochs": 4})
    fork = estimate(wanted, done=2)
    assert fork is not None
    assert (fork.calls, fork.most_calls) == (14, 200), "of epoch 3: 100 · 0.3 · 0.6² · 1.25"


def test_answers_are_as_long_as_the_student_has_room_for() -> None:
    short, long = (estimate(spec(prompts={"practice": 10}, generation={"max_new_tokens": n})) for n in (200, 2000))
    assert short is not None
    assert long is not None
    assert (short.output_tokens / short.calls, long.output_tokens / long.calls) == (100, 1000)
    assert short.calls == long.calls


def test_the_most_it_can_be_covers_the_longest_question_and_answer() -> None:
    wanted = spec(prompts={"practice": 1, "system": "s"}, refining={"max_epochs": 2}, generation={"max_new_tokens": 500})
    most = estimate(wanted, 1, 400)
    assert most is not None
    wide = Evidence(part="syntax", rule="gcc", message="m" * 150, points=-1, line=100)
    scores = dict.fromkeys(("overall", "syntax", "protocol", "safety", "style"), 1.0)
    code = "c" * 2 * 500
    verdict = Verdict(prompt_id="p", compiles=False, code=code, rubric="1", evidence=(wide,) * 30, **scores)
    refused = Correction(
        prompt_id="p",
        prompt="p" * 400,
        attempt=Answer(prompt_id="p", prompt="p" * 400, text=code),
        attempt_verdict=verdict,
        answer=TeacherAnswer(prompt_id="p", prompt="p" * 400, text="t" * 2 * 2048, model="m"),
        verdict=verdict,
        admitted=False,
    )
    questions = ("p" * 400, question_text(refused), question_text(refused))
    assert most.most_calls == len(questions)
    assert sum(worst(wanted.teacher, "s" + question) for question in questions) <= most.most_cost_usd


def test_recorded_answers_cost_nothing() -> None:
    free = estimate(spec(teacher={"provider": "recorded", "answers_uri": "file:///answers.jsonl"}))
    assert free is not None
    assert free.calls > 0
    assert (free.input_tokens, free.output_tokens, free.cost_usd, free.most_cost_usd) == (0, 0, 0, 0)


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
