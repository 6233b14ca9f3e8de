"""Limits of time, of a run and of its stages: when control finds them reached, and what stands still meanwhile."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from structlog.testing import capture_logs

from reflux.events import PauseRequested, ResumeRequested
from reflux.protocol import Beat
from reflux.stages import Stage
from services.api import runs, tasks
from services.api.control import keep_limit, watch
from services.api.tables import RunRow
from tests.integration.desk import Desk, completing, stopping

TRAINING = {"limits": {"max_stage_runtime": {"training": "4h"}}, "refining": {"max_epochs": 2}}


def ago(desk: Desk, run_id: str, *names: str, hours: float) -> None:
    """As if these times had been so much earlier."""
    earlier = {name: getattr(RunRow, name) - timedelta(hours=hours) for name in names}
    desk.do(lambda session: session.execute(update(RunRow).where(RunRow.id == run_id).values(**earlier)))


def watched(desk: Desk, run_id: str) -> tuple[str | None, list[dict[str, Any]]]:
    """What stops the run after a look of control, and what it was told of limits."""
    watch(desk.engine, desk.settings, None)
    return desk.row(run_id).stopping, [event.body for event in desk.events(run_id) if event.type == "time_limit_reached"]


def test_a_stage_s_limit_counts_from_its_beginning_in_each_epoch_anew(desk: Desk) -> None:
    run_id = desk.create(**TRAINING)
    desk.until_stage(run_id, Stage.TRAINING)
    ago(desk, run_id, "stage_since", hours=3.9)
    assert watched(desk, run_id) == (None, [])
    given = desk.held(desk.tasks(run_id, "claimed")[0].id)
    assert desk.do(completing(given)).accepted
    (given,) = desk.work(run_id, lambda command: command.key == "train-002")
    ago(desk, run_id, "stage_since", hours=3.9)
    assert watched(desk, run_id) == (None, []), "the hours of the first epoch's training are not counted"
    ago(desk, run_id, "stage_since", hours=0.2)
    assert watched(desk, run_id) == ("limit", [{"v": 1, "type": "time_limit_reached", "stage": "training"}])
    assert desk.do(stopping(given)).accepted
    desk.work(run_id)
    run = desk.run(run_id)
    assert (run.outcome, run.partial, run.model_path is not None) == ("failed", True, True)
    assert run.error
    assert "limits.max_stage_runtime.training (4 h) was reached in training, epoch 2" in run.error.message


def test_the_wait_for_the_gpu_s_turn_counts(desk: Desk) -> None:
    """As it does for the run's own limit: who waits for a run waits for all of it."""
    run_id = desk.create(**TRAINING)
    (given,) = desk.work(run_id, lambda command: command.kind == "teach")
    assert desk.do(completing(given)).accepted
    (waiting,) = desk.tasks(run_id, "ready")
    assert waiting.kind == "train"
    ago(desk, run_id, "stage_since", hours=5)
    watch(desk.engine, desk.settings, None)
    assert desk.task(waiting.id).status == "stopped"
    assert [given.command.kind for given in desk.take_all(run_id)] == ["clean_up"]


@pytest.mark.parametrize("limits", [{"max_stage_runtime": {"training": "4h"}}, {"max_runtime": "4h"}])
def test_a_pause_does_not_count(desk: Desk, limits: dict[str, Any]) -> None:
    run_id = desk.create(limits=limits)
    (given,) = desk.until_stage(run_id, Stage.TRAINING)
    ago(desk, run_id, "stage_since", "deadline_at", hours=3)
    desk.do(lambda session: runs.ask(session, run_id, PauseRequested()))
    assert desk.do(stopping(given)).accepted
    ago(desk, run_id, "stage_since", "deadline_at", "stopping_since", hours=10)
    assert watched(desk, run_id) == ("pause", [])
    desk.do(lambda session: runs.ask(session, run_id, ResumeRequested()))
    assert watched(desk, run_id) == (None, [])
    ago(desk, run_id, "stage_since", "deadline_at", hours=0.9)
    assert watched(desk, run_id) == (None, [])
    ago(desk, run_id, "stage_since", "deadline_at", hours=0.2)
    assert watched(desk, run_id)[1], "of the four hours three had passed before the pause"


def test_a_stage_that_began_while_a_pause_was_under_way_has_all_its_time(desk: Desk) -> None:
    run_id = desk.create(limits={"max_stage_runtime": {"refining": "1h"}})
    (given,) = desk.until_stage(run_id, Stage.TRAINING)
    desk.do(lambda session: runs.ask(session, run_id, PauseRequested()))
    assert desk.do(completing(given)).accepted
    ago(desk, run_id, "stage_since", hours=5)
    ago(desk, run_id, "stopping_since", hours=6)
    desk.do(lambda session: runs.ask(session, run_id, ResumeRequested()))
    now = desk.do(lambda session: session.execute(select(func.now())).scalar_one())
    assert now - desk.row(run_id).stage_since < timedelta(seconds=60)


def test_a_comparison_that_takes_too_long_is_taken_from_its_worker(desk: Desk) -> None:
    run_id = desk.create(limits={"max_stage_runtime": {"evaluating": "20m"}}, refining={"max_epochs": 1})
    given, _ = desk.until_stage(run_id, Stage.EVALUATING)
    ago(desk, run_id, "stage_since", hours=1)
    assert watched(desk, run_id)[0] is None
    told = desk.do(lambda session: tasks.beat(session, given.task_id, Beat(attempt=given.attempt), desk.settings))
    assert told.answer == "lost"
    assert not desk.do(completing(given)).accepted
    desk.work(run_id)
    run = desk.run(run_id)
    assert (run.outcome, run.partial, run.error) == ("succeeded", False, None)
    assert any("limits.max_stage_runtime.evaluating" in warning for warning in run.warnings)


def test_an_export_has_its_own_limit_alone(desk: Desk) -> None:
    run_id = desk.create(limits={"max_runtime": "1h", "max_stage_runtime": {"exporting": "2h"}}, refining={"max_epochs": 1})
    (given,) = desk.until_stage(run_id, Stage.EXPORTING)
    ago(desk, run_id, "deadline_at", hours=2)
    with capture_logs() as lines:
        assert watched(desk, run_id) == (None, [])
    assert lines == [], "control does not ask each second for what comes too late"
    ago(desk, run_id, "stage_since", hours=3)
    assert watched(desk, run_id)[0] == "failure"
    assert desk.do(stopping(given)).accepted
    desk.work(run_id)
    run = desk.run(run_id)
    assert (run.outcome, run.partial) == ("failed", True)
    assert run.error
    assert run.error.code == "stage_timeout"


def test_control_passes_over_a_stage_that_has_just_ended(desk: Desk) -> None:
    """It sees the limit reached, and waits for the commit in which the stage ends."""
    run_id = desk.create(**TRAINING)
    (given,) = desk.until_stage(run_id, Stage.TRAINING)
    ago(desk, run_id, "stage_since", hours=5)
    desk.race(completing(given), lambda session: keep_limit(session, runs.locked(session, run_id)))
    assert (desk.row(run_id).stage, desk.row(run_id).stopping) == ("refining", None)
