"""Every arrow before and after the loop, and the other recipes; those of an epoch are in test_loop_epoch.py."""

from typing import Any

import pytest

from reflux.commands import CleanUp, Deliver, Generate, Teach, Train
from reflux.events import CleanupOverdue, RunAdmitted
from reflux.stages import Stage
from reflux.summary import Usage
from tests.unit.stories import DATASET, Story, chunk


def to_the_end(story: Story) -> list[Stage]:
    """The stages still to come, each command being done as it is given."""
    stages = []
    while not story.run.stage.terminal:
        before = story.run.stage
        story.done(next(iter(story.run.open)))
        stages += [story.run.stage] if story.run.stage != before else []
    return stages


# Before the loop


def test_an_admitted_run_is_checked_then_prepared() -> None:
    story = Story()
    assert story.tell(RunAdmitted()) == ["preflight"]
    assert story.run.stage == Stage.VALIDATING
    assert story.done("preflight") == ["prepare"]
    assert story.run.stage == Stage.PREPARING


@pytest.mark.parametrize("kind", ["ec2", "sagemaker"])
def test_a_machine_of_its_own_is_made_and_later_given_back(kind: str) -> None:
    story = Story(compute={"kind": kind}).until(Stage.PROVISIONING)
    assert story.done("provision", resource_id="i-7") == ["prepare"]
    cleanup = story.until(Stage.CLEANING_UP).run.open["clean_up"]
    assert isinstance(cleanup, CleanUp)
    assert cleanup.resource_ids == ("i-7",)


def test_practice_prompts_are_taught_in_shards() -> None:
    story = Story(teaching={"shard_size": 40, "max_prompts": 90}).until(Stage.PREPARING)
    assert story.done("prepare", practice=200) == ["teach-0000", "teach-0001", "teach-0002"]
    commands = [c for c in story.run.open.values() if isinstance(c, Teach)]
    assert [(c.start, c.stop) for c in commands] == [(0, 40), (40, 80), (80, 90)]


@pytest.mark.parametrize("sections", [{"teaching": {"enabled": False}}, {"recipe": "finetune"}])
def test_a_run_without_teaching_trains_at_once(sections: dict[str, Any]) -> None:
    story = Story(**sections).until(Stage.PREPARING)
    assert story.done("prepare") == ["train-001"]
    assert (story.run.stage, story.run.epoch) == (Stage.TRAINING, 1)


def test_training_begins_when_every_shard_is_taught_whatever_their_order() -> None:
    story = Story(teaching={"shard_size": 2}).until(Stage.TEACHING)
    assert story.done("teach-0001", answered=1, failed=1) == []
    assert story.done("teach-0000") == ["train-001"]
    train = story.run.open["train-001"]
    assert isinstance(train, Train)
    assert train.taught_paths == ("done/teach-0000", "done/teach-0001")
    assert train.adapter_path is None
    assert story.run.taught == 3
    assert story.run.usage == Usage(calls=2, input_tokens=200, output_tokens=100, cost_usd=0.5)
    assert story.run.warnings == ("The teacher did not answer 1 of the prompts of teach-0001",)


def test_a_shard_that_fails_is_a_warning_while_another_was_taught() -> None:
    story = Story(teaching={"shard_size": 2}).until(Stage.TEACHING)
    assert story.failed("teach-0000", "teacher_timeout") == []
    assert story.done("teach-0001") == ["train-001"]
    assert "teach-0000 went wrong" in story.run.warnings[0]


def test_nothing_taught_ends_the_run_with_the_teachers_own_error() -> None:
    story = Story(teaching={"shard_size": 2}).until(Stage.TEACHING)
    story.failed("teach-0000", "teacher_timeout")
    assert story.failed("teach-0001", "teacher_unreachable") == ["clean_up"]
    assert story.run.error is not None
    assert story.run.error.code == "teacher_unreachable"


def test_nothing_answered_ends_the_run() -> None:
    story = Story().until(Stage.TEACHING)
    assert story.done("teach-0000", answered=0, failed=4) == ["clean_up"]
    assert story.run.error is not None
    assert story.run.error.code == "teaching_failed"
    assert story.run.outcome == "failed"


def test_nothing_taught_goes_on_with_raw_data_where_teaching_is_not_required() -> None:
    story = Story(teaching={"required": False}).until(Stage.TEACHING)
    assert story.failed("teach-0000", "teacher_unreachable") == ["train-001"]


# After the loop


def test_base_and_best_answer_the_test_prompts_alike() -> None:
    story = Story(generation={"test_samples": 5}, refining={"patience": 1}).until(Stage.EVALUATING)
    assert story.open == ["generate-001-base", "generate-001-best"]
    base, best = (c for _, c in sorted(story.run.open.items()))
    assert isinstance(base, Generate)
    assert isinstance(best, Generate)
    assert (base.adapter_path, best.adapter_path) == (None, "done/train-001")
    assert base.sets == best.sets == ("test",)
    assert base.samples == best.samples == 5
    assert base.max_new_tokens == best.max_new_tokens == 512
    assert story.done("generate-001-base", "generate-001-best") == ["score-001-base-test-0000", "score-001-best-test-0000"]
    assert story.scored("score-001-best-test-0000", 5.0, poor=2) == []
    assert story.scored("score-001-base-test-0000", 5.0, poor=2) == ["compare"]
    assert story.done("compare") == ["export_model"]
    assert story.run.comparison is not None
    assert story.run.comparison.gained


def test_the_best_epoch_is_exported_not_the_last() -> None:
    story = Story(refining={"max_epochs": 3}).until(Stage.TRAINING)
    for dev in (4.0, 6.0, 5.0):
        epoch = story.run.epoch
        story.done(f"train-{epoch:03d}")
        story.done(f"generate-{epoch:03d}-student", chunks=(chunk(0), chunk(0, "dev")))
        story.scored(f"score-{epoch:03d}-student-practice-0000", 5.0 + epoch)
        story.scored(f"score-{epoch:03d}-student-dev-0000", dev)
    best = story.run.open["generate-003-best"]
    assert isinstance(best, Generate)
    assert best.adapter_path == "done/train-002"
    assert story.until(Stage.EXPORTING).run.adapter_path == "done/train-002"


@pytest.mark.parametrize("command", ["generate-001-base", "score-001-base-test-0000", "compare"])
def test_an_evaluation_that_failed_is_skipped_with_a_warning(command: str) -> None:
    story = Story(refining={"max_epochs": 1}).until(Stage.EVALUATING)
    while command not in story.run.open:
        story.done(next(iter(story.run.open)))
    assert story.failed(command) == ["export_model"]
    assert story.open == ["export_model"]
    assert story.run.comparison is None
    assert "The test prompts were not evaluated" in story.run.warnings[-1]
    assert to_the_end(story)[-1] == Stage.SUCCEEDED


@pytest.mark.parametrize("sections", [{"evaluation": {"enabled": False}}, {}])
def test_without_test_prompts_or_wish_nothing_is_evaluated(sections: dict[str, Any]) -> None:
    story = Story(refining={"max_epochs": 1}, **sections).until(Stage.PREPARING)
    story.done("prepare", test=2 if sections else 0)
    story.until(Stage.REFINING)
    assert Stage.EVALUATING not in to_the_end(story)
    assert story.run.outcome == "succeeded"


def test_the_results_are_delivered_with_their_summary_and_cleaned_up_after() -> None:
    story = Story(refining={"max_epochs": 2}).until(Stage.EXPORTING)
    assert story.open == ["export_model"]
    assert story.done("export_model") == ["deliver"]
    deliver = story.run.open["deliver"]
    assert isinstance(deliver, Deliver)
    assert deliver.model_path == "done/export_model"
    assert [e.epoch for e in deliver.summary.epochs] == [1, 2]
    assert deliver.summary.counts["practice"] == DATASET["practice"]
    assert story.done("deliver") == ["clean_up"]
    cleanup = story.run.open["clean_up"]
    assert isinstance(cleanup, CleanUp)
    assert cleanup.summary.outcome == "succeeded"
    assert story.done("clean_up") == []
    assert (story.run.stage, story.run.partial, story.run.error) == (Stage.SUCCEEDED, False, None)


@pytest.mark.parametrize("command", ["export_model", "deliver"])
def test_an_export_that_failed_fails_the_run(command: str) -> None:
    story = Story(refining={"max_epochs": 1}).until(Stage.EXPORTING)
    while command not in story.run.open:
        story.done(next(iter(story.run.open)))
    assert story.failed(command, "access_denied") == ["clean_up"]
    assert (story.run.outcome, story.run.partial) == ("failed", True)


def test_cleanup_that_failed_or_is_overdue_still_ends_the_run() -> None:
    for overdue in (True, False):
        story = Story(refining={"max_epochs": 1}).until(Stage.CLEANING_UP)
        assert (story.tell(CleanupOverdue()) if overdue else story.failed("clean_up", "cleanup_failed")) == []
        assert (story.run.stage, story.run.manual_action_required) == (Stage.SUCCEEDED, True)
        assert story.open == []
        assert "verify-cleanup" in story.run.warnings[-1]


def test_cleanup_that_left_something_says_so() -> None:
    story = Story(refining={"max_epochs": 1}).until(Stage.CLEANING_UP)
    story.done("clean_up", manual_action_required=True)
    assert (story.run.stage, story.run.manual_action_required) == (Stage.SUCCEEDED, True)


# The other recipes


def test_finetune_is_one_training_and_its_evaluation() -> None:
    story = Story(recipe="finetune")
    story.tell(RunAdmitted())
    assert to_the_end(story) == [
        Stage.PREPARING,
        Stage.TRAINING,
        Stage.EVALUATING,
        Stage.EXPORTING,
        Stage.CLEANING_UP,
        Stage.SUCCEEDED,
    ]
    assert len(story.run.epochs) == 1
    assert story.run.usage == Usage()


def test_a_job_is_its_command_between_data_sync_and_results_sync() -> None:
    story = Story(recipe="job", compute={"kind": "ec2"})
    story.tell(RunAdmitted())
    story.until(Stage.TRAINING)
    assert story.open == ["run_job"]
    assert story.done("run_job", outputs_path="out") == ["deliver"]
    deliver = story.run.open["deliver"]
    assert isinstance(deliver, Deliver)
    assert deliver.model_path == "out"
    assert to_the_end(story) == [Stage.CLEANING_UP, Stage.SUCCEEDED]


def test_a_job_that_failed_is_cleaned_up() -> None:
    story = Story(recipe="job").until(Stage.TRAINING)
    assert story.failed("run_job", "job_failed") == ["clean_up"]
    assert (story.run.outcome, story.run.partial) == ("failed", False)


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        (Stage.VALIDATING, "preflight"),
        (Stage.PROVISIONING, "provision"),
        (Stage.PREPARING, "prepare"),
        (Stage.TRAINING, "train-001"),
    ],
)
def test_a_failure_before_anything_was_trained_is_cleaned_up(stage: Stage, command: str) -> None:
    story = Story(compute={"kind": "ec2"}).until(stage)
    assert story.failed(command, "access_denied") == ["clean_up"]
    assert (story.run.outcome, story.run.partial, story.run.reason) == ("failed", False, f"{command} went wrong")
