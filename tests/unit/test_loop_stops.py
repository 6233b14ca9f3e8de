"""Pause, resume, abort, limits: wherever they come, the run stays whole."""

from itertools import pairwise
from typing import Any

import pytest

from reflux.commands import CleanUp
from reflux.events import AbortRequested, PauseRequested, ResumeRequested, RunAdmitted, TaskStopped, TimeLimitReached
from reflux.loop import Impossible
from reflux.spec import StageLimits
from reflux.stages import Stage
from reflux.summary import Usage
from tests.unit.stories import Story, chunk

WORKING = [stage for stage in Stage if not stage.terminal and stage not in (Stage.QUEUED, Stage.CLEANING_UP)]
SECTIONS: dict[str, Any] = {"compute": {"kind": "ec2"}, "teaching": {"shard_size": 2}, "refining": {"max_epochs": 2}}
STUDENT = "generate-001-student"
PRACTICE = "score-001-student-practice-0000"


@pytest.mark.parametrize("stage", WORKING)
def test_a_paused_run_rests_and_resumes_with_exactly_the_same_commands(stage: Stage) -> None:
    story = Story(**SECTIONS).until(stage)
    before = story.run
    assert story.tell(PauseRequested()) == []
    assert story.run.status == stage
    assert story.stopped(*before.open) == []
    assert (story.run.status, story.run.open) == ("paused", {})
    assert story.tell(ResumeRequested()) == list(before.open)
    assert story.run == before


@pytest.mark.parametrize("stage", WORKING)
def test_work_that_ends_while_a_pause_waits_is_kept_and_its_followers_come_with_the_resume(stage: Stage) -> None:
    undisturbed, paused = Story(**SECTIONS).until(stage), Story(**SECTIONS).until(stage)
    key, *others = undisturbed.run.open
    followers = undisturbed.done(key)
    paused.tell(PauseRequested())
    paused.done(key)
    paused.stopped(*others)
    assert paused.run.paused
    assert set(paused.tell(ResumeRequested())) == {*followers, *others}
    assert paused.run == undisturbed.run


def test_a_pause_that_comes_between_a_generate_and_its_last_score_does_not_end_the_epoch() -> None:
    story = Story().until(Stage.REFINING)
    story.generated(STUDENT, chunk(0))
    story.tell(PauseRequested())
    story.stopped(STUDENT)
    assert story.scored(PRACTICE, 5.0) == []
    assert (story.run.stage, story.run.epoch, story.run.paused) == (Stage.REFINING, 1, True)
    assert story.tell(ResumeRequested()) == [STUDENT]
    assert story.done(STUDENT, chunks=(chunk(0), chunk(1))) == ["score-001-student-practice-0001"]


def test_a_pause_in_teaching_does_not_leave_shards_behind() -> None:
    story = Story(**SECTIONS).until(Stage.TEACHING)
    story.tell(PauseRequested())
    story.stopped("teach-0001")
    assert story.done("teach-0000") == []
    assert story.run.paused
    assert story.tell(ResumeRequested()) == ["teach-0001"]
    assert story.done("teach-0001") == ["train-001"]


def test_an_evaluation_that_fails_while_a_pause_waits_is_skipped_after_it() -> None:
    story = Story(refining={"max_epochs": 1}).until(Stage.EVALUATING)
    story.tell(PauseRequested())
    story.stopped("generate-001-base")
    assert story.failed("generate-001-best") == []
    assert story.run.paused
    assert story.tell(ResumeRequested()) == ["export_model"]


def test_a_run_may_be_paused_before_it_is_admitted() -> None:
    story = Story()
    story.tell(PauseRequested())
    assert story.run.status == "paused"
    assert story.tell(RunAdmitted()) == []
    assert story.tell(ResumeRequested()) == []
    assert story.tell(RunAdmitted()) == ["preflight"]


def test_a_resume_before_everything_rested_gives_the_parked_and_what_stops_later_again() -> None:
    story = Story(**SECTIONS).until(Stage.TEACHING)
    story.tell(PauseRequested())
    story.stopped("teach-0001")
    assert story.tell(ResumeRequested()) == ["teach-0001"]
    assert story.stopped("teach-0000") == ["teach-0000"]
    assert story.open == ["teach-0000", "teach-0001"]


def test_a_task_that_stops_unasked_is_given_again() -> None:
    story = Story().until(Stage.TRAINING)
    before = story.run
    assert story.tell(TaskStopped(key="train-001", forced=True)) == ["train-001"]
    assert story.run == before


def test_a_pause_at_the_very_end_lets_the_run_end() -> None:
    story = Story(refining={"max_epochs": 1}).until(Stage.EXPORTING)
    story.done("export_model")
    story.tell(PauseRequested())
    assert story.done("deliver") == ["clean_up"]
    assert story.run.stopping is None


@pytest.mark.parametrize("stage", [Stage.QUEUED, *WORKING])
def test_an_aborted_run_is_cleaned_up_when_nothing_is_in_hand(stage: Stage) -> None:
    story = Story(**SECTIONS).until(stage)
    keys = list(story.run.open)
    given = story.tell(AbortRequested(discard=True))
    if keys:
        assert story.run.status == "aborting"
        assert given == story.stopped(*keys[:-1]) == []
        given = story.stopped(keys[-1])
    assert given == ["clean_up"]
    cleanup = story.run.open["clean_up"]
    assert isinstance(cleanup, CleanUp)
    assert cleanup.discard
    assert cleanup.summary.outcome == "aborted"
    assert story.run.partial == (story.run.adapter_path is not None)
    story.done("clean_up")
    assert (story.run.stage, story.run.reason) == (Stage.ABORTED, "aborted by its user")


@pytest.mark.parametrize("stage", WORKING)
def test_an_aborted_run_is_aborted_even_if_its_work_ends_well(stage: Stage) -> None:
    story = Story(**SECTIONS).until(stage)
    if stage == Stage.EXPORTING:
        story.done("export_model")
    keys = list(story.run.open)
    story.tell(AbortRequested())
    assert story.done(*keys) == ["clean_up"]
    assert story.run.outcome == "aborted"


def test_a_paused_run_can_be_aborted() -> None:
    story = Story().until(Stage.TRAINING)
    story.tell(PauseRequested())
    story.stopped("train-001")
    assert story.tell(AbortRequested()) == ["clean_up"]
    assert story.run.parked == ()


def test_a_failure_while_a_pause_waits_ends_the_run() -> None:
    story = Story().until(Stage.TRAINING)
    story.tell(PauseRequested())
    assert story.failed("train-001", "nan_loss") == ["clean_up"]
    assert (story.run.outcome, story.run.paused) == ("failed", False)


def test_an_evaluation_that_fails_in_an_abort_waits_for_the_others() -> None:
    story = Story(refining={"max_epochs": 1}).until(Stage.EVALUATING)
    story.tell(AbortRequested())
    assert story.failed("generate-001-best") == []
    assert story.stopped("generate-001-base") == ["clean_up"]


@pytest.mark.parametrize("stage", [Stage.REFINING, Stage.EVALUATING])
def test_at_the_time_limit_the_best_adapter_so_far_is_exported(stage: Stage) -> None:
    story = Story(**SECTIONS).until(stage)
    keys = list(story.run.open)
    assert story.tell(TimeLimitReached()) == []
    assert story.stopped(*keys) == ["export_model"]
    assert (story.run.stage, story.run.partial) == (Stage.EXPORTING, True)
    story.until(Stage.FAILED)
    assert story.run.error is not None
    assert story.run.error.code == "stage_timeout"
    assert "12 h" in story.run.error.message
    assert story.run.model_path == "done/export_model"


def test_training_that_comes_to_its_end_in_time_is_exported_at_the_limit() -> None:
    story = Story(**SECTIONS).until(Stage.TRAINING)
    story.tell(TimeLimitReached())
    assert story.done("train-001") == ["export_model"]


def test_rows_that_were_trained_on_until_the_limit_are_told_as_such() -> None:
    story = Story(recipe="finetune").until(Stage.TRAINING)
    story.tell(TimeLimitReached())
    assert story.done("train-001") == ["export_model"]
    story.until(Stage.FAILED)
    assert (story.run.reason, story.run.partial) == ("time limit", True)


def test_results_of_a_job_that_come_in_at_the_limit_are_delivered() -> None:
    story = Story(recipe="job").until(Stage.TRAINING)
    story.tell(TimeLimitReached())
    assert story.done("run_job", outputs_path="out") == ["deliver"]
    story.until(Stage.FAILED)
    assert story.run.error is not None
    assert story.run.error.code == "stage_timeout"


@pytest.mark.parametrize("stage", [Stage.QUEUED, Stage.VALIDATING, Stage.PREPARING, Stage.TEACHING, Stage.TRAINING])
def test_at_the_time_limit_without_an_adapter_the_run_has_failed(stage: Stage) -> None:
    story = Story(**SECTIONS).until(stage)
    keys = list(story.run.open)
    given = [*story.tell(TimeLimitReached()), *story.stopped(*keys)]
    assert given == ["clean_up"]
    assert (story.run.outcome, story.run.partial, story.run.reason) == ("failed", False, "time limit")


def test_the_time_limit_ends_a_pause_too() -> None:
    story = Story().until(Stage.REFINING)
    story.tell(PauseRequested())
    story.stopped(STUDENT)
    assert story.tell(TimeLimitReached()) == ["export_model"]
    assert not story.run.paused


EACH = {"limits": {"max_stage_runtime": dict.fromkeys(StageLimits.model_fields, "90m")}}


@pytest.mark.parametrize("stage", [Stage(name) for name in StageLimits.model_fields if name not in ("evaluating", "exporting")])
def test_a_stage_that_reaches_its_limit_ends_the_run_with_the_best_adapter_so_far(stage: Stage) -> None:
    epoch = 2 if stage in (Stage.TRAINING, Stage.REFINING) else None
    story = Story(**SECTIONS, **EACH).until(stage, epoch)
    keys = list(story.run.open)
    given = [*story.tell(TimeLimitReached(stage=stage)), *story.stopped(*keys)]
    assert given == ["export_model" if epoch else "clean_up"]
    story.until(Stage.FAILED)
    assert story.run.error is not None
    assert story.run.error.code == "stage_timeout"
    assert f"limits.max_stage_runtime.{stage} (1.5 h)" in story.run.error.message
    assert "limit" in story.run.error.hint
    assert (story.run.partial, story.run.best is not None) == (bool(epoch), bool(epoch))


def test_a_limit_of_a_stage_that_is_over_is_stale() -> None:
    story = Story(**SECTIONS, **EACH)
    for stage, later in pairwise(Stage(name) for name in StageLimits.model_fields):
        run = story.until(later).run
        assert (story.tell(TimeLimitReached(stage=stage)), story.run) == ([], run)


def test_training_that_comes_to_its_end_after_its_limit_is_what_is_exported() -> None:
    story = Story(**SECTIONS, **EACH).until(Stage.TRAINING)
    story.tell(TimeLimitReached(stage=Stage.TRAINING))
    assert story.done("train-001") == ["export_model"]
    assert story.run.partial


def test_a_comparison_that_takes_too_long_is_left_out() -> None:
    story = Story(**SECTIONS, **EACH).until(Stage.EVALUATING)
    assert story.tell(TimeLimitReached(stage=Stage.EVALUATING)) == ["export_model"]
    assert story.open == ["export_model"]
    assert story.tell(TimeLimitReached(stage=Stage.EVALUATING)) == []
    story.until(Stage.SUCCEEDED)
    assert (story.run.partial, story.run.error, story.run.comparison) == (False, None, None)
    assert any("limits.max_stage_runtime.evaluating" in warning for warning in story.run.warnings)


def test_a_comparison_that_takes_too_long_while_a_pause_waits_is_left_out_after_it() -> None:
    story = Story(**SECTIONS, **EACH).until(Stage.EVALUATING)
    story.tell(PauseRequested())
    assert story.tell(TimeLimitReached(stage=Stage.EVALUATING)) == []
    assert story.run.paused
    assert story.tell(ResumeRequested()) == ["export_model"]


@pytest.mark.parametrize("recipe", ["distill", "job"])
def test_an_export_that_takes_too_long_ends_with_what_is_stored(recipe: str) -> None:
    story = Story(recipe=recipe, **SECTIONS, **EACH).until(Stage.EXPORTING)
    keys = list(story.run.open)
    assert [*story.tell(TimeLimitReached(stage=Stage.EXPORTING)), *story.stopped(*keys)] == ["clean_up"]
    story.until(Stage.FAILED)
    assert story.run.error is not None
    assert story.run.error.code == "stage_timeout"
    assert story.run.partial == (recipe == "distill")


def test_a_limit_that_the_spec_does_not_have_is_impossible() -> None:
    story = Story(limits={"max_stage_runtime": {"training": "4h"}}).until(Stage.REFINING)
    for stage in (Stage.REFINING, Stage.CLEANING_UP):
        with pytest.raises(Impossible, match="no limit"):
            story.tell(TimeLimitReached(stage=stage))


def test_the_budget_ends_teaching_before_a_model_is_trained() -> None:
    story = Story(limits={"max_teacher_cost_usd": 0.5}, teaching={"shard_size": 1}).until(Stage.TEACHING)
    assert story.done("teach-0000") == []
    assert story.run.stopping is None
    assert story.done("teach-0001") == []
    assert story.stopped("teach-0002", "teach-0003") == ["clean_up"]
    assert story.run.error is not None
    assert story.run.error.code == "budget_exhausted"
    assert "$0.50" in story.run.error.message


def test_the_budget_ends_refining_with_what_was_trained() -> None:
    story = Story(limits={"max_teacher_cost_usd": 2.0}).until(Stage.REFINING)
    story.done(STUDENT, chunks=(chunk(0),))
    story.scored(PRACTICE, 5.0, poor=2)
    assert story.done("correct-001-0000-1", usage=Usage(calls=2, cost_usd=1.75)) == ["export_model"]
    assert (story.run.reason, story.run.partial) == ("cost limit", True)
    story.until(Stage.FAILED)
    assert story.run.usage.cost_usd == 2.0


def test_an_abort_while_the_limit_waits_is_an_abort() -> None:
    story = Story().until(Stage.REFINING)
    story.tell(TimeLimitReached(), AbortRequested())
    assert story.stopped(STUDENT) == ["clean_up"]
    assert story.run.outcome == "aborted"


def test_an_abort_stays_an_abort_when_the_budget_runs_out_meanwhile() -> None:
    story = Story(limits={"max_teacher_cost_usd": 0.1}).until(Stage.TEACHING)
    story.tell(AbortRequested())
    assert story.done("teach-0000") == ["clean_up"]
    assert (story.run.outcome, story.run.error) == ("aborted", None)
    assert story.run.usage.cost_usd == 0.25
