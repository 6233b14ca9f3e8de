"""The trace of a run, as every process of the stack has told its part of it to a collector."""

import json
import signal
from pathlib import Path

import httpx
import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.traces import span_id, trace_id
from reflux.views import RunView
from tests.collector import Collector, Heard
from tests.e2e.tiny import EXAMPLES, rows, tiny_spec
from tests.integration.by_hand import eventually

PARTS = {  # of a task's work, which the worker tells
    "teach": "chat ",
    "correct": "chat ",
    "train": "fine-tune",
    "generate": "write answers",
    "score": "score answers",
    "judge": "score corrections",
}


@pytest.fixture
def trace(heard: Collector, calm_run: RunView) -> dict[str, Heard]:
    """By span id, once all has come: workers and the API send what they have within a second."""
    spans = ended(heard, calm_run.id)
    reports = [span for span in spans if span.name.endswith(" report")]
    assert reports
    eventually(lambda: {r.span_id for r in reports} <= {s.parent for s in heard.of(spans[0].trace_id)}, 20, "a report is missing")
    return {span.span_id: span for span in heard.of(spans[0].trace_id)}


def ended(heard: Collector, run_id: str) -> list[Heard]:
    """The run's spans, from when its own has come on."""
    there = eventually(lambda: any(s.span_id == span_id(run_id) for s in heard.of(trace_id(run_id))), 60, "the run was not told")
    assert there
    return heard.of(trace_id(run_id))


def test_a_run_is_one_trace_of_all_processes(trace: dict[str, Heard], calm_run: RunView, heard: Collector) -> None:
    root = trace[span_id(calm_run.id)]
    assert (root.name, root.service, root.parent, root.error) == ("run distill", "control", "", None)
    assert root.attributes["reflux.outcome"] == "succeeded"
    assert {span.service for span in trace.values()} == {"api", "control", "teacher_worker", "evaluator", "gpu_trainer"}
    assert [span.name for span in trace.values() if span is not root and span.parent not in trace] == []
    [post] = [span for span in trace.values() if span.name == "POST /v1/runs"]
    assert (post.service, post.parent) == ("api", root.span_id)
    assert calm_run.ended_at
    whole = (calm_run.ended_at - calm_run.created_at).total_seconds()
    assert (root.ended - root.began) / 1e9 == pytest.approx(whole, abs=0.5)


def test_each_attempt_holds_its_worker_s_own_account(trace: dict[str, Heard], client: Client, calm_run: RunView) -> None:
    claims = [event for event in client.events(calm_run.id, limit=1000).data if event.type == "task_claimed"]
    for event in claims:
        key, number = event.body["key"], event.body["attempt"]
        attempt, task = trace[span_id(calm_run.id, key, number)], trace[span_id(calm_run.id, key)]
        assert attempt.parent == task.span_id
        assert attempt.began / 1e9 == pytest.approx(event.at.timestamp(), abs=1e-3)
        assert (attempt.attributes["reflux.worker"], attempt.attributes["reflux.how"]) == (event.body["worker"], "done")
        inside = {span.name.split()[-1]: span for span in trace.values() if span.parent == attempt.span_id}
        work, report = inside["work"], inside["report"]
        assert attempt.began <= work.began <= work.ended <= report.began <= attempt.ended
        [complete] = [span for span in trace.values() if span.parent == report.span_id]
        assert (complete.name, complete.service) == ("POST /v1/tasks/{task_id}/complete", "api")
        parts = [span.name for span in trace.values() if span.parent == work.span_id]
        assert any(name.startswith(PARTS[task.name]) for name in parts) if task.name in PARTS else not parts, (key, parts)
        assert [span for span in trace.values() if span.parent == task.span_id and span.name == f"{task.name} ring"]


def test_no_text_is_in_it(trace: dict[str, Heard], stack: Stack, calm_run: RunView) -> None:
    told = str(list(trace.values()))
    for prompt in rows(stack.folder / "artifacts", calm_run.id, "tasks/prepare/attempt-*/prompts.jsonl"):
        assert prompt["text"] not in told
    assert all(key not in told for key in stack.keys.values())


def test_log_lines_of_the_run_name_it(trace: dict[str, Heard], stack: Stack, calm_run: RunView) -> None:
    lines = [json.loads(line) for line in (stack.folder / "logs" / "evaluator-1.log").read_text().splitlines() if line[:1] == "{"]
    ours = [line for line in lines if line.get("run_id") == calm_run.id]
    assert ours
    assert {line["trace_id"] for line in ours} == {trace_id(calm_run.id)}


def test_who_asks_with_a_trace_of_their_own_is_linked(stack: Stack, heard: Collector, client: Client) -> None:
    theirs = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    headers = {"Authorization": f"Bearer {stack.keys['operator']}", "traceparent": f"00-{theirs[0]}-{theirs[1]}-01"}
    anonymous = {"traceparent": headers["traceparent"]}
    refused = httpx.post(f"{stack.api_url}/v1/tasks/1/complete", json={"attempt": 1}, headers=anonymous)
    assert refused.status_code == 401
    body = tiny_spec(Path("/nowhere/at/all"))
    run_id = httpx.post(f"{stack.api_url}/v1/runs", json=body, headers=headers).raise_for_status().json()["id"]
    assert client.wait(run_id, 120).status == "failed"
    spans = {span.span_id: span for span in ended(heard, run_id)}
    [post] = [span for span in spans.values() if span.name == "POST /v1/runs"]
    assert post.links == (theirs,)
    assert heard.of(theirs[0]) == [], "whoever has no key adds to nobody's trace"
    assert spans[span_id(run_id)].error == "model_not_found"


@pytest.mark.long
def test_without_its_collector_a_run_ends_as_ever_and_so_do_the_processes(ground: Path, student: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with Stack(ground / "untold", (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack:
        with Client(stack.api_url, stack.keys["operator"]) as client:
            run = client.wait(client.create(tiny_spec(student, refining={"max_epochs": 1})).id, 400)
        assert run.status == "succeeded", run.error
        for name in ("control", "evaluator-1", "teacher_worker-1", "gpu_trainer-1", "api"):
            popen = stack.processes[name].popen
            assert popen
            stack.stop(name)
            assert popen.returncode != -signal.SIGKILL, f"{name} waited for the collector until it was killed"
