"""Corrections that a person must let pass, over the real API."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reflux.artifacts import Artifacts
from reflux.cli import app
from reflux.client import ApiError, Client
from reflux.commands import Command, Generate, Judge, Score, Train
from reflux.local.stack import Stack
from reflux.records import Answer, Correction, TeacherAnswer, Verdict
from reflux.views import Decision
from tests.integration.by_hand import SPEC, HandWorker
from tests.unit.stories import answer, chunk, scores

KEY = "review-001-0000-1"


def correction(i: int, admitted: bool) -> Correction:
    parts = dict.fromkeys(("overall", "syntax", "protocol", "safety", "style"), 4.0)
    return Correction(
        prompt_id=f"p{i}",
        prompt="Write it.",
        attempt=Answer(prompt_id=f"p{i}", prompt="Write it.", text="bad"),
        attempt_verdict=Verdict(prompt_id=f"p{i}", compiles=False, code="bad", rubric="1", **parts),
        answer=TeacherAnswer(prompt_id=f"p{i}", prompt="Write it.", text=f"good {i}", model="m"),
        admitted=admitted,
        why="scores higher",
    )


@pytest.fixture
def waiting(client: Client, worker: HandWorker, control_plane: Stack) -> tuple[str, Artifacts]:
    """A run that waits for a review of three corrections, and the artifact store."""
    store = Artifacts(f"file://{control_plane.folder}/artifacts")
    run = client.create(SPEC | {"refining": {"max_epochs": 2, "review": True}})

    def poor(command: Command) -> dict[str, Any]:
        if isinstance(command, Generate):
            return {"chunks": (chunk(0, count=4),)}
        return scores(command.chunk, 4.0, poor=4) if isinstance(command, Score) else {}

    while True:
        a = worker.take(run.id)
        if isinstance(a.command, Judge):
            rows = [correction(i, admitted=i < 3) for i in range(4)]
            store.write_rows(f"done/{a.command.key}", rows)
            assert worker.complete(a, answer(a.command, admitted=3, refused=0)).accepted
            return run.id, store
        assert worker.complete(a, answer(a.command, **poor(a.command))).accepted


def test_a_run_waits_for_its_review_scores_what_was_edited_and_trains_on_what_passed(
    client: Client, worker: HandWorker, waiting: tuple[str, Artifacts]
) -> None:
    run_id, store = waiting
    run = client.run(run_id)
    assert run.waits_for_review
    assert run.progress.doing == "waiting for your review of corrections"
    (open_review,) = client.reviews(run_id)
    assert (open_review.key, [row.prompt_id for row in open_review.corrections]) == (KEY, ["p0", "p1", "p2"])

    decided = [
        Decision(prompt_id="p0", decision="approve"),
        Decision(prompt_id="p1", decision="edit", text="better 1", why="names"),
        Decision(prompt_id="p2", decision="refuse"),
    ]
    after = client.decide(run_id, KEY, decided)
    assert not after.waits_for_review
    judge = worker.take(run_id)
    assert isinstance(judge.command, Judge)
    (edited,) = store.read_rows(judge.command.corrections_path, Correction)
    assert (judge.command.edited, edited.answer.text, edited.verdict, edited.admitted) == (True, "better 1", None, None)
    assert edited.why == "edited by bootstrap: names"
    assert worker.complete(judge, answer(judge.command, admitted=1, refused=0)).accepted
    train = worker.take(run_id).command
    assert isinstance(train, Train)
    judged, reviewed = train.corrections_paths
    assert judged == f"done/{judge.command.key}"
    rows = {row.prompt_id: row.admitted for row in store.read_rows(reviewed, Correction)}
    assert rows == {"p0": True, "p1": None, "p2": False, "p3": False}
    assert (client.run(run_id).epochs[0].admitted, client.run(run_id).epochs[0].refused) == (2, 1)
    assert client.reviews(run_id) == [], "an edit that passed is not asked about again"
    assert client.reviews(run_id) == []
    with pytest.raises(ApiError) as refusal:
        client.decide(run_id, KEY, [], others="refuse")
    assert refusal.value.problem.status == 409


def test_a_review_must_be_whole_and_know_its_prompts(client: Client, waiting: tuple[str, Artifacts]) -> None:
    run_id, _ = waiting
    with pytest.raises(ApiError) as refusal:
        client.decide(run_id, KEY, [Decision(prompt_id="p9", decision="approve"), Decision(prompt_id="p0", decision="edit")])
    assert refusal.value.problem.status == 422
    fields = [error.field for error in refusal.value.problem.errors]
    assert fields == ["decisions.p9", "decisions.p0.text", "decisions.p1", "decisions.p2"]
    with pytest.raises(ApiError) as refusal:
        client.decide(run_id, "review-009-0000-1", [], others="approve")
    assert refusal.value.problem.status == 404


def test_no_worker_can_claim_a_review(worker: HandWorker, waiting: tuple[str, Artifacts]) -> None:
    (task_id,) = [task_id for task_id, key in worker.ready(waiting[0]) if key == KEY]
    assert worker.claim(task_id) is None


def test_a_waiting_run_can_be_paused_resumed_and_aborted(
    client: Client, worker: HandWorker, waiting: tuple[str, Artifacts]
) -> None:
    run_id, _ = waiting
    assert client.pause(run_id).status == "paused"
    assert client.reviews(run_id) == []
    client.resume(run_id)
    assert [review.key for review in client.reviews(run_id)] == [KEY]
    client.abort(run_id)
    worker.work(run_id)
    assert client.run(run_id).outcome == "aborted"
    assert client.reviews(run_id) == []


def test_the_command_shows_saves_and_takes_decisions(
    client: Client, worker: HandWorker, waiting: tuple[str, Artifacts], control_plane: Stack, tmp_path: Path
) -> None:
    run_id, store = waiting
    env = {"REFLUX_URL": control_plane.api_url, "REFLUX_KEY": control_plane.keys["operator"], "COLUMNS": "80"}
    command = CliRunner(env=env).invoke
    file = tmp_path / "review.jsonl"
    shown = command(app, ["run", "review", run_id])
    assert "good 1" in shown.output
    assert command(app, ["run", "review", run_id, "--approve-all", "--refuse-all"]).exit_code == 2
    assert command(app, ["run", "review", run_id, "--save", str(file)]).exit_code == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0] |= {"decision": "edit", "text": "by hand"}
    rows[1]["decision"] = "perhaps"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert "line 2" in command(app, ["run", "review", run_id, "--from", str(file)]).output
    rows[1]["decision"] = "refuse"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert command(app, ["run", "review", run_id, "--from", str(file)]).exit_code == 0
    judge = worker.take(run_id)
    assert isinstance(judge.command, Judge)
    assert [row.answer.text for row in store.read_rows(judge.command.corrections_path, Correction)] == ["by hand"]
    assert worker.complete(judge, answer(judge.command, admitted=0, refused=1)).accepted
    train = worker.take(run_id).command
    assert isinstance(train, Train)
    (path,) = train.corrections_paths
    assert [row.admitted for row in store.read_rows(path, Correction)] == [None, False, True, False]


def test_a_dry_run_checks_and_estimates_and_creates_nothing(client: Client) -> None:
    before = client.runs(limit=1).data
    dry = client.dry_run(SPEC | {"name": "dry"})
    assert dry.estimate is not None
    assert 0 < dry.estimate.cost_usd < dry.estimate.most_cost_usd
    assert dry.spec["teacher"]["output_usd_per_million"] == 15.0
    assert [run.id for run in client.runs(limit=1).data] == [run.id for run in before]
    with pytest.raises(ApiError):
        client.dry_run({"name": "x"})
