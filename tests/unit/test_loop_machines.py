"""A run whose own machine is lost: another one takes its place, as often as the table says, and the run goes on where it is."""

from typing import Any

import pytest

from reflux.commands import Provision
from reflux.errors import POLICIES, failure
from reflux.events import AbortRequested, MachineLost, PauseRequested, ResumeRequested, TimeLimitReached
from reflux.loop import Impossible, decide
from reflux.stages import Stage
from tests.unit.stories import Story, chunk

OF_MACHINES = {code: policy for code, policy in POLICIES.items() if policy.of_machine}


def on_ec2(stage: Stage, **sections: Any) -> Story:
    return Story(compute={"kind": "ec2"}, **sections).until(stage)


def lost(story: Story, code: str = "instance_lost") -> list[str]:
    number = story.run.machine_number
    return story.tell(MachineLost(number=number, resource_id=f"i-{number}", failure=failure(code, f"i-{number} is gone")))


def provision(story: Story) -> Provision:
    [command] = [command for command in story.run.open.values() if isinstance(command, Provision)]
    return command


def test_a_lost_machine_is_replaced_while_its_work_waits() -> None:
    story = on_ec2(Stage.TRAINING)
    assert lost(story) == ["provision-2"]
    assert story.open == ["provision-2", "train-001"], "the training is not begun anew"
    assert (provision(story).number, provision(story).wait_seconds) == (2, 30)
    assert (story.run.stage, story.run.has_machine) == (Stage.TRAINING, False)
    assert story.done("provision-2", resource_id="i-2") == []
    assert (story.run.resource_ids, story.run.has_machine) == (("i-1", "i-2"), True)
    assert story.until(Stage.SUCCEEDED).run.outcome == "succeeded"
    assert "i-1 is gone" in story.run.warnings[0]


@pytest.mark.parametrize("code", OF_MACHINES)
def test_so_often_as_the_table_says_and_then_the_run_ends_with_words(code: str) -> None:
    story = on_ec2(Stage.TRAINING)
    for number, wait in enumerate(OF_MACHINES[code].waits, 2):
        assert lost(story, code) == [f"provision-{number}"]
        assert provision(story).wait_seconds == wait
        story.done(f"provision-{number}")
    assert lost(story, code) == []
    assert (story.run.stopping, story.run.machine_number) == ("failure", len(OF_MACHINES[code].waits) + 2)
    assert story.stopped("train-001") == ["clean_up"]
    assert story.run.error is not None
    times = len(OF_MACHINES[code].waits) + 1
    assert (story.run.error.code, story.run.error.hint) == (code, OF_MACHINES[code].hint)
    assert f"the {times}. machine of this run" in story.run.error.message


def test_each_code_has_waits_of_its_own() -> None:
    story = on_ec2(Stage.TRAINING)
    lost(story, "instance_lost")
    story.done("provision-2")
    lost(story, "spot_interrupted")
    assert provision(story).wait_seconds == 30


def test_a_machine_that_never_worked_is_replaced_in_provisioning() -> None:
    story = on_ec2(Stage.PROVISIONING)
    assert lost(story, "no_capacity") == ["provision-2"]
    assert story.open == ["provision-2"], "the first is not waited for any more"
    assert story.done("provision-2") == ["prepare"]


def test_a_machine_that_can_not_be_made_again_ends_the_run() -> None:
    story = on_ec2(Stage.REFINING)
    lost(story)
    assert story.failed("provision-2", "quota_exceeded") == []
    assert story.stopped("generate-001-student") == ["clean_up"]
    assert story.run.error is not None
    assert story.run.error.code == "quota_exceeded"


def test_what_needs_no_machine_goes_on_meanwhile_and_the_run_goes_on_with_the_machine() -> None:
    story = on_ec2(Stage.TEACHING)
    assert lost(story) == ["provision-2"]
    assert story.done("teach-0000") == [], "training waits for its machine"
    assert story.done("provision-2") == ["train-001"]
    story.until(Stage.REFINING)
    story.done("generate-001-student", chunks=(chunk(0),))
    lost(story)
    assert story.scored("score-001-student-practice-0000", 5.0) == []
    assert story.done("provision-3") == ["train-002"]


def test_an_evaluation_that_failed_leaves_the_machine_in_the_making() -> None:
    story = on_ec2(Stage.EVALUATING, refining={"max_epochs": 1})
    lost(story)
    assert story.failed("generate-001-base") == ["export_model"]
    assert story.open == ["export_model", "provision-2"]


def test_nobody_makes_a_machine_for_a_run_that_needs_none_any_more() -> None:
    story = on_ec2(Stage.EXPORTING, refining={"max_epochs": 1})
    story.done("export_model")
    assert lost(story) == []
    assert story.until(Stage.SUCCEEDED).run.outcome == "succeeded"


def test_a_pause_keeps_the_next_machine_for_later() -> None:
    story = on_ec2(Stage.TRAINING)
    story.tell(PauseRequested())
    assert lost(story) == []
    story.stopped("train-001")
    assert story.run.paused
    assert sorted(story.tell(ResumeRequested())) == ["provision-2", "train-001"]


def test_a_machine_lost_in_a_pause_is_made_again_when_the_run_goes_on() -> None:
    story = on_ec2(Stage.TRAINING)
    story.tell(PauseRequested())
    story.stopped("train-001")
    assert lost(story) == []
    assert story.run.paused
    assert sorted(story.tell(ResumeRequested())) == ["provision-2", "train-001"]


@pytest.mark.parametrize("made", [True, False])
def test_at_its_limit_a_run_without_a_machine_gets_one_to_export_on(made: bool) -> None:
    story = on_ec2(Stage.TRAINING).until(Stage.TRAINING, 2)
    lost(story)
    story.tell(TimeLimitReached())
    story.done("provision-2") if made else story.stopped("provision-2")
    given = story.stopped("train-002")
    assert given == (["export_model"] if made else ["export_model", "provision-2"])


def test_a_machine_lost_at_the_limit_is_made_again_for_the_export() -> None:
    story = on_ec2(Stage.TRAINING).until(Stage.TRAINING, 2)
    story.tell(TimeLimitReached())
    assert lost(story) == []
    assert story.stopped("train-002") == ["export_model", "provision-2"]
    assert lost(story) == ["provision-3"]


def test_an_abort_makes_no_machine() -> None:
    story = on_ec2(Stage.TRAINING)
    lost(story)
    story.tell(AbortRequested())
    assert story.stopped("provision-2", "train-001") == ["clean_up"]


def test_a_loss_that_was_told_before_changes_nothing() -> None:
    story = on_ec2(Stage.TRAINING)
    lost(story)
    again = MachineLost(number=1, failure=failure("spot_interrupted", "twice told"))
    assert decide(story.run, again) == (story.run, ())
    story.done("provision-2")
    assert decide(story.run, again) == (story.run, ())


def test_only_a_machine_that_was_asked_for_can_be_lost() -> None:
    why = failure("instance_lost", "gone")
    for story in (Story().until(Stage.TRAINING), on_ec2(Stage.VALIDATING)):
        with pytest.raises(Impossible):
            story.tell(MachineLost(number=1, failure=why))
    with pytest.raises(Impossible):
        on_ec2(Stage.TRAINING).tell(MachineLost(number=2, failure=why))
