"""Claim, beat, complete, fail over real HTTP against a real Postgres: late, doubled, lost."""

import psycopg
import pytest
import redis

from reflux.client import ApiError, Client
from reflux.commands import Generate
from reflux.stages import Stage
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.unit import stories


def test_a_whole_run(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    worker.work(run.id)
    run = client.run(run.id)
    assert (run.status, run.outcome, len(run.epochs)) == ("succeeded", "succeeded", 2)
    assert run.progress.percent == 100
    events = client.events(run.id, limit=1000).data
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [e.seq for e in client.follow(run.id)] == [e.seq for e in events]


def test_only_one_gets_a_task(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    (task_id, key), *_ = worker.ready(run.id)
    assert key == "preflight"
    first = worker.claim(task_id)
    assert first is not None
    assert worker.claim(task_id) is None
    assert worker.claim(task_id + 10_000) is None


def test_a_claim_whose_answer_was_lost_is_answered_again(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    (task_id, _), *_ = worker.ready(run.id)
    first = worker.claim(task_id, token="ring-1")
    assert first is not None
    assert worker.claim(task_id, token="ring-1") == first
    assert worker.claim(task_id, token="ring-2") is None


def test_the_first_success_wins(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    assert worker.complete(a).accepted
    assert worker.complete(a).accepted, "the same success told twice is still accepted"
    late = a.model_copy(update={"attempt": a.attempt + 1})
    refused = worker.complete(late)
    assert not refused.accepted
    assert f"attempt {a.attempt} was first" in refused.why
    assert len([e for e in client.events(run.id).data if e.type == "preflight_passed"]) == 1


def test_a_fact_that_does_not_answer_the_task_is_refused(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    other = stories.answer(a.command).model_copy(update={"key": "prepare"})
    assert not worker.complete(a, other).accepted
    assert client.run(run.id).stage == Stage.VALIDATING


def test_silence_makes_an_orphan_and_the_late_success_counts(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    eventually(lambda: client.run(run.id).health == "orphaned", 20, "the silent task was not seen")
    assert worker.beat(a).answer == "lost"
    assert not worker.fail(a, "internal").accepted, "a failure of an attempt that was given up"
    again = worker.take(run.id)
    assert again.attempt == 2
    assert client.run(run.id).health == "recovering"
    assert worker.complete(a).accepted, "success counts from any attempt"
    assert worker.beat(again).answer == "lost"
    assert not worker.complete(again).accepted


def test_beats_keep_the_lease(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    started = worker.sql("select now()")[0][0]
    while (worker.sql("select now()")[0][0] - started).total_seconds() < 5:  # more than two leases
        assert worker.beat(a, progress={"done": 1, "total": 2, "note": "steps"}).answer == "go_on"
    view = client.run(run.id)
    assert view.health == "ok"
    assert view.tasks is not None
    assert view.tasks[0].progress == {"done": 1, "total": 2, "note": "steps"}


def test_three_attempts_without_progress_end_the_run(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    for attempt in (1, 2, 3):
        a = worker.take(run.id)
        assert a.attempt == attempt
        worker.fail(a, "stalled")
    cleanup = worker.take(run.id)
    assert cleanup.command.kind == "clean_up"
    worker.complete(cleanup)
    run = client.run(run.id)
    assert run.outcome == "failed"
    assert run.error is not None
    assert run.error.code == "stalled"


def test_progress_forgives_a_lost_worker(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    for done in range(4):
        a = worker.take(run.id)
        worker.beat(a, progress={"done": done, "total": 9, "note": "steps"})
        worker.fail(a, "worker_lost")
    assert worker.take(run.id).command.kind == "preflight"


def test_retries_wait_by_the_table(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    worker.fail(a, "s3_throttled")
    wait = worker.sql("select extract(epoch from due_at - now()) from tasks where id = %s", a.task_id)[0][0]
    assert 3 < wait <= 5
    assert worker.claim(a.task_id) is None, "not due yet"
    (retried,) = [e for e in client.events(run.id).data if e.type == "task_retried"]
    assert retried.body["wait_seconds"] == 5


def test_a_terminal_failure_ends_the_run_through_cleanup(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    worker.fail(worker.take(run.id), "access_denied", "no right to read s3://data")
    assert worker.take(run.id).command.kind == "clean_up"
    view = client.run(run.id)
    assert view.status == "cleaning_up"
    assert view.error is not None
    assert view.error.message == "no right to read s3://data"
    assert view.error.hint


def test_chunks_are_scored_while_the_rest_is_generated(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.work(run.id, until=lambda c: isinstance(c, Generate))
    assert a is not None
    piece = stories.chunk(0, "practice")
    for _ in range(2):  # told twice, scored once
        worker.beat(a, chunks=[piece.model_dump(mode="json")])
    assert [key for _, key in worker.ready(run.id)] == ["score-001-student-practice-0000"]


def test_abort_stops_the_work_in_hand_then_cleans_up(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    assert client.abort(run.id).status == "aborting"
    assert client.abort(run.id).status == "aborting", "a repeat changes nothing"
    assert worker.beat(a).answer == "stop"
    assert worker.stopped(a).accepted
    cleanup = worker.take(run.id)
    assert cleanup.command.kind == "clean_up"
    worker.complete(cleanup)
    assert client.run(run.id).status == "aborted"
    with pytest.raises(ApiError, match="has aborted") as refusal:
        client.abort(run.id)
    assert refusal.value.problem.status == 409


def test_abort_by_force_when_the_worker_does_not_listen(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    client.abort(run.id)
    kill = eventually(lambda: (answer := worker.beat(a)).kill and answer, 20, "the worker was not told to kill")
    assert kill.answer == "stop"
    assert worker.take(run.id).command.kind == "clean_up"
    assert worker.beat(a).answer == "lost"


def test_a_completion_that_races_an_abort_is_kept(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    client.abort(run.id)
    assert worker.complete(a).accepted
    assert worker.take(run.id).command.kind == "clean_up"


def test_pause_parks_and_resume_gives_back(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.work(run.id, until=lambda c: c.kind == "train")
    assert a is not None
    client.pause(run.id)
    assert worker.beat(a).answer == "stop"
    worker.stopped(a)
    assert client.run(run.id).status == "paused"
    assert client.resume(run.id).status == "training"
    again = worker.take(run.id)
    assert (again.command, again.attempt) == (a.command, a.attempt + 1)
    worker.complete(again)
    worker.work(run.id)
    assert client.run(run.id).outcome == "succeeded"


def test_a_new_incarnation_frees_what_the_old_one_held(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    worker.register(incarnation="before")
    (task_id, _), *_ = worker.ready(run.id)
    assert worker.claim(task_id, "before") is not None
    worker.register(incarnation="after")
    assert worker.claim(task_id, "after") is not None


def test_handing_back_costs_no_attempt(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    for _ in range(5):
        assert worker.stopped(worker.take(run.id), handed_back=True).accepted
    assert client.run(run.id).status == "validating"


def test_workers_keys_do_not_steer_runs(client: Client, worker: HandWorker) -> None:
    answer = worker.api.http.post("/v1/runs", json=SPEC)
    assert answer.status_code == 403
    assert client.http.post("/v1/tasks/1/claim", json={"worker": "x", "incarnation": "y", "token": "z"}).status_code == 403
    assert client.http.get("/v1/runs", headers={"Authorization": "Bearer nonsense"}).status_code == 401


def test_a_claimed_run_can_not_be_moved_without_its_lock(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    url = f"postgresql://postgres@127.0.0.1:{worker.stack.ports['postgres']}/reflux"
    with psycopg.connect(url) as other:
        other.execute("select 1 from runs where id = %s for update", (run.id,))
        assert worker.beat(a).answer == "go_on", "a beat does not wait for the run's lock"


def test_each_event_is_published_on_the_stream(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    worker.complete(worker.take(run.id))

    def published() -> list[str]:
        with redis.Redis(port=worker.stack.ports["valkey"], decode_responses=True) as valkey:
            entries = [fields for _, fields in valkey.xrange("reflux:events")]
        return [entry["type"] for entry in entries if entry["run_id"] == run.id]

    told = eventually(lambda: (types := published()) and "preflight_passed" in types and types, 20, "no event was published")
    assert told[:2] == ["run_created", "run_admitted"]
