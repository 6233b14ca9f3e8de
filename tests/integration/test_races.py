"""Two things at the same moment, in both orders, on real transactions: a limit and the end of what it limits, a budget and the
last answer, a pause and a review, a fork and whatever becomes of its origin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from reflux import prices
from reflux.artifacts import Artifacts
from reflux.commands import CleanUp, Command
from reflux.events import AbortRequested, PauseRequested, ResumeRequested, RunAdmitted
from reflux.protocol import Accepted, Assignment
from reflux.stages import Stage
from reflux.summary import Usage
from services.api import forks, reviews, runs, tasks
from services.api.control import keep_limit
from services.api.problems import ProblemError
from services.api.tables import RunRow
from tests.integration.desk import Desk, T, Work, completing, stopping
from tests.integration.test_reviews import correction
from tests.integration.test_stops import check_history
from tests.unit import stories

BOTH_ORDERS = pytest.mark.parametrize("swapped", [False, True], ids=["", "the other first"])


def is_(key: str) -> Callable[[Command], bool]:
    return lambda command: command.key == key


def answering(given: Assignment, **facts: Any) -> Work[Accepted]:
    event = stories.answer(given.command, **facts)
    return lambda session: tasks.complete(session, given.task_id, given.attempt, event)


def or_refused(work: Work[T]) -> Work[T | str]:
    """What it gives, or the code of the problem that the API answers with."""

    def attempt(session: Session) -> T | str:
        try:
            return work(session)
        except ProblemError as refusal:
            session.rollback()
            return refusal.problem.code

    return attempt


def race(desk: Desk, one: Work[Any], other: Work[Any], *, swapped: bool) -> tuple[Any, Any]:
    """What `one` and `other` gave, whoever was first."""
    if swapped:
        second, first = desk.race(other, one)
        return first, second
    return desk.race(one, other)


def asking(run_id: str, request: AbortRequested | PauseRequested | ResumeRequested) -> Work[bool]:
    """As a person does; whether it was news to the run."""
    return lambda session: runs.ask(session, run_id, request)[1]


def keeping_limits(run_id: str) -> Work[None]:
    """As control does when it has seen a limit reached."""
    return lambda session: keep_limit(session, runs.locked(session, run_id))


# A stage's limit and its end


@pytest.mark.parametrize("last", ["teach-0000", "train-001", "compare", "deliver"])
@BOTH_ORDERS
def test_a_stage_s_limit_races_the_end_of_the_stage(desk: Desk, last: str, *, swapped: bool) -> None:
    each = dict.fromkeys(("teaching", "training", "evaluating", "exporting"), "1h")
    run_id = desk.create(limits={"max_stage_runtime": each}, refining={"max_epochs": 1})
    (given,) = desk.work(run_id, is_(last))
    ago = {"stage_since": func.now() - func.make_interval(0, 0, 0, 0, 2)}
    desk.do(lambda session: session.execute(update(RunRow).where(RunRow.id == run_id).values(ago)))
    _, accepted = race(desk, keeping_limits(run_id), completing(given), swapped=swapped)
    desk.work(run_id)
    run = desk.run(run_id)
    if swapped or last == "compare":
        assert (run.outcome, run.partial, run.comparison is None) == ("succeeded", False, not swapped)
        assert accepted.accepted == swapped
    else:
        assert accepted.accepted, "what comes in at the limit is kept"
        assert (run.outcome, run.partial, bool(run.model_path)) == ("failed", last != "teach-0000", last != "teach-0000")
        assert run.error
        assert run.error.code == "stage_timeout"
    limits = [event.body["stage"] for event in desk.events(run_id) if event.type == "time_limit_reached"]
    assert limits == ([] if swapped else [given.command.stage.value])
    check_history(desk, run_id)


# A budget and the last answer


@BOTH_ORDERS
def test_the_budget_is_used_up_by_the_last_two_shards_at_once(desk: Desk, *, swapped: bool) -> None:
    run_id = desk.create(limits={"max_teacher_cost_usd": 0.5}, teaching={"shard_size": 2})
    first, last = desk.until_stage(run_id, Stage.TEACHING)
    told = race(desk, completing(first), completing(last), swapped=swapped)
    assert all(accepted.accepted for accepted in told)
    desk.work(run_id)
    run = desk.run(run_id)
    assert run.error
    assert (run.outcome, run.error.code, run.usage.cost_usd) == ("failed", "budget_exhausted", 0.5)
    check_history(desk, run_id)


@BOTH_ORDERS
def test_the_budget_runs_out_while_the_epoch_s_last_score_comes_in(desk: Desk, *, swapped: bool) -> None:
    run_id = desk.create(limits={"max_teacher_cost_usd": 1.0}, teaching={"enabled": False}, refining={"max_epochs": 2})
    (generate,) = desk.work(run_id, is_("generate-001-student"))
    assert desk.do(completing(generate)).accepted
    practice, dev = sorted(desk.take_all(run_id), key=lambda given: "dev" in given.command.key)
    poor = stories.scores(practice.command.chunk, 4.0, poor=2)  # type: ignore[union-attr]
    assert desk.do(answering(practice, **poor)).accepted
    (correct,) = desk.take_all(run_id)
    used_up = answering(correct, requested=2, unasked=1, usage=Usage(calls=1, cost_usd=0.75))
    told = race(desk, used_up, completing(dev), swapped=swapped)
    assert all(accepted.accepted for accepted in told)
    assert [given.command.key for given in desk.work(run_id, is_("export_model"))] == ["export_model"]
    run = desk.run(run_id)
    assert run.error
    assert (run.stage, run.partial, run.error.code) == (Stage.EXPORTING, True, "budget_exhausted")
    assert run.chunks[dev.command.chunk.name].scored is not None  # type: ignore[union-attr]


# A pause and a review


@BOTH_ORDERS
def test_a_pause_races_the_decision_that_the_run_waits_for(desk: Desk, tmp_path: Path, *, swapped: bool) -> None:
    """A review that rests with its run can be decided when the run goes on, with the same corrections."""
    store = Artifacts(f"file://{tmp_path}")
    run_id = desk.create(teaching={"enabled": False}, refining={"max_epochs": 2, "review": True})
    (generate,) = desk.work(run_id, is_("generate-001-student"))
    assert desk.do(completing(generate)).accepted
    for given in desk.take_all(run_id):
        facts = stories.scores(given.command.chunk, 4.0, poor=2) if "practice" in given.command.key else {}  # type: ignore[union-attr]
        assert desk.do(answering(given, **facts)).accepted
    desk.work(run_id)  # up to the review
    assert desk.run(run_id).waits_for_review
    (review,) = desk.tasks(run_id, "ready")
    store.write_rows("done/judge-001-0000-1", [correction(0, admitted=True)])

    def decide(session: Session) -> None:
        reviews.decide(session, store, run_id, review.key, "someone", [], "approve")

    news, refused = race(desk, asking(run_id, PauseRequested()), or_refused(decide), swapped=swapped)
    assert (news, refused) == (True, None if swapped else "review_rests")
    assert desk.row(run_id).status == "paused"
    assert desk.do(lambda session: reviews.waiting(session, store, run_id)) == []
    desk.do(asking(run_id, ResumeRequested()))
    if not swapped:
        assert desk.run(run_id).waits_for_review
        desk.do(decide)
    (train,) = desk.take_all(run_id)
    assert train.command.key == "train-002"
    assert len(train.command.corrections_paths) == 1  # type: ignore[union-attr]
    assert desk.do(completing(train)).accepted
    desk.work(run_id)
    assert desk.run(run_id).outcome == "succeeded"
    check_history(desk, run_id)


# A fork and what becomes of its origin


def origin(desk: Desk, until: str) -> tuple[str, Assignment | None]:
    """A run whose dataset lies in its folder, and what it has in hand at `until`."""
    run_id = desk.create(teaching={"enabled": False}, refining={"max_epochs": 2})
    (prepare,) = desk.work(run_id, is_("prepare"))
    assert desk.do(answering(prepare, prompts_path=f"runs/{run_id}/tasks/prepare/attempt-1/prompts.jsonl")).accepted
    in_hand = desk.work(run_id, is_(until))
    return run_id, in_hand[0] if in_hand else None


def forking(run_id: str) -> Work[str]:
    changes = {"refining": {"max_epochs": 3}}
    return or_refused(lambda session: forks.create(session, run_id, "someone", None, changes, prices.PRICES).id)


def check_fork(desk: Desk, fork_id: str, epochs: list[int]) -> None:
    """It goes on after those epochs, to its own end."""
    assert [epoch.epoch for epoch in desk.run(fork_id).epochs] == epochs
    desk.tell(fork_id, RunAdmitted())
    desk.work(fork_id)
    assert (desk.run(fork_id).outcome, len(desk.run(fork_id).epochs)) == ("succeeded", 3)


@BOTH_ORDERS
def test_a_fork_races_the_end_of_the_epoch_that_it_is_made_from(desk: Desk, *, swapped: bool) -> None:
    run_id, given = origin(desk, "score-001-student-dev-0000")
    assert given
    others = [desk.held(task.id) for task in desk.tasks(run_id, "claimed") if task.id != given.task_id]
    assert all(desk.do(completing(other)).accepted for other in others)
    fork_id, accepted = race(desk, forking(run_id), completing(given), swapped=swapped)
    assert accepted.accepted
    if swapped:
        check_fork(desk, fork_id, [1])
    else:
        assert fork_id == "nothing_to_fork"
    desk.work(run_id)
    assert desk.run(run_id).outcome == "succeeded"


@BOTH_ORDERS
def test_a_fork_races_an_abort_of_the_training_that_goes_on(desk: Desk, *, swapped: bool) -> None:
    """The fork goes on from the finished epoch; the origin's clean-up keeps what was accepted."""
    run_id, given = origin(desk, "train-002")
    assert given
    fork_id, news = race(desk, forking(run_id), asking(run_id, AbortRequested()), swapped=swapped)
    assert news
    assert desk.do(stopping(given)).accepted
    (cleanup,) = desk.take_all(run_id)
    assert isinstance(cleanup.command, CleanUp)
    assert any("prepare" in prefix for prefix in cleanup.command.keep_prefixes)
    assert desk.do(completing(cleanup)).accepted
    assert desk.run(run_id).outcome == "aborted"
    check_fork(desk, fork_id, [1])


@BOTH_ORDERS
def test_a_fork_races_an_abort_that_discards_what_it_needs(desk: Desk, *, swapped: bool) -> None:
    run_id, _ = origin(desk, "train-002")
    discard = asking(run_id, AbortRequested(discard=True))
    fork_id, news = race(desk, forking(run_id), or_refused(discard), swapped=swapped)
    assert (fork_id, news) == (("nothing_to_fork", True) if swapped else (fork_id, "run_is_needed"))
    assert desk.row(run_id).status == ("aborting" if swapped else "training")
    if not swapped:
        check_fork(desk, fork_id, [1])


@pytest.mark.parametrize("with_artifacts", [True, False])
@BOTH_ORDERS
def test_a_fork_races_the_deletion_of_its_origin(desk: Desk, tmp_path: Path, *, with_artifacts: bool, swapped: bool) -> None:
    run_id, _ = origin(desk, "nothing")
    store = Artifacts(f"file://{tmp_path}")
    needed = f"runs/{run_id}/tasks/prepare/attempt-1/prompts.jsonl"
    store.put(needed, b"{}")
    delete = or_refused(lambda session: runs.delete(session, run_id, store if with_artifacts else None))
    fork_id, refused = race(desk, forking(run_id), delete, swapped=swapped)
    if swapped:
        assert (fork_id, refused) == ("run_not_found", None)
    else:
        assert refused == ("run_is_needed" if with_artifacts else None)
        assert store.exists(needed)
        check_fork(desk, fork_id, [1, 2])
