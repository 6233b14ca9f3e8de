"""What the panels of a run's page say, drawn from its view alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reflux.errors import failure
from reflux.views import ProgressView, RemovedView, RunView, TaskView
from services.api.dashboard import timeline
from services.api.dashboard.control_panel import ACTING, panel
from services.api.dashboard.kpis import figures
from services.api.history import Work
from tests.unit.stories import epoch, spec

BEGAN = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)


def run(**facts: Any) -> RunView:
    known = {
        "id": "r1", "name": "r", "recipe": "distill", "status": "training", "stage": "training", "epoch": 1, "max_epochs": 3,
        "progress": ProgressView(percent=10), "created_at": BEGAN, "started_at": BEGAN, "spec": spec().model_dump(mode="json"),
    }  # fmt: skip
    return RunView.model_validate(known | facts)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def work(
    key: str, due: float, claimed: float | None, ended: float | None, stage: str = "training", worker: str | None = "w"
) -> Work:
    times = (at(due), None if claimed is None else at(claimed), None if ended is None else at(ended))
    return Work(key, key.split("-", maxsplit=1)[0], stage, 1, "done", worker, *times)


@pytest.mark.parametrize(
    ("facts", "actions"),
    [
        ({"status": "queued", "stage": "queued"}, ("pause", "abort")),
        ({"status": "paused"}, ("resume", "abort")),
        ({"status": "aborting"}, ()),
        ({"status": "cleaning_up", "stage": "cleaning_up", "outcome": "failed"}, ()),
        ({"status": "refining", "waits_for_review": True}, ("review", "pause", "abort")),
        ({"status": "failed", "stage": "failed", "outcome": "failed", "ended_at": BEGAN}, ("again",)),
    ],
)
def test_only_what_can_be_done_is_offered(facts: dict[str, Any], actions: tuple[str, ...]) -> None:
    assert panel(run(**facts), operates=True).actions == actions
    assert not set(panel(run(**facts), operates=False).actions) & set(ACTING)


def test_a_failure_says_what_to_do_and_a_retry_is_no_failure() -> None:
    failed = panel(run(status="failed", outcome="failed", ended_at=BEGAN, error=failure("nan_loss", "NaN")), operates=True)
    assert (failed.problem, "learning_rate" in failed.hint) == ("NaN", True)
    error = {"message": "the road broke", "hint": "Check the road."}
    task = TaskView(key="teach-0000", kind="teach", stage="teaching", epoch=0, status="ready", attempt=2, error=error)
    retried = panel(run(tasks=[task]), operates=True)
    assert retried.problem == ""
    assert retried.notices == ("The task that asks the teacher is tried again after attempt 2: the road broke. Check the road.",)


def test_what_retention_removed_is_said_and_no_longer_offered() -> None:
    over = {
        "status": "succeeded",
        "stage": "succeeded",
        "outcome": "succeeded",
        "ended_at": BEGAN,
        "epochs": [epoch(1)],
        "best_epoch": 1,
    }
    assert panel(run(**over), operates=True).actions == ("playground", "fork", "again")
    removed = RemovedView(what="artifacts", why="the run ended more than 30 days ago", at=BEGAN, count=2, bytes=200)
    shown = panel(run(**over, removed=[removed]), operates=True)
    assert shown.actions == ("again",)
    assert shown.notices == (
        "Answers, corrections and checkpoints were removed by retention on 2026-11-25: the run ended more than 30 days ago.",
    )


def test_figures_wait_in_words_and_an_ended_run_waits_for_nothing() -> None:
    assert {figure.name: figure.more for figure in figures(run(), {})}["Loss"] == "waits for training"
    ended = figures(run(status="aborted", outcome="aborted", ended_at=at(120)), {})
    assert not [figure for figure in ended if "waits" in figure.more]
    assert next(figure.value for figure in ended if figure.name == "Time") == "2 min"


def test_bars_are_merged_and_waits_are_what_nobody_worked_in() -> None:
    works = [
        work("train-001", 0, 30, 100),
        work("score-001-a", 100, 100.5, 110, "refining"),
        work("score-001-b", 100, 110, 120, "refining"),
        work("review-001-0000-1", 120, None, 300, "refining", worker=None),
    ]
    bars = timeline.bars(run(), [("queued", at(0)), ("training", at(30))], works, at(300))
    told = [(bar.lane, bar.row, bar.waits, (bar.stop - bar.start).total_seconds()) for bar in bars]
    assert told == [
        ("Run", "stages", True, 30),
        ("Run", "stages", False, 270),
        ("Epoch 1", "gpu", False, 70),
        ("Epoch 1", "gpu", True, 30),
        ("Epoch 1", "evaluator", False, 19.5),
        ("Epoch 1", "person", True, 180),
    ]
