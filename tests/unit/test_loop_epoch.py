"""An epoch of the loop: train, answer, score, correct, judge, and what flows into the next one."""

from typing import Any

import pytest

from reflux.commands import Correct, Generate, Train
from reflux.stages import Stage
from reflux.summary import Usage
from tests.unit.stories import Story, chunk

STUDENT = "generate-001-student"
PRACTICE = "score-001-student-practice-0000"
DEV = "score-001-student-dev-0000"


def refining(**sections: Any) -> Story:
    return Story(**sections).until(Stage.REFINING)


def test_what_was_trained_answers_practice_and_dev() -> None:
    story = Story().until(Stage.TRAINING)
    assert story.done("train-001") == [STUDENT]
    generate = story.run.open[STUDENT]
    assert isinstance(generate, Generate)
    assert generate.sets == ("practice", "dev")
    assert generate.adapter_path == "done/train-001"
    assert generate.max_new_tokens == 1024


def test_without_dev_prompts_only_practice_is_answered() -> None:
    story = Story().until(Stage.PREPARING)
    story.done("prepare", dev=0)
    generate = story.until(Stage.REFINING).run.open[STUDENT]
    assert isinstance(generate, Generate)
    assert generate.sets == ("practice",)


def test_each_chunk_is_scored_as_it_comes_and_once() -> None:
    story = refining()
    assert story.generated(STUDENT, chunk(0), chunk(0)) == [PRACTICE]
    assert story.done(STUDENT, chunks=(chunk(0), chunk(0, "dev"))) == [DEV]


def test_poor_practice_answers_are_corrected_at_once_and_dev_answers_never() -> None:
    story = refining()
    story.generated(STUDENT, chunk(3), chunk(0, "dev"), chunk(4))
    assert story.scored("score-001-student-practice-0003", 5.0, poor=1) == ["correct-001-0003-1"]
    assert story.scored(DEV, 2.0, poor=2) == []
    assert story.scored("score-001-student-practice-0004", 9.0) == []
    correct = story.run.open["correct-001-0003-1"]
    assert isinstance(correct, Correct)
    assert correct.answers_paths == ("answers/student-practice-0003.jsonl",)
    assert correct.verdicts_paths == ("verdicts/student-practice-0003.jsonl",)


def test_admitted_corrections_flow_into_every_later_training() -> None:
    story = refining()
    story.done(STUDENT, chunks=(chunk(0), chunk(1)))
    story.scored(PRACTICE, 5.0, poor=2)
    story.scored("score-001-student-practice-0001", 5.0, poor=1)
    assert story.done("correct-001-0000-1", requested=2, answered=2) == ["judge-001-0000-1"]
    assert story.done("correct-001-0001-1") == ["judge-001-0001-1"]
    assert story.done("judge-001-0001-1", admitted=1) == []
    assert story.done("judge-001-0000-1", admitted=2) == ["train-002"]
    train = story.run.open["train-002"]
    assert isinstance(train, Train)
    assert train.corrections_paths == ("done/judge-001-0000-1", "done/judge-001-0001-1")
    assert train.adapter_path == "done/train-001"
    metrics = story.run.epochs[0]
    assert (metrics.requested, metrics.admitted, metrics.refused) == (3, 3, 0)
    assert metrics.correction_rate == 0.75
    assert metrics.usage.calls == 2
    later = story.until(Stage.TRAINING, 3).run.open["train-003"]
    assert isinstance(later, Train)
    assert set(train.corrections_paths) < set(later.corrections_paths) or later.corrections_paths == train.corrections_paths


def test_restart_from_base_trains_without_the_last_adapter() -> None:
    story = Story(training={"restart_from_base": True}).until(Stage.TRAINING, 2)
    train = story.run.open["train-002"]
    assert isinstance(train, Train)
    assert train.adapter_path is None


def test_what_was_refused_is_asked_for_once_more_then_kept_aside() -> None:
    story = refining()
    story.done(STUDENT, chunks=(chunk(0),))
    story.scored(PRACTICE, 5.0, poor=2)
    story.done("correct-001-0000-1", requested=2, answered=2)
    assert story.done("judge-001-0000-1", admitted=0, refused=2) == ["correct-001-0000-2"]
    again = story.run.open["correct-001-0000-2"]
    assert isinstance(again, Correct)
    assert (again.ask, again.refused_path) == (2, "done/judge-001-0000-1")
    assert story.done("correct-001-0000-2", requested=2, answered=2) == ["judge-001-0000-2"]
    assert story.done("judge-001-0000-2", admitted=1, refused=1) == ["train-002"]
    metrics = story.run.epochs[0]
    assert (metrics.requested, metrics.admitted, metrics.refused) == (2, 1, 1)
    assert story.run.corrections_paths == ("done/judge-001-0000-2",)


def test_a_second_ask_that_fails_leaves_the_first_refusal_standing() -> None:
    story = refining()
    story.done(STUDENT, chunks=(chunk(0),))
    story.scored(PRACTICE, 5.0, poor=2)
    story.done("correct-001-0000-1", requested=2, answered=2)
    story.done("judge-001-0000-1", admitted=1, refused=1)
    assert story.failed("correct-001-0000-2", "teacher_timeout") == ["train-002"]
    assert (story.run.epochs[0].admitted, story.run.epochs[0].refused) == (1, 1)


def test_more_practice_than_corrections_waits_for_all_scores_then_takes_the_worst() -> None:
    story = Story(refining={"max_corrections": 120}).until(Stage.PREPARING)
    story.done("prepare", practice=400)
    story.until(Stage.REFINING)
    story.done(STUDENT, chunks=(chunk(0, count=200), chunk(1, count=200), chunk(0, "dev")))
    assert story.scored("score-001-student-practice-0001", 4.0, poor=150) == []
    assert story.scored(DEV, 4.0, poor=2) == []
    assert story.scored(PRACTICE, 5.0, poor=60) == ["correct-001-0000-1", "correct-001-0001-1", "correct-001-0002-1"]
    for shard, command in enumerate(story.run.open.values()):
        assert isinstance(command, Correct)
        assert (command.shard, command.shards, command.limit) == (shard, 3, 120)
        assert command.verdicts_paths == ("verdicts/student-practice-0000.jsonl", "verdicts/student-practice-0001.jsonl")
        assert len(command.answers_paths) == 2
    for shard in range(3):
        story.done(f"correct-001-{shard:04d}-1", requested=40, answered=40)
    assert story.done("judge-001-0000-1", "judge-001-0001-1") == []
    assert story.done("judge-001-0002-1") == ["train-002"]
    assert story.run.epochs[0].requested == 120


def test_corrections_that_had_to_wait_are_as_many_as_there_are_poor_answers() -> None:
    story = Story(refining={"max_corrections": 120}).until(Stage.PREPARING)
    story.done("prepare", practice=400)
    story.until(Stage.REFINING)
    story.done(STUDENT, chunks=(chunk(0, count=400),))
    assert story.scored(PRACTICE, 7.0, poor=50) == ["correct-001-0000-1"]


def test_the_last_epoch_buys_no_corrections() -> None:
    for practice in (4, 600):
        story = Story(refining={"max_epochs": 1}).until(Stage.PREPARING)
        story.done("prepare", practice=practice)
        story.until(Stage.REFINING)
        story.done(STUDENT, chunks=(chunk(0),))
        assert story.scored(PRACTICE, 3.0, poor=2) == ["generate-001-base", "generate-001-best"]
        assert story.run.reason == "max epochs"


@pytest.mark.parametrize(
    ("mean", "poor", "refine", "epochs", "reason"),
    [
        (8.0, 1, {}, 3, "quality threshold met"),
        (7.5, 0, {}, 3, "few corrections"),
        (7.5, 0, {"patience": 1}, 1, "few corrections"),
        (5.0, 2, {"max_epochs": 4}, 4, "max epochs"),
        (9.0, 0, {"max_epochs": 2}, 2, "max epochs"),
        (6.0, 1, {"target_score": 6.0, "patience": 2}, 2, "quality threshold met"),
    ],
)
def test_the_loop_ends(mean: float, poor: int, refine: dict[str, Any], epochs: int, reason: str) -> None:
    story = Story(refining=refine).until(Stage.TRAINING)
    while story.run.stage in (Stage.TRAINING, Stage.REFINING):
        key = next(iter(story.run.open))
        story.scored(key, mean, poor) if key.startswith("score") else story.done(key)
    assert (len(story.run.epochs), story.run.reason) == (epochs, reason)


def test_a_score_that_failed_counts_as_zero() -> None:
    story = refining()
    story.done(STUDENT, chunks=(chunk(0), chunk(1)))
    assert story.failed(PRACTICE) == []
    assert story.scored("score-001-student-practice-0001", 8.0) == ["train-002"]
    practice = story.run.epochs[0].practice
    assert (practice.count, practice.overall, practice.compiling) == (4, 4.0, 0.5)
    assert story.run.epochs[0].correction_rate == 0.5
    assert "2 answers count as 0" in story.run.warnings[0]


def test_what_was_not_scored_is_not_sent_to_the_teacher() -> None:
    story = Story(refining={"max_corrections": 1}).until(Stage.REFINING)
    story.done(STUDENT, chunks=(chunk(0), chunk(1)))
    story.failed(PRACTICE)
    assert story.scored("score-001-student-practice-0001", 5.0, poor=2) == ["correct-001-0000-1"]
    correct = story.run.open["correct-001-0000-1"]
    assert isinstance(correct, Correct)
    assert correct.verdicts_paths == ("verdicts/student-practice-0001.jsonl",)


def test_a_teacher_that_is_down_in_refining_costs_its_corrections_only() -> None:
    story = refining()
    story.done(STUDENT, chunks=(chunk(0), chunk(1)))
    story.scored(PRACTICE, 5.0, poor=1)
    story.scored("score-001-student-practice-0001", 5.0, poor=2)
    assert story.failed("correct-001-0000-1", "teacher_unreachable") == []
    assert story.done("correct-001-0001-1", requested=2, answered=0) == ["train-002"]
    assert story.run.epochs[0].admitted == 0
    assert len(story.run.warnings) == 2
    assert "goes on without the corrections of correct-001-0000-1" in story.run.warnings[0]
    assert "left 2 corrections of correct-001-0001-1 open" in story.run.warnings[1]


def test_a_judge_that_failed_costs_its_corrections_only() -> None:
    story = refining()
    story.done(STUDENT, chunks=(chunk(0),))
    story.scored(PRACTICE, 5.0, poor=1)
    story.done("correct-001-0000-1")
    assert story.failed("judge-001-0000-1") == ["train-002"]
    assert story.run.corrections_paths == ()


def test_generating_that_failed_fails_the_run_and_waits_for_what_is_in_hand() -> None:
    story = refining()
    story.generated(STUDENT, chunk(0))
    assert story.failed(STUDENT, "gpu_out_of_memory") == []
    assert story.run.status == "refining"
    assert story.scored(PRACTICE, 5.0, poor=1) == ["clean_up"]
    assert (story.run.outcome, story.run.partial) == ("failed", True)
    assert story.run.error is not None
    assert story.run.error.code == "gpu_out_of_memory"
    assert story.done("clean_up") == []
    assert story.run.stage == Stage.FAILED


def test_the_first_failure_is_the_one_that_is_told() -> None:
    story = Story(teaching={"shard_size": 1}).until(Stage.REFINING)
    story.generated(STUDENT, chunk(0), chunk(1))
    story.failed(STUDENT, "gpu_out_of_memory")
    story.failed(PRACTICE, "internal")
    story.stopped("score-001-student-practice-0001")
    assert story.run.error is not None
    assert story.run.error.code == "gpu_out_of_memory"


@pytest.mark.parametrize("max_corrections", [1, 500])
def test_each_epoch_counts_for_itself(max_corrections: int) -> None:
    story = Story(refining={"max_corrections": max_corrections}).until(Stage.TRAINING)
    for epoch in (1, 2):
        story.done(f"train-{epoch:03d}", seconds=8.0)
        story.done(f"generate-{epoch:03d}-student", chunks=(chunk(0),), seconds=4.0)
        assert story.scored(f"score-{epoch:03d}-student-practice-0000", 5.0, poor=1) == [f"correct-{epoch:03d}-0000-1"]
        story.done(f"correct-{epoch:03d}-0000-1", usage=Usage(calls=1, cost_usd=0.5))
        story.done(f"judge-{epoch:03d}-0000-1", refused=1, admitted=0)
        story.done(f"correct-{epoch:03d}-0000-2", usage=Usage(calls=1, cost_usd=0.5), warnings=("slow teacher",))
        story.done(f"judge-{epoch:03d}-0000-2", refused=1 if epoch == 1 else 0, admitted=0 if epoch == 1 else 1)
    one, two = story.run.epochs
    assert one.usage == two.usage == Usage(calls=2, cost_usd=1.0)
    assert one.seconds == two.seconds == {"train": 8.0, "generate": 4.0}
    assert (one.requested, one.admitted, one.refused) == (1, 0, 1)
    assert (two.requested, two.admitted, two.refused) == (1, 1, 0)
    assert story.run.warnings == ("slow teacher",)
