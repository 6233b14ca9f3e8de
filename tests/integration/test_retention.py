"""What old runs need no longer goes: what is due, what is needed, what is said of it afterwards, and a kill in the midst."""

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts
from reflux.client import ApiError, Client
from reflux.local.stack import Stack
from reflux.views import Removable, RetentionPlan
from services.api import forks, removals, retention, runs
from services.api.database import make_engine
from services.api.problems import ProblemError
from services.api.retention import Rules
from services.api.tables import LogRow, MetricRow, RemovalRow, RunRow
from tests.integration.by_hand import SPEC, HandWorker
from tests.integration.desk import Desk
from tests.integration.test_api_cli import call

WORKING = ("tasks/train-001/attempt-1/adapter/weights.bin", "pieces/generate-001-student/a.jsonl")
RESULTS = ("adapter/weights.bin", "report.md", "report/loss.png")
TOLD = ("spec.json", "training_summary.json")
OLD = Rules(artifacts_days=30)


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(f"file://{tmp_path}/store")


@pytest.fixture
def old(desk: Desk, store: Artifacts) -> str:
    """A run that ended 40 days ago, with 100 bytes in each of its files."""
    desk.clear()
    return ended(desk, store, 40)


def ended(desk: Desk, store: Artifacts, days: float, **sections: Any) -> str:
    run_id = desk.create(refining={"max_epochs": 2}, **sections)
    desk.work(run_id)
    fill(desk, store, run_id, days)
    return run_id


def fill(desk: Desk, store: Artifacts, run_id: str, days: float) -> None:
    for path in (*WORKING, *RESULTS, *TOLD):
        store.put(f"runs/{run_id}/{path}", b"x" * 100)
    then = {"ended_at": func.now() - timedelta(days=days), "created_at": func.now() - timedelta(days=days)}
    desk.do(lambda session: session.execute(update(RunRow).where(RunRow.id == run_id).values(**then)))


def left(store: Artifacts, run_id: str) -> set[str]:
    return {path.removeprefix(f"runs/{run_id}/") for path in store.paths(f"runs/{run_id}")}


def planned(desk: Desk, store: Artifacts, rules: Rules) -> RetentionPlan:
    return desk.do(lambda session: retention.plan(session, store, rules))


def going(plan: RetentionPlan) -> list[tuple[str, Removable]]:
    return [(removal.run_id, removal.what) for removal in plan.removals]


def retained(desk: Desk, store: Artifacts, rules: Rules) -> int:
    return retention.retain(desk.engine, store, rules, threading.Event())


def test_nothing_goes_without_a_limit(desk: Desk, store: Artifacts, old: str) -> None:
    assert planned(desk, store, Rules()).removals == []
    assert retained(desk, store, Rules()) == 0
    assert Rules.of(desk.settings) == Rules(), "none is set by default"


def test_what_is_due_by_age_goes_and_no_more(desk: Desk, store: Artifacts, old: str) -> None:
    young, running = ended(desk, store, 20), desk.create()
    store.put(f"runs/{running}/{WORKING[0]}", b"x")
    plan = planned(desk, store, OLD)
    [removal] = plan.removals
    assert (removal.run_id, removal.what, removal.count, removal.bytes) == (old, "artifacts", 2, 200)
    assert removal.why == "the run ended more than 30 days ago"
    assert left(store, old) == {*WORKING, *RESULTS, *TOLD}, "a plan removes nothing"
    assert retained(desk, store, OLD) == 1
    assert left(store, old) == {*RESULTS, *TOLD}
    assert left(store, young) == {*WORKING, *RESULTS, *TOLD}
    assert left(store, running) == {WORKING[0]}
    assert retained(desk, store, OLD) == 0, "it is gone already"


def test_results_stay_for_longer(desk: Desk, store: Artifacts, old: str) -> None:
    assert retained(desk, store, Rules(artifacts_days=30, results_days=60)) == 1
    assert retained(desk, store, Rules(artifacts_days=30, results_days=35)) == 1
    assert left(store, old) == set(TOLD)


def test_lines_and_points_go_by_age(desk: Desk, store: Artifacts, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS", 3)
    young = ended(desk, store, 1)
    for run_id in (old, young):
        lines = [{"run_id": run_id, "task": "t", "service": "s", "level": "info", "line": str(i)} for i in range(7)]
        points = [{"run_id": run_id, "epoch": 1, "name": "loss", "step": i, "value": 1.0} for i in range(6)]
        desk.do(lambda session, lines=lines: session.execute(insert(LogRow), lines))
        desk.do(lambda session, points=points: session.execute(insert(MetricRow), points))
    rules = Rules(logs_days=7, metrics_days=7)
    assert [(r.run_id, r.what, r.count) for r in planned(desk, store, rules).removals] == [(old, "logs", 7), (old, "metrics", 6)]
    assert retained(desk, store, rules) == 2
    for table, most in ((LogRow, 7), (MetricRow, 6)):
        rows = desk.do(
            lambda session, table=table: session.execute(select(table.run_id, func.count()).group_by(table.run_id)).all()
        )
        assert rows == [(young, most)]


def test_the_oldest_go_where_there_is_too_much(desk: Desk, store: Artifacts, old: str) -> None:
    """Three runs of 700 bytes each: to get below 1.8 kB, two of them give their 200 bytes of working files."""
    middle, young = ended(desk, store, 20), ended(desk, store, 10)
    plan = planned(desk, store, Rules(artifacts_gb=1.8e-6))
    assert going(plan) == [(old, "artifacts"), (middle, "artifacts")]
    assert retained(desk, store, Rules(artifacts_gb=1.8e-6)) == 2
    assert left(store, young) == {*WORKING, *RESULTS, *TOLD}
    assert planned(desk, store, Rules(artifacts_gb=1.8e-6)).removals == []


def test_what_a_fork_needs_stays_until_the_fork_s_own_goes(desk: Desk, store: Artifacts, old: str) -> None:
    def move(session: Session) -> None:
        row = runs.locked(session, old)
        row.state = {**row.state, "corrections_paths": [f"runs/{old}/tasks/judge-001-0000-1/attempt-1/c.jsonl"]}

    desk.do(move)
    fork = desk.do(lambda session: forks.create(session, old, "tester", 1, {"refining": {"max_epochs": 2}}, {}).id)
    plan = planned(desk, store, OLD)
    assert (going(plan), [(kept.run_id, kept.why) for kept in plan.kept]) == ([], [(old, f"needed by {fork}")])
    desk.work(fork)
    fill(desk, store, fork, 20)
    assert retained(desk, store, OLD) == 0, "the fork is over, and not old"
    fill(desk, store, fork, 35)
    assert going(planned(desk, store, OLD)) == [(fork, "artifacts"), (old, "artifacts")]
    assert retained(desk, store, OLD) == 2


def test_what_a_live_run_learns_from_stays(desk: Desk, store: Artifacts, old: str) -> None:
    uri = f"s3://bucket/runs/{old}/pieces"
    live = desk.create(data={"sources": [{"uri": uri}]})
    rules = Rules(artifacts_days=30, results_days=30, artifacts_gb=0, logs_days=1)
    plan = planned(desk, store, rules)
    assert going(plan) == []
    assert {(kept.run_id, kept.what, kept.why) for kept in plan.kept} == {
        (old, "artifacts", f"needed by {live}"),
        (old, "results", f"needed by {live}"),
    }
    desk.work(live)
    assert (old, "artifacts") in going(planned(desk, store, rules)), "it is over"


def test_a_need_that_comes_after_the_plan_is_seen(desk: Desk, store: Artifacts, old: str) -> None:
    [removal] = planned(desk, store, OLD).removals
    desk.create(data={"sources": [{"uri": f"s3://bucket/runs/{old}/pieces/"}]})
    assert not retention.record(desk.engine, removal)
    assert desk.do(lambda session: removals.of_run(session, old)) == []


def test_it_is_said_before_anything_is_deleted_and_a_kill_between_them_is_made_up_for(
    desk: Desk, store: Artifacts, old: str
) -> None:
    [removal] = planned(desk, store, OLD).removals
    assert retention.record(desk.engine, removal)
    assert left(store, old) == {*WORKING, *RESULTS, *TOLD}
    with pytest.raises(ProblemError, match="removed by retention on"):
        desk.do(lambda session: removals.find(session, store, old, "pieces/train-001/nothing"))
    assert retained(desk, store, OLD) == 0
    assert left(store, old) == {*RESULTS, *TOLD}
    assert desk.do(lambda session: session.scalar(select(func.count()).where(RemovalRow.done_at.is_(None)))) == 0
    [event] = [event for event in desk.events(old) if event.type == "removed_by_retention"]
    assert event.body == {"what": "artifacts", "why": "the run ended more than 30 days ago", "count": 2, "bytes": 200}


def test_a_run_that_made_nothing_is_looked_at_once(desk: Desk, store: Artifacts) -> None:
    desk.clear()
    run_id = desk.create()
    desk.work(run_id)
    desk.do(lambda session: session.execute(update(RunRow).values(ended_at=func.now() - timedelta(days=40))))
    events = len(desk.events(run_id))
    assert retained(desk, store, OLD) == 0
    assert (len(desk.events(run_id)), desk.do(lambda session: session.scalar(select(RemovalRow.count)))) == (events, 0)
    assert desk.do(lambda session: runs.view(session, runs.get(session, run_id), "", full=True)).removed == []


def test_what_was_removed_is_said_where_it_is_asked_for(
    client: Client, worker: HandWorker, control_plane: Stack, tmp_path: Path
) -> None:
    store = Artifacts(f"file://{control_plane.folder}/artifacts")
    run = client.create(SPEC)
    worker.work(run.id)
    for path in (*WORKING, *RESULTS):
        store.put(f"runs/{run.id}/{path}", b"x")
    worker.sql("update runs set ended_at = now() - interval '40 days' where id = %s", run.id)
    plan = client.retention(artifacts_days=30)
    assert [(removal.run_id, removal.count) for removal in plan.removals] == [(run.id, 2)]
    assert client.retention().removals == [], "no limit is set"
    engine = make_engine(f"postgresql+psycopg://postgres@127.0.0.1:{control_plane.ports['postgres']}/reflux")
    retention.retain(engine, store, OLD, threading.Event())
    engine.dispose()
    [removed] = client.run(run.id).removed
    assert removed.told.startswith("Answers, corrections and checkpoints were removed by retention on ")
    asked = (
        lambda: client.download(run.id, WORKING[0], tmp_path / "x"),
        lambda: client.answers(run.id),
        lambda: client.fork(run.id),
        lambda: list(client.complete(run.id, "Write memset.")),
    )
    for ask in asked:
        with pytest.raises(ApiError, match="removed by retention on") as refusal:
            ask()
        assert (refusal.value.problem.status, refusal.value.problem.code) == (410, "removed_by_retention")
    with httpx.Client(base_url=control_plane.api_url, headers={"Origin": control_plane.api_url}, timeout=30) as browser:
        browser.post("/sign-in", data={"key": control_plane.keys["operator"], "next": "/"})
        for page in (f"/runs/{run.id}", f"/runs/{run.id}/answers"):
            assert "Answers, corrections and checkpoints were removed by retention on" in browser.get(page).text
    assert client.download(run.id, "report.md", tmp_path / "report.md").read_bytes() == b"x"
    with pytest.raises(ApiError, match="no artifact") as refusal:
        client.download(run.id, "merged/weights.bin", tmp_path / "x")
    assert refusal.value.problem.status == 404, "there never was one"
    client.delete(run.id, artifacts=True)
    assert left(store, run.id) == set()


def test_limits_are_numbers_that_are_not_negative(client: Client) -> None:
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ApiError) as refusal:
            client.retention(logs_days=wrong)
        assert refusal.value.problem.status == 422


def test_the_command_says_what_would_go(client: Client, worker: HandWorker, control_plane: Stack) -> None:
    run = client.create(SPEC)
    worker.work(run.id)
    Artifacts(f"file://{control_plane.folder}/artifacts").put(f"runs/{run.id}/{WORKING[0]}", b"x" * 1234)
    worker.sql("update runs set ended_at = now() - interval '400 days' where id = %s", run.id)
    told = call(control_plane, "retention", "--artifacts-days", "365")
    assert told.exit_code == 0, told.output
    assert [run.id, "artifacts", "1", "1,234"] in [line.split()[:4] for line in told.output.splitlines()]
    assert "1 run would give 1,234 bytes. Nothing was removed." in told.output
    [removal] = RetentionPlan.model_validate_json(
        call(control_plane, "retention", "--artifacts-days", "365", "--json").stdout
    ).removals
    assert removal.bytes == 1234
    assert "0 runs would give" in call(control_plane, "retention").output
