"""Every stop, from every stage, as a race against what the work in hand reports at that moment, in both orders.

Whoever comes second waits for the other's commit, as two calls of the real API do.
"""

from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from reflux.events import ANSWERS, AbortRequested, PauseRequested, ResumeRequested, TimeLimitReached
from reflux.protocol import Accepted, Assignment, Beat, BeatAnswer
from reflux.stages import Stage
from services.api import runs, tasks
from services.api.problems import ProblemError
from tests.integration.desk import Desk, Work, completing, failing, losing, stopping, telling
from tests.unit import stories

STAGES = [stage for stage in Stage if stage != Stage.QUEUED and not stage.terminal]
EPOCH = {"max_epochs": 1}
SECTIONS = {"compute": {"kind": "ec2"}, "refining": EPOCH, "teaching": {"shard_size": 2}}
STOPS = {"abort": AbortRequested(by="tester"), "pause": PauseRequested(by="tester"), "limit": TimeLimitReached()}
REPORTS: dict[str, Callable[[Assignment], Work[Accepted] | Work[None]]] = {
    "done": completing,
    "failed": failing,
    "stopped": stopping,
    "lost": losing,
}
FACTS = {fact.model_fields["type"].default for fact in ANSWERS.values()}

# What a stop means in each stage is tested without a database (tests/unit/test_loop_stops.py). Rows are raced for here, the
# same in each stage: training stands for the others, but where several tasks are in hand, or the stop comes too late.
DECISIVE = {
    *((Stage.TRAINING, stop, "done", stop_first) for stop in STOPS for stop_first in (True, False)),
    *((Stage.TRAINING, "abort", report, stop_first) for report in ("failed", "lost") for stop_first in (True, False)),
    (Stage.TRAINING, "pause", "stopped", True),
    (Stage.TEACHING, "pause", "done", True),
    (Stage.REFINING, "limit", "done", False),
    (Stage.EXPORTING, "limit", "done", True),
    (Stage.CLEANING_UP, "abort", "done", True),
}
# Each report at each stage would be more of the same: what matters of the others is that a stop is under way.
RACES = [
    pytest.param(
        *(race := (stage, stop, report, stop_first)),
        id=f"{stage}, {stop} {'before' if stop_first else 'after'} {report}",
        marks=() if race in DECISIVE else pytest.mark.long,
    )
    for stage in STAGES
    for stop in STOPS
    for report in REPORTS
    for stop_first in (True, False)
    if report == "done" or stage == Stage.TRAINING
]
BY_FORCE = [
    pytest.param(stage, marks=() if stage in (Stage.TRAINING, Stage.CLEANING_UP) else pytest.mark.long) for stage in STAGES
]


def asking(run_id: str, stop: str) -> Work[bool]:
    """As people and the clock ask; whether that was news."""
    event = STOPS[stop]
    if isinstance(event, TimeLimitReached):
        return lambda session: bool(telling(run_id, event)(session)) or True

    def work(session: Session) -> bool:
        try:
            return runs.ask(session, run_id, event)[1]
        except ProblemError:
            return False

    return work


@pytest.mark.parametrize(("stage", "stop", "report", "stop_first"), RACES)
def test_a_stop_races_a_report(
    desk: Desk, undisturbed: set[str], stage: Stage, stop: str, report: str, *, stop_first: bool
) -> None:
    run_id = desk.create(**SECTIONS)
    first, *others = desk.until_stage(run_id, stage)
    parties = asking(run_id, stop), REPORTS[report](first)
    told = desk.race(*parties) if stop_first else desk.race(*reversed(parties))  # type: ignore[arg-type]
    accepted = told[1] if stop_first else told[0]
    if report != "lost":
        assert accepted.accepted, "what an attempt reports while the run stops is kept"
    for other in others:
        desk.do(stopping(other))
    if desk.row(run_id).status == "paused":
        assert not desk.tasks(run_id, "ready", "claimed"), "a paused run holds no worker"
        desk.do(lambda session: runs.ask(session, run_id, ResumeRequested()))
    outcome = expected(stage, stop, report, stop_first=stop_first)
    begun = desk.work(run_id, lambda command: outcome == "aborted" and command.kind != "clean_up")
    assert not begun, f"{begun[0].command.key} was begun after the abort"
    run = desk.run(run_id)
    assert run.outcome == outcome
    assert bool(run.model_path) == exported(stage, stop, report, outcome)
    check_history(desk, run_id)
    if outcome == "succeeded":
        assert {task.key for task in desk.tasks(run_id, "done")} == undisturbed


def expected(stage: Stage, stop: str, report: str, *, stop_first: bool) -> str:
    if stage == Stage.CLEANING_UP or (stage == Stage.EXPORTING and stop == "limit"):
        return "succeeded"  # too late for it
    if report == "failed" and not stop_first:
        return "failed"
    return {"abort": "aborted", "pause": "succeeded", "limit": "failed"}[stop]


def exported(stage: Stage, stop: str, report: str, outcome: str) -> bool:
    """Whether there is a model at the end: at the time limit, if one was trained."""
    if stop == "limit" and outcome == "failed":
        return stage in (Stage.REFINING, Stage.EVALUATING) or (stage == Stage.TRAINING and report == "done")
    return outcome == "succeeded" or (outcome == "aborted" and stage == Stage.EXPORTING)


def check_history(desk: Desk, run_id: str) -> None:
    """The run is over for good, nothing is in anybody's hands, and every fact was told once."""
    assert desk.row(run_id).ended_at
    assert not desk.tasks(run_id, "ready", "claimed")
    events = desk.events(run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert "impossible" not in {event.type for event in events}
    facts = Counter(event.body["key"] for event in events if event.type in FACTS)
    assert set(facts.values()) == {1}
    terminal = [event.status for event in events if event.status in ("succeeded", "failed", "aborted")]
    assert len(terminal) == 1, "a terminal status is taken once, and nothing follows"


@pytest.fixture(scope="module")
def undisturbed(desk: Desk) -> set[str]:
    """The keys of all that is done in a run that nobody stops."""
    run_id = desk.create(**SECTIONS)
    desk.work(run_id)
    assert desk.run(run_id).outcome == "succeeded"
    return {task.key for task in desk.tasks(run_id, "done")}


@pytest.mark.parametrize("beat_first", [True, False])
def test_a_beat_with_a_chunk_races_an_abort(desk: Desk, *, beat_first: bool) -> None:
    """The chunk is kept; nobody scores it."""
    run_id = desk.create(**SECTIONS)
    (given,) = desk.until_stage(run_id, Stage.REFINING)
    body = Beat(attempt=given.attempt, chunks=[stories.chunk(0)])

    def beating(session: Session) -> BeatAnswer:
        return tasks.beat(session, given.task_id, body, desk.settings)

    if beat_first:
        desk.race(beating, asking(run_id, "abort"))
        assert desk.do(beating).answer == "stop"
    else:
        assert desk.race(asking(run_id, "abort"), beating)[1].answer == "stop"
    assert not desk.tasks(run_id, "ready")
    assert desk.do(stopping(given)).accepted
    assert [a.command.kind for a in desk.take_all(run_id)] == ["clean_up"]
    assert stories.chunk(0).name in desk.run(run_id).chunks


@pytest.mark.parametrize("complete_first", [True, False])
def test_the_budget_that_runs_out_races_an_abort(desk: Desk, *, complete_first: bool) -> None:
    run_id = desk.create(**SECTIONS, limits={"max_teacher_cost_usd": 0.01})
    first, other = desk.until_stage(run_id, Stage.TEACHING)
    parties = completing(first), asking(run_id, "abort")
    desk.race(*parties) if complete_first else desk.race(*reversed(parties))
    assert desk.do(stopping(other)).accepted
    desk.work(run_id)
    assert desk.run(run_id).outcome == "aborted"
    assert desk.run(run_id).usage.calls == 1, "what was bought meanwhile is counted"
    check_history(desk, run_id)


@pytest.mark.parametrize("stage", BY_FORCE)
def test_a_stop_by_force_races_a_completion(desk: Desk, stage: Stage) -> None:
    """The worker was told to kill, and is done at that moment: whoever is first counts, and the other changes nothing."""
    for complete_first in (True, False):
        run_id = desk.create(**SECTIONS)
        first, *others = desk.until_stage(run_id, stage)
        desk.do(asking(run_id, "abort"))
        parties = completing(first), losing(first)
        told = desk.race(*parties) if complete_first else desk.race(*reversed(parties))
        for other in others:
            desk.do(stopping(other))
        desk.work(run_id)
        assert desk.run(run_id).outcome == ("succeeded" if stage == Stage.CLEANING_UP else "aborted")
        if stage != Stage.CLEANING_UP:
            accepted = told[0] if complete_first else told[1]
            assert accepted is not None
            assert accepted.accepted == complete_first
        check_history(desk, run_id)


def test_an_abort_and_a_pause_at_once(desk: Desk) -> None:
    for stops in (("abort", "pause"), ("pause", "abort")):
        run_id = desk.create(**SECTIONS)
        (given,) = desk.until_stage(run_id, Stage.TRAINING)
        first, second = desk.race(asking(run_id, stops[0]), asking(run_id, stops[1]))
        assert (first, second) == (True, stops[1] == "abort")
        desk.do(stopping(given))
        desk.work(run_id)
        assert desk.run(run_id).outcome == "aborted"
        check_history(desk, run_id)
