"""What a run holds, by REST: filters, epochs, answers, metrics, logs, checkpoints, artifacts; and its deletion."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from reflux.artifacts import Artifacts, shared_answer_path
from reflux.client import ApiError, Client
from reflux.commands import Chunk, Command, Correct, Generate, Judge, Prepare, Score
from reflux.local.stack import Stack
from reflux.records import Answer, Correction, TeacherAnswer, Verdict
from tests.integration.by_hand import SPEC, HandWorker
from tests.unit.stories import answer, chunk, scores

PARTS = ("overall", "syntax", "protocol", "safety", "style")


@pytest.fixture
def store(control_plane: Stack) -> Artifacts:
    return Artifacts(f"file://{control_plane.folder}/artifacts")


def verdict(i: int) -> Verdict:
    return Verdict(prompt_id=f"p{i}", compiles=i > 0, code="int x;", rubric="1", **dict.fromkeys(PARTS, float(i + 2)))


def written(i: int) -> Answer:
    return Answer(prompt_id=f"p{i}", prompt=f"Write {i}.", domain="tsn", text=f"answer {i}")


def correction(i: int) -> Correction:
    better = TeacherAnswer(prompt_id=f"p{i}", prompt=f"Write {i}.", text="better", model="m", provider="bedrock")
    return Correction(
        prompt_id=f"p{i}", prompt=f"Write {i}.", attempt=written(i), attempt_verdict=verdict(i), answer=better, verdict=verdict(7)
    )


class Working:
    """Plays workers that leave real files: four answers an epoch, the two worst of them corrected."""

    def __init__(self, run_id: str, store: Artifacts) -> None:
        self.run_id, self.store = run_id, store

    def __call__(self, command: Command) -> dict[str, Any]:
        path = f"runs/{self.run_id}/tasks/{command.key}/attempt-1/rows.jsonl"
        match command:
            case Prepare():
                return {"train_path": path}
            case Generate(sets=sets, model=model):
                return {"chunks": tuple(self._chunk(command.key, prompt_set, model) for prompt_set in sets)}
            case Score(chunk=piece):
                self.store.write_rows(path, [verdict(i) for i in range(piece.count)])
                poor = 2 if piece.set == "practice" else 0
                return scores(piece, 3.5, poor=poor) | {"path": path}
            case Correct():
                self.store.write_rows(path, [correction(i) for i in range(2)])
                return {"path": path, "requested": 2, "answered": 2}
            case Judge():
                self.store.write_rows(path, [correction(i).model_copy(update={"admitted": i == 0}) for i in range(2)])
                return {"path": path, "admitted": 1, "refused": 1}
        return {}

    def _chunk(self, key: str, prompt_set: str, model: str) -> Chunk:
        piece = chunk(0, prompt_set, model, count=4)
        path = f"runs/{self.run_id}/pieces/{key}/{piece.name}.jsonl"
        self.store.create(path, "".join(written(i).model_dump_json() + "\n" for i in range(4)).encode())
        return piece.model_copy(update={"path": path})


def played(client: Client, worker: HandWorker, store: Artifacts, until: str = "") -> str:
    """A run whose work was done up to the command `until`, or to its end."""
    run = client.create(SPEC)
    working = Working(run.id, store)
    while True:
        worker.sql_wait(run.id)
        if client.run(run.id).terminal:
            return run.id
        a = worker.take(run.id)
        assert worker.complete(a, answer(a.command, **working(a.command))).accepted
        if until and any(key == until for _, key in worker.ready(run.id)):
            return run.id


@pytest.fixture
def finished(client: Client, worker: HandWorker, store: Artifacts) -> str:
    return played(client, worker, store)


def test_filters(client: Client) -> None:
    made = client.create(SPEC | {"name": "filtered", "metadata": {"team": "gptp", "ticket": "7"}})
    client.create(SPEC | {"name": "filtered", "metadata": {"team": "avb"}})
    found = client.http.get("/v1/runs", params={"metadata[team]": "gptp", "metadata[ticket]": "7"}).json()["data"]
    assert [run["id"] for run in found] == [made.id]
    assert client.runs(name="filtered", recipe="finetune").data == []
    assert client.runs(name="filtered", status="succeeded").data == []


def test_answers_worst_first_with_all_that_belongs_to_them(client: Client, finished: str) -> None:
    first = client.answers(finished, epoch=1, set="practice", limit=3)
    assert ([row.prompt_id for row in first.data], first.has_more) == (["p0", "p1", "p2"], True)
    worst, second, third = first.data
    assert (worst.text, worst.prompt, worst.verdict.overall) == ("answer 0", "Write 0.", 2.0)
    assert worst.correction is not None
    assert worst.lineage is not None
    assert (worst.lineage.teacher, worst.lineage.score_before, worst.lineage.score_after) == ("m", 2.0, 9.0)
    assert second.correction is not None
    assert (second.correction.admitted, second.lineage, third.correction) == (False, None, None)
    rest = client.answers(finished, epoch=1, set="practice", after=third.id)
    assert ([row.prompt_id for row in rest.data], rest.has_more) == (["p3"], False)


def test_answers_by_prompt_and_of_the_comparison(client: Client, finished: str) -> None:
    dev = client.answers(finished, epoch=1, set="dev", order="prompt")
    assert [(row.set, row.prompt_id, row.correction) for row in dev.data][:2] == [("dev", "p0", None), ("dev", "p1", None)]
    last = client.answers(finished, model="best")
    assert (last.epoch, {row.set for row in last.data}) == (2, {"test"})
    assert client.answers(finished, epoch=9).data == []
    with pytest.raises(ApiError) as refusal:
        client.answers(finished, epoch=1, after="student-dev-0000/p99/0")
    assert refusal.value.problem.code == "answer_not_found"


def test_epochs_and_checkpoints(client: Client, worker: HandWorker, finished: str) -> None:
    assert [e.epoch for e in client.epochs(finished).data] == [1, 2]
    assert [e.epoch for e in client.epochs(finished, after=1).data] == [2]
    assert [(c.epoch, c.best) for c in client.checkpoints(finished).data] == [(1, True), (2, False)]
    run = client.create(SPEC)
    worker.work(run.id, until=lambda c: isinstance(c, Generate))
    (unscored,) = client.checkpoints(run.id).data
    assert (unscored.epoch, unscored.score, unscored.best) == (1, None, False)


def test_series_keep_their_ends_and_extremes(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    values = [1000 if step == 333 else -1000 if step == 666 else step for step in range(1000)]
    points = [
        {"step": step, "values": {"loss": value, "short": 1.0} if step < 3 else {"loss": value}}
        for step, value in enumerate(values)
    ]
    worker.beat(a, metrics=points)
    worker.sql("insert into metrics (run_id, epoch, name, step, value) values (%s, 0, 'broken', 1, 'NaN')", run.id)
    series = {s.name: s.points for s in client.metrics(run.id, max_points=20).data}
    assert {name: len(points) for name, points in series.items() if name != "loss"} == {"broken": 1, "short": 3}
    assert series["broken"][0].value is None
    steps = [point.step for point in series["loss"]]
    assert 10 <= len(steps) <= 20
    assert {0, 333, 666, 999} <= set(steps)
    assert steps == sorted(steps)
    assert [s.name for s in client.metrics(run.id, "short", "loss").data] == ["loss", "short"]
    assert [p.value for p in client.metrics(run.id, "loss", max_points=1000).data[0].points] == values


def test_logs_by_level_and_service(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    a = worker.take(run.id)
    worker.beat(a, logs=[{"level": "warning" if n % 2 else "info", "line": f"line {n}"} for n in range(6)])
    page = client.logs(run.id, limit=4)
    assert ([row.line for row in page.data], page.has_more) == ([f"line {n}" for n in range(4)], True)
    assert [row.line for row in client.logs(run.id, after=page.data[-1].id).data] == ["line 4", "line 5"]
    assert [row.line for row in client.logs(run.id, level="warning").data] == ["line 1", "line 3", "line 5"]
    assert client.logs(run.id, service="gpu_trainer").data == []
    assert len(client.logs(run.id, service="teacher_worker").data) == 6


def test_artifacts_whole_and_in_part(client: Client, finished: str, store: Artifacts, tmp_path: Path) -> None:
    store.put(f"runs/{finished}/model/weights 1.bin", bytes(range(100)) * 30_000)
    listed = {entry.path: entry.size for entry in client.artifacts(finished).data}
    assert listed["model/weights 1.bin"] == 3_000_000
    first, second = sorted(listed)[:2]
    page = client.artifacts(finished, after=first, limit=1)
    assert ([entry.path for entry in page.data], page.has_more) == ([second], True)
    assert client.download(finished, "model/weights 1.bin", tmp_path / "w").read_bytes() == bytes(range(100)) * 30_000
    url = f"/v1/runs/{finished}/artifacts/model/weights 1.bin"
    for wanted, content, told in (
        ("bytes=5-9", bytes(range(5, 10)), "bytes 5-9/3000000"),
        ("bytes=-2", bytes((98, 99)), "bytes 2999998-2999999/3000000"),
        ("bytes=2999999-", bytes((99,)), "bytes 2999999-2999999/3000000"),
    ):
        part = client.http.get(url, headers={"Range": wanted})
        assert (part.status_code, part.content, part.headers["content-range"]) == (206, content, told)
    assert client.http.get(url, headers={"Range": "bytes=3000000-"}).status_code == 416
    assert client.http.get(url, headers={"Range": "lines=1-2"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["..%2f..%2f..%2fetc/passwd", "%2e%2e/%2e%2e/keys.json", "/etc/passwd", "a//b", "", "%2e", "a%00b", "x" * 999]
)
def test_no_path_leaves_the_run(client: Client, path: str, store: Artifacts) -> None:
    run = client.create(SPEC)
    store.put("keys.json", b"{}")
    answer = client.http.get(f"/v1/runs/{run.id}/artifacts/{path}")
    assert answer.status_code == 404, answer.text


def test_only_a_run_that_is_over_can_be_deleted(client: Client, worker: HandWorker, finished: str, store: Artifacts) -> None:
    running = client.create(SPEC)
    with pytest.raises(ApiError) as refusal:
        client.delete(running.id)
    assert (refusal.value.problem.status, refusal.value.problem.code) == (409, "run_is_not_over")
    client.delete(finished)
    assert store.paths(f"runs/{finished}")
    with pytest.raises(ApiError) as gone:
        client.run(finished)
    assert gone.value.problem.status == 404
    for table in ("tasks", "events", "logs", "metrics"):
        assert worker.sql(f"select count(*) from {table} where run_id = %s", finished) == [(0,)]


def test_a_run_is_deleted_with_its_artifacts(client: Client, finished: str, store: Artifacts) -> None:
    kept = ("runs/other/kept.json", shared_answer_path("0123abcd"))
    for path in kept:
        store.put(path, b"{}")
    client.delete(finished, artifacts=True)
    assert store.paths(f"runs/{finished}") == []
    assert all(store.exists(path) for path in kept)


def test_what_forks_need_is_not_deleted(client: Client, worker: HandWorker, finished: str, store: Artifacts) -> None:
    fork = client.fork(finished, epoch=1)
    child = client.fork(fork.id, epoch=1)
    with pytest.raises(ApiError, match=f"{fork.id}, {child.id}") as refusal:
        client.delete(finished, artifacts=True)
    assert refusal.value.problem.code == "run_is_needed"
    client.abort(fork.id, discard=True)
    worker.work(fork.id)
    client.delete(fork.id, artifacts=True)
    with pytest.raises(ApiError, match=child.id):
        client.delete(finished, artifacts=True)
    client.abort(child.id)
    worker.work(child.id)
    client.delete(child.id)
    client.delete(finished, artifacts=True)
    assert store.paths(f"runs/{finished}") == []


def test_what_forks_need_is_not_discarded(client: Client, worker: HandWorker, store: Artifacts) -> None:
    running = played(client, worker, store, until="train-002")
    fork = client.fork(running)
    with pytest.raises(ApiError, match=fork.id):
        client.abort(running, discard=True)
    client.abort(fork.id)
    worker.work(fork.id)
    client.delete(fork.id)
    client.abort(running, discard=True)
    with pytest.raises(ApiError) as refusal:
        client.fork(running)
    assert refusal.value.problem.code == "nothing_to_fork"


def test_a_body_without_a_length_has_the_same_limit(client: Client) -> None:
    answer = client.http.post("/v1/runs", content=(b"x" * 100_000 for _ in range(30)))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("spec", [{"name": "a\0b"}, {"metadata": {"a": "\ud800"}}, {"metadata": {"\0": "x"}}])
def test_what_postgres_would_not_take_is_malformed(client: Client, spec: dict[str, Any]) -> None:
    content = json.dumps(SPEC | spec).encode()
    answer = client.http.post("/v1/runs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (422, 400), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_many_creates_at_once_with_one_key_are_one_run(client: Client, worker: HandWorker) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: client.create(SPEC, idempotency_key="eight at once").id, range(8)))
    assert len(set(made)) == 1
    client.abort(made[0])
    worker.work(made[0])
    again = client.create(SPEC, idempotency_key="eight at once")
    assert (again.id, again.outcome) == (made[0], "aborted"), "a run that was aborted is not begun anew"
    assert client.create(SPEC, idempotency_key="").id != client.create(SPEC, idempotency_key="").id
